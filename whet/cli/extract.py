"""The verb that reads a whole corpus with a specialist."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

_OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*=")


class Constraint(StrEnum):
    """What a reply may be while it is written."""

    grounded = "grounded"
    json = "json"
    free = "free"


class Form(StrEnum):
    """Formats of the output."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


class Place(StrEnum):
    """Where answers can be made, beside this process."""

    ray = "ray"


def extract(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... [KEY=VALUE]...",
            help="Files and folders to read (PDF, text, Markdown, HTML, JSONL, CSV); - is standard input. "
            "Settings to change, such as extract.chunks.size=600.",
        ),
    ],
    *,
    run: Annotated[Path, typer.Option("--run", help="The run folder of the specialist.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output: .jsonl, .csv or .parquet. Its state lies beside it.")],
    form: Annotated[Form | None, typer.Option("--format", help="The output's format.", show_default="by its name")] = None,
    constraint: Annotated[
        Constraint | None, typer.Option("--constraint", help="What replies may be.", show_default="the recipe's")
    ] = None,
    accepted: Annotated[
        Path | None, typer.Option("--accepted", help="Write the accepted records to a file of their own.")
    ] = None,
    review: Annotated[Path | None, typer.Option("--review", help="Write the records to review to a file of their own.")] = None,
    is_retry: Annotated[bool, typer.Option("--retry", help="Ask chunks again that failed or were cut.")] = False,
    is_anew: Annotated[bool, typer.Option("--anew", help="Forget what was answered before.")] = False,
    is_base: Annotated[bool, typer.Option("--base", help="Ask the base instead of the specialist.")] = False,
    is_spreadsheet: Annotated[
        bool, typer.Option("--spreadsheet", help="CSV that a spreadsheet opens well: a byte order mark, formulas disarmed.")
    ] = False,
    on: Annotated[Place | None, typer.Option("--on", help="Where to answer.", show_default="in this process")] = None,
    num_actors: Annotated[int, typer.Option("--actors", min=1, help="With --on ray: engines side by side.")] = 2,
    cpus: Annotated[float, typer.Option("--actor-cpus", min=0, help="With --on ray: CPU cores of each.")] = 1,
    gpus: Annotated[float, typer.Option("--actor-gpus", min=0, help="With --on ray: GPUs of each.")] = 0,
    address: Annotated[
        str | None, typer.Option("--ray-address", help="With --on ray: a running cluster.", show_default="this machine alone")
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Read a corpus with the specialist of a run: every record with its place.

    Running it again goes on where it was, and reads only what is new.
    """
    from whet.cli.extract_watch import ExtractWatch
    from whet.extract.targets import Targets
    from whet.pipeline.extract_step import Order, extract
    from whet.pipeline.on_ray import RaySettings

    overrides = [word for word in inputs if _OVERRIDE.match(word) and not Path(word).exists()]
    named = [word for word in inputs if word not in overrides]
    if constraint:
        overrides.append(f"task.constraint={constraint.value}")
    targets = Targets(out, form.value if form else None, accepted, review, is_spreadsheet)
    ray = RaySettings(address=address, num_actors=num_actors, cpus=cpus, gpus=gpus) if on else None
    order = Order(tuple(named), run, targets, tuple(overrides), is_base=is_base, is_retry=is_retry, is_anew=is_anew, ray=ray)
    with ExtractWatch() as watch:
        extracted = extract(order, watch.tell, note=lambda words: typer.echo(f"note: {words}", err=True))
    if is_json:
        typer.echo(json.dumps(extracted.figures, ensure_ascii=False))
    else:
        for line in summarise(extracted.figures, targets):
            typer.echo(line)
    if extracted.has_failed:
        typer.echo("more chunks failed than extract.max_failed allows", err=True)
        raise typer.Exit(1)


def summarise(figures: Mapping[str, Any], targets: Any) -> list[str]:
    """The summary as lines for people."""
    from whet.evaluate.report import say_time

    documents, chunks, records = figures["documents"], figures["chunks"], figures["records"]
    num_problems = documents["problems"]
    lines = [f"{targets.out}: {_many(records['written'], 'record')} from {_many(documents['in_output'], 'document')}"]
    told = {
        "documents": _counted(documents, ("unchanged", "changed", "gone", "repeated", "refused", "broken")),
        "read": _counted(documents, ("pages", "chars")),
        "problems": f"{_many(num_problems, 'page or part', 'pages or parts')} could not be read whole" if num_problems else "",
        "chunks": _counted(chunks, ("asked", "asked_again", "blank", "failed", "cut", "waiting")),
        "merged": _counted(records["merged"]),
        "split": f"{records['split']:,} more" if records["split"] else "",
        "dropped": _counted(records["dropped"]),
        "flagged": _counted(records["flagged"]),
        "review": f"{records['accepted']:,} accepted, {records['to_review']:,} to review"
        if records["accepted"] + records["to_review"]
        else "",
        "time": f"{say_time(figures['seconds'])}, {figures['tokens']:,} tokens",
    }
    lines += [f"  {name:<10} {words}" for name, words in told.items() if words]
    if figures["uncalibrated"]:
        lines.append(f"  {figures['uncalibrated']}")
    formulas = sum(file.get("formulas", 0) for file in figures["files"].values())
    if formulas:
        done = "were disarmed" if targets.is_spreadsheet else "are taken for formulas by spreadsheets; --spreadsheet disarms them"
        lines.append(f"  {_many(formulas, 'cell')} that begin with =, +, - or @ {done}")
    if figures["lines_in_failed"]:
        again = "; --retry asks again" if chunks["failed"] + chunks["cut"] else ""
        lines.append(f"  {targets.failed} says what failed, and why{again}")
    return lines


def _counted(counts: Mapping[str, int], names: tuple[str, ...] | None = None) -> str:
    """Counts with their names, those that are not zero."""
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names or tuple(counts) if counts.get(name))


def _many(num: int, what: str, several: str = "") -> str:
    return f"{num:,} {what}" if num == 1 else f"{num:,} {several or f'{what}s'}"
