"""Which records and values of an answer are right, each held against one gold record at most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from whet.records import Record


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one record that was said."""

    is_right: bool
    """Whether all its fields have the gold record's texts."""
    fields: Mapping[str, bool]
    """Whether each field has the text of the gold record that it is held against; null is right where that is null."""


def judge(gold: Sequence[Record], said: Sequence[Record], names: Sequence[str]) -> tuple[Outcome, ...]:
    """The outcome of each said record, judged strictly by texts.

    Said and gold records are paired so that as many as can be are equal as a whole (as many as the task's counts find), then as
    many values as can be; a record that is left over is wrong in all its fields. The assignment is scipy's.
    """
    if not gold or not said:
        return tuple(Outcome(False, dict.fromkeys(names, False)) for _ in said)
    from scipy.optimize import linear_sum_assignment

    said_texts, gold_texts = ([_texts(record, names) for record in records] for records in (said, gold))
    likeness = [[_likeness(one, other) for other in gold_texts] for one in said_texts]
    partners = dict(zip(*(places.tolist() for places in linear_sum_assignment(likeness, maximize=True)), strict=True))
    outcomes = []
    for number, texts in enumerate(said_texts):
        other = gold_texts[partners[number]] if number in partners else None
        fields = {name: other is not None and text == other[at] for at, (name, text) in enumerate(zip(names, texts, strict=True))}
        outcomes.append(Outcome(texts == other, fields))
    return tuple(outcomes)


def _texts(record: Record, names: Sequence[str]) -> list[str | None]:
    return [value.text if (value := record.get(name)) else None for name in names]


def _likeness(one: list[str | None], other: list[str | None]) -> int:
    """Equal values count twice as much as nulls on both sides; any bonus for whole records makes as many of them as can be."""
    return sum((a == b) * (1 if a is None else 2) for a, b in zip(one, other, strict=True)) + (one == other)
