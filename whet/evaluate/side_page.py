"""A comparison as one HTML file that loads nothing, and as Markdown."""

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from whet.evaluate.charts import QUARTERS, Tick
from whet.evaluate.compare import say_groups, say_p
from whet.evaluate.report import LOOSE, UNPRINTABLE, read_beside, read_style, say_figure, say_score, say_share, say_time
from whet.evaluate.shares import EffectSize
from whet.evaluate.side_by_side import ASKED, BASELINE, Side, SideBySide
from whet.evaluate.side_charts import TONES, conclude, draw_gains, draw_speed, say_bytes, say_points, say_seconds
from whet.evaluate.statistics import Interval, Paired
from whet.evaluate.votes import Votes

MOST_FLIPS = 60  # of one kind, system and part on the page
MOST_FLIPS_MARKDOWN = 5
MOST_CHARS = 2500  # of a text on the page
MARKS = {"good": "▲", "bad": "▼", "even": "≈"}
Cells = tuple[str, list[str]]
PACE: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("time a question, median", "p50_s", say_seconds), ("95th percentile", "p95_s", say_seconds),
    ("99th percentile", "p99_s", say_seconds), ("new tokens a second", "tokens_per_s", lambda value: f"{value:,.4g}"),
)  # fmt: skip


def render(found: SideBySide) -> str:
    """The page's HTML."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": say_score, "share": say_share, "count": lambda num: f"{num:,}", "p": say_p,
                            "points": say_points, "groups": say_groups,
                            "figure": say_figure, "signed": _signed, "cut": cut, "breakable": _breakable}  # fmt: skip
    environment.filters["tie"] = lambda words: LOOSE.sub("\N{NO-BREAK SPACE}", words)
    parts = found.parts
    html = environment.from_string(read_beside("side_by_side.html.j2")).render(
        found=found, style=read_style(), title=title_of(found), created=_now(), conclusions=conclude(found),
        sections=tuple(_sections(found)), tones=TONES, gains=[(held, draw_gains(held)) for held in found.held],
        speed=draw_speed(found), beside=beside(found), asked=asked(found), most_flips=MOST_FLIPS,
        share_ticks=[Tick(100 * at, f"{at:g}") for at in QUARTERS],
        votes=say_votes(found.votes) if found.votes else (),
        rates={part.name: _rates(found, part.name) for part in parts},
        overlaps={part.name: any(side.result.parts[part.name].overlap for side in found.sides) for part in parts},
    )  # fmt: skip
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", html)


def title_of(found: SideBySide) -> str:
    """The systems' names: "B against A"."""
    others = found.labels[1:]
    return f"{', '.join(others)} against {found.labels[0]}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _sections(found: SideBySide) -> Iterator[tuple[str, str]]:
    yield "scores", "Scores"
    if found.held:
        yield "tests", "Paired tests"
        yield "gains", "Gained and lost"
    yield "beside", "Cost, speed and size"
    if found.agreements:
        yield "agreement", "Agreement"
    if any(held.flips for held in found.held):
        yield "flips", "Examples that turned"
    if found.votes:
        yield "votes", "Read blind"
    yield "asked", "How they were asked"


def _rates(found: SideBySide, part: str) -> tuple[str, ...]:
    """The rates that are above zero for some system."""
    rates = [side.result.parts[part].rates for side in found.sides]
    return tuple(name for name in _keys(rates) if any(said.get(name) for said in rates))


def _breakable(name: str) -> Any:
    """A name that may be broken behind its underscores."""
    import markupsafe

    return markupsafe.Markup("_<wbr>").join(name.split("_"))


def _keys(mappings: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))


def cut(text: str) -> str:
    """At most MOST_CHARS characters, and how many more there are."""
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]} … ({len(text) - MOST_CHARS:,} more characters)"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def beside(found: SideBySide, *, is_short: bool = False) -> list[Cells]:
    """Cost, speed and size of each system, rows without any figure left out; is_short: those of all parts together only."""

    def each(say: Callable[[Side], str]) -> list[str]:
        return [say(side) for side in found.sides]

    rows: list[Cells] = [("quality, mean of its parts", each(_quality))] if len(found.parts) > 1 else []
    for part in () if is_short else found.parts:
        where = f", {part.name}" if len(found.parts) > 1 else ""
        for what, key, say in PACE:
            values = [getattr(side.result.parts[part.name].latency, key) for side in found.sides]
            rows.append((what + where, ["–" if not value else say(value) for value in values]))
    rows += [
        ("time of all questions", each(lambda side: say_time(_seconds(side) or None))),
        ("peak memory", each(lambda side: say_bytes(side.result.peak_memory_bytes))),
        ("size on disk", each(lambda side: say_bytes(side.result.system.num_bytes))),
        ("cost", each(lambda side: "–" if side.result.cost is None else f"{side.result.cost:.4g}")),
    ]
    return [row for row in rows if any(cell != "–" for cell in row[1])]


