"""The source texts behind an extraction's output, one after the other, only what is wanted of each held in memory."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.pipeline.view.rows import Range


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of a document's text, where it starts in it (code points), its page, and what is wrong with that page."""

    text: str
    start: int
    page: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SourceText:
    """A document's name, as the rows say it, and its text in pieces that follow each other."""

    name: str
    pieces: Iterable[TextPiece]


@dataclass(frozen=True, slots=True)
class PageStart:
    """Where a page begins in a document (code points), its number, and what is wrong with it."""

    start: int
    number: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of a document's text that is shown whole."""

    start: int
    text: str
    pages: tuple[PageStart, ...] = ()
    """Pages that begin in it, and first of all the page that it begins in."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def texts_of(out_path: Path, wanted: Collection[str]) -> Iterator[SourceText]:
    """The text of each wanted document, in the order in which they were read; one that is gone is left out."""
    for name in wanted:
        path = Path(name)
        if path.is_file():
            yield SourceText(name, [TextPiece(path.read_bytes().decode("utf-8"), 0)])


def read_passages(pieces: Iterable[TextPiece], ranges: Sequence[Range]) -> tuple[tuple[Passage, ...], bool]:
    """The passages of a text that the ranges cover, and whether the text goes on behind the last of them.

    ranges: one or more, sorted, apart from each other. Reading stops behind the last one.
    """
    passages: list[Passage] = []
    texts: list[str] = []
    pages: list[PageStart] = []
    at = 0
    for piece in pieces:
        end = piece.start + len(piece.text)
        while at < len(ranges) and (ranges[at][0] < end or (not piece.text and ranges[at][0] <= end)):
            start, stop = max(ranges[at][0], piece.start), min(ranges[at][1], end)
            if piece.page is not None and (not pages or pages[-1].number != piece.page or piece.problem):
                pages.append(PageStart(start, piece.page, piece.problem))
            texts.append(piece.text[start - piece.start : stop - piece.start])
            if ranges[at][1] > end:
                break  # the next piece goes on with it
            passages.append(Passage(ranges[at][0], "".join(texts), tuple(pages)))
            texts, pages, at = [], [], at + 1
        if at == len(ranges) and end > ranges[-1][1]:
            return tuple(passages), True
    if texts:
        passages.append(Passage(ranges[at][0], "".join(texts), tuple(pages)))
    return tuple(passages), False
