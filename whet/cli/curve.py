"""Draws the loss curve of a training in a terminal: braille dots, or plain characters where those can't be shown."""

import math
from collections.abc import Iterator

from whet.evaluate.charts import LossChart, Points, draw_losses

HEIGHT = 12  # lines of the plot
MIN_WIDTH = 30  # columns below which a curve says nothing
BRAILLE = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of a dot by its row and column in a character
SMOOTHED = 20  # windows that the training losses are smoothed over: one is a hair of noise, all are a line


def draw_losses_as_text(train: Points, valid: Points, best_step: int, width: int, is_unicode: bool = True) -> list[str]:
    """Lines of at most `width` columns: the training loss smoothed, validations as points, the best one marked.

    Nothing where the width is below MIN_WIDTH or no loss is a number.
    """
    chart = draw_losses(smooth(train), valid, best_step)
    if chart is None or width < MIN_WIDTH:
        return []
    margin = max(len(tick.label) for tick in chart.y_ticks)
    columns = width - margin - 2
    rows = _plot(chart, columns, is_unicode)
    labels = {round(tick.at / 100 * (HEIGHT - 1)): tick.label for tick in reversed(chart.y_ticks)}
    edge = "┤" if is_unicode else "|"
    lines = [f"{labels.get(number, ''):>{margin}} {edge}{''.join(row)}".rstrip() for number, row in enumerate(rows)]
    lines.append(_axis(chart, margin, columns))
    train_mark, valid_mark, best_mark = ("⠒⠒", "●", "◆") if is_unicode else ("..", "o", "*")
    legend = [f"{train_mark} training" + (", smoothed" if len(train) >= 2 * SMOOTHED else "")] if chart.train_line else []
    legend += [f"{valid_mark} validation"] if chart.valid_line else []
    legend += [f"{best_mark} {chart.best.label}"] if chart.best else []
    scale = " (logarithmic)" if chart.is_log else ""
    return [_cut(f"loss in nats a learnt token{scale}, by step", width), *lines, _cut("   ".join(legend), width)]


def can_show(encoding: str) -> bool:
    """Whether an encoding has the characters of the curve."""
    try:
        "⣿●◆┤⠒".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def smooth(points: Points) -> list[tuple[int, float]]:
    """Each finite loss as the mean of its neighbours within a SMOOTHED-th part of all."""
    points = [(step, loss) for step, loss in points if math.isfinite(loss)]
    reach = len(points) // SMOOTHED // 2
    found = []
    for number, (step, _) in enumerate(points):
        near = [loss for _, loss in points[max(0, number - reach) : number + reach + 1]]
        found.append((step, sum(near) / len(near)))
    return found


def _plot(chart: LossChart, columns: int, is_unicode: bool) -> list[list[str]]:
    """Characters of the plot, by line and column."""
    rows = [[" "] * columns for _ in range(HEIGHT)]
    across, down = (2 * columns - 1, 4 * HEIGHT - 1) if is_unicode else (columns - 1, HEIGHT - 1)
    bits: dict[tuple[int, int], int] = {}
    for x, y in _dots(chart.train_line, across, down):
        if is_unicode:
            place = (y // 4, x // 2)
            bits[place] = bits.get(place, 0) | BRAILLE[y % 4][x % 2]
            rows[place[0]][place[1]] = chr(0x2800 + bits[place])
        else:
            rows[y][x] = "."
    for dot in chart.valid_dots:
        rows[round(dot.y / 100 * (HEIGHT - 1))][round(dot.x / 100 * (columns - 1))] = "●" if is_unicode else "o"
    if chart.best:
        row, column = round(chart.best.y / 100 * (HEIGHT - 1)), round(chart.best.x / 100 * (columns - 1))
        rows[row][column] = "◆" if is_unicode else "*"
    return rows


def _dots(line: str, across: int, down: int) -> Iterator[tuple[int, int]]:
    """The dots on a polyline in per cent, joined so that no column between two points stays empty."""
    points = [(float(x) / 100 * across, float(y) / 100 * down) for x, y in (pair.split(",") for pair in line.split())]
    for (x0, y0), (x1, y1) in zip(points, points[1:] or points, strict=False):
        num = max(1, round(abs(x1 - x0)), round(abs(y1 - y0)))
        yield from ((round(x0 + (x1 - x0) * n / num), round(y0 + (y1 - y0) * n / num)) for n in range(num + 1))


def _axis(chart: LossChart, margin: int, columns: int) -> str:
    """The numbers of the steps below their places; one that would touch its neighbour is left out."""
    line = ""
    for tick in chart.x_ticks:
        place = round(tick.at / 100 * (columns - 1)) + margin + 2
        start = min(place - len(tick.label) // 2, margin + 2 + columns - len(tick.label))
        if start > len(line) or not line:
            line = line.ljust(start) + tick.label
    return line


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else words[: width - 3] + "..."
