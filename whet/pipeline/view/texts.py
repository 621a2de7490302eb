"""The source texts behind an extraction's output, one after the other, only what is wanted of each held in memory."""

import json
import os
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from whet.data.documents.document import Document
from whet.data.documents.find import STANDARD_INPUT, find_documents, standard_input_of
from whet.data.documents.source import DocumentSettings, Piece, Refused
from whet.errors import InputError
from whet.extract.state import FILE, STANDARD_INPUT_FILE
from whet.pipeline.view.rows import Range


@dataclass(frozen=True, slots=True)
class SourceText:
    """A document's name, as the rows say it, and its text in pieces that follow each other."""

    name: str
    pieces: Iterable[Piece]
    problem: str = ""
    """Why it can't be read any more."""


@dataclass(frozen=True, slots=True)
class PageStart:
    """Where a page begins in a document (code points), its number, and what is wrong with it.

    Without a number: where something could not be read in a document that has no pages.
    """

    start: int
    number: int | None
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
    """The text of each wanted document, read as the extraction read it; those that are gone come first, with the reason.

    Names are paths from the folder one stands in, and names of rows in such files.
    """
    state = out_path.with_name(f"{out_path.name}.state")
    kept = state / STANDARD_INPUT_FILE
    files: dict[str, None] = {}
    left = set(wanted)
    for name in wanted:
        is_standard_input = name.partition(":")[0].partition("#")[0] == STANDARD_INPUT
        file = _file_of(name) or (STANDARD_INPUT if is_standard_input and kept.is_file() else None)
        if file is not None:
            files[file] = None
            continue
        left.remove(name)
        if is_standard_input:
            yield SourceText(name, (), "it came from standard input, and what was kept of it is gone")
        else:
            yield SourceText(name, (), "there is no such file; paths are taken from the folder you stand in")
    if not files:
        return
    settings = _document_settings(state / FILE)
    for document in _documents(files, kept, settings):
        if document.name not in left:
            continue
        left.remove(document.name)
        if isinstance(document, Refused):
            yield SourceText(document.name, (), document.reason)
        else:
            yield SourceText(document.name, document.pieces())
        if not left:
            return
    for name in wanted:
        if name in left:
            yield SourceText(name, (), "its file has no such row any more")


def _documents(files: Iterable[str], kept: Path, settings: DocumentSettings) -> Iterator[Document | Refused]:
    for file in files:
        yield from standard_input_of(kept, settings) if file == STANDARD_INPUT else find_documents([file], settings)


def _file_of(name: str) -> str | None:
    """The file that a document's name speaks of: the name itself, or what stands before a row's line or own name."""
    ends = (len(name), *(found.start() for found in reversed(list(re.finditer("[:#]", name)))))
    return next((name[:end] for end in ends if end and os.path.isfile(name[:end])), None)  # noqa: PTH113 (any name, no errors)


def _document_settings(state_path: Path) -> DocumentSettings:
    """How the extraction read its documents; the defaults where its state is gone."""
    if not state_path.is_file():
        return DocumentSettings()
    try:
        with closing(sqlite3.connect(f"{state_path.resolve().as_uri()}?mode=ro", uri=True)) as state:
            row = state.execute("SELECT value FROM facts WHERE name = 'settings'").fetchone()
    except sqlite3.Error as error:
        raise InputError(str(state_path), f"can't be read ({error})", "Extract again with --anew") from None
    return DocumentSettings.model_validate(json.loads(row[0])["extract"]["documents"]) if row else DocumentSettings()


def read_passages(pieces: Iterable[Piece], ranges: Sequence[Range]) -> tuple[tuple[Passage, ...], bool]:
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
            is_new = piece.page is not None and (not pages or pages[-1].number != piece.page)
            if is_new or piece.problem:
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
