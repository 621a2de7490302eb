"""The verbs about recipes: show, explain, schema."""

import json

import typer

from whet.cli.runs import Overrides, Recipe

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and explain recipes.")


@app.command("show", epilog="Example: whet recipe show recipes/chisiec.yaml train.epochs=2")
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in, as YAML."""
    import yaml

    from whet.cli.runs import read_settings

    typer.echo(
        yaml.safe_dump(read_settings(recipe, overrides).model_dump(mode="json"), allow_unicode=True, sort_keys=False), nl=False
    )


@app.command("explain", epilog="Example: whet recipe explain recipes/chisiec.yaml")
def explain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print every setting of a recipe, its value, whether it is the default, and what it means."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from whet.cli.runs import read_settings
    from whet.config import explain as explain_settings

    table = Table("setting", "value", "meaning")
    for name, value, is_default, meaning in explain_settings(read_settings(recipe, overrides)):
        table.add_row(Text(name), Text(value, style="dim" if is_default else "bold"), Text(" ".join(meaning.split())))
    Console(highlight=False).print(table)


@app.command("schema", epilog="Example: whet recipe schema > recipe.schema.json")
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from whet.recipe import Recipe as RecipeSettings

    typer.echo(json.dumps(RecipeSettings.model_json_schema(), ensure_ascii=False, indent=1))
