"""The answers that a report shows: which ones are drawn, and how each source text is marked."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from whet.evaluate.compare import is_right
from whet.records import Example, Record, Score, Span

Outcome = Literal["right", "missed", "wrong"]
OUTCOMES: tuple[Outcome, ...] = ("right", "wrong", "missed")

Row = Mapping[str, str | None]
"""A record as texts; null is 'not said'."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters `start` to `end` (exclusive, code points) of the source: which field, and what became of it."""

    start: int
    end: int
    outcome: Outcome
    field: str


@dataclass(frozen=True, slots=True)
class ShownExample:
    """One answered example: source text, gold and said records, and the marks in the source.

    kind: "right" as a whole; "missed" where only something is missing; else "wrong". note: what else there is to say.
    """

    id: str
    text: str
    gold: tuple[Row, ...]
    said: tuple[Row, ...]
    kind: Outcome
    marks: tuple[Mark, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a text, and the marks that cover all of it."""

    text: str
    marks: tuple[Mark, ...]


def draw(scores: Sequence[Score], measure: str, num: int = 20, seed: int = 0) -> list[str]:
    """Ids of at most `num` answered examples, drawn by seed, each kind taking its turn so that faults are seen too."""
    kinds: dict[Outcome, list[str]] = {outcome: [] for outcome in OUTCOMES}
    for score in scores:
        if score.status != "error":
            kinds[kind_of(score, measure)].append(score.example_id)
    for ids in kinds.values():
        random.Random(seed).shuffle(ids)
    drawn: dict[Outcome, list[str]] = {outcome: [] for outcome in OUTCOMES}
    while sum(map(len, drawn.values())) < num and any(kinds.values()):
        for outcome in OUTCOMES:
            if kinds[outcome] and sum(map(len, drawn.values())) < num:
                drawn[outcome].append(kinds[outcome].pop())
    return [id_ for outcome in OUTCOMES for id_ in drawn[outcome]]


def kind_of(score: Score, measure: str) -> Outcome:
    """What became of an example as a whole; a reply that could not be read is wrong."""
    if is_right(score, measure):
        return "right"
    counts = score.counts.get(measure)
    return "missed" if counts is not None and counts.fp == 0 and score.status == "read" else "wrong"


def show(example: Example, score: Score, measure: str = "record") -> ShownExample:
    """An answered example with its marks: gold values that were said or missed, said values that are no gold."""
    kind = kind_of(score, measure)
    note = f"The reply could not be read: {score.detail.get('reason', '')}" if score.status == "unread" else ""
    if example.records is None:
        gold = {"answer": score.detail.get("gold") or (example.choices[example.answer] if example.answer is not None else "")}
        said = {"answer": score.detail.get("letter") or score.detail.get("text")}
        return ShownExample(example.id, example.text, (gold,), (said,) if score.status == "read" else (), kind, (), note)
    said_rows = tuple(dict(row) for row in score.detail.get("records", ()))
    gold_rows = tuple({name: value.text if value else None for name, value in row.items()} for row in example.records)
    marks = _mark(example.text, example.records, said_rows)
    if score.flags.get("ungrounded"):
        num = score.flags["ungrounded"]
        note = f"{num} value{'s' if num != 1 else ''} said that do{'es' if num == 1 else ''} not stand in the text"
    elif kind != "right" and score.status == "read" and all(mark.outcome == "right" for mark in marks):
        note = "Each value is right, but they are joined to other records than in the gold"
    return ShownExample(example.id, example.text, gold_rows, said_rows, kind, marks, note)


def _mark(text: str, gold: Sequence[Record], said: Sequence[Row]) -> tuple[Mark, ...]:
    """Each gold value is matched once with a said one of its field; what is said beyond that is sought in the text."""
    left = [(field, value) for row in said for field, value in row.items() if value]
    marks = []
    for row in gold:
        for field, value in row.items():
            if value is None:
                continue
            is_said = (field, value.text) in left
            if is_said:
                left.remove((field, value.text))
            if value.span:
                marks.append(Mark(value.span.start, value.span.end, "right" if is_said else "missed", field))
    for field, words in left:
        taken = {(mark.start, mark.end) for mark in marks if mark.field == field}
        span = _find(text, words, taken)
        if span:
            marks.append(Mark(span.start, span.end, "wrong", field))
    return tuple(sorted(marks, key=lambda mark: (mark.start, mark.end, mark.field)))


def _find(text: str, words: str, taken: set[tuple[int, int]]) -> Span | None:
    """Where words stand in a text and are not marked yet; where they stand at all; None if nowhere."""
    first = at = text.find(words)
    while at >= 0 and (at, at + len(words)) in taken:
        at = text.find(words, at + 1)
    at = first if at < 0 else at
    return Span(at, at + len(words)) if at >= 0 else None


def line_up(gold: Sequence[Row], said: Sequence[Row]) -> tuple[tuple[Outcome, Row], ...]:
    """Gold and said records as one list, each matched once at most: right and missed in gold's order, then wrong."""
    left = [dict(row) for row in said]
    rows: list[tuple[Outcome, Row]] = []
    for row in gold:
        is_said = dict(row) in left
        if is_said:
            left.remove(dict(row))
        rows.append(("right" if is_said else "missed", row))
    return (*rows, *(("wrong", row) for row in left))


def cut(text: str, marks: Sequence[Mark]) -> tuple[Segment, ...]:
    """The text in pieces, each with the marks that cover it; marks may nest, overlap or reach beyond the text."""
    ends = {0, len(text)} | {min(max(end, 0), len(text)) for mark in marks for end in (mark.start, mark.end)}
    places = sorted(ends)
    return tuple(
        Segment(text[start:end], tuple(mark for mark in marks if mark.start <= start and end <= mark.end))
        for start, end in itertools.pairwise(places)
    )
