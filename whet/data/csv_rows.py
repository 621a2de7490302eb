"""Rows out of CSV and TSV: cells with the line on which the row starts."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from whet.data.rows import RAW_CHARACTERS, DataFile, Reject, SourceSettings, read_lines


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row's cells."""

    place: str
    cells: list[str]


class _Lines:
    """The lines of one row after the other for csv.reader, which goes on after an error that is raised here."""

    def __init__(self, file: DataFile, source: SourceSettings) -> None:
        self._lines = read_lines(file, source)
        self._limit = source.max_line_bytes
        self.last = 0
        """Number of the line read last."""
        self.begin_row()

    def begin_row(self) -> None:
        self.head, self._size = "", 0
        self.too_long: Reject | None = None

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.last += 1
        if isinstance(line, Reject):
            self.too_long = self.too_long or line
            return "\n"
        text = line[1]
        self.head = self.head or text[:RAW_CHARACTERS]
        self._size += len(text)
        if self._size > self._limit:
            raise csv.Error(f"a row of more than {self._limit:,} characters")
        return text + "\n"


def read_csv_rows(file: DataFile, source: SourceSettings, delimiter: str | None = None) -> Iterator[CsvRow | Reject]:
    """Rows in order, blank ones left out. A row that can't be told apart is a Reject that names all its lines.

    delimiter: what parts the cells; None tells by the file's name.
    """
    csv.field_size_limit(max(csv.field_size_limit(), source.max_line_bytes))
    lines = _Lines(file, source)
    delimiter = delimiter or ("\t" if file.path.suffix.lower() == ".tsv" else ",")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin_row()
        first = lines.last + 1
        place = f"{file.name}:{first}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Reject(
                place, f"not CSV in lines {first} to {lines.last}: {error}", "a quoted cell doubles its quotes",
                "A quote is likely missing or not doubled there", lines.head,
            )  # fmt: skip
            continue
        if lines.too_long and not cells:
            yield lines.too_long
        elif lines.too_long:
            seen = f"a row in lines {first} to {lines.last} holds {lines.too_long.seen}"
            yield Reject(place, seen, "", lines.too_long.remedy, lines.head, stops=lines.too_long.stops)
        elif cells:
            yield CsvRow(place, cells)
