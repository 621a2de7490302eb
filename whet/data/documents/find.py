"""The documents in files, folders and standard input, one after the other; what is none is refused by name."""

import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from whet.data.documents.document import Document, file_stamp
from whet.data.documents.encoding import HEAD_BYTES, find_encoding
from whet.data.documents.pdf import check_pdf
from whet.data.documents.rows import Text, read_rows
from whet.data.documents.sniff import find_form
from whet.data.documents.source import DocumentSettings, Kind, Refused
from whet.errors import InputError, open_to_read
from whet.storage import hash_text, staged_file

STANDARD_INPUT = "-"
_STAMP_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Before:
    """What is known of the inputs already."""

    is_left_out: Callable[[Path], bool] = lambda path: False
    """Whether a file or folder below an input is no source."""
    kind_of: Callable[[str, str], Kind | None] = lambda name, stamp: None
    """The kind of a file, by its name and its stamp, that need not be read again: it is then not even opened."""
    kept: Path | None = None
    """Where standard input is kept; a passing file where nobody says."""


NOTHING = Before()


def find_documents(inputs: Sequence[str], settings: DocumentSettings, before: Before = NOTHING) -> Iterator[Document | Refused]:
    """Every document of the inputs in their order, and everything that can't be read.

    A folder gives the files in it and below, sorted by name; hidden ones are left out, and so is what `before` says.
    "-" is standard input. Nothing is listed ahead but the names of one folder at a time. Raises InputError
    at once for an input that is not there.
    """
    if not inputs:
        raise InputError("", "no input is named", "Name files, folders, or - for standard input")
    if list(inputs).count(STANDARD_INPUT) > 1:
        raise InputError(STANDARD_INPUT, "standard input is named twice", "It can be read once")
    roots = []
    for name in inputs:
        if not name:
            raise InputError("", "an input has an empty name", "Name a file or a folder; . is the one you stand in")
        if name != STANDARD_INPUT and not os.path.lexists(name):
            raise InputError(name, "no such file or folder", "Check the path; it is taken from the folder you stand in")
        roots.append(_Root(name, Path(name), Path(os.path.realpath(name))))
    return _find(_once(roots), settings, before)


@dataclass(frozen=True, slots=True)
class _Root:
    """An input as it was named, and where it really lies."""

    name: str
    path: Path
    real: Path

    @property
    def is_folder(self) -> bool:
        return self.name != STANDARD_INPUT and self.path.is_dir()

    def holds(self, other: "_Root") -> bool:
        """Whether reading this folder reads the other input too."""
        if not self.is_folder or not other.real.is_relative_to(self.real):
            return False
        return not any(part.startswith(".") for part in other.real.relative_to(self.real).parts)


def _once(roots: list[_Root]) -> list[_Root]:
    """The inputs without those that are read with another one, so that `docs docs/a.txt` reads a.txt once."""
    files = [root for root in roots if root.name != STANDARD_INPUT]
    first = {root.real: root for root in reversed(files)}
    return [
        root
        for root in roots
        if root.name == STANDARD_INPUT
        or (first[root.real] is root and not any(other.real != root.real and other.holds(root) for other in files))
    ]


def standard_input_of(kept: Path, settings: DocumentSettings, name: str = STANDARD_INPUT) -> Iterator[Document | Refused]:
    """The documents of standard input as it was kept in a file."""
    with open_to_read(kept) as file:
        yield from _of_copy(file, _Kept(str(kept)), name, settings)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A copy that outlives its document."""

    name: str


def _find(roots: list[_Root], settings: DocumentSettings, before: Before) -> Iterator[Document | Refused]:
    for root in roots:
        if root.name == STANDARD_INPUT:
            yield from _from_stream(sys.stdin.buffer, STANDARD_INPUT, settings, before.kept)
        elif root.is_folder:
            num_found = 0
            for found in _walk(root, settings, before):
                num_found += 1
                yield found
            if not num_found:
                yield Refused(shown(root.path), "is a folder without files (hidden ones are left out)")
        else:
            yield from _open(root.path, shown(root.path), settings, before, is_named=True)


def _walk(root: _Root, settings: DocumentSettings, before: Before) -> Iterator[Document | Refused]:
    """The files of a folder and of those below it. A folder's names are held while it is read, nothing else of it."""
    waiting = [iter([root.path])]
    while waiting:
        path = next(waiting[-1], None)
        if path is None:
            waiting.pop()
            continue
        if path is not root.path and before.is_left_out(path):
            continue
        try:
            mode = path.lstat().st_mode if path is not root.path else stat.S_IFDIR
            if stat.S_ISDIR(mode):
                waiting.append(_children(path))
                continue
        except OSError as error:
            yield Refused(shown(path), f"can't be read ({error.strerror})")
            continue
        if stat.S_ISLNK(mode) and (reason := _why_not_followed(path, root)):
            yield Refused(shown(path), reason)
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield from _open(path, shown(path), settings, before, is_named=False)
        else:
            yield Refused(shown(path), "is no file but a device, pipe or socket")


