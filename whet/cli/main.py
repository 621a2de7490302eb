"""The command `whet`: its verbs, and how a user's fault becomes one line and an exit code."""

import sys

import typer

from whet.cli import (
    adapter,
    ask,
    compare,
    data,
    doctor,
    evaluate,
    exchange,
    export,
    extract,
    fuse,
    gate,
    plan,
    recipe,
    runs,
    view,
)
from whet.errors import WhetError

app = typer.Typer(
    name="whet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From a labelled corpus to a small language model that is proven better than its base.",
    epilog="Start with: whet demo",
)
app.command("demo", epilog="Example: whet demo --out runs/demo")(runs.demo)
app.command("run", epilog="Example: whet run recipes/chisiec.yaml train.epochs=2 --out runs/mine")(runs.run)
app.command("train", epilog="Example: whet train recipes/chisiec.yaml train.learning_rate=5e-4")(runs.train)
app.command("plan", epilog="Example: whet plan recipes/chisiec.yaml device.quantize=nf4")(plan.plan)
app.command("evaluate", epilog="Example: whet evaluate embedded --suite recipes/suites/forgetting.yaml")(evaluate.evaluate)
app.command("compare", epilog="Example: whet compare runs/demo/evaluate/base runs/demo/evaluate/specialist")(compare.compare)
app.command("gate", epilog="Example: whet gate results/new --against results/live --policy recipes/gates/improve.yaml")(gate.gate)
app.command("ask", epilog="Example: whet ask runs/demo 宣德九年，少師蹇義卒。")(ask.ask)
app.command("extract", epilog="Example: whet extract annals/ --run runs/chisiec -o officials.jsonl")(extract.extract)
app.command("view", epilog="Example: whet view out.jsonl --document annals.txt")(view.view)
app.command("fuse", epilog="Example: whet fuse runs/demo -o models/officials")(fuse.fuse)
app.add_typer(adapter.app, name="adapter")
app.command("doctor", epilog="Example: whet doctor data/ lora_config.yaml adapters/ --base models/qwen")(doctor.doctor)
app.command("import", epilog="Example: whet import lora_config.yaml -o recipe.yaml")(exchange.import_settings)
app.command("export-settings", epilog="Example: whet export-settings recipe.yaml --to trl -o sft.yaml")(exchange.export_settings)
app.add_typer(data.app, name="data")
app.add_typer(export.app, name="export")
app.add_typer(recipe.app, name="recipe")


@app.callback(invoke_without_command=True)
def version(
    is_version: bool = typer.Option(False, "--version", help="Show the version and stop."),
) -> None:
    if is_version:
        import importlib.metadata

        typer.echo(f"whet {importlib.metadata.version('whet')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; a WhetError is one message and its exit code, Ctrl-C is 130."""
    try:
        app()
    except WhetError as error:
        print(f"whet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("whet: stopped; finished steps are kept", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is wrong.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # Disks fill up and folders lose their rights anywhere; where it can be foreseen, the message says more.
        place = f"{error.filename}: " if error.filename else ""
        print(f"whet: {place}{error.strerror or error}. Free some space, or choose another place", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":  # python -m whet.cli.main, as torchrun starts it
    main()
