"""Writes rows as JSONL, CSV or Parquet; a file takes its name only when it is whole."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from whet.errors import InputError, MissingExtraError
from whet.storage import staged_file
from whet.tasks.extraction import FieldSettings

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
ROWS_AT_ONCE = 8192  # of a Parquet row group
BEFORE = ("id", "document", "page", "chunk")
AFTER = ("confidence", "is_accepted", "flags", "run", "adapter")
TRIGGERS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection)."""


class Writer(Protocol):
    """Takes rows one at a time."""

    num_formulas: int
    """Cells that a spreadsheet would take for a formula."""

    def write(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        ...


def format_of(path: Path, said: str | None = None) -> Format:
    """The format of a file, by what is said or by the end of its name."""
    if said in FORMATS.values():
        return said  # type: ignore[return-value]
    if said is not None:
        raise InputError("--format", f"{said!r} is unknown", f"Say one of {', '.join(dict.fromkeys(FORMATS.values()))}")
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(str(path), "its name does not say a format", "End it in .jsonl, .csv or .parquet, or give --format")
    return found


@contextmanager
def writing(path: Path, format_: Format, fields: Sequence[FieldSettings], *, is_spreadsheet: bool = False) -> Iterator[Writer]:
    """A writer to a file that takes its name at the end.

    is_spreadsheet: CSV begins with a byte order mark, and cells that a spreadsheet would compute get an apostrophe in front.
    """
    with staged_file(path) as staged:
        if format_ == "parquet":
            with _parquet(staged, fields) as writer:
                yield writer
        else:
            encoding = "utf-8-sig" if format_ == "csv" and is_spreadsheet else "utf-8"
            with staged.open("w", encoding=encoding, newline="" if format_ == "csv" else "\n") as file:
                yield _JsonlWriter(file) if format_ == "jsonl" else _CsvWriter(file, fields, is_spreadsheet)


def columns_of(fields: Sequence[FieldSettings]) -> list[str]:
    """The columns of a flat table: a field's text, and where it stands."""
    found = list(BEFORE)
    for settings in fields:
        found += _columns(settings)
    if not _has_quote(fields):
        found += ["quote", "quote_start", "quote_end"]
    return [*found, *AFTER]


def flatten(row: Mapping[str, Any], fields: Sequence[FieldSettings]) -> dict[str, Any]:
    """A row as one value a column. Lone surrogates, which no table can hold, become U+FFFD."""
    flat = {name: row[name] for name in (*BEFORE, *AFTER)}
    for settings in fields:
        value = row["values"].get(settings.name) or {}
        cells = [value.get(key) for key in _keys(settings)]
        flat |= dict(zip(_columns(settings), cells, strict=True))
    if not _has_quote(fields):
        quote = row["quote"] or {}
        flat |= {"quote": quote.get("text"), "quote_start": quote.get("start"), "quote_end": quote.get("end")}
    return {name: whole(cell) if isinstance(cell, str) else cell for name, cell in flat.items()}


def whole(text: str) -> str:
    """A text without lone surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _has_quote(fields: Sequence[FieldSettings]) -> bool:
    return any(settings.name == "quote" for settings in fields)


def _keys(settings: FieldSettings) -> tuple[str, ...]:
    return ("text", "start", "end", "page", "confidence", "ambiguous") if settings.kind == "span" else ("text", "confidence")


def _columns(settings: FieldSettings) -> list[str]:
    """The columns of a field. One whose name is taken by what every row says is told apart."""
    name = f"field_{settings.name}" if settings.name in (*BEFORE, *AFTER) else settings.name
    return [name, *(f"{name}_{key}" for key in _keys(settings)[1:])]


class _JsonlWriter:
    num_formulas = 0

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False)
        # A lone surrogate stands in UTF-8 only as an escape.
        self._file.write((line if _is_whole(line) else json.dumps(row)) + "\n")


class _CsvWriter:
    def __init__(self, file: TextIO, fields: Sequence[FieldSettings], is_guarded: bool) -> None:
        self.num_formulas = 0
        self._fields, self._is_guarded = fields, is_guarded
        self._table = csv.DictWriter(file, columns_of(fields))
        self._table.writeheader()

    def write(self, row: Mapping[str, Any]) -> None:
        self._table.writerow({name: self._cell(cell) for name, cell in flatten(row, self._fields).items()})

    def _cell(self, cell: Any) -> Any:
        if isinstance(cell, bool):
            return str(cell).lower()
        text = ";".join(cell) if isinstance(cell, list) else cell
        if isinstance(text, str) and text.startswith(TRIGGERS):
            self.num_formulas += 1
            return f"'{text}" if self._is_guarded else text
        return text


class _ParquetWriter:
    num_formulas = 0

    def __init__(self, file: Any, schema: Any, fields: Sequence[FieldSettings]) -> None:
        self._file, self._schema, self._fields = file, schema, fields
        self._rows: list[dict[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        self._rows.append(flatten(row, self._fields))
        if len(self._rows) >= ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        if self._rows:
            self._file.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


@contextmanager
def _parquet(path: Path, fields: Sequence[FieldSettings]) -> Iterator[Writer]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from None
    kinds = {
        "page": pyarrow.int64(),
        "start": pyarrow.int64(),
        "end": pyarrow.int64(),
        "confidence": pyarrow.float64(),
        "is_accepted": pyarrow.bool_(),
        "ambiguous": pyarrow.bool_(),
        "flags": pyarrow.list_(pyarrow.string()),
    }
    typed = {name: pyarrow.string() for name in columns_of(fields)}
    typed |= {name: kinds[name] for name in (*BEFORE, *AFTER) if name in kinds}
    for settings in fields:
        typed |= {name: kinds[key] for name, key in zip(_columns(settings)[1:], _keys(settings)[1:], strict=True)}
    typed |= {name: pyarrow.int64() for name in ("quote_start", "quote_end") if name in typed}
    schema = pyarrow.schema(list(typed.items()))
    with parquet.ParquetWriter(path, schema, compression="zstd") as file:
        writer = _ParquetWriter(file, schema, fields)
        yield writer
        writer.flush()


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