def _children(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return (folder / name for name in names)


def _why_not_followed(path: Path, root: _Root) -> str:
    """Why a link in a folder is not followed; empty if it leads to a file of the folder that is not read by itself."""
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root.real):
        return f"is a link that leaves the folder, to {shown(target)}; name that to have it read"
    inside = target.relative_to(root.real)
    if not any(part.startswith(".") for part in inside.parts):
        return f"is a link to {inside.as_posix()}, which is read under that name" if target.exists() else "is a link to nothing"
    if target.is_dir():
        return f"is a link to a hidden folder, {inside.as_posix()}; name that to have it read"
    return ""


def _open(path: Path, name: str, settings: DocumentSettings, before: Before, *, is_named: bool) -> Iterator[Document | Refused]:
    """The document that a file is, the documents of its rows, or why it is none."""
    try:
        if is_named and stat.S_ISFIFO(path.stat().st_mode):
            with path.open("rb") as stream:
                yield from _from_stream(stream, name, settings)
            return
        stamp = file_stamp(path)
        if kind := before.kind_of(name, stamp):
            yield Document(name, path, kind, stamp, path.stat().st_size, settings)
            return
        with path.open("rb") as file:
            stamp = file_stamp(path)
            yield from _recognised(file, _Place(name, path, path, stamp), settings, is_named)
    except OSError as error:
        yield Refused(name, f"can't be read ({error.strerror})")


def _from_stream(
    stream: IO[bytes], name: str, settings: DocumentSettings, kept: Path | None = None
) -> Iterator[Document | Refused]:
    """The documents of a stream, which is put into a file first, since a PDF can't be read from front to back."""
    if kept:
        with staged_file(kept) as staged, staged.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        yield from standard_input_of(kept, settings, name)
        return
    copy = tempfile.NamedTemporaryFile(prefix="whet-")  # noqa: SIM115 (the document keeps it)
    shutil.copyfileobj(stream, copy, 1 << 20)
    yield from _of_copy(copy, copy, name, settings)


def _of_copy(file: Any, copy: Any, name: str, settings: DocumentSettings) -> Iterator[Document | Refused]:
    file.seek(0)
    total = hashlib.file_digest(file, "sha256")
    file.seek(0)
    yield from _recognised(file, _Place(name, None, Path(copy.name), total.hexdigest()[:_STAMP_DIGITS], copy), settings, True)


@dataclass(frozen=True, slots=True)
class _Place:
    """A file that is open: its name for people, its path, the path to read, its stamp, and what keeps it there."""

    name: str
    path: Path | None
    readable: Path
    stamp: str
    copy: Any = None


def _recognised(file: IO[bytes], place: _Place, settings: DocumentSettings, is_named: bool) -> Iterator[Document | Refused]:
    head = file.read(HEAD_BYTES)
    form, reason = find_form(place.name, head, settings, is_named)
    size = os.fstat(file.fileno()).st_size
    if form is None:
        yield Refused(place.name, reason)
    elif form == "pdf":
        try:
            num_pages = check_pdf(place.readable, place.name, settings)
        except InputError as error:
            yield Refused(place.name, error.what + (f". {error.remedy}" if error.remedy else ""))
        else:
            yield Document(place.name, place.path, "pdf", place.stamp, size, settings, copy=place.copy, num_pages=num_pages)
    else:
        encoding = find_encoding(file, head, settings.encoding, is_html=form == "html")
        if form == "text" or form == "markdown" or form == "html":  # noqa: PLR1714 (narrows the type)
            yield Document(place.name, place.path, form, place.stamp, size, settings, encoding, copy=place.copy)
            return
        for row in read_rows(place.readable, place.name, form, encoding, settings):
            if isinstance(row, Refused):
                yield row
            else:
                yield _row(row, place, settings)


def _row(row: Text, place: _Place, settings: DocumentSettings) -> Document:
    stamp = hash_text(row.text)[:_STAMP_DIGITS]
    return Document(row.name, place.path, "row", stamp, len(row.text.encode()), settings, text=row.text)


def shown(path: Path) -> str:
    """A path for people and files: slashes, and what is no UTF-8 in it written out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
