"""Which value belongs to which anchor, such as which office to which person: rules, and the best one for a corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from whet.records import Span

MAX_GAP = 20  # characters between an anchor and what belongs to it

Direction = Literal["before", "after", "nearest"]
Use = Literal["once", "shared", "repeat"]


class Pick(NamedTuple):
    """A value linked to an anchor (places in their lists), `gap` characters from it."""

    gap: int
    anchor: int
    value: int


@dataclass(frozen=True)
class Rule:
    """How the values of a field are attached to the anchors.

    direction: where a value stands, seen from its anchor. max_gap: most characters between the two. use: once, a value
    serves one anchor, the nearest pairs first; shared, each anchor takes its nearest value; repeat, each value takes
    its nearest anchor, and an anchor with several values gives several records.
    """

    direction: Direction
    max_gap: int
    use: Use


def link(anchors: Sequence[Span], values: Sequence[Span], rule: Rule) -> list[Pick]:
    """The pairs that a rule makes, nearest first; of equally near ones the leftmost anchor, then the leftmost value."""
    pairs = sorted(
        Pick(gap, a, v)
        for a, anchor in enumerate(anchors)
        for v, value in enumerate(values)
        if (gap := _gap(anchor, value, rule.direction)) is not None and gap <= rule.max_gap
    )
    used_anchors, used_values, picks = set[int](), set[int](), []
    for pair in pairs:
        if (rule.use != "repeat" and pair.anchor in used_anchors) or (rule.use != "shared" and pair.value in used_values):
            continue
        used_anchors.add(pair.anchor)
        used_values.add(pair.value)
        picks.append(pair)
    return picks


def _gap(anchor: Span, value: Span, direction: Direction) -> int | None:
    if direction != "after" and value.end <= anchor.start:
        return anchor.start - value.end
    if direction != "before" and anchor.end <= value.start:
        return value.start - anchor.end
    return None


Links = Mapping[tuple[Span, Span | None], int]
"""Gold pairs of an example, each with how many records say it; None where the anchor has no value."""


def best_rule(golds: Sequence[Links], is_nullable: bool) -> Rule:
    """The rule whose pairs, made from the gold spans, have the best F1 against the gold pairs; of equals the narrowest.

    Every direction, use and gap from 0 to MAX_GAP is tried. Picks are made nearest first, so those of a smaller gap
    are the head of those of the largest one: one linking serves all gaps. An anchor without a value says
    (anchor, None) if the field may be null, else it says nothing.
    """
    best, best_f1 = Rule("before", 0, "once"), -1.0
    total = sum(sum(gold.values()) for gold in golds)
    for direction, use in product(_DIRECTIONS, _USES):
        right, said = np.zeros(MAX_GAP + 1, int), np.zeros(MAX_GAP + 1, int)  # changes on reaching each gap
        for gold in golds:
            anchors, values = spans_of(gold)
            lone = dict.fromkeys(range(len(anchors)), MAX_GAP + 1)  # the gap from which on an anchor has a value
            for pick in link(anchors, values, Rule(direction, MAX_GAP, use)):
                lone[pick.anchor] = min(lone[pick.anchor], pick.gap)
                right[pick.gap] += (anchors[pick.anchor], values[pick.value]) in gold
                said[pick.gap] += 1
            for number, gap in lone.items() if is_nullable else ():
                is_right = (anchors[number], None) in gold
                right[0] += is_right
                said[0] += 1
                if gap <= MAX_GAP:
                    right[gap] -= is_right
                    said[gap] -= 1
        f1 = 2 * right.cumsum() / np.maximum(said.cumsum() + total, 1)
        if f1.max() > best_f1 + 1e-12:
            best, best_f1 = Rule(direction, int(f1.argmax()), use), float(f1.max())
    return best


_DIRECTIONS: tuple[Direction, ...] = ("before", "after", "nearest")
_USES: tuple[Use, ...] = ("once", "shared", "repeat")


def spans_of(gold: Links) -> tuple[list[Span], list[Span]]:
    """The distinct anchors and values of gold pairs, each in the order of the text."""
    anchors = sorted({anchor for anchor, _ in gold}, key=place_of)
    values = sorted({value for _, value in gold if value is not None}, key=place_of)
    return anchors, values


def place_of(span: Span) -> tuple[int, int]:
    return span.start, span.end
