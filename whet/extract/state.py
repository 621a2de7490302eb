"""The state of an extraction on disk: one SQLite file in which every finished chunk is kept once, and whole or not at all."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.data.documents.source import Kind
from whet.errors import InputError
from whet.extract.found import ChunkFound, Found, found_from_rows, found_to_rows
from whet.storage import canonical

FILE = "state.sqlite"
STANDARD_INPUT_FILE = "standard-input"
"""A copy of standard input, beside the state, where that is what the output was made of."""
SCHEMA = 1
COMMIT_EVERY = 64  # chunks
COMMIT_EVERY_S = 1.0
COMMIT_SHARE = 50  # a commit waits until this many times its own duration has gone by: it costs 2 % at most
ROWS_AT_ONCE = 64
Status = Literal["done", "cut", "failed", "waiting", "halved"]
"""cut: read, but the budget ended before the reply did. waiting: a half, not asked yet. halved: its halves stand for it."""

TABLES = """
BEGIN;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, stamp TEXT NOT NULL, sha TEXT NOT NULL DEFAULT '',
    num_chars INTEGER NOT NULL DEFAULT 0, num_pages INTEGER NOT NULL DEFAULT 0, problems TEXT NOT NULL DEFAULT '[]',
    is_whole INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 1, seen INTEGER NOT NULL, place INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS documents_in_order ON documents (place, id);
