"""Which occurrence is meant, where a value's text stands several times in the source."""

import bisect
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.records import Span

MAX_PLACEMENTS = 32  # of one record: where there are more, values far from the record's first one are left out

# Costs, chosen on the train split of CHisIEC's relations; the figures on its other splits are in docs/confidence.md.
BACKWARD = 4.0  # the record's first value stands before that of the record before it
REPEATED = 6.0  # the record stands where the record before it stands, or before that with the same first value
OVERLAPPING = 5.0  # two values share characters, and the one is no quote of the other
OUTSIDE = 3.0  # a value stands outside the quote that holds its text
REUSED = 1.0  # a place serves the record before it too, though the first values stand apart
MOVED = 0.5  # the first value is the text of the record before it, in another place
SIDE = 1.0  # times the log-odds of the side on which the value stands in the records that leave no choice
LATE = 1e-4  # a character further on: of equal places the first
QUOTE_CHARS = 5  # a text this long that holds another with 3 characters to spare is a quote of it


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, and whether its text stands elsewhere too."""

    span: Span
    is_ambiguous: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """The values of one record that stand in the source at all; the first is the one that the others stand near."""

    names: tuple[str, ...]
    texts: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]
    """For each value every start of its text."""


_Placement = tuple[int, ...]
"""A start for each value of a row."""
_Before = Sequence[tuple[float, int, _Placement]]
"""Of the row before, the cheapest first: what all up to a placement costs, its number, the placement."""
_Alike = Sequence[tuple[int, int]]
"""Pairs of numbers of values that a row and the next one share."""
_Sides = Mapping[tuple[str, str], tuple[int, int]]
"""For a first field and another one, how often the other stands before and behind it where both stand once."""


def find_all(text: str, value: str) -> tuple[int, ...]:
    """Every start of a value in a text, overlapping ones included; none for an empty value."""
    starts, at = [], text.find(value) if value else -1
    while at >= 0:
        starts.append(at)
        at = text.find(value, at + 1)
    return tuple(starts)


def place(rows: Sequence[Mapping[str, str]], text: str) -> list[dict[str, Place]]:
    """The places of the values of records in text order; a value that stands nowhere has none.

    Of all ways to place the records together the cheapest is taken, by dynamic programming over each record's placements
    (Viterbi; at most MAX_PLACEMENTS a record, so the time is linear in the records): first values don't go backward, values of
    a record stand near its first value, on the side where they usually stand, and inside the quote that holds them.
    """
    known: dict[str, tuple[int, ...]] = {}
    for value in itertools.chain.from_iterable(row.values() for row in rows):
        known.setdefault(value, find_all(text, value))
    grounded = [{name: value for name, value in row.items() if known[value]} for row in rows]
    found = [_Row(tuple(row), tuple(row.values()), tuple(known[value] for value in row.values())) for row in grounded]
    chosen = iter(_choose([row for row in found if row.names]))
    return [
        {
            name: Place(Span(start, start + len(value)), len(starts) > 1)
            for name, value, starts, start in zip(row.names, row.texts, row.starts, next(chosen), strict=True)
        }
        if row.names
        else {}
        for row in found
    ]


def _choose(rows: Sequence[_Row]) -> list[_Placement]:
    """The cheapest placement of each row."""
    if all(len(starts) == 1 for row in rows for starts in row.starts):
        return [tuple(starts[0] for starts in row.starts) for row in rows]
    sides = _sides(rows)
    seen: Counter[str] = Counter()
    layers: list[list[tuple[_Placement, float, int]]] = []  # placement, cheapest cost up to here, number in the layer before
    for number, row in enumerate(rows):
        layer = []
        # The cheapest come first, so that most ways are never looked at.
        before = sorted((cost, at, placement) for at, (placement, cost, _) in enumerate(layers[-1])) if layers else []
        alike = _alike(rows[number - 1], row) if layers else ()
        moved = MOVED * (bool(layers) and rows[number - 1].texts[0] == row.texts[0])
        for placement in _placements(row, seen[row.texts[0]], sides):
            added, back = _cheapest(before, placement, alike, moved) if layers else (0.0, -1)
            layer.append((placement, added + _own_cost(row, placement, sides), back))
        seen[row.texts[0]] += 1
        layers.append(layer)
    at = min(range(len(layers[-1])), key=lambda number: layers[-1][number][1])
    chosen = []
    for layer in reversed(layers):
        placement, _, at = layer[at]
        chosen.append(placement)
    return chosen[::-1]


def _placements(row: _Row, num_before: int, sides: _Sides) -> list[_Placement]:
    """The placements of a row that are tried; num_before: rows before it whose first value has the same text."""
    first, *others = row.starts
    first = first[max(0, num_before - MAX_PLACEMENTS + 1) :][:MAX_PLACEMENTS]
    found: list[_Placement] = []
    for start in first:
        room, options = MAX_PLACEMENTS // len(first), []
        for at, starts in enumerate(others, 1):
            middle = bisect.bisect(starts, start)
            around = starts[max(0, middle - room) : middle + room]
            costs = {other: _pair_cost(row, 0, start, at, other, sides) for other in around}
            options.append(sorted(around, key=costs.__getitem__)[:room])
            room = max(1, room // len(options[-1]))
        found += [(start, *rest) for rest in itertools.product(*options)]
    return sorted(found)


def _sides(rows: Sequence[_Row]) -> _Sides:
    """On which side of the first value the others stand, in the rows that leave no choice."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for row in rows:
        for name, starts in zip(row.names[1:], row.starts[1:], strict=True):
            if len(row.starts[0]) == len(starts) == 1:
                before, behind = counts.get((row.names[0], name), (0, 0))
                is_behind = starts[0] > row.starts[0][0]
                counts[row.names[0], name] = (before + (not is_behind), behind + is_behind)
    return counts


