"""Where two systems say that the same records stand, held against gold: right, elsewhere, or nowhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from whet.evaluate.statistics import wilson
from whet.records import Example, Record, Span
from whet.tasks.occurrences import find_all

Fate = Literal["right", "wrong", "none"]
"""Of what is right by its text: exactly gold's characters, other characters, or no characters at all."""
FATES: tuple[Fate, ...] = ("right", "wrong", "none")
Places = Sequence[Mapping[str, Span | None]]
"""For each record that was said the place of each of its values."""
SHAPES = ("records", "fields", "ordered", "distinct")


@dataclass(frozen=True)
class Passage:
    """What the model is asked about at a time; spans of the gold records count from its start."""

    number: int
    start: int
    """Where it begins in its document."""
    text: str
    gold: tuple[Record, ...]

    def example(self) -> Example:
        """The passage as it is asked about."""
        return Example("", self.text, "", "", records=self.gold)

    def only(self, names: Sequence[str]) -> "Passage":
        """The passage with these fields alone."""
        return replace(self, gold=tuple({name: record[name] for name in names} for record in self.gold))


@dataclass(frozen=True)
class Found:
    """The fate of a record that is right by its texts, and of its values, each with whether its text stands there repeatedly."""

    record: Fate
    values: tuple[tuple[bool, Fate], ...]


def shifted(record: Record, by: int) -> Record:
    """The record with its spans moved."""
    return {
        name: value and type(value)(value.text, value.span and Span(value.span.start + by, value.span.end + by))
        for name, value in record.items()
    }


def join(examples: Sequence[Example], per_document: int) -> list[tuple[str, list[Record]]]:
    """Documents of so many texts each, a line a text, with all their gold records."""
    documents = []
    for first in range(0, len(examples), per_document):
        text, gold = "", list[Record]()
        for example in examples[first : first + per_document]:
            text += "\n" if text else ""
            gold += [shifted(record, len(text)) for record in example.records or ()]
            text += example.text
        documents.append((text, gold))
    return documents


def cut(documents: Sequence[tuple[str, Sequence[Record]]], chunks: Sequence[Sequence[Sequence[int]]]) -> list[Passage]:
    """The passages at the chunks' characters; a gold record that crosses their ends stands in none."""
    passages: list[Passage] = []
    for (text, gold), ends in zip(documents, chunks, strict=True):
        for start, end in ends:
            inside = [record for record in gold if all(_is_inside(value, start, end) for value in record.values())]
            passages.append(Passage(len(passages), start, text[start:end], tuple(shifted(record, -start) for record in inside)))
    return passages


def _is_inside(value: Any, start: int, end: int) -> bool:
    # A choice stands nowhere, so it crosses nothing.
    return value is None or value.span is None or (start <= value.span.start and value.span.end <= end)


def items(passage: Passage, said: Sequence[Record], shape: str) -> list[list[dict[str, Any]]]:
    """Records as langextract wants a reply to be, once for each call that it takes; attributes name the records.

    records: one item a record, its values in the order of the fields. fields: one call a field. ordered: one item a value, in
    the order in which their texts first stand in the passage. distinct: as ordered, each text of a field once. gold: each
    mention once in the order in which gold says that they stand: `said` must be the gold records too.
    """
    records = passage.gold if shape == "gold" else said
    values = [(name, value, number) for number, record in enumerate(records) for name, value in record.items() if value]
    if shape == "records":
        rows = [{name: value for name, value in record.items() if value} for record in said]
        return [[dict(pair for n, v in row.items() for pair in _pair(passage, n, v.text, [at])) for at, row in enumerate(rows)]]
    if shape == "fields":
        names = list(dict.fromkeys(name for name, _, _ in values))
        return [[dict(_pair(passage, name, v.text, [at])) for n, v, at in values if n == name] for name in names]
    keyed: dict[tuple[Any, ...], list[int]] = {}
    for name, value, number in values:
        first = value.span.start if shape == "gold" else passage.text.find(value.text) % (len(passage.text) + 1)
        keyed.setdefault((first, name, value.text, number if shape == "ordered" else 0), []).append(number)
    return [
        [dict(_pair(passage, key[1], key[2], numbers)) for key, numbers in sorted(keyed.items(), key=lambda item: item[0][0])]
    ]


def _pair(passage: Passage, name: str, text: str, numbers: list[int]) -> list[tuple[str, Any]]:
    """A value and its attributes as langextract writes them."""
    return [(name, text), (f"{name}_attributes", {"passage": passage.number, "records": numbers})]


def hold(passage: Passage, said: Sequence[Record], places: Places) -> list[Found]:
    """The fate of every record said that is right by its texts.

    Of records with equal texts those at gold's places are matched first, so that no system is charged for their order.
    """
    found = []
    of_said, of_gold = _by_texts(said), _by_texts(passage.gold)
    for texts, numbers in of_gold.items():
        gold = [{n: v and v.span for n, v in passage.gold[at].items()} for at in numbers]
        placed = [{name: places[at].get(name) for name in gold[0]} for at in of_said.get(texts, [])]
        exact, others = [], []
        for spans in placed:
            if spans in gold:
                gold.remove(spans)
                exact.append(spans)
            else:
                others.append(spans)
        for wanted, spans in [*((spans, spans) for spans in exact), *zip(gold, others, strict=False)]:
            fates = [
                (len(find_all(passage.text, text)) > 1, _fate(wanted[name], spans[name]))
                for name, text in texts
                if text is not None
            ]
            worst = max((fate for _, fate in fates), key=FATES.index)
            found.append(Found(worst, tuple(fates)))
    return found


def _by_texts(records: Sequence[Record]) -> dict[tuple[tuple[str, str | None], ...], list[int]]:
    numbers: dict[tuple[tuple[str, str | None], ...], list[int]] = {}
    for number, record in enumerate(records):
        numbers.setdefault(tuple((name, value and value.text) for name, value in record.items()), []).append(number)
    return numbers


def _fate(wanted: Span | None, place: Span | None) -> Fate:
    return "none" if place is None else "right" if place == wanted else "wrong"


def shares(found: Sequence[Found]) -> dict[str, Any]:
    """Shares of the records, of their values, and of the values whose text stands repeatedly in the passage."""
    values = [value for one in found for value in one.values]
    repeated = [fate for is_repeated, fate in values if is_repeated]
    said = _shares([one.record for one in found])
    return said | {"values": _shares([fate for _, fate in values]), "repeated_values": _shares(repeated)}


def _shares(fates: Sequence[Fate]) -> dict[str, Any]:
    counts, num = Counter(fates), len(fates)
    interval = wilson(counts["right"], num)
    said: dict[str, Any] = {f"{fate}_offsets".replace("none", "no"): counts[fate] / num if num else None for fate in FATES}
    return {"num": num, **said, "interval": [interval.low, interval.high]}
