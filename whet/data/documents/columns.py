"""The columns of a page: lines grouped in the order in which they are read."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from statistics import median

from whet.data.documents.lines import Line

_MIN_LINES = 3  # of a column


@dataclass(slots=True)
class Block:
    """Lines of one column, in the order in which they are read."""

    lines: list[Line]
    left: float = field(init=False)
    right: float = field(init=False)
    is_flush: bool = field(init=False)
    """Whether several lines end at its right edge."""

    def __post_init__(self) -> None:
        size = median(line.size for line in self.lines)
        most = max(2, len(self.lines) // 5)
        begins, ends = sorted(line.u0 for line in self.lines), sorted((line.u1 for line in self.lines), reverse=True)
        # A page number or a note in the margin is no edge: several lines must begin or end there.
        lefts = (low for low, high in zip(begins, begins[most - 1 :], strict=False) if high - low < 0.5 * size)
        flush = next((high for high, low in zip(ends, ends[most - 1 :], strict=False) if high - low < size), None)
        self.left = next(lefts, begins[0])
        self.right, self.is_flush = (ends[0], False) if flush is None else (flush, True)

    def is_full(self, line: Line, room: float | None = None) -> bool:
        """Whether a line ends because there was no room for more. room: what would have had to fit."""
        if line.width < (8 if self.is_flush else 20) * line.size:
            return False
        return line.u1 + (line.size if room is None else room) > self.right - 0.3 * line.size


def find_blocks(lines: list[Line]) -> list[Block]:
    """Columns one after the other. Lines that cross the gap between two columns part what stands above and below them."""
    gutter = _gutter(lines)
    if gutter is None:
        return [Block(lines)]
    across = {id(line) for line in lines if line.u0 < gutter < line.u1} | _at_edges(lines, gutter)
    depths = sorted(-line.v0 - line.v1 for line in lines if id(line) in across)

    def place(line: Line) -> tuple[int, int]:
        """The band that a line is in, bands between crossing lines even, runs of crossing lines odd; and its column."""
        above = bisect_left(depths, -line.v0 - line.v1 - 0.5 * line.size)
        return (2 * above + 1, 0) if id(line) in across else (2 * above, 1 if line.u1 <= gutter else 2)

    blocks: list[Block] = []
    for (_, side), found in groupby(sorted(lines, key=place), key=place):
        group = list(found)
        if side:
            blocks += find_blocks(group)
        elif blocks and id(blocks[-1].lines[-1]) in across:
            blocks[-1] = Block(blocks[-1].lines + group)
        else:
            blocks.append(Block(group))
    return blocks


def _at_edges(lines: list[Line], gutter: float) -> set[int]:
    """Short lines far above or below the column that they are in: heads and numbers of pages, which are of no column."""
    found: set[int] = set()
    for column in ([line for line in lines if line.u1 <= gutter], [line for line in lines if line.u0 >= gutter]):
        width = max(line.u1 for line in column) - min(line.u0 for line in column)
        falling = sorted(column, key=lambda line: -line.v1)
        for edge, beside in (falling[:2], falling[:-3:-1]):
            gap = max(edge.v0 - beside.v1, beside.v0 - edge.v1)
            if gap > 1.2 * beside.size and edge.width < 0.6 * width:
                found.add(id(edge))
    return found


def _gutter(lines: list[Line]) -> float | None:
    """Where along the lines two columns of running text are parted; None if they are not.

    Only lines that fill their column make one: cells of a table stay in the order of the file.
    """
    if len(lines) < 2 * _MIN_LINES:
        return None
    begin, end = min(line.u0 for line in lines), max(line.u1 for line in lines)
    em = median(line.size for line in lines)
    begins, ends = sorted(line.u0 for line in lines), sorted(line.u1 for line in lines)
    edges = sorted({*begins, *ends})
    best: tuple[int, float, float] | None = None
    for low, high in pairwise(edges):
        if high - low < 0.5 * em or low < begin + 0.15 * (end - begin) or high > end - 0.15 * (end - begin):
            continue
        crossing = bisect_right(begins, low) - bisect_right(ends, low)
        if best is None or (crossing, low - high) < best[:2]:
            best = (crossing, low - high, (low + high) / 2)
    if best is None:
        return None
    sides = [line for line in lines if line.u1 <= best[2]], [line for line in lines if line.u0 >= best[2]]
    for side in sides:
        width = max((line.u1 for line in side), default=0.0) - min((line.u0 for line in side), default=0.0)
        num_full = sum(line.width > 0.7 * width for line in side)
        if len(side) < _MIN_LINES or width < 6 * em or (2 * num_full < len(side) and _gutter(side) is None):
            return None
    (low, high), (other_low, other_high) = ((min(x.v0 for x in side), max(x.v1 for x in side)) for side in sides)
    shared = min(high, other_high) - max(low, other_low)
    return best[2] if shared > 0.5 * min(high - low, other_high - other_low) else None
