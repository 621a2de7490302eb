"""Carries a corpus through an engine: documents to chunks to requests to replies to the state, a few at a time."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import Any

from whet.data.chunks import Chunk
from whet.data.documents.document import Document
from whet.data.documents.source import Piece, Refused
from whet.engines.base import Engine
from whet.errors import InputError
from whet.extract.found import Found
from whet.extract.halves import halve
from whet.extract.progress import Tally
from whet.extract.sentences import sentences_around
from whet.extract.state import Entry, Outcome, Part, State, pack
from whet.records import Completion, Example, Record, Request, Span, Value
from whet.tasks.base import Unread
from whet.tasks.extraction import Extraction
from whet.text.prepare import Prepared, PrepareSettings, prepare

ENGINE_FAILED = "the engine failed: "
UNASKABLE = "it can't be asked: "
Cut = Callable[[str, Iterable[Piece]], Iterator[Chunk]]


@dataclass(slots=True)
class _Reading:
    """A document whose chunks are not all answered yet."""

    entry: Entry
    num_open: int = 0
    is_read: bool = False
    is_broken: bool = False
    num_chars: int = 0
    num_bytes: int = 0
    """Of the text that was read, in UTF-8."""
    is_blank: bool = True
    """Whether there was nothing but white space so far."""
    pages: int = 0
    problems: list[str] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)

    def follow(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces, noted as they pass. What breaks off ends there, so that all before it is cut and asked."""
        try:
            for piece in pieces:
                if piece.problem:
                    self.problems.append(piece.problem)
                self.num_chars += len(piece.text)
                self.is_blank = self.is_blank and not piece.text.strip()
                self.pages += piece.page is not None
                raw = pack(piece.text)
                self.num_bytes += len(raw)
                self.digest.update(raw)
                yield piece
        except InputError as error:
            own = InputError("", error.what, error.remedy) if error.place == self.entry.name else error  # the row names it
            self.problems.append(str(own))
            self.is_broken = True
        if self.is_blank and not self.problems:
            self.problems.append("holds nothing but white space" if self.num_chars else "holds no text")

    def bytes_at(self, end: int, document: Document) -> float:
        """Bytes of the file up to a character, as far as that can be told: by its pages, or by the bytes of its text."""
        read = document.num_bytes * self.pages / document.num_pages if document.num_pages else self.num_bytes
        return min(float(document.num_bytes), read * end / max(1, self.num_chars))

    def facts(self) -> dict[str, Any]:
        num_chars = 0 if self.is_blank else self.num_chars
        known = {"sha": self.digest.hexdigest(), "num_chars": num_chars, "num_pages": self.pages}
        return known | {"problems": self.problems}


@dataclass(frozen=True, slots=True)
class _Asked:
    part: Part
    prepared: Prepared
    began: float


@dataclass(frozen=True, slots=True)
class Way:
    """How documents become requests, and replies records: nothing of it changes within a pass."""

    task: Extraction
    prepare: PrepareSettings
    cut: Cut
    overlap: int
    """Characters that the halves of a chunk share, at most."""
    most_errors: int
    """Requests in a row that may fail before the engine is taken to be gone."""
    fits: Callable[[Request], bool] = lambda request: True
    """Whether prompt and reply have room in the base; a chunk that has none is halved. InputError: it can't be asked."""


