"""The verb that looks at what a user has, of whatever trainer, and says what is wrong with it."""

import json
from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Data, settings, an adapter, a model, a run, a GGUF file, a Modelfile, a benchmark result; or folders of them.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option("--base", help="A model folder, or `embedded`: its tokenizer and template are what the rest is held against."),
]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Most tokens of a row, if no settings say it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def doctor(paths: Paths, base: Base = None, max_length: MaxLength = None, is_json: AsJson = False) -> None:
    """Look for silent faults in files of any trainer, without training anything. Exit code: 3 errors, 1 warnings, 0 neither."""
    from whet.doctor.finding import EXIT_CODES, SEVERITIES
    from whet.doctor.look import THINGS, diagnose, every
    from whet.errors import counted

    found = diagnose(paths, base, max_length)
    if is_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        typer.echo(f"looked at: {', '.join(counted(number, THINGS[kind]) for kind, number in found.looked_at.items())}")
        for severity in SEVERITIES:
            for finding in every(found, severity):
                typer.echo(f"\n{severity.upper()}  {finding.name}\n  {finding.place}: {finding.what}\n  why: {finding.why}")
                if finding.remedy:
                    typer.echo(f"  do: {finding.remedy}")
        typer.echo(f"\n{counted(len(found.findings), 'finding')}" if found.findings else "\nnothing found")
    raise typer.Exit(EXIT_CODES.get(found.worst, 0))
