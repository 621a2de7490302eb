"""The curves of a training as an SVG file: both losses and the learning rate over the steps."""

import importlib.resources
import math
from collections.abc import Iterable
from typing import Protocol

from whet.evaluate.charts import Points, Tick, draw_losses, round_ticks, thin

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 696, 70, 342  # the plot's edges, in units of the view box


class Curves(Protocol):
    """What a training says of its course; losses are (step, nats a learnt token)."""

    @property
    def train_curve(self) -> Points: ...

    @property
    def valid_curve(self) -> Points: ...

    @property
    def best_step(self) -> int: ...


def draw_curve(result: Curves, rates: Points = ()) -> str:
    """The SVG of a training's curves; `rates` are (step, learning rate), on an axis of their own at the right.

    Colours follow the reader's light or dark mode, nothing is loaded. Without any finite loss the picture says so.
    """
    import jinja2

    chart = draw_losses(result.train_curve, result.valid_curve, result.best_step)
    last_step = max((step for step, loss in (*result.train_curve, *result.valid_curve) if math.isfinite(loss)), default=0)
    rate_line, rate_ticks = _draw_rates(rates, last_step) if chart else ("", ())
    source = importlib.resources.files("whet.evaluate").joinpath("curve.svg.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"x": _across, "y": _down, "points": _scale}
    edges = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM, "width": WIDTH, "height": HEIGHT}
    return environment.from_string(source).render(chart=chart, rate_line=rate_line, rate_ticks=rate_ticks, **edges)


def _draw_rates(rates: Points, last_step: int) -> tuple[str, tuple[Tick, ...]]:
    """Points of the line and ticks of its axis, in per cent of the plot."""
    shown, _ = thin([(step, rate) for step, rate in rates if math.isfinite(rate) and step <= last_step])
    ticks = round_ticks(0.0, max((rate for _, rate in shown), default=0.0), 4)
    if not shown or not last_step:
        return "", ()
    places = ((100 * step / last_step, 100 * (1 - rate / ticks[-1])) for step, rate in shown)
    line = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    return line, tuple(Tick(round(100 * (1 - rate / ticks[-1]), 2), f"{rate:g}") for rate in ticks)


def _across(percent: float) -> str:
    return f"{LEFT + (RIGHT - LEFT) * percent / 100:.1f}"


def _down(percent: float) -> str:
    return f"{TOP + (BOTTOM - TOP) * percent / 100:.1f}"


def _scale(line: str) -> str:
    """Points in per cent of the plot, in units of the view box."""
    pairs: Iterable[list[str]] = (pair.split(",") for pair in line.split())
    return " ".join(f"{_across(float(x))},{_down(float(y))}" for x, y in pairs)