def _seconds(side: Side) -> float:
    return sum(part.latency.seconds for part in side.result.parts.values())


def _quality(side: Side) -> str:
    """The mean of the headline figures of the parts that the specialist is for."""
    parts = [part for part in side.result.parts.values() if part.role == "task"] or list(side.result.parts.values())
    values = [part.value for part in parts]
    return "–" if None in values else say_score(sum(value for value in values if value is not None) / len(values))


def asked(found: SideBySide) -> list[Cells]:
    """How each part was put to each system, and what each system is."""
    rows: list[Cells] = [("kind", [side.result.system.kind for side in found.sides])]
    for name in found.sides[0].result.parts:
        for key, what in ASKED.items():
            values = [getattr(side.result.parts[name].asked, key) for side in found.sides]
            said = [_say_asked(side, key, value) for side, value in zip(found.sides, values, strict=True)]
            rows.append((f"{name}: {what}", said))
    for key in _keys(side.result.system.identity for side in found.sides):
        rows.append((key, [str(side.result.system.identity.get(key, "–")) for side in found.sides]))
    return rows


def _say_asked(side: Side, key: str, value: Any) -> str:
    if side.result.system.kind == BASELINE:
        return "not prompted"
    if value is None:
        return "the server's own"
    return f"{value:g}" if isinstance(value, float) else str(value)[:16] if key in ("prompts", "template") else str(value)


def say_votes(votes: Votes) -> tuple[str, ...]:
    """The sign test in sentences: who was preferred, and whether the reader leaned to a side."""
    a, b = votes.names
    num = votes.num_for_a + votes.num_for_b
    read = num + votes.num_ties
    counts = (
        f"{read:,} of {votes.num_pairs:,} pairs read without knowing the sides: {votes.num_for_b:,} for {b}, "
        f"{votes.num_for_a:,} for {a}, {votes.num_ties:,} ties."
    )
    if votes.share is None or votes.interval is None or votes.p_value is None:
        return (counts, "No pair was decided, so nothing is shown.")
    if votes.p_value >= 0.05 or votes.num_for_a == votes.num_for_b:
        verdict = f"No preference shown between {b} and {a}"
    else:
        verdict = f"{b if votes.num_for_b > votes.num_for_a else a} is preferred"
    test = (
        f"{verdict}: {say_share(votes.share)} of the {num:,} decided votes are for {b} ({say_share(votes.interval.low)} to "
        f"{say_share(votes.interval.high)}, exact), {say_p(votes.p_value)} (sign test, ties left out)."
    )
    if votes.left_share is None or votes.left_interval is None or votes.left_p_value is None:
        return (counts, test)
    leaning = "The reader leaned to a side" if votes.left_p_value < 0.05 else "The reader is not shown to lean to a side"
    return (
        counts, test,
        f"{leaning}: {say_share(votes.left_share)} of the decided votes went to the left "
        f"({say_share(votes.left_interval.low)} to {say_share(votes.left_interval.high)}), {say_p(votes.left_p_value)}.",
    )  # fmt: skip


