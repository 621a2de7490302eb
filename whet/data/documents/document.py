"""A document: its name, where it lies, and its text in pieces, whatever kind of file it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.data.documents.encoding import Encoding
from whet.data.documents.html import read_html, read_markdown
from whet.data.documents.pdf import Box, boxes, read_pdf
from whet.data.documents.plain import read_plain
from whet.data.documents.source import DocumentSettings, Kind, Piece
from whet.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """Something with a text: a file, standard input, or a row of a file of rows."""

    name: str
    """The path as it was given, with slashes; "-" for standard input; `FILE:LINE` or `FILE#ID` for a row."""
    path: Path | None
    """Its file, or that of its rows; None for standard input."""
    kind: Kind
    stamp: str
    """What changes when the file changes: its size and time, or a hash of its text."""
    num_bytes: int
    """Size of the file, or of the row's text in UTF-8."""
    settings: DocumentSettings = field(repr=False)
    encoding: Encoding | None = None
    """Of a text file: its name, and whether it was declared, marked in the file, or detected."""
    text: str | None = field(default=None, repr=False)
    """A row's text."""
    num_pages: int = 0
    """Of a PDF."""
    copy: Any = field(default=None, repr=False, compare=False)
    """Of standard input: `name` is the path of its file, which goes away with this object unless it is kept."""

    def pieces(self) -> Iterator[Piece]:
        """The text in stretches, from the beginning; may be called again.

        What can't be read in a part of the document is a piece with a problem. Raises InputError for a file that can't
        be read at all, or that has changed since it was found.
        """
        if self.text is not None:
            yield Piece(self.text, 0)
            return
        path = self._readable()
        encoding = self.encoding or Encoding("utf-8", "detected")
        match self.kind:
            case "pdf":
                yield from read_pdf(path, self.name, self.settings)
            case "html":
                yield from read_html(path, self.name, encoding)
            case "markdown" if self.settings.markdown == "plain":
                yield from read_markdown(path, self.name, encoding)
            case _:
                yield from read_plain(path, self.name, encoding)

    def boxes(self, start: int, end: int, at_page: tuple[int, int] | None = None) -> list[Box]:
        """Where characters `start` to `end` stand on the pages of a PDF, one rectangle for each stretch of a line.

        at_page: a page and the offset at which it begins, at or before `start` (as `Chunk.pages` has them); without it
        all pages before are read. Other kinds of documents have no places.
        """
        if self.kind != "pdf":
            return []
        return boxes(self._readable(), self.name, self.settings, (start, end), at_page)

    def _readable(self) -> Path:
        if self.copy is not None:
            return Path(self.copy.name)
        if self.path is None:
            raise InputError(self.name, "has no file")
        try:
            stamp = file_stamp(self.path)
        except OSError as error:
            raise InputError(self.name, f"can't be read ({error.strerror})") from None
        if stamp != self.stamp:
            raise InputError(self.name, "has changed since it was found", "Run again when nothing writes to it")
        return self.path


def file_stamp(path: Path) -> str:
    """Size and time of the last change of a file; OSError if there is none."""
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"