CREATE TABLE IF NOT EXISTS chunks (
    id TEXT PRIMARY KEY, root TEXT NOT NULL, document INTEGER NOT NULL, version INTEGER NOT NULL, start INTEGER NOT NULL,
    end INTEGER NOT NULL, pages TEXT NOT NULL, text BLOB, status TEXT NOT NULL, reason TEXT NOT NULL, reply BLOB NOT NULL,
    records TEXT NOT NULL, num_tokens INTEGER NOT NULL, seconds REAL NOT NULL, tries INTEGER NOT NULL, asked INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_in_order ON chunks (document, version, start, end);
CREATE INDEX IF NOT EXISTS chunks_of_root ON chunks (root);
CREATE INDEX IF NOT EXISTS open_chunks ON chunks (document) WHERE status IN ('cut', 'failed', 'waiting');
CREATE TABLE IF NOT EXISTS refused (name BLOB PRIMARY KEY, reason TEXT NOT NULL, seen INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (
    document INTEGER NOT NULL, chunk TEXT NOT NULL, rule TEXT NOT NULL, reason TEXT NOT NULL, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS dropped_by_rule ON dropped (rule);
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A chunk of a document, or a half of one, that is asked about."""

    id: str
    document: int
    """Number of the document in the state."""
    version: int
    """Which version of the document it was cut from."""
    start: int
    end: int
    text: str
    pages: tuple[tuple[int, int], ...] = ()
    root: str = ""
    """Id of the chunk that it is a part of; its own where it is whole."""
    tries: int = 0
    """How often it was asked before."""
    was: Status | None = None
    reason: str = ""
    """Why it is asked again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a chunk."""

    status: Status
    records: tuple[Found, ...] = ()
    reply: str = ""
    reason: str = ""
    num_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A document as the state knows it."""

    id: int
    name: str
    version: int
    is_whole: bool
    """Whether all of it was read and every chunk answered; false too where it has changed."""
    is_changed: bool = False
    is_repeated: bool = False
    """Whether it was met already in this pass."""
    kind: str = ""
    problems: tuple[str, ...] = ()


class State:
    """Open for one process and one thread; what is kept becomes durable with `commit`. InputError where the disk fails."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._pending, self._last, self._cost = 0, time.monotonic(), 0.0
        with self._mapped():
            self._db = sqlite3.connect(self.path, isolation_level=None)
            # Commits are seldom, so that a full sync costs nothing: a power cut loses no more than kill -9 does.
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(TABLES)
            self._db.execute("BEGIN IMMEDIATE")
        if self.fact("schema", SCHEMA) != SCHEMA:
            raise InputError(str(self.path), "was written by another version of whet", "Start over with --anew")
        self.set_fact("schema", SCHEMA)

    def close(self) -> None:
        """Keep what is pending, if that can be, and let go of the file."""
        with suppress(InputError):
            self.commit()
        self._db.close()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error) or "disk" in str(error)
            remedy = "Free some space and run it again: what was finished is kept" if full else "Start over with --anew"
            raise InputError(str(self.path), f"can't be used ({error})", remedy) from None

    def _do(self, sql: str, *values: Any) -> sqlite3.Cursor:
        with self._mapped():
            return self._db.execute(sql, values)

    def rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, a few at a time."""
        cursor = self._do(sql, *values)
        while True:
            with self._mapped():
                found = cursor.fetchmany(ROWS_AT_ONCE)
            if not found:
                return
            yield from found

    def one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query."""
        return next(self.rows(f"{sql} LIMIT 1", *values), None)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """What is written within is kept all together or not at all, Ctrl-C between two of its lines included."""
        self._do("SAVEPOINT whole")
        try:
            yield
        except BaseException:
            self._do("ROLLBACK TO whole")
            raise
        finally:
            self._do("RELEASE whole")

    def commit(self) -> None:
        """Make what was written durable."""
        began = time.monotonic()
        if self._db.in_transaction:  # a full disk ends it: what was pending is then asked again
            self._do("COMMIT")
        self._do("BEGIN IMMEDIATE")
        self._last = time.monotonic()
        self._pending, self._cost = 0, self._last - began

    def commit_if_due(self) -> None:
        """Commit where enough is pending, or enough time went by."""
        since = time.monotonic() - self._last
        if self._pending and (self._pending >= COMMIT_EVERY or since >= min(COMMIT_EVERY_S, COMMIT_SHARE * self._cost)):
            self.commit()

    def fact(self, name: str, default: Any = None) -> Any:
        """A JSON value that was set under a name."""
        row = self.one("SELECT value FROM facts WHERE name = ?", name)
        return json.loads(row[0]) if row else default

    def set_fact(self, name: str, value: Any) -> None:
        """Set a JSON value under a name."""
        self._do("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, canonical(value))

    def begin_pass(self) -> int:
        """The number of this pass over the inputs, from 1."""
        number = int(self.fact("passes", 0)) + 1
        self.set_fact("passes", number)
        self._do("DELETE FROM refused")
        return number

    def meet(self, name: str, kind: str, stamp: str, number: int, place: int) -> Entry:
        """A document that a pass comes upon: new, unchanged, or changed where its stamp is another one, or none."""
        row = self.one("SELECT id, stamp, is_whole, version, seen FROM documents WHERE name = ?", pack(name))
        self._pending += 1
        if row is None:
            sql = "INSERT INTO documents (name, kind, stamp, seen, place) VALUES (?, ?, ?, ?, ?)"
            return Entry(int(self._do(sql, pack(name), kind, stamp, number, place).lastrowid or 0), name, 1, False)
        id_, old_stamp, is_whole, version, seen = row
        if seen == number:
            return Entry(id_, name, version, bool(is_whole), is_repeated=True)
        if stamp and stamp == old_stamp:
            self._do("UPDATE documents SET seen = ?, place = ? WHERE id = ?", number, place, id_)
            return Entry(id_, name, version, bool(is_whole))
        sql = "UPDATE documents SET kind = ?, stamp = ?, is_whole = 0, version = ?, seen = ?, place = ? WHERE id = ?"
        self._do(sql, kind, stamp, version + 1, number, place, id_)
        return Entry(id_, name, version + 1, False, is_changed=True)

    def kind_of(self, name: str, stamp: str) -> Kind | None:
        """The kind of a document that was read to its end, and whose stamp is still this one."""
        row = self.one("SELECT kind FROM documents WHERE name = ? AND stamp = ? AND is_whole", pack(name), stamp)
        return row[0] if row else None

    def end_document(self, entry: Entry, facts: Mapping[str, Any], *, is_whole: bool) -> None:
        """Keep what was learnt of a document when its last chunk is answered: sha, num_chars, num_pages, problems.

        num_chars is 0 where they are nothing but white space.
        """
        self._pending += 1
        sql = (
            "UPDATE documents SET sha = ?, num_chars = ?, num_pages = ?, problems = ?, is_whole = ? WHERE id = ? AND version = ?"
        )
        known = facts["sha"], facts["num_chars"], facts["num_pages"], json.dumps(facts["problems"])
        self._do(sql, *known, int(is_whole), entry.id, entry.version)

    def refuse(self, name: str, reason: str, number: int) -> None:
        """Keep that an input could not be read."""
        self._pending += 1
        self._do("INSERT OR REPLACE INTO refused VALUES (?, ?, ?)", pack(name), _printable(reason), number)

    def recall(self, part: Part) -> Status | None:
        """What became of a chunk the last time, and that it belongs to this version; None if it was never asked."""
        row = self.one("SELECT status, version FROM chunks WHERE id = ?", part.id)
        if row is None:
            return None
        if row[1] != part.version:
            self._pending += 1
            self._do("UPDATE chunks SET version = ? WHERE root = ?", part.version, part.id)
        status: Status = row[0]
        return status

    def keep(self, part: Part, outcome: Outcome, number: int) -> None:
        """Keep what became of a chunk. The text of one that is not done is kept with it, to be asked again."""
        self._pending += 1
        text = None if outcome.status in ("done", "halved") else pack(part.text)
        self._do(
            f"INSERT OR REPLACE INTO chunks VALUES ({', '.join('?' * 16)})",  # noqa: S608 (question marks)
            part.id,
            part.root or part.id,
            part.document,
            part.version,
            part.start,
            part.end,
            json.dumps(part.pages),
            text,
            outcome.status,
            _printable(outcome.reason),
            pack(outcome.reply),
            json.dumps(found_to_rows(outcome.records)),
            outcome.num_tokens,
            outcome.seconds,
            part.tries if outcome.status in ("waiting", "halved") else part.tries + 1,
            number,
        )

    def halve(self, part: Part, halves: list[Part], number: int) -> None:
        """Put the halves of a chunk in its place; they are asked even if this process ends before it comes to them.

        What a cut reply gave is kept, and counts until the halves are answered.
        """
        with self.whole():
            for half in halves:
                self.keep(half, Outcome("waiting"), number)
            known = self._do("UPDATE chunks SET status = 'halved', text = NULL, asked = ? WHERE id = ?", number, part.id)
            if not known.rowcount:
                self.keep(part, Outcome("halved"), number)

    def keep_try(self, part: Part, reason: str, number: int) -> None:
        """A chunk whose reply was cut was asked again and failed: what it gave before stays."""
        self._pending += 1
        sql = "UPDATE chunks SET tries = tries + 1, asked = ?, reason = ? WHERE id = ?"
        self._do(sql, number, f"{part.reason}; asked again: {_printable(reason)}", part.id)

    def open_parts(self, entry: Entry, number: int, *, is_retry: bool) -> Iterator[Part]:
        """The chunks of a document that wait from before this pass, and with `is_retry` those that failed or were cut."""
        sql = (
            "SELECT id FROM chunks INDEXED BY open_chunks WHERE document = ? AND version = ? AND "
            "status IN ('cut', 'failed', 'waiting') AND asked < ? AND (status = 'waiting' OR ?) ORDER BY start, end"
        )
        ids = [id_ for (id_,) in self.rows(sql, entry.id, entry.version, number, is_retry)]
        for id_ in ids:
            row = self.one("SELECT start, end, text, pages, root, tries, status, reason FROM chunks WHERE id = ?", id_)
            if row:
                start, end, text, pages, root, tries, status, reason = row
                numbered = tuple((at, page) for at, page in json.loads(pages))
                yield Part(id_, entry.id, entry.version, start, end, unpack(text), numbered, root, tries, status, reason)

    def end_pass(self, number: int) -> None:
        """A pass has met every input: documents that it did not meet are gone."""
        self.set_fact("last_whole_pass", number)

    def documents(self) -> Iterator[Entry]:
        """The documents of the output, in their order: those of the last whole pass and what a later one met."""
        sql = "SELECT id, name, version, is_whole, kind, problems FROM documents WHERE seen >= ? ORDER BY place, id"
        for id_, name, version, is_whole, kind, problems in self.rows(sql, self.fact("last_whole_pass", 0)):
            yield Entry(id_, unpack(name), version, bool(is_whole), kind=kind, problems=tuple(json.loads(problems)))

    def chunks(self, entry: Entry) -> Iterator[ChunkFound]:
        """The chunks of a document that gave records or none, in order of their starts."""
        sql = (
            "SELECT id, start, end, records, pages FROM chunks AS chunk WHERE document = ? AND version = ? AND (status IN "
            "('done', 'cut') OR status = 'halved' AND EXISTS (SELECT 1 FROM chunks AS half WHERE half.root = chunk.root AND "
            "half.status IN ('failed', 'waiting') AND half.start >= chunk.start AND half.end <= chunk.end)) ORDER BY start, end"
        )
        for id_, start, end, records, pages in self.rows(sql, entry.id, entry.version):
            numbered = tuple((at, page) for at, page in json.loads(pages))
            yield ChunkFound(id_, start, end, found_from_rows(json.loads(records)), numbered)

    def has_text(self) -> bool:
        """Whether any document of the output has more than white space."""
        sql = "SELECT 1 FROM documents WHERE seen >= ? AND num_chars > 0"
        return self.one(sql, self.fact("last_whole_pass", 0)) is not None

    def num_documents(self) -> int:
        """Documents of the output."""
        row = self.one("SELECT COUNT(*) FROM documents WHERE seen >= ?", self.fact("last_whole_pass", 0))
        return int(row[0]) if row else 0

    def num_gone(self) -> int:
        """Documents that are known and not in the output."""
        row = self.one("SELECT COUNT(*) FROM documents WHERE seen < ?", self.fact("last_whole_pass", 0))
        return int(row[0]) if row else 0

    def num_chunks(self) -> dict[str, int]:
        """Chunks of the output's documents: done, cut, failed, and all of them."""
        sql = (
            "SELECT status, COUNT(*) FROM chunks JOIN documents ON documents.id = chunks.document "
            "WHERE chunks.version = documents.version AND seen >= ? AND status != 'halved' GROUP BY status"
        )
        found = dict(self.rows(sql, self.fact("last_whole_pass", 0)))
        return {name: found.get(name, 0) for name in ("done", "cut", "failed", "waiting")} | {"total": sum(found.values())}

    def forget_dropped(self) -> None:
        """The output is made anew, and with it what its rules drop."""
        self._do("DELETE FROM dropped")

    def drop(self, entry: Entry, chunk: str, rule: str, reason: str, record: Mapping[str, Any]) -> None:
        """Keep a record that a rule took out of the output."""
        self._do("INSERT INTO dropped VALUES (?, ?, ?, ?, ?)", entry.id, chunk, rule, _printable(reason), json.dumps(record))

    def failures(self) -> Iterator[dict[str, Any]]:
        """The chunks of the output's documents that failed or were cut, with reason, raw reply and text; and refused inputs."""
        for entry in self.documents():
            # By the index of what is open, so that chunks that are done need not be looked at.
            sql = (
                "SELECT id, start, end, pages, status, reason, tries, reply, text FROM chunks INDEXED BY open_chunks "
                "WHERE document = ? AND version = ? AND status IN ('cut', 'failed', 'waiting') AND status != 'waiting' "
                "ORDER BY start, end"
            )
            for id_, start, end, pages, status, reason, tries, reply, text in self.rows(sql, entry.id, entry.version):
                page = next((page for _, page in json.loads(pages)), None)
                yield {
                    "document": entry.name, "page": page, "chunk": id_, "start": start, "end": end, "status": status,
                    "reason": reason, "tries": tries, "reply": unpack(reply), "text": unpack(text),
                }  # fmt: skip
            for problem in entry.problems:
                yield {"document": entry.name, "status": "unreadable", "reason": problem}
        for name, reason in self.rows("SELECT name, reason FROM refused ORDER BY rowid"):
            yield {"document": unpack(name), "status": "refused", "reason": reason}


def pack(text: str) -> bytes:
    """A text as SQLite can hold it: names and replies may hold lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


def unpack(raw: bytes | None) -> str:
    """The text that `pack` made bytes of."""
    return (raw or b"").decode("utf-8", "surrogatepass")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
