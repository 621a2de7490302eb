"""What a chunk gave: records in the document's own characters, as JSON in the state and back."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.records import Span, Value, value_from_json, value_to_json
from whet.tasks.base import Evidence, RecordEvidence


@dataclass(frozen=True, slots=True)
class Found:
    """One record. Spans count code points of its document."""

    values: Mapping[str, Value | None]
    quote: Value | None = None
    """The sentences of the document that hold the record's spans."""
    flags: tuple[str, ...] = ()
    confidence: float | None = None
    """How likely the record is right as a whole, 0 to 1; None where nothing says so."""
    evidence: RecordEvidence | None = None
    """What a calibration goes by; None where the engine gave no log-probabilities."""

    @property
    def spans(self) -> tuple[tuple[str, Span], ...]:
        """The fields whose values have a place, with it."""
        return tuple((name, value.span) for name, value in self.values.items() if value and value.span)


@dataclass(frozen=True, slots=True)
class ChunkFound:
    """A chunk of a document, characters `start` to `end`, and the records that its reply held."""

    id: str
    start: int
    end: int
    records: tuple[Found, ...] = ()
    pages: tuple[tuple[int, int], ...] = ()
    """Where each page begins within the chunk (a place in the document) and its number; empty where there are no pages."""

    def page_at(self, at: int) -> int | None:
        """The page on which a character of the document stands."""
        index = bisect_right([start for start, _ in self.pages], at) - 1
        return self.pages[max(index, 0)][1] if self.pages else None


def found_to_rows(records: Sequence[Found]) -> list[dict[str, Any]]:
    """Records as plain JSON."""
    return [
        {
            "values": {name: value_to_json(value) for name, value in record.values.items()},
            "quote": value_to_json(record.quote),
            "flags": list(record.flags),
            "confidence": record.confidence,
            "evidence": _evidence_to_json(record.evidence),
        }
        for record in records
    ]


def found_from_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Found, ...]:
    """The records that `found_to_rows` wrote."""
    return tuple(
        Found(
            {name: value_from_json(value) for name, value in row["values"].items()},
            value_from_json(row["quote"]),
            tuple(row["flags"]),
            row["confidence"],
            _evidence_from_json(row["evidence"]),
        )
        for row in rows
    )


def _evidence_to_json(found: RecordEvidence | None) -> dict[str, Any] | None:
    if found is None:
        return None
    fields = {name: _numbers(evidence) for name, evidence in found.fields.items()}
    return {"begin": _numbers(found.begin), "fields": fields, "whole": _numbers(found.whole)}


def _numbers(evidence: Evidence) -> list[float]:
    return [evidence.total, evidence.lowest, evidence.num_tokens]


def _evidence_from_json(row: Mapping[str, Any] | None) -> RecordEvidence | None:
    if row is None:
        return None
    fields = {name: Evidence(*numbers) for name, numbers in row["fields"].items()}
    return RecordEvidence(Evidence(*row["begin"]), fields, Evidence(*row["whole"]))
