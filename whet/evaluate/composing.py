"""Composes records out of typed spans, as the training records teach it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from whet.errors import InputError
from whet.evaluate.linking import Links, best_rule, link, place_of
from whet.evaluate.surroundings import BayesChoice
from whet.records import Example, Record, Span, Value
from whet.tasks.extraction import FieldSettings


class Kind(NamedTuple):
    """What a span is: the field that it fills and, where that is a property of the span itself, its choice."""

    field: str
    choice: str | None = None


class Found(NamedTuple):
    """A typed span of a text."""

    span: Span
    kind: Kind


class Composer:
    """Makes the records of a text from its typed spans; fitted to training records.

    The first span field is the anchor: each of its spans gives a record. Further span fields are linked by the best
    rule. With one span field and a choice, as in named entities, the choice belongs to the span: it is part of the
    span's Kind. All other choices are told from the anchor's surroundings. A free field takes the most frequent value
    of training, null included. Records whose anchor is null, or has no place in the text, teach nothing and are never
    predicted.
    """

    def __init__(self, train: Sequence[Example], fields: Sequence[FieldSettings]) -> None:
        spans = [field for field in fields if field.kind == "span"]
        if not spans:
            raise InputError("task.fields", "a baseline needs a field of kind span", "Leave the baselines out for this task")
        self._fields, self._anchor, self._others = tuple(fields), spans[0].name, spans[1:]
        choices = [field for field in fields if field.kind == "choice"]
        self._own_choice = choices[0].name if len(spans) == 1 and choices else None
        self.rules = {
            field.name: best_rule([self._links(example, field.name) for example in train], field.nullable)
            for field in self._others
        }
        self._bayes = {
            field.name: BayesChoice(
                (example.text, span, value.text if (value := record.get(field.name)) else None)
                for example in train
                for record in example.records or ()
                if (span := span_in(record, self._anchor))
            )
            for field in choices
            if field.name != self._own_choice
        }
        self._constants = {field.name: _most_frequent(train, field.name) for field in fields if field.kind == "free"}

    def _links(self, example: Example, name: str) -> Links:
        return Counter(
            (anchor, span_in(record, name)) for record in example.records or () if (anchor := span_in(record, self._anchor))
        )

    def typed(self, example: Example) -> list[Found]:
        """The gold spans of an example with their kinds, in the order of the text, each once."""
        found = dict[Found, None]()
        for record in example.records or ():
            for name in (self._anchor, *(field.name for field in self._others)):
                if span := span_in(record, name):
                    own = record.get(self._own_choice) if self._own_choice else None
                    found[Found(span, Kind(name, own.text if own else None))] = None
        return sorted(found, key=lambda entry: (place_of(entry.span), entry.kind.field))

    def compose(self, text: str, found: Sequence[Found]) -> tuple[Record, ...]:
        """The records of a text, in the order of their anchors."""
        anchors = sorted((entry for entry in found if entry.kind.field == self._anchor), key=lambda entry: place_of(entry.span))
        linked: dict[str, dict[int, list[Span]]] = {}
        for field in self._others:
            values = sorted((entry.span for entry in found if entry.kind.field == field.name), key=place_of)
            by_anchor = linked.setdefault(field.name, defaultdict(list))
            for pick in link([anchor.span for anchor in anchors], values, self.rules[field.name]):
                by_anchor[pick.anchor].append(values[pick.value])
        records: list[Record] = []
        for number, anchor in enumerate(anchors):
            options = [self._options(linked[field.name][number], field) for field in self._others]
            for chosen in product(*options):
                spans = {self._anchor: anchor.span} | {f.name: span for f, span in zip(self._others, chosen, strict=True)}
                records.append({field.name: self._value(text, field.name, spans, anchor) for field in self._fields})
        return tuple(records)

    @staticmethod
    def _options(spans: Sequence[Span], field: FieldSettings) -> Sequence[Span | None]:
        none: tuple[Span | None, ...] = (None,) if field.nullable else ()
        return sorted(spans, key=place_of) or none

    def _value(self, text: str, name: str, spans: Mapping[str, Span | None], anchor: Found) -> Value | None:
        if name in spans:
            span = spans[name]
            return Value(text[span.start : span.end], span) if span else None
        if name in self._constants:
            said = self._constants[name]
        else:
            said = anchor.kind.choice if name == self._own_choice else self._bayes[name].choose(text, anchor.span)
        return None if said is None else Value(said)


def span_in(record: Record, name: str) -> Span | None:
    """Where a record's field stands in its text; None if it is null or has no place."""
    value = record.get(name)
    return value.span if value else None


def _most_frequent(train: Sequence[Example], name: str) -> str | None:
    counts = Counter(value.text if (value := record.get(name)) else None for example in train for record in example.records or ())
    return counts.most_common(1)[0][0] if counts else None
