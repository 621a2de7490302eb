"""Documents in memory, and passes over them with a scripted reader."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripted_reading import Reader, read, reply, source_of, task

from whet.data.chunks import Cut, cut_chunks
from whet.data.documents.source import Piece
from whet.errors import InputError
from whet.extract.flow import Flow, Way
from whet.extract.progress import Tally
from whet.extract.rows import Assembly, Labels, Trust
from whet.extract.state import State
from whet.records import Completion, Request
from whet.tasks.rules import Rules
from whet.text.prepare import PrepareSettings

TEXT = "是日Gong<蹇義>卒。Sheng<夏原吉>掌部事，<楊榮>還朝。大雨。Zhou<于謙>巡撫河南。<蹇義>又見。" * 3


KEEP = PrepareSettings()


class Text:
    """A document in memory."""

    kind, path, num_pages = "text", Path("-"), 0

    def __init__(self, name: str, text: str, stamp: str = "1", cuts: Sequence[int] = (), fault: str = "") -> None:
        self.name, self.text, self.stamp, self.fault = name, text, stamp, fault
        self.num_read = 0
        self.num_bytes = len(text.encode("utf-8", "surrogatepass"))
        self._cuts = sorted({0, *cuts, len(text)})

    def pieces(self) -> Iterator[Piece]:
        self.num_read += 1
        for start, end in itertools.pairwise(self._cuts):
            yield Piece(self.text[start:end], start)
        if self.fault:
            raise InputError(self.name, self.fault)


def way(size: int = 60, overlap: int = 16, prepare: PrepareSettings = KEEP, **settings: Any) -> Way:
    chunks = Cut(size=size, overlap=overlap)
    return Way(task(**settings), prepare, lambda name, pieces: cut_chunks(name, pieces, chunks, len), overlap, 5)


def run(folder: Path, documents: Sequence[Any], engine: Reader | None = None, used: Way | None = None, **more: Any) -> Tally:
    folder.mkdir(exist_ok=True)
    state = State(folder)
    try:
        flow = Flow(used or way(), state, is_retry=more.pop("is_retry", False), **more)
        flow.run(documents, lambda: nullcontext(engine or Reader()))
        return flow.tally
    finally:
        state.close()


def rows(folder: Path) -> list[dict[str, Any]]:
    with closing(State(folder)) as state:
        return rows_of(state)


def rows_of(state: State) -> list[dict[str, Any]]:
    return [dict(row) for row in Assembly(state, Rules(()), Labels("r", None), Trust()).rows()]


Said = list[tuple[str, str, int, str | None]]


"""Document, name, its place and office of each row."""


def said(folder: Path) -> Said:
    with closing(State(folder)) as state:
        return said_by(state)


def said_by(state: State) -> Said:
    return [
        (row["document"], (name := row["values"]["name"])["text"], name["start"], (row["values"]["office"] or {}).get("text"))
        for row in rows_of(state)
    ]


def wanted(*documents: Text) -> Said:
    found = []
    for document in documents:
        at = 0
        for record in read(document.text):
            at = document.text.index(f"<{record['name']}>", at) + 1
            found.append((document.name, record["name"], at, record["office"]))
    return found


class Stop(KeyboardInterrupt):
    pass


def failing(kind: str, which: str = "楊榮") -> Any:
    """A reply that goes wrong wherever a name stands in the text."""

    def say(request: Request) -> Completion:
        good = reply(request)
        if which not in source_of(request):
            return good
        return {
            "error": Completion("", "error", error="no answer"),
            "violation": replace(good, violation="a value that is not in the source"),
            "unread": replace(good, text=good.text[:-1]),
            "truncated": replace(good, text=good.text[:-1], finish="length"),
            "cut": replace(good, finish="length", cut_at=good.text.rindex('"office"')),
        }[kind]

    return say


def stopping(after: int) -> Any:
    """A reply to so many requests, then Ctrl-C."""
    count = itertools.count()

    def stop(request: Request) -> Completion:
        if next(count) == after:
            raise Stop
        return reply(request)

    return stop
