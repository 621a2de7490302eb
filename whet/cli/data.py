"""The verbs about data: build it, show it."""

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.runs import Out, Overrides, Recipe

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build and show data.")


@app.command("build", epilog="Example: whet data build recipes/chisiec.yaml")
def build(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
    """Read, clean and split the sources of a recipe into the data folder of its run."""
    from whet.cli.runs import do_steps, read_settings

    read = read_settings(recipe, overrides)
    folder = out or Path("runs") / read.name
    do_steps(read, folder, "data")
    show(folder)


@app.command("show", epilog="Example: whet data show runs/demo")
def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its data folder.")],
    num: Annotated[int, typer.Option("--examples", "-n", min=0, help="How many examples of train to print.")] = 3,
) -> None:
    """Show the funnel, the splits, the leak check and a few examples of a data folder."""
    from itertools import islice

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from whet.data.build import read_manifest
    from whet.storage import read_jsonl

    data = folder / "data" if (folder / "data").is_dir() else folder
    manifest = read_manifest(data)
    console = Console(highlight=False)
    table = Table("stage", "rows")
    for stage, count in manifest.funnel.items():
        if count:
            table.add_row(stage.replace("_", " "), f"{count:,}")
    console.print(table)
    splits = Table("split", "examples", "records", "negatives", "characters", "tokens")
    for name, part in manifest.statistics.items():
        splits.add_row(
            name,
            *(
                "–" if part[key] is None else f"{part[key]:,}"
                for key in ("examples", "records", "negatives", "characters", "tokens")
            ),
        )
    console.print(splits)
    leaks = manifest.leaks
    console.print(
        f"leaks: {leaks['num_found']} found, {leaks['moved']} moved, {leaks['num_left']} left "
        f"({leaks['num_reported_only']} in published splits)"
    )
    console.print(f"split hash: {manifest.split_hash}")
    for row in islice(read_jsonl(data / "train.jsonl"), num):
        console.print(escape(f"{row['source']}  {row['text']}"), soft_wrap=True)
        for record in row.get("records", ()):
            console.print(
                escape("   " + ", ".join(f"{name}={value['text'] if value else '–'}" for name, value in record.items()))
            )
