"""Where everything stands in the report's charts, in per cent of the plot; the template draws it.

pygal was tried and left: it sets text in units of its view box (5 px on a phone), fixes colours in a style sheet of its
own and adds a script. Here text is HTML at its own size, only lines and dots are SVG, colours are the page's variables.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_POINTS = 300  # more than a line of 1,100 px can show
SMALLEST = 1e-300  # steps of an axis below this are lost in the rounding of numbers
SMALLEST_LOSS = 1e-12  # what is below is zero, which a logarithmic scale can't show
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOG_RATIO = 20  # a loss that falls by more than this is flat at its end on a linear scale


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis; `at` is its distance from the left or the top."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a curve."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class LossChart:
    """Training loss as a line, validation loss as a line with dots, on a shared scale."""

    train_line: str
    """Points of an SVG polyline in a 100 x 100 box."""
    valid_line: str
    valid_dots: tuple[Dot, ...]
    best: Dot | None
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    is_log: bool
    steps_a_point: int
    """Training steps that one point of the line is the mean of."""
    num_left_out: int
    """Losses that are no finite number."""
    summary: str
    """What the chart shows, in words."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A count as a bar; `width` is its share of the largest."""

    name: str
    count: int
    width: float
    note: str


@dataclass(frozen=True, slots=True)
class Whisker:
    """A dot of a chart and the ends of its interval, lower end (larger y) first."""

    dot: Dot
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReliabilityChart:
    """Share right over confidence, before and after calibration; on the diagonal confidences are true."""

    raw: tuple[Dot, ...]
    calibrated: tuple[Whisker, ...]
    ticks: tuple[Tick, ...]
    """Of the confidences, from the left; the shares have the same from the bottom."""
    summary: str


