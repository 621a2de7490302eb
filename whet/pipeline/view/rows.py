"""The rows of an extraction's output: read, checked for their shape, and gathered for one page."""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from whet.errors import InputError, open_to_read

Range = tuple[int, int]
"""Code points `start` to `end` (exclusive) of a document."""
Share = Annotated[float, Field(ge=0, le=1)]
Place = Annotated[int, Field(ge=0)]


class RowValue(BaseModel):
    """A value of a row: its text and, if it is a piece of the source, where it stands (code points, end exclusive)."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    text: str
    start: Place | None = None
    end: Place | None = None
    page: int | None = None
    confidence: Share | None = None
    ambiguous: bool = False

    @model_validator(mode="after")
    def _span_fits_text(self) -> Self:
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end belong together")
        if self.start is not None and self.end is not None and self.end - self.start != len(self.text):
            raise ValueError(f"start {self.start} and end {self.end} don't fit a text of {len(self.text)} characters")
        return self


class Row(BaseModel):
    """One record of the output. Keys that are not named here are shown as they are."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    id: Annotated[str, Field(min_length=1)]
    document: str
    page: int | None = None
    chunk: str | None = None
    values: dict[str, RowValue | None]
    quote: RowValue | None = None
    confidence: Share | None = None
    is_accepted: bool | None = None
    flags: list[str] = Field(default_factory=list)
    run: str | None = None
    adapter: str | None = None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row that was found good, kept as it was written: a hundred thousand of them are held."""

    line: bytes
    names: tuple[str, ...]
    """Its fields."""
    values: tuple[Range, ...]
    """Where its values stand in the document."""
    quote: Range | None

    @staticmethod
    def of(line: bytes, row: Row) -> "ReadRow":
        places = tuple(place for value in row.values.values() if (place := _place(value)))
        return ReadRow(line, tuple(row.values), places, _place(row.quote))

    @property
    def spans(self) -> tuple[Range, ...]:
        """All that it has in the document."""
        return (*self.values, self.quote) if self.quote else self.values

    def raw(self) -> dict[str, Any]:
        """Its JSON."""
        found: dict[str, Any] = _DECODER.decode(self.line.decode("utf-8"))
        return found


def _place(value: RowValue | None) -> Range | None:
    return None if value is None or value.start is None or value.end is None else (value.start, value.end)


@dataclass(slots=True)
class Gathered:
    """Rows by document, in the order of each document's first row, and what was counted on the way."""

    rows: dict[str, list[ReadRow]]
    num_rows: Counter[str] = field(default_factory=Counter)
    """Rows of each document of the file, gathered or not."""
    num_twice: int = 0
    """Gathered rows whose id an earlier one has."""


def gather(path: Path, documents: Collection[str], max_records: int) -> Gathered:
    """Up to `max_records` rows of the named documents (none named: of all), the first of the file first.

    Documents that come when the page is full are only counted, so that memory does not grow with the file.
    Raises InputError for a row that is none.
    """
    found, ids, total = Gathered({}), set[str](), 0
    for place, line in _lines(path):
        raw = _parse(place, line)
        name = raw.get("document")
        if not isinstance(name, str):
            raise InputError(place, "has no document", "Is this a file that `whet extract` wrote?")
        found.num_rows[name] += 1
        if total >= max_records or (documents and name not in documents):
            continue
        row = _check(place, raw)
        found.rows.setdefault(name, []).append(ReadRow.of(line, row))
        total += 1
        found.num_twice += row.id in ids
        ids.add(row.id)
    return found


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix.lower() in (".csv", ".parquet", ".tsv"):
        raise InputError(str(path), "is no JSONL", "Name the JSONL output of the extraction: whet extract ... -o out.jsonl")
    with open_to_read(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path}:{number}", line


def _parse(place: str, line: bytes) -> dict[str, Any]:
    try:
        raw = _DECODER.decode(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(place, f"not JSON ({error})", "Is this a file that `whet extract` wrote?") from None
    if not isinstance(raw, dict):
        raise InputError(place, f"JSON {type(raw).__name__}, not a record", "Is this a file that `whet extract` wrote?")
    return raw


def _check(place: str, raw: dict[str, Any]) -> Row:
    try:
        return Row.model_validate(raw)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(place, f"{where}: {fault['msg']}", "Is this a file that `whet extract` wrote?") from None
