"""The verb that puts systems side by side: as a table, JSON, Markdown, a page, and as a ballot to be read blind."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whet.evaluate.side_by_side import Held, SideBySide
    from whet.evaluate.statistics import Interval

COLOURS = {"good": "green", "bad": "red", "even": "yellow"}
MOST_CATEGORIES = 6  # of each end, in the terminal


def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="A B [C]...", help="Results of a suite; or run folders, or folders of answers (RUN/evaluate/NAME)."
        ),
    ],
    *,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the comparison as Markdown.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one HTML file with charts, that loads nothing.")] = None,
    shows_differences: Annotated[
        bool,
        typer.Option("--show-differences", help="Compare systems that were not asked in the same way, and say so at the top."),
    ] = False,
    blind: Annotated[
        Path | None,
        typer.Option(help="Write a page on which a reader compares the answers of A and B without knowing whose they are."),
    ] = None,
    parts: Annotated[list[str] | None, typer.Option("--part", help="With --blind: only this part; can be repeated.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="With --blind: most questions to read.")] = 100,
    seed: Annotated[int, typer.Option(help="With --blind: seed of the questions and of the sides.")] = 0,
    votes: Annotated[Path | None, typer.Option(help="Count the votes that the page of --blind saved.")] = None,
) -> None:
    """Hold systems against the first on the same held-out examples: paired tests, gains and losses, what turned, agreement."""
    from whet.errors import InputError
    from whet.pipeline.compare import compare_folders, pairs_of, read_folders
    from whet.storage import write_text

    if len(folders) < 2:
        raise InputError("command line", "one folder alone can't be compared", "Name two or more: whet compare A B")
    read = read_folders(folders)
    if blind is not None:
        from whet.evaluate.blind import render as render_blind

        chosen = pairs_of(read, parts or ())
        write_text(blind, render_blind(chosen, pairs, seed, parts or ()))
        typer.echo(f"page: {blind} ({min(pairs, len(chosen)):,} of {len(chosen):,} questions with differing answers)")
        typer.echo(f"then: whet compare {folders[0]} {folders[1]} --votes FILE")
        return
    found = compare_folders(folders, shows_differences=shows_differences, votes=votes, read=read)
    if markdown is not None or html is not None:
        from whet.evaluate import side_page

        if markdown is not None:
            write_text(markdown, side_page.to_markdown(found))
        if html is not None:
            write_text(html, side_page.render(found))
    if is_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
        return
    print_side_by_side(found)
    for path in (markdown, html):
        if path is not None:
            typer.echo(f"written: {path}")


def print_side_by_side(found: "SideBySide") -> None:
    """Print the scores, what the tests say, the categories at both ends, and cost, speed and size."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from whet.evaluate.report import say_figure, say_share
    from whet.evaluate.side_charts import conclude
    from whet.evaluate.side_page import beside, say_votes

    console = Console(highlight=False)
    for difference in found.differences:
        console.print(f"[yellow]Not asked in the same way:[/] {escape(difference.say(found.labels[0]))}.", soft_wrap=True)
    table = Table("", *(escape(label) for label in found.labels))
    for part in found.parts:
        cells = [side.result.parts[part.name] for side in found.sides]
        watched = ", watched" if part.role == "general" else ""
        table.add_row(
            escape(f"{part.name} ({say_figure(part.headline)}{watched})"), *(_say(cell.value, cell.interval) for cell in cells)
        )
    for name, figures in beside(found, is_short=True):
        table.add_row(escape(name), *map(escape, figures))
    console.print(table)
    for label, name in found.unscored:
        console.print(f"[red]{escape(label)} has no score on {escape(name)}:[/] too many requests failed.", soft_wrap=True)
    for said in conclude(found):
        console.print(f"[{COLOURS[said.tone]}]{escape(said.words)}[/] {escape(said.detail)}", soft_wrap=True)
    for held in found.held:
        flips = held.comparison.flips
        console.print(
            escape(f"{held.label} on {held.part}: wrong to right {len(flips.wrong_to_right):,}, "
                   f"right to wrong {len(flips.right_to_wrong):,}"), soft_wrap=True,
        )  # fmt: skip
        _print_ends(console, held)
    for one in found.agreements:
        kappa = "–" if one.kappa is None else f"{one.kappa:.2f}"
        console.print(
            escape(f"{one.names[0]} and {one.names[1]} give the same answer to {say_share(one.share)} of {one.num:,} in "
                   f"{one.part}; Cohen's kappa of {one.kappa_of} {kappa}"), soft_wrap=True,
        )  # fmt: skip
    for line in say_votes(found.votes) if found.votes else ():
        console.print(escape(line), soft_wrap=True)


def _print_ends(console: Any, held: "Held") -> None:
    """The categories with the largest losses and gains."""
    from rich.markup import escape

    from whet.evaluate.side_charts import say_points

    rows = sorted(held.categories, key=lambda one: (one.paired.difference, one.name))
    shown = rows if len(rows) <= 2 * MOST_CATEGORIES else [*rows[:MOST_CATEGORIES], None, *rows[-MOST_CATEGORIES:]]
    for one in shown:
        if one is None:
            console.print(f"  … {len(rows) - 2 * MOST_CATEGORIES} more, in --html, --markdown and --json")
        else:
            console.print(
                escape(f"  {one.name}: {one.a:.3f} -> {one.b:.3f}, {say_points(one.paired.difference)} points, "
                       f"p = {one.adjusted_p:.3g} (Holm), {one.verdict}"), soft_wrap=True,
            )  # fmt: skip


def _say(value: float | None, interval: "Interval | None") -> str:
    if value is None:
        return "no score"
    return f"{value:.3f}" + (f" \\[{interval.low:.3f}, {interval.high:.3f}]" if interval else "")
