"""The sources that a recipe may name, each with its reader: raw corpora to examples and rejects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from whet.data import columns, formats, ming, standoff, tagged
from whet.data.columns import Columns
from whet.data.formats import ExampleFiles
from whet.data.ming import MingCsv
from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, find_files
from whet.data.standoff import Standoff
from whet.data.tagged import Inline

Source = Annotated[MingCsv | Inline | Columns | Standoff | ExampleFiles, Field(discriminator="reader")]
"""One source of a recipe; `reader` says which."""


def read(source: SourceSettings, root: Path, tally: Tally | None = None) -> Iterator[Row]:
    """The examples of a source and its rejects, in the order of the files and of their rows, one at a time.

    root: the folder from which a relative path is taken. tally: takes what was counted by the way. Raises InputError
    for a file that is missing, empty, without rows, not in its encoding, or so broken that its rows merge.
    """
    tally = Tally() if tally is None else tally
    match source:
        case MingCsv():
            return ming.read_ming(source, find_files(source, root, ming.SUFFIXES, tally), tally)
        case Inline():
            return tagged.read_inline(source, find_files(source, root, tagged.SUFFIXES, tally), tally)
        case Columns():
            return columns.read_columns(source, find_files(source, root, columns.SUFFIXES, tally), tally)
        case Standoff():
            return standoff.read_standoff(source, find_files(source, root, standoff.SUFFIXES, tally), tally)
        case ExampleFiles():
            return formats.read_examples(source, find_files(source, root, formats.SUFFIXES, tally), tally)
    raise AssertionError(f"no reader for {type(source).__name__}")


SUFFIXES: dict[type[SourceSettings], tuple[str, ...]] = {
    MingCsv: ming.SUFFIXES, Inline: tagged.SUFFIXES, Columns: columns.SUFFIXES, Standoff: standoff.SUFFIXES,
    ExampleFiles: formats.SUFFIXES,
}  # fmt: skip


def files_of(source: SourceSettings, root: Path) -> tuple[DataFile, ...]:
    """The files that a source names, in the order in which they are read."""
    return find_files(source, root, SUFFIXES[type(source)], Tally())


__all__ = [
    "Columns",
    "ExampleFiles",
    "Inline",
    "MingCsv",
    "Reject",
    "Row",
    "Source",
    "SourceSettings",
    "Standoff",
    "Tally",
    "read",
]
