"""Where everything stands in the charts of a comparison, in per cent of the plot; the template draws it."""

import math
from dataclasses import dataclass
from typing import Literal

from whet.evaluate.charts import Tick, round_ticks
from whet.evaluate.compare import Category, Verdict, say_p
from whet.evaluate.side_by_side import Held, SideBySide
from whet.evaluate.statistics import Interval

Tone = Literal["good", "bad", "even"]
TONES: dict[Verdict, Tone] = {"better": "good", "worse": "bad", "no difference shown": "even"}


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference as a dot with its interval, on a scale whose middle is no difference."""

    name: str
    num: int
    at: float
    low: float
    high: float
    tone: Tone
    value: str
    label: str
    is_whole: bool
    """Whether this is the whole part and not one of its categories."""


@dataclass(frozen=True, slots=True)
class GainChart:
    """Gain against loss of one system on one part, the part itself first, then its categories from loss to gain."""

    part: str
    role: str
    rows: tuple[Gain, ...]
    ticks: tuple[Tick, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Place:
    """A system in the chart of quality against time."""

    label: str
    x: float
    y: float
    words: str
    is_left: bool
    """Whether its label stands on the left of its dot, where the right has no room."""


@dataclass(frozen=True, slots=True)
class SpeedChart:
    """Quality over seconds a question; upper left is best."""

    places: tuple[Place, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_log: bool
    summary: str


def draw_gains(held: Held) -> GainChart:
    """The chart of one system's gains and losses on one part."""
    whole = held.comparison
    rows = [(held.part, whole.num_pairs, whole.paired.difference, whole.paired.interval, held.verdict, held.adjusted_p, True)]
    rows += [_row(category) for category in sorted(held.categories, key=lambda one: (one.paired.difference, one.name))]
    widest = max(max(abs(interval.low), abs(interval.high)) for _, _, _, interval, *_ in rows)
    limit = next((end for end in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75) if widest <= end), 1.0)

    def place(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / limit)), 2)

    gains = tuple(
        Gain(
            name or "(no category)", num, place(difference), place(interval.low), place(interval.high), TONES[verdict],
            say_points(difference),
            f"{name or '(no category)'}: {say_points(difference)} points, {say_points(interval.low)} to "
            f"{say_points(interval.high)}, {say_p(p)}, {num:,} questions",
            is_whole,
        )
        for name, num, difference, interval, verdict, p, is_whole in rows
    )  # fmt: skip
    ticks = tuple(Tick(place(at), say_points(at, 0)) for at in (-limit, -limit / 2, 0.0, limit / 2, limit))
    if limit in (0.05, 0.75):  # halves are no whole points
        ticks = ticks[::2]
    return GainChart(held.part, held.role, gains, ticks, "; ".join(gain.label for gain in gains))


def _row(category: Category) -> tuple[str, int, float, Interval, Verdict, float, bool]:
    paired = category.paired
    return category.name, category.num_pairs, paired.difference, paired.interval, category.verdict, category.adjusted_p, False


def draw_speed(found: SideBySide) -> SpeedChart | None:
    """Quality against time; None unless two systems say how long they took."""
    points: list[tuple[str, float, float]] = []
    for side in found.sides:
        parts = [part for part in side.result.parts.values() if part.role == "task"] or list(side.result.parts.values())
        values = [part.value for part in parts if part.value is not None]
        seconds, num = sum(part.latency.seconds for part in parts), sum(part.num_asked for part in parts)
        if seconds > 0 and num and len(values) == len(parts):
            points.append((side.label, seconds / num, sum(values) / len(values)))
    if len(points) < 2:
        return None
    times, values = [x for _, x, _ in points], [y for _, _, y in points]
    is_log = max(times) > 8 * min(times)
    x_values = _decades(min(times), max(times)) if is_log else round_ticks(0.0, max(times), 4)
    y_values = [
        at for at in round_ticks(max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05), 4) if -1e-9 <= at <= 1 + 1e-9
    ]

    def across(value: float) -> float:
        low, high = x_values[0], x_values[-1]
        share = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return round(100 * share, 2)

    def down(value: float) -> float:
        return round(100 * (y_values[-1] - value) / (y_values[-1] - y_values[0]), 2)

    places = tuple(
        Place(label, across(x), down(y), f"{label}: {y:.3f} at {say_seconds(x)} a question", across(x) > 55)
        for label, x, y in points
    )
    return SpeedChart(
        places, tuple(Tick(across(x), say_seconds(x)) for x in x_values), tuple(Tick(down(y), f"{y:g}") for y in y_values),
        is_log, "; ".join(place.words for place in places),
    )  # fmt: skip


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9) + 1)]


def say_seconds(seconds: float) -> str:
    """A short duration: "0.2 ms", "34 ms", "1.2 s"."""
    return f"{seconds:.3g} s" if seconds >= 1 or seconds == 0 else f"{1000 * seconds:.3g} ms"


def say_points(difference: float, decimals: int = 1) -> str:
    """A difference of shares in points of a hundred, with its sign; the minus is the typographic one."""
    said = f"{100 * difference:+.{decimals}f}"
    return said.lstrip("+-") if float(said) == 0 else said.replace("-", "−")


def say_bytes(num: int | None) -> str:
    """A size: "13.4 MB"."""
    if num is None:
        return "–"
    size, units = float(num), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{size:.3g} {units[0]}"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """One thing that the tests say of a system, with its tone."""

    tone: Tone
    words: str
    detail: str


def conclude(found: SideBySide) -> tuple[Conclusion, ...]:
    """What the tests say, plainly, bad news first; verdicts are by the corrected p-values."""
    first = found.labels[0]
    said = []
    for held in found.held:
        on = f" on {held.part}"
        tone = TONES[held.verdict]
        if tone == "even":
            words = f"{held.label} is not shown to differ from {first}{on}."
        elif held.role == "general" and tone == "bad":
            words = f"{held.label} has lost{on} against {first}."
        else:
            words = f"{held.label} is {held.verdict} than {first}{on}."
        corrected = f" Corrected for all {len(found.held)} tests: {say_p(held.adjusted_p)}." if len(found.held) > 1 else ""
        said.append(Conclusion(tone, words, _start_upper(held.comparison.numbers) + corrected))
    return tuple(sorted(said, key=lambda conclusion: ("bad", "even", "good").index(conclusion.tone)))


def _start_upper(words: str) -> str:
    return words[:1].upper() + words[1:]