class Flow:
    """One pass over the inputs. What it has done is in the state whenever it ends, by whatever cause."""

    def __init__(
        self,
        way: Way,
        state: State,
        *,
        is_retry: bool,
        total_bytes: int | None = None,
        tell: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self.way, self.state, self.is_retry = way, state, is_retry
        self.tally = Tally(total_bytes)
        self._tell = tell
        self._number = state.begin_pass()
        self._asked: dict[int, _Asked] = {}
        self._readings: dict[int, _Reading] = {}
        self._errors = 0

    def run(self, documents: Iterable[Document | Refused], open_engine: Callable[[], AbstractContextManager[Engine]]) -> None:
        """Ask of every chunk that was not answered before; the engine is opened where there is one to ask.

        Raises InputError where the engine fails again and again.
        """
        requests = self._requests(documents)
        first = next(requests, None)
        if first is not None:
            with open_engine() as engine:
                self.tally.began = time.monotonic()
                for number, completion in engine.answer_each(chain((first,), requests)):
                    self._take(self._asked.pop(number), completion, engine.name)
        if self.tally.counts["documents"]:  # inputs that hold nothing are a mistake, and nothing leaves the output by it
            self.state.end_pass(self._number)
        self.state.commit()
        self._tell(self.tally)

    def _requests(self, documents: Iterable[Document | Refused]) -> Iterator[Request]:
        """The requests in the order of their numbers, each drawn when the engine has room for it."""
        for number, (part, prepared, request) in enumerate(self._fitting(self._parts(documents))):
            self._asked[number] = _Asked(part, prepared, time.monotonic())
            self.tally.chars_open += len(part.text)
            yield request
        self.tally.is_read = True

    def _fitting(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Prepared, Request]]:
        """The parts that say something with their requests; what has no room in the base in halves, and those in halves."""
        for whole in parts:
            stack = [whole]
            while stack:
                part = stack.pop()
                prepared = prepare(part.text, self.way.prepare)
                if not prepared.text.strip():
                    self.tally.counts["blank"] += 1
                    self._finish(part, Outcome("done"))
                    continue
                request = self.way.task.ask(Example(part.id, prepared.text, "", ""))
                if part.was == "cut":
                    # Too short to halve: what is left to try is room for a longer reply.
                    request = replace(request, max_tokens=request.max_tokens * 2**part.tries)
                reading = self._readings[part.document]
                try:
                    has_room = self.way.fits(request)
                except InputError as error:  # a fault of the text: it says nothing of the engine
                    self.tally.counts["failed"] += 1
                    self._finish(part, Outcome("failed", reason=f"{UNASKABLE}{error}"))
                    continue
                if not has_room and (halves := halve(part, reading.entry.name, self.way.overlap)):
                    self.tally.counts["halved"] += 1
                    self.state.halve(part, halves, self._number)
                    reading.num_open += len(halves) - 1
                    stack += reversed(halves)
                    continue
                yield part, prepared, request

    def _parts(self, documents: Iterable[Document | Refused]) -> Iterator[Part]:
        """What is to be asked, document by document; what was answered before is passed over."""
        counts = self.tally.counts
        for place, document in enumerate(documents):
            self.state.commit_if_due()
            if isinstance(document, Refused):
                counts["refused"] += 1
                self.state.refuse(document.name, document.reason, self._number)
                continue
            entry = self.state.meet(document.name, document.kind, document.stamp, self._number, place)
            if entry.is_repeated:
                counts["repeated"] += 1
                continue
            counts.update(documents=1, unchanged=int(entry.is_whole), changed=int(entry.is_changed))
            reading = self._readings[entry.id] = _Reading(entry, num_open=1)  # held open while it is read
            if not entry.is_whole:
                yield from self._read(document, reading)
            yield from self._again(reading)
            reading.num_open -= 1
            self._end_if_done(reading)
            self.tally.bytes_behind += document.num_bytes
            self.tally.bytes_here = 0.0
            self._tell(self.tally)

    def _read(self, document: Document, reading: _Reading) -> Iterator[Part]:
        """The chunks of a document that were never asked."""
        entry, counts = reading.entry, self.tally.counts
        for chunk in self.way.cut(document.name, reading.follow(document.pieces())):
            part = Part(chunk.id, entry.id, entry.version, chunk.start, chunk.end, chunk.text, pages_of(chunk), chunk.id)
            self.tally.chars_cut += len(part.text)
            self.tally.bytes_here = reading.bytes_at(chunk.end, document)
            if self.state.recall(part) is None:
                reading.num_open += 1
                yield part
            else:
                counts["known"] += 1
                self._tell(self.tally)
        reading.is_read = True
        counts.update(pages=reading.pages, chars=reading.num_chars, problems=len(reading.problems), broken=int(reading.is_broken))

    def _again(self, reading: _Reading) -> Iterator[Part]:
        """Halves that wait from before, and what `--retry` asks again: as it was after a first error, else in halves."""
        entry = reading.entry
        for part in self.state.open_parts(entry, self._number, is_retry=self.is_retry):
            if part.was == "waiting" or (part.tries < 2 and part.reason.startswith(ENGINE_FAILED)):
                parts = [part]
            elif parts := halve(part, entry.name, self.way.overlap):
                self.state.halve(part, parts, self._number)
            else:
                parts = [part]
            for one in parts:
                reading.num_open += 1
                self.tally.counts["again"] += 1
                self.tally.chars_cut += len(one.text)
                yield one

    def _take(self, asked: _Asked, completion: Completion, engine: str) -> None:
        """Keep what a completion says."""
        self._keep(asked, completion)
        self._errors = self._errors + 1 if completion.finish == "error" else 0
        if self._errors >= self.way.most_errors:
            self.state.commit()
            raise InputError(
                engine,
                f"failed {self._errors} times in a row, at last with: {completion.error}",
                "Mend the cause and run again with --retry; what was finished is kept",
            )

    def _keep(self, asked: _Asked, completion: Completion) -> None:
        outcome = replace(self._outcome(asked, completion), seconds=round(time.monotonic() - asked.began, 3))
        self._finish(asked.part, outcome)
        counts = self.tally.counts
        counts.update({"chunks": 1, "records": len(outcome.records), "tokens": outcome.num_tokens})
        counts[outcome.status] += 1
        self.tally.chars_open -= len(asked.part.text)
        self.tally.chars_answered += len(asked.part.text)
        self._tell(self.tally)

    def _finish(self, part: Part, outcome: Outcome) -> None:
        if part.was == "cut" and outcome.status == "failed":
            self.state.keep_try(part, outcome.reason, self._number)
        else:
            self.state.keep(part, outcome, self._number)
        reading = self._readings[part.document]
        reading.num_open -= 1
        self._end_if_done(reading)
        self.state.commit_if_due()

    def _end_if_done(self, reading: _Reading) -> None:
        """Once the last chunk of a document is answered, nothing of it need be read again."""
        if reading.num_open:
            return
        del self._readings[reading.entry.id]
        if reading.is_read:
            self.state.end_document(reading.entry, reading.facts(), is_whole=not reading.is_broken)

    def _outcome(self, asked: _Asked, completion: Completion) -> Outcome:
        """What a completion says of its chunk."""
        said = Outcome("failed", reply=completion.text, num_tokens=completion.num_tokens)
        if completion.finish == "error":
            return replace(said, reason=f"{ENGINE_FAILED}{completion.error}")
        if completion.violation:
            return replace(said, reason=f"the reply breaks its constraint: {completion.violation}")
        read = self.way.task.read(Example(asked.part.id, asked.prepared.text, "", ""), completion)
        if isinstance(read, Unread):
            return replace(said, reason=f"the reply can't be read: {read.reason}")
        said_of = zip_longest(read.records, read.confidences, read.evidence)
        records = tuple(replace(self._found(asked, record), confidence=sure, evidence=found) for record, sure, found in said_of)
        if completion.finish == "length":
            lost = f", {read.num_cut} of them unfinished and left out" if read.num_cut else ""
            num = len(records) + read.num_cut
            reason = f"the reply was cut at task.max_tokens after {num} record{'s' if num != 1 else ''}{lost}"
            return replace(said, status="cut", records=records, reason=reason)
        return replace(said, status="done", records=records)

    def _found(self, asked: _Asked, record: Record) -> Found:
        """A record in the characters of the document, however the chunk was prepared."""
        part = asked.part
        values: dict[str, Value | None] = {}
        for name, value in record.items():
            if value is None or value.span is None:
                values[name] = value
                continue
            span = asked.prepared.to_original(value.span)
            values[name] = replace(
                value, text=part.text[span.start : span.end], span=Span(part.start + span.start, part.start + span.end)
            )
        spans = [value.span for value in values.values() if value and value.span]
        kinds = {field.name: field.kind for field in self.way.task.fields}
        lacking = any(value and value.span is None and kinds[name] == "span" for name, value in values.items())
        return Found(values, self._quote(part, values, spans), ("ungrounded",) if lacking else ())

    def _quote(self, part: Part, values: dict[str, Value | None], spans: list[Span]) -> Value | None:
        """The task's own quote, or the sentences around the record."""
        if any(field.name == "quote" and field.kind == "span" for field in self.way.task.fields):
            return values["quote"]
        if not spans:
            return None
        inside = Span(min(span.start for span in spans) - part.start, max(span.end for span in spans) - part.start)
        whole = sentences_around(part.text, inside)
        return Value(part.text[whole.start : whole.end], Span(part.start + whole.start, part.start + whole.end))


def pages_of(chunk: Chunk) -> tuple[tuple[int, int], ...]:
    """Where each page begins within a chunk, and its number."""
    return tuple((at, page) for page, at in chunk.pages)
