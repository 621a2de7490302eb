"""Makes the rows of the output from the state: split, merged, judged by the rules, calibrated, accepted or to be reviewed."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from whet.extract.found import ChunkFound, Found, found_to_rows
from whet.extract.merge import Merged, merge
from whet.extract.state import Entry, State
from whet.records import Value
from whet.storage import canonical, hash_text
from whet.tasks.base import Answer
from whet.tasks.rules import Rules

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Labels:
    """What every row says of its origin."""

    run: str
    """Name of the run's recipe."""
    adapter: str | None
    """Fingerprint of the adapter; None for the base and for what answers elsewhere."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How far confidences can be believed."""

    calibrate: Callable[[Answer], Answer] = lambda answer: answer
    accepts: Callable[[float | None], bool] | None = None
    """Whether a record of some confidence needs no review; None where nobody said what is enough."""
    reason: str = ""
    """Why the confidences are not calibrated; empty where they are."""


@dataclass(slots=True)
class Sums:
    """What became of the records that the chunks gave."""

    said: int = 0
    split: int = 0
    """Records more than were said, since some held several."""
    merged: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    accepted: int = 0
    to_review: int = 0


class Assembly:
    """Reads a state from its beginning to its end, one document at a time, a few chunks at a time."""

    def __init__(
        self,
        state: State,
        rules: Rules,
        labels: Labels,
        trust: Trust,
    ) -> None:
        self.state, self.rules, self.labels, self.trust = state, rules, labels, trust
        self.sums = Sums()

    def rows(self) -> Iterator[Row]:
        """The rows in the order of documents, then of offsets. What a rule drops goes to the state with its reason."""
        self.state.forget_dropped()
        for entry in self.state.documents():
            for merged in merge(map(self._prepare, self.state.chunks(entry)), _sureness, self.sums.merged):
                verdict = self.rules.judge(merged.record.values)
                if verdict.rule:
                    self.sums.dropped[verdict.rule] += 1
                    record = found_to_rows([merged.record])[0]
                    self.state.drop(entry, merged.chunk.id, verdict.rule, verdict.reason, record)
                    continue
                flags = tuple(dict.fromkeys((*merged.record.flags, *verdict.flags)))
                yield self._row(entry, replace(merged, record=replace(merged.record, flags=flags)))
        self.state.commit()

    def _prepare(self, chunk: ChunkFound) -> ChunkFound:
        """A chunk's records, calibrated, those that hold several split: pieces can then meet what the next chunk said."""
        self.sums.said += len(chunk.records)
        found: list[Found] = []
        for record in self._calibrated(chunk.records):
            parts = self.rules.split(record.values)
            self.sums.split += len(parts) - 1
            found += [replace(record, values=values, flags=(*record.flags, *flags)) for values, flags in parts]
        return replace(chunk, records=tuple(found))

    def _calibrated(self, records: tuple[Found, ...]) -> Iterator[Found]:
        """The records with calibrated confidences; those without evidence stay as they are."""
        for record in records:
            if record.evidence is None:
                yield record
                continue
            answer = self.trust.calibrate(Answer((record.values,), confidences=(record.confidence,), evidence=(record.evidence,)))
            yield replace(record, values=answer.records[0], confidence=answer.confidences[0])

    def _row(self, entry: Entry, merged: Merged) -> Row:
        record, chunk = merged.record, merged.chunk
        is_accepted = None
        if self.trust.accepts is not None:
            is_accepted = not record.flags and self.trust.accepts(record.confidence)
        elif "ungrounded" in record.flags:
            is_accepted = False
        self.sums.rows += 1
        self.sums.accepted += is_accepted is True
        self.sums.to_review += is_accepted is False
        self.sums.flagged.update(record.flags)
        starts = [span.start for _, span in record.spans]
        return {
            "id": _id(entry, merged),
            "document": entry.name,
            "page": chunk.page_at(min(starts, default=chunk.start)),
            "chunk": chunk.id,
            "values": {name: _value(value, chunk) for name, value in record.values.items()},
            "quote": _quote(record.quote),
            "confidence": _round(record.confidence),
            "is_accepted": is_accepted,
            "flags": list(record.flags),
            "run": self.labels.run,
            "adapter": self.labels.adapter,
        }


def _id(entry: Entry, merged: Merged) -> str:
    """The same for the same values at the same places of a document, whatever the chunks, confidences and flags are."""
    values = [
        [name, value.text, *((value.span.start, value.span.end) if value.span else ())] if value else [name]
        for name, value in merged.record.values.items()
    ]
    where = [] if merged.record.spans else [merged.chunk.start]
    return hash_text(canonical([entry.name, where, values]))[:32]


def _value(value: Value | None, chunk: ChunkFound) -> dict[str, Any] | None:
    if value is None:
        return None
    row: dict[str, Any] = {"text": value.text}
    if value.span:
        row |= {"start": value.span.start, "end": value.span.end, "page": chunk.page_at(value.span.start)}
    row["confidence"] = _round(value.confidence)
    return row | ({"ambiguous": True} if value.is_ambiguous else {})


def _quote(quote: Value | None) -> dict[str, Any] | None:
    if quote is None or quote.span is None:
        return None
    return {"text": quote.text, "start": quote.span.start, "end": quote.span.end}


def _round(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 6)


def _sureness(record: Found) -> float:
    return record.confidence or 0.0
