"""The table of a report in the terminal."""

from rich.console import Console
from rich.table import Table

from whet.evaluate.report import Estimate, Report, conclude
from whet.evaluate.sureness import say_acceptance

MARKS = {"good": "green", "bad": "red", "even": "yellow"}


def print_report(report: Report) -> None:
    """Print base, baselines and specialist with intervals, and what the comparisons say."""
    console = Console(highlight=False)
    measure, figure = report.headline
    table = Table(title=f"{report.title}: {report.systems[0].num_asked} held-out examples", title_justify="left")
    table.add_column("")
    for system in report.systems:
        table.add_column(system.name, justify="right")
    table.add_row(f"{measure} {figure}" if measure != figure else figure, *(_say(system.score) for system in report.systems))
    if any(system.precision for system in report.systems):
        table.add_row("precision", *(_say(system.precision) for system in report.systems))
        table.add_row("recall", *(_say(system.recall) for system in report.systems))
    for name in dict.fromkeys(name for system in report.systems for name in system.fields):
        cells = [system.fields.get(name) for system in report.systems]
        table.add_row(f"{name} f1", *(f"{cell.f1:.3f}" if cell else "–" for cell in cells))
    for name in dict.fromkeys(name for system in report.systems for name in system.rates):
        table.add_row(name, *(f"{100 * system.rates.get(name, 0.0):.1f} %" for system in report.systems))
    for name in dict.fromkeys(name for system in report.systems for name in system.categories):
        table.add_row(name, *(_say(system.categories.get(name)) for system in report.systems))
    console.print(table)
    if report.best_constant:
        console.print(f"Always answering {report.best_constant[0]} would score {report.best_constant[1]:.3f}.")
    for conclusion in conclude(report):
        console.print(f"[{MARKS[conclusion.tone]}]{conclusion.words}[/] {conclusion.detail}", soft_wrap=True)
    if report.sure:
        console.print(say_acceptance(report.sure), soft_wrap=True)
    leaks = sum(leak.num for leak in report.leaks)
    held = f", {sum(proof.held for proof in report.proofs)} of {len(report.proofs)} proofs held" if report.proofs else ""
    console.print(f"{leaks} leaks between splits{held}.")


def _say(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    interval = estimate.interval
    return f"{estimate.value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")
