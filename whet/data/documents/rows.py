"""Rows of JSON and CSV as documents: the text of one column each, under the row's place or its own name."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from whet.data.csv_rows import CsvRow, read_csv_rows
from whet.data.documents.encoding import Encoding, read_text
from whet.data.documents.source import DocumentSettings, Refused
from whet.data.json_rows import JsonRow, read_json_rows
from whet.data.rows import DataFile, Reject, SourceSettings, Tally, describe, digest
from whet.errors import InputError, open_to_read

NUM_TRIED = 100  # rows without the column, one after the other from the first, before the file is given up
RowFormat = Literal["json", "csv", "tsv"]


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a row, and its place or name."""

    name: str
    text: str


def read_rows(path: Path, name: str, form: RowFormat, encoding: Encoding, settings: DocumentSettings) -> Iterator[Text | Refused]:
    """The rows of a file in order; a row that can't be read, or has no text in its column, is refused by its place.

    A file that has no such column at all, or breaks off, is refused as a whole from there on.
    """
    try:
        with _by_line(path, name, encoding) as (readable, codec):
            source = _Rows(path=readable, encoding=codec, max_line_bytes=settings.max_row_bytes)
            file = DataFile(readable, name)
            cells = _json_cells(file, source, settings) if form == "json" else _csv_cells(file, source, form, settings)
            yield from _texts(cells, name, settings)
    except InputError as error:
        remedy = f". {error.remedy}" if error.remedy else ""
        yield Refused(error.place or name, f"{error.what}: nothing is read from there on{remedy}")


class _Rows(SourceSettings):
    rejects_bad_lines: ClassVar[bool] = True


@contextmanager
def _by_line(path: Path, name: str, encoding: Encoding) -> Iterator[tuple[Path, str]]:
    """The file, or where its encoding knows no lines of bytes (UTF-16) a passing copy of it in UTF-8; and the encoding."""
    codec = "utf-8" if encoding.name == "utf-8-sig" else encoding.name
    if (encoding.origin != "mark" or codec == "utf-8") and "\n".encode(codec) == b"\n":
        yield path, codec
        return
    with tempfile.NamedTemporaryFile(prefix="whet-") as copy, open_to_read(path) as file:
        for text, problem in read_text(file, name, encoding):
            if problem:
                raise InputError(name, problem, "Convert the file to UTF-8")
            copy.write(text.encode("utf-8"))
        copy.flush()
        yield Path(copy.name), "utf-8"


@dataclass(frozen=True, slots=True)
class _Cells:
    """What a row has in the columns of the text and of the name, and the names of its columns."""

    place: str
    columns: tuple[str, ...]
    text: object
    identity: object = None


def _json_cells(file: DataFile, source: SourceSettings, settings: DocumentSettings) -> Iterator[_Cells | Refused]:
    for row in read_json_rows(file, source, Tally(), lambda value: isinstance(value, dict) and settings.text_column in value):
        match row:
            case Reject():
                yield _refused(row)
            case JsonRow(value=dict() as value):
                keys = tuple(map(str, value))
                yield _Cells(row.place, keys, value.get(settings.text_column), value.get(settings.id_column or ""))
            case _:
                yield Refused(row.place, f"is {describe(row.value)}, not an object with the key {settings.text_column}")


def _csv_cells(file: DataFile, source: SourceSettings, form: RowFormat, settings: DocumentSettings) -> Iterator[_Cells | Refused]:
    columns: tuple[str, ...] | None = None
    for row in read_csv_rows(file, source, "\t" if form == "tsv" else ","):
        if isinstance(row, Reject):
            yield _refused(row)
        elif columns is None:
            columns = tuple(row.cells)
            lacking = [column for column in (settings.text_column, settings.id_column) if column and column not in columns]
            if lacking:
                raise InputError(file.name, f"has no column {lacking[0]}; its columns are {_listed(columns)}", _REMEDY)
            if len(set(columns)) < len(columns):
                raise InputError(file.name, f"has two columns of one name: {_listed(columns)}", "Rename one of them")
        else:
            yield _of_csv(row, columns, settings)


_REMEDY = "Set extract.documents.text_column (and id_column) to names that are there"


def _of_csv(row: CsvRow, columns: tuple[str, ...], settings: DocumentSettings) -> _Cells | Refused:
    if len(row.cells) != len(columns):
        return Refused(
            row.place,
            f"has {len(row.cells)} cell{'s' if len(row.cells) != 1 else ''} where the first line names {len(columns)} columns",
        )
    cells = dict(zip(columns, row.cells, strict=True))
    return _Cells(row.place, columns, cells[settings.text_column], cells.get(settings.id_column or ""))


def _texts(rows: Iterator[_Cells | Refused], name: str, settings: DocumentSettings) -> Iterator[Text | Refused]:
    """The rows' texts under their names; what has none is refused."""
    seen: set[int] = set()
    num_refused, is_readable = 0, False
    for row in rows:
        text = row if isinstance(row, Refused) else _text(row, name, settings, seen)
        is_readable = is_readable or isinstance(text, Text)
        num_refused += not is_readable
        yield text
        if num_refused == NUM_TRIED and isinstance(text, Refused):
            raise InputError(name, f"none of its first {NUM_TRIED} rows can be read; the last of them: {text.reason}", _REMEDY)


def _text(row: _Cells, name: str, settings: DocumentSettings, seen: set[int]) -> Text | Refused:
    fault = ""
    if settings.text_column not in row.columns:
        fault = f"has no key {settings.text_column}; it has {_listed(row.columns)}"
    elif not isinstance(row.text, str):
        fault = f"{settings.text_column} is {describe(row.text)}, not text"
    elif not row.text:
        fault = f"{settings.text_column} is empty"
    elif not _is_whole(row.text):
        fault = "half of a surrogate pair: a character was cut in two where this row was written"
    if fault or not isinstance(row.text, str):
        return Refused(row.place, fault)
    return Text(row.place, row.text) if settings.id_column is None else _named(row, row.text, name, settings.id_column, seen)


def _named(row: _Cells, text: str, name: str, id_column: str, seen: set[int]) -> Text | Refused:
    """A row under its own name, which no row before it has."""
    own = row.identity
    if not isinstance(own, str | int) or isinstance(own, bool) or own == "":
        return Refused(row.place, f"{id_column} is {describe(own) if own != '' else 'empty'}, not a name")
    if not _is_whole(str(own)):
        return Refused(row.place, f"{id_column} holds half of a surrogate pair")
    key = int(digest(f"{name}#{own}"), 16)
    if key in seen:
        return Refused(row.place, f"{id_column} is {own!r}, as in a row before it: names must differ")
    seen.add(key)
    return Text(f"{name}#{own}", text)


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refused(row: Reject) -> Refused:
    remedy = row.remedy.replace("max_line_bytes", "extract.documents.max_row_bytes").replace(" on this source", "")
    return Refused(row.place, row.seen + (f". {remedy.replace('`encoding:', '`extract.documents.encoding:')}" if remedy else ""))


def _listed(columns: tuple[str, ...]) -> str:
    names = ", ".join(repr(column[:40]) for column in columns[:10])
    return names + (f" and {len(columns) - 10} more" if len(columns) > 10 else "") if columns else "none"