@dataclass(frozen=True, slots=True)
class CoverageChart:
    """Share right among the surest records, over the share of all that those are."""

    line: str
    accepted: Dot | None
    wanted: Tick | None
    """The precision that was asked for, from the top."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    summary: str


Points = Sequence[tuple[int, float]]


def draw_losses(train: Points, valid: Points, best_step: int | None) -> LossChart | None:
    """The loss chart; None where there is nothing to draw."""
    clean_train, clean_valid = ([(step, loss) for step, loss in points if math.isfinite(loss)] for points in (train, valid))
    num_left_out = len(train) + len(valid) - len(clean_train) - len(clean_valid)
    if not clean_train and not clean_valid:
        return None
    thinned, steps_a_point = thin(clean_train)
    losses = [loss for _, loss in thinned + clean_valid]
    last_step = max(step for step, _ in clean_train + clean_valid) or 1
    positive = [loss for loss in losses if loss > SMALLEST_LOSS]
    is_log = len(positive) == len(losses) and max(losses) > LOG_RATIO * min(losses)
    y_values = _log_ticks(min(losses), max(losses)) if is_log else round_ticks(0.0, max(losses), 4)
    low, high = min(y_values[0], *losses), max(y_values[-1], *losses)

    def place(step: int, loss: float) -> tuple[float, float]:
        up = (math.log(loss) - math.log(low)) / (math.log(high) - math.log(low)) if is_log else (loss - low) / (high - low)
        return round(100 * step / last_step, 2), round(100 * (1 - up), 2)

    dots = tuple(Dot(*place(step, loss), f"step {step:,}: {loss:.4g}") for step, loss in clean_valid)
    found = next(((step, loss) for step, loss in clean_valid if step == best_step), None)
    best = Dot(*place(*found), f"best: {found[1]:.4g} at step {found[0]:,}") if found else None
    return LossChart(
        _line(place(*point) for point in thinned), _line(place(*point) for point in clean_valid), dots, best,
        tuple(Tick(place(int(v), low)[0], f"{v:,.0f}") for v in round_ticks(0, last_step, 4) if v <= last_step),
        tuple(Tick(place(0, v)[1], f"{v:g}") for v in y_values), is_log, steps_a_point, num_left_out,
        _summarise(clean_train, clean_valid, best),
    )  # fmt: skip


def draw_reliability(
    raw: Sequence[tuple[float, float, float, float, int]], calibrated: Sequence[tuple[float, float, float, float, int]]
) -> ReliabilityChart | None:
    """The reliability diagram from bins (confidence, share right, its interval's ends, number); None without any."""
    if not calibrated:
        return None

    def dot(bin_: tuple[float, float, float, float, int]) -> Dot:
        said, right, _, _, num = bin_
        return Dot(
            _percent(said), _percent(1 - right), f"{num:,} said {100 * said:.0f} % sure, {100 * right:.0f} % of them right"
        )

    whiskers = tuple(Whisker(dot(bin_), _percent(1 - bin_[2]), _percent(1 - bin_[3])) for bin_ in calibrated)
    said = "; ".join(whisker.dot.label for whisker in whiskers)
    ticks = tuple(Tick(_percent(at), f"{100 * at:.0f} %") for at in QUARTERS)
    return ReliabilityChart(tuple(map(dot, raw)), whiskers, ticks, f"Reliability after calibration: {said}.")


def draw_coverage(
    points: Sequence[tuple[float, float]], wanted: float | None, accepted: tuple[float, float] | None
) -> CoverageChart | None:
    """The risk-coverage curve from (share of all records, share right among them); None without any."""
    if not points:
        return None
    lowest = min(right for right in (*(right for _, right in points), wanted, accepted and accepted[1]) if right is not None)
    shares = [share for share in round_ticks(min(lowest, 0.9), 1.0, 4) if 0 <= share <= 1]
    low = min(shares[0], lowest)

    def place(share: float, right: float) -> tuple[float, float]:
        return _percent(share), _percent((1 - right) / (1 - low))

    dot = Dot(*place(*accepted), _say_accepted(*accepted)) if accepted else None
    ends = [f"{100 * points[at][1]:.1f} % right among the surest {100 * points[at][0]:.1f} %" for at in (0, -1)]
    return CoverageChart(
        _line(place(*point) for point in points), dot,
        Tick(place(0, wanted)[1], f"{100 * wanted:g} % asked for") if wanted is not None else None,
        tuple(Tick(_percent(at), f"{100 * at:.0f} %") for at in QUARTERS),
        tuple(Tick(place(0, share)[1], f"{100 * share:g} %") for share in shares),
        f"Risk and coverage: {ends[0]} of the records, {ends[1]}." + (f" {dot.label}." if dot else ""),
    )  # fmt: skip


def _say_accepted(share: float, right: float) -> str:
    return f"accepted: {100 * share:.1f} % of the records, {100 * right:.1f} % of them right"


def _percent(share: float) -> float:
    return round(100 * share, 2)


def draw_bars(stages: Sequence[tuple[str, int, str]]) -> tuple[Bar, ...]:
    """Counts as bars, all in proportion to the largest."""
    largest = max((count for _, count, _ in stages), default=0) or 1
    return tuple(Bar(name, count, round(100 * count / largest, 2), note) for name, count, note in stages)


def round_ticks(low: float, high: float, num: int) -> list[float]:
    """About `num` round steps (1, 2 or 5 times a power of ten) from `low` until `high` is reached."""
    raw = (high - low) / num
    if raw < SMALLEST:
        return [low, low + 1]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.floor(low / step)
    last = math.ceil(high / step - 1e-9)
    decimals = 1 - math.floor(math.log10(step))
    return [round(number * step, decimals) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values (1, 2, 5 times powers of ten; powers alone where those are many) around the range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(decades) <= 3 else (1,)
    values = [factor * 10.0**decade for decade in decades for factor in factors]
    below = max((value for value in values if value <= low), default=values[0])
    above = min((value for value in values if value >= high), default=values[-1])
    return [value for value in values if below <= value <= above]


def thin(points: Points) -> tuple[list[tuple[int, float]], int]:
    """At most MAX_POINTS points, each the mean of as many neighbours; and how many that are."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    bins = [points[start : start + size] for start in range(0, len(points), size)]
    return [(bin_[len(bin_) // 2][0], sum(loss for _, loss in bin_) / len(bin_)) for bin_ in bins], size


def _line(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def _summarise(train: Points, valid: Points, best: Dot | None) -> str:
    parts = [
        f"{name} loss from {points[0][1]:.3g} to {points[-1][1]:.3g} over {points[-1][0]:,} steps"
        for name, points in (("training", train), ("validation", valid))
        if points
    ]
    return "Loss curve: " + "; ".join(parts + ([best.label] if best else [])) + "."
