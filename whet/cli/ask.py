"""The verb that asks a specialist one thing."""

import json
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from whet.records import Value


def ask(
    run: Annotated[Path, typer.Argument(help="A run folder with a trained specialist.")],
    text: Annotated[str, typer.Argument(help="The text to read, or the question. `-` reads standard input.")],
    is_base: Annotated[bool, typer.Option("--base", help="Ask the base instead of the specialist.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask the specialist of a run; every value is shown with where it stands in the text."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from whet.pipeline.ask import ask_run

    found = ask_run(run, sys.stdin.read() if text == "-" else text, is_base=is_base)
    if is_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    elif found.problem:
        typer.echo(f"the reply can't be read: {found.problem}\n{found.reply}")
    elif found.is_free:
        typer.echo(found.reply)
    elif not found.records:
        typer.echo("no records")
    else:
        table = Table()
        for name in found.records[0]:
            table.add_column(name)
        if found.confidences:
            table.add_column("right as a whole", justify="right")
        for record, confidence in zip_longest(found.records, found.confidences):
            sure = [_say_share(confidence)] if found.confidences else []
            table.add_row(*(Text(_say(value, name in found.spans)) for name, value in record.items()), *sure)
        Console(highlight=False).print(table)
    if not is_json:
        for note in found.notes:
            typer.echo(note, err=True)
    if found.problem:
        raise typer.Exit(1)


def _say(value: Value | None, is_span: bool) -> str:
    """A value with the characters of the text that it covers, or a word that it does not stand there, and how sure it is."""
    if value is None:
        return "–"
    sure = f" {_say_share(value.confidence)}" if value.confidence is not None else ""
    if value.span:
        also = " (one of several places)" if value.is_ambiguous else ""
        return f"{value.text} [{value.span.start}:{value.span.end}]{also}{sure}"
    return f"{value.text} (not in the text){sure}" if is_span else f"{value.text}{sure}"


def _say_share(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
