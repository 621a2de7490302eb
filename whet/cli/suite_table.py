"""The table of a suite's result in the terminal."""

from rich.console import Console
from rich.table import Table

from whet.errors import counted
from whet.evaluate.compare import say_groups
from whet.evaluate.results import PartResult, SuiteResult
from whet.pipeline.suite_step import say_no_score

SHOWN = 5  # duplicates and overlaps named
WIDTH = 120
NAME = 26
WIDTHS = {"score": 20, "asked": 6, "unread": 7, "errors": 7, "p50 s": 6, "tokens/s": 8}
CATEGORIES = 12  # more are not shown in the terminal
LEAST_SPREAD = 0.2  # of accuracy by position, from which it is worth a line


def print_result(result: SuiteResult) -> None:
    """Print each part's figure with its interval, and what else must be known to believe it."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width of its own
        console = Console(highlight=False, width=WIDTH)
    title = f"{result.system.label} ({result.system.kind}) on {result.suite}"
    table = Table(title=title, title_justify="left")
    for name in ("part", "role", "figure"):
        table.add_column(name, no_wrap=True, max_width=NAME)
    for name, width in WIDTHS.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for part in result.parts.values():
        table.add_row(*_row(part))
        for name, (num, value, around) in part.categories.items() if len(part.categories) <= CATEGORIES else ():
            table.add_row(f"  {name}", "", "", f"{value:.3f} [{around.low:.3f}, {around.high:.3f}]", str(num), style="dim")
    console.print(table)
    for part in result.parts.values():
        for line in notes_of(part):
            console.print(f"{part.name}: {line}", soft_wrap=True, markup=False)
    if all(part.overlap is None for part in result.parts.values()):
        console.print("Not compared with any training data: give it with --training-data.")
    if result.peak_memory_bytes:
        console.print(f"Peak memory {result.peak_memory_bytes / 1e6:,.0f} MB.")
    if result.cost is not None:
        console.print(f"Cost {result.cost:.4g}.")


def _row(part: PartResult) -> list[str]:
    measure, figure = part.headline
    around = part.interval
    score = "no score" if part.value is None or around is None else f"{part.value:.3f} [{around.low:.3f}, {around.high:.3f}]"
    latency = part.latency
    return [
        part.name,
        part.role,
        figure if measure == figure else f"{measure} {figure}",
        score,
        str(part.num_asked),
        f"{100 * part.rates.get('unread', 0.0):.1f} %",
        f"{100 * part.rates.get('error', 0.0):.1f} %",
        "–" if latency.p50_s is None else f"{latency.p50_s:.3f}",
        "–" if latency.tokens_per_s is None else f"{latency.tokens_per_s:.0f}",
    ]


def notes_of(part: PartResult) -> list[str]:
    """What must be known beside a part's figure, a sentence each."""
    notes = []
    if len(part.categories) > CATEGORIES:
        notes.append(f"{counted(len(part.categories), 'category')}, each with its interval in result.json.")
    if part.value is None:
        notes.append(f"no score: {say_no_score(part)}.")
    if part.num_groups is not None:
        notes.append(
            f"{part.num_scored} scored examples in {say_groups(part.num_groups)} drawn together, such as documents; intervals go "
            "by groups."
        )
    if part.duplicates:
        num = sum(len(ids) - 1 for ids in part.duplicates)
        named = "; ".join(" = ".join(ids[:3]) for ids in part.duplicates[:SHOWN])
        repeated = counted(num, "row", "repeats", "repeat")
        notes.append(f"{part.num_distinct} distinct questions asked; {repeated} another ({named}).")
    if part.overlap is not None and part.overlap.ids:
        found = part.overlap
        without = "none is left" if found.without is None else f"without them {found.without:.3f}"
        notes.append(f"{found.num_exact} questions stand in the training data, {found.num_near} more nearly; {without}.")
    constant, letters = part.extra.get("best_constant"), part.extra.get("letters")
    if constant and letters:
        shares = ", ".join(f"{letter} {share:.0%}" for letter, share in letters.items())
        notes.append(f"always answering {constant['letter']} would score {constant['accuracy']:.3f}; it answered {shares}.")
    positions = {
        letter: found["right"] / found["num"] for letter, found in part.extra.get("by_position", {}).items() if found["num"]
    }
    if len(positions) > 1 and max(positions.values()) - min(positions.values()) > LEAST_SPREAD:
        by = ", ".join(f"{letter} {share:.2f}" for letter, share in positions.items())
        notes.append(f"accuracy depends on where the right choice stands: {by}.")
    of_all = part.extra.get("of_all")
    if of_all and part.rates.get("unread"):
        notes.append(f"of all replies {of_all['accuracy']:.3f} are right, if one that could not be read is wrong.")
    return notes