def to_markdown(found: SideBySide) -> str:
    """The comparison as Markdown: what differs, the verdicts, and every table."""
    lines = [f"# {title_of(found)}", "", f"{_now()}. Every system is held against the first, {found.labels[0]}.", ""]
    lines += [f"- **Not asked in the same way:** {difference.say(found.labels[0])}." for difference in found.differences]
    lines += [f"- {MARKS['bad']} **{label} has no score on {part}:** too many requests failed." for label, part in found.unscored]
    lines += [f"- {MARKS[said.tone]} **{said.words}** {said.detail}" for said in conclude(found)]
    scores = [
        (f"{part.name} ({say_figure(part.headline)})", [_estimate(side, part.name) for side in found.sides])
        for part in found.parts
    ]
    lines += ["", "## Scores", "", *_table(["part", *found.labels], scores)]
    if found.held:
        lines += ["", "## Paired tests", "", *_tests(found)]
    for held in found.held:
        if held.categories:
            lines += ["", f"## {held.label} on {held.part}, by category", "", *_categories(found.labels[0], held)]
    lines += ["", "## Cost, speed and size", "", *_table(["", *found.labels], beside(found))]
    agreements = [
        (f"{one.names[0]}, {one.names[1]}: {one.part}",
         [f"{say_share(one.share)} of {one.num:,}", f"{_signed(one.kappa)} ({one.kappa_of}{_after(one.kappa_interval)})"])
        for one in found.agreements
    ]  # fmt: skip
    lines += ["", "## Agreement", "", *_table(["systems", "same answer", "Cohen's kappa"], agreements)]
    lines += _flip_lines(found)
    if found.votes:
        lines += ["", "## Read blind", "", *say_votes(found.votes)]
    lines += ["", "## How they were asked", "", *_table(["", *found.labels], asked(found)), ""]
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", "\n".join(lines))


def _estimate(side: Side, name: str) -> str:
    part = side.result.parts[name]
    around = f" [{part.interval.low:.3f}, {part.interval.high:.3f}]" if part.interval else ""
    return say_score(part.value) + around


def _tests(found: SideBySide) -> list[str]:
    rows = []
    for held in found.held:
        paired, turned = held.comparison.paired, held.turned
        rows.append((f"{held.label} on {held.part}", [
            f"{say_points(paired.difference)} ({say_points(paired.interval.low)} to {say_points(paired.interval.high)})",
            say_p(held.adjusted_p), f"{turned.num_right} of {turned.num}", _say_h(held.comparison.cohen_h),
            _pairs(held.comparison.num_pairs, paired),
            f"{MARKS[TONES[held.verdict]]} {held.verdict}",
        ]))  # fmt: skip
    head = [f"against {found.labels[0]}", "difference, points", "p (Holm)", "turned right", "Cohen's h", "pairs", "verdict"]
    return _table(head, rows)


def _say_h(effect: EffectSize | None) -> str:
    return "–" if effect is None else f"{_signed(effect.value)} ({_around(effect.interval)})"


def _after(interval: Interval | None) -> str:
    return f", {_around(interval)}" if interval else ""


def _around(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}"


def _pairs(num: int, paired: Paired) -> str:
    return f"{num:,}" if paired.num_groups is None else f"{num:,} in {say_groups(paired.num_groups)}"


def _categories(first: str, held: Any) -> list[str]:
    rows = [(one.name or "(no category)", [
        _pairs(one.num_pairs, one.paired), f"{one.a:.3f}", f"{one.b:.3f}",
        f"{say_points(one.paired.difference)} ({say_points(one.paired.interval.low)} to {say_points(one.paired.interval.high)})",
        say_p(one.adjusted_p), f"{MARKS[TONES[one.verdict]]} {one.verdict}",
    ]) for one in sorted(held.categories, key=lambda one: (one.paired.difference, one.name))]  # fmt: skip
    return _table(["category", "pairs", first, held.label, "difference, points", "p (Holm)", "verdict"], rows)


def _flip_lines(found: SideBySide) -> list[str]:
    lines: list[str] = []
    for held in found.held:
        for kind, words in (("lost", "right to wrong"), ("gained", "wrong to right")):
            flips = [flip for flip in held.flips if flip.kind == kind]
            lines += ["", f"## {held.label} on {held.part}: {len(flips):,} from {words}"] if flips else []
            for flip in flips[:MOST_FLIPS_MARKDOWN]:
                said = (
                    (f"{flip.example_id}", flip.text),
                    ("gold", flip.gold),
                    (found.labels[0], flip.before),
                    (held.label, flip.after),
                )
                lines += ["", *(f"- {_inline(who)}: {_inline(text)}" for who, text in said)]
    return lines


def _inline(text: str) -> str:
    """A text on one line that Markdown takes as it is."""
    plain = " ".join(cut(text).split()).replace("\\", "\\\\")
    for mark in "|`*_<>[]#":
        plain = plain.replace(mark, f"\\{mark}")
    return plain or "–"


def _table(heads: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    lines = [f"| {' | '.join(map(_inline_cell, heads))} |", f"|{' --- |' * len(heads)}"]
    return lines + [f"| {' | '.join(map(_inline_cell, [name, *cells]))} |" for name, cells in rows]


def _inline_cell(text: str) -> str:
    return _inline(text) if text else ""
