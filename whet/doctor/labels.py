"""Looks at answers that are taken from a small set: labels that train never has, and labels in two spellings."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from whet.data.clean import gold_of, question_of
from whet.doctor.finding import Context, Findings, share, warning
from whet.doctor.splits import Rows
from whet.records import Example

MOST = 20  # labels of a closed set
LEAST = 50  # answers in train that show a set to be closed
LONGEST = 40  # characters of a label


def look_labels(splits: list[Rows], _: Context) -> Findings:
    """Fields, or whole answers, with few values in train that don't stand in the texts."""
    train = next((rows for rows in splits if rows.name == "train"), None)
    if train is None:
        return
    for name, known in _closed(train).items():
        yield from _twice(train, name, known)
        for rows in splits:
            if rows is train:
                continue
            values = [(example, value) for example in rows.examples for field, value in _values(example) if field == name]
            strange = [(example, value) for example, value in values if value not in known]
            if strange:
                example, value = strange[0]
                yield warning(
                    "a label that train never has",
                    example.source,
                    f"{share(len(strange), len(values))} values of {name or 'the answers'} in {rows.name} are none of train's "
                    f"{len(known)}, such as {value!r}",
                    "The model can't have learnt it; or it is a slip, and a right answer is scored as wrong.",
                    f"Is one of {', '.join(repr(label) for label, _ in known.most_common(4))} meant? Else put some into train",
                )


def _closed(train: Rows) -> dict[str, Counter[str]]:
    """The labels of each field that has a closed set of them."""
    found: dict[str, Counter[str]] = {}
    grounded: Counter[str] = Counter()
    for example in train.examples:
        asked = question_of(example)
        for field, value in _values(example):
            found.setdefault(field, Counter())[value] += 1
            grounded[field] += value in asked
    return {
        field: labels
        for field, labels in found.items()
        if labels.total() >= LEAST
        and 2 <= len(labels) <= MOST
        and max(map(len, labels)) <= LONGEST
        and 2 * grounded[field] < labels.total()
    }


def _values(example: Example) -> Iterator[tuple[str, str]]:
    """Fields and their texts in an answer of records; an answer that is none has one value without a field."""
    gold = gold_of(example)
    if gold[:1] not in ("[", "{"):
        yield "", gold.strip()
        return
    try:
        found: Any = json.loads(gold)
    except (ValueError, RecursionError):
        return
    for record in found if isinstance(found, list) else [found]:
        if isinstance(record, dict):
            yield from ((str(key), value) for key, value in record.items() if isinstance(value, str))


def _twice(train: Rows, name: str, known: Counter[str]) -> Findings:
    """Labels that differ by case and white space alone."""
    plain: dict[str, list[str]] = {}
    for label, _ in known.most_common():
        plain.setdefault(" ".join(label.casefold().split()), []).append(label)
    for labels in plain.values():
        if len(labels) > 1:
            yield warning(
                "one label in two spellings",
                train.place,
                f"{name or 'the answers'}: {' and '.join(f'{label!r} ({known[label]:,} times)' for label in labels[:3])}",
                "They are two labels to the loss and to the score.",
                "Write it in one way",
            )
