"""The MingOfficial table: officials with the texts that speak of them, in which persons and offices are tagged."""

import ast
import difflib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

from pydantic import Field, model_validator

from whet.config import Settings
from whet.data.csv_rows import CsvRow, read_csv_rows
from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, describe, digest, finish, read_each
from whet.data.tagged import Misread, TagSettings, join_records, walk_tags
from whet.errors import InputError
from whet.records import Example

SUFFIXES = (".csv",)
_NO_TEXTS = ("", "N/A", "[]")
_TAGS = ("P", "O")
_SHAPE = "[(id, source, text), ...]"


class MingFields(Settings):
    """How the record's fields are called."""

    name: str = "name"
    """The person, tag <P>."""
    rank: str = "rank"
    """The office, tag <O>, or null."""

    @model_validator(mode="after")
    def _names_differ(self) -> "MingFields":
        if self.name == self.rank:
            raise ValueError("name and rank need different names")
        return self


class MingCsv(SourceSettings):
    """A MingOfficial CSV: one column holds the `str()` of a Python list of (id, source, tagged text)."""

    reader: Literal["ming_csv"]
    """The reader's name."""
    column: str = "Related Texts"
    """The column that holds the texts."""
    fields: MingFields = MingFields()
    """Names of the record's fields."""
    max_gap: int = Field(default=5, ge=0)
    """An office belongs to the next person if fewer characters than this lie between them."""
    group: Literal["text", "document"] = "text"
    """What stays in one split: equal texts, or all texts of one source document."""
    ignore_tags: tuple[str, ...] = ()
    """Tags that are taken out, their text kept."""


@dataclass(slots=True)
class _Reading:
    """One source as it is read: its tags, what is counted, and the texts that it has given, by their hashes."""

    source: MingCsv
    tally: Tally
    texts: set[bytes]
    examples: set[bytes]
    """The same with their tags."""
    fields: dict[str, TagSettings]


def read_ming(source: MingCsv, files: Sequence[DataFile], tally: Tally) -> Iterator[Row]:
    """Each text with its tags once, in the order of its first row.

    A text that comes back with other tags is counted and given too: which reading is right, or whether the build stops,
    is for `data.clean.conflicting` to say, and it is listed with the rejects.
    """
    fields = {source.fields.name: TagSettings(tag="P"), source.fields.rank: TagSettings(tag="O")}
    return read_each(files, tally, partial(_read_file, _Reading(source, tally, set(), set(), fields)))


def _read_file(reading: _Reading, file: DataFile) -> Iterator[Row]:
    column, num_columns = -1, 0
    for row in read_csv_rows(file, reading.source):
        if column < 0:
            column, num_columns = _column(reading.source, row, file)
            continue
        reading.tally["rows"] += 1
        if isinstance(row, Reject):
            yield row
        elif len(row.cells) != num_columns:
            yield Reject(
                row.place, f"{len(row.cells)} cells under {num_columns} columns", "",
                "Quote the cells that hold commas, quotes or line breaks", ",".join(row.cells),
            )  # fmt: skip
        elif (cell := row.cells[column].strip()) in _NO_TEXTS:
            reading.tally["rows without texts"] += 1
        else:
            yield from _read_cell(reading, row.place, cell)


def _column(source: MingCsv, header: CsvRow | Reject, file: DataFile) -> tuple[int, int]:
    """Which column holds the texts, and how many there are."""
    names = [] if isinstance(header, Reject) else [name.strip() for name in header.cells]
    if source.column in names:
        return names.index(source.column), len(names)
    near = difflib.get_close_matches(source.column, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(names[:12]) or 'unreadable'}"
    raise InputError(f"{file.name}:1", f"has no column {source.column!r}", f"Set `column`; {hint}")


def _read_cell(reading: _Reading, place: str, cell: str) -> Iterator[Row]:
    entries = parse_cell(cell)
    if isinstance(entries, str):
        seen = f"{reading.source.column!r} is no Python list: {entries}"
        yield Reject(place, seen, _SHAPE, "Write the cell again as Python prints a list of tuples", cell)
        return
    for index, entry in enumerate(entries, 1):
        reading.tally["texts"] += 1
        if not isinstance(entry, tuple | list) or len(entry) != 3 or not isinstance(entry[2], str):
            seen = f"entry {index} is {describe(entry)} of another shape"
            yield Reject(place, seen, _SHAPE, "An entry is an id, a source and a tagged text", str(entry))
            continue
        row = _read_entry(reading, place, entry)
        if isinstance(row, Example):
            text, example = _fingerprint(row.text), _fingerprint(row.id)
            if example in reading.examples:
                reading.tally["texts that stood in an earlier row"] += 1
                continue
            if text in reading.texts:
                reading.tally["texts of an earlier row with other tags"] += 1
            reading.texts.add(text)
            reading.examples.add(example)
        yield row


def _read_entry(reading: _Reading, place: str, entry: Sequence[Any]) -> Row:
    source, raw = reading.source, entry[2]
    read = walk_tags(raw, _TAGS, source.ignore_tags)
    if isinstance(read, Misread):
        seen = f"{read.seen} at character {read.at + 1} of text {entry[0]!r}"
        return Reject(place, seen, read.nearest, read.remedy, raw)
    text, tags = read
    if not text.strip():
        return Reject(place, f"text {entry[0]!r} is empty", _SHAPE, "Fill it, or take it out", raw)
    records = join_records(text, tags, reading.fields, source.max_gap, reading.tally)
    group = digest(str(entry[1]) if source.group == "document" and entry[1] else text)
    return finish(Example("", text, place, group, records=records), raw)


def parse_cell(cell: str) -> list[Any] | str:
    """The list that a cell spells, or why it spells none. Only literals are read; nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            value = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return value if isinstance(value, list) else f"it is {describe(value)}"


def _fingerprint(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