def _own_cost(row: _Row, placement: _Placement, sides: _Sides) -> float:
    """What a placement costs by itself: each value against the first one, and against the quotes that hold its text."""
    cost = LATE * sum(placement)
    for at in range(1, len(placement)):
        cost += _pair_cost(row, 0, placement[0], at, placement[at], sides)
    for one, other in itertools.combinations(range(1, len(placement)), 2):
        if _is_quote(row.texts[one], row.texts[other]) or _is_quote(row.texts[other], row.texts[one]):
            inside = _is_inside(row, one, placement[one], other, placement[other])
            cost += 0.0 if inside else OUTSIDE
    return cost


def _pair_cost(row: _Row, one: int, start: int, other: int, other_start: int, sides: _Sides) -> float:
    """How badly a value stands to the first one of its row."""
    texts = row.texts
    if _is_quote(texts[one], texts[other]) or _is_quote(texts[other], texts[one]):
        if _is_inside(row, one, start, other, other_start):
            return 0.0
        cost = OUTSIDE
    else:
        cost = 0.0
    gap = max(start - other_start - len(texts[other]), other_start - start - len(texts[one]))
    if gap < 0:
        return cost + OVERLAPPING
    before, behind = sides.get((row.names[one], row.names[other]), (0, 0))
    num_alike = behind if other_start > start else before
    return cost + math.log1p(gap) - SIDE * math.log(2 * (num_alike + 1) / (before + behind + 2))


def _cheapest(before: _Before, placement: _Placement, alike: _Alike, moved: float) -> tuple[float, int]:
    """What the cheapest way to a placement costs, and the number of the placement before it; of equal ones the first."""
    best = math.inf, -1
    for cost, at, earlier in before:
        if cost > best[0]:
            break  # a step costs nothing at least
        best = min(best, (cost + _step_cost(earlier, placement, alike, moved), at))
    return best


def _alike(row: _Row, next_row: _Row) -> _Alike:
    """The values beside the first ones that two rows share, by their numbers in each."""
    places = {pair: at for at, pair in enumerate(zip(row.names, row.texts, strict=True)) if at}
    pairs = enumerate(zip(next_row.names, next_row.texts, strict=True))
    return tuple((places[pair], at) for at, pair in pairs if at and pair in places)


def _step_cost(placement: _Placement, next_placement: _Placement, alike: _Alike, moved: float) -> float:
    """How badly a row's placement follows that of the row before it."""
    if next_placement[0] == placement[0]:
        return REPEATED if next_placement <= placement else 0.0
    cost = moved + (BACKWARD if next_placement[0] < placement[0] else 0.0)
    return cost + REUSED * sum(placement[one] == next_placement[other] for one, other in alike)


def _is_quote(text: str, value: str) -> bool:
    """Whether a value's text is a quote that another one was taken from."""
    return len(text) >= max(QUOTE_CHARS, len(value) + 3) and value in text


def _is_inside(row: _Row, one: int, start: int, other: int, other_start: int) -> bool:
    """Whether one of two values stands within the other."""
    end, other_end = start + len(row.texts[one]), other_start + len(row.texts[other])
    return start <= other_start < other_end <= end or other_start <= start < end <= other_end
