"""PDF files through pdfium: the text layer page by page, what a page lacks, and where characters stand on it."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from whet.data.documents.layout import PageText, read_page, seam
from whet.data.documents.lines import Glyph
from whet.data.documents.source import DocumentSettings, Piece
from whet.errors import InputError, MissingExtraError, open_to_read

MAX_GLYPHS = 2_000_000  # of one page; more of them are not text that was meant to be read
MAX_BROKEN = 1000  # pages one after the other that can't be opened, before the rest is given up
_TAIL_BYTES = 4096
_FEW = 20  # characters on a page that is a picture otherwise: its number, a stamp
_LOCK = RLock()  # pdfium is not safe in threads


class Box(NamedTuple):
    """A rectangle on a page, in points from its lower left corner."""

    page: int
    x0: float
    y0: float
    x1: float
    y1: float


def read_pdf(path: Path, name: str, settings: DocumentSettings) -> Iterator[Piece]:
    """The pages of a PDF, one piece each. A page that lacks text, and a file that was cut off, are pieces with a problem.

    Raises InputError for a file that can't be opened: damaged, encrypted, without pages.
    """
    start = 0
    held: tuple[int, PageText, str] | None = None
    with _opened(path, name, settings) as document:
        for item in _pages(document):
            if held is not None:
                piece = _piece(held, start, seam(held[1], item[1]) if held[1].text else "")
                start += len(piece.text)
                yield piece
            held = item
    if held is not None:
        piece = _piece(held, start, "")
        start += len(piece.text)
        yield piece
    if _is_cut_off(path, name):
        yield Piece("", start, None, "the file lacks its end mark: it was likely cut off, and pages may be missing")


def check_pdf(path: Path, name: str, settings: DocumentSettings) -> int:
    """The number of pages of a PDF; InputError, in words, if it can't be opened."""
    with _opened(path, name, settings) as document, _LOCK:
        return len(document)


def boxes(
    path: Path, name: str, settings: DocumentSettings, span: tuple[int, int], at_page: tuple[int, int] | None = None
) -> list[Box]:
    """Where characters `span` (start, end) of a document stand: a rectangle for each stretch of a line.

    at_page: a page and the offset in the document where it begins, at or before the span; without it all pages up to the
    span are read first.
    """
    found: list[Box] = []
    with _opened(path, name, settings) as document:
        number, start = at_page or (1, 0)
        page = _read(document, number)[0]
        while start < span[1]:
            wanted = [at for at in page.numbers[max(0, span[0] - start) : max(0, span[1] - start)] if at >= 0]
            if wanted:
                found += _outline(document, number, wanted)
            start += len(page.text)
            if number == len(document) or start >= span[1]:
                break
            before, page = page, _read(document, number + 1)[0]
            start += len(seam(before, page)) if before.text else 0
            number += 1
    return found


def _piece(item: tuple[int, PageText, str], start: int, after: str) -> Piece:
    number, page, problem = item
    return Piece(page.text + after, start, number, problem)


@contextmanager
def _opened(path: Path, name: str, settings: DocumentSettings) -> Iterator[Any]:
    """A PDF document of pypdfium2; every reason why it can't be opened is an InputError."""
    try:
        import pypdfium2
        from pypdfium2 import raw
    except ImportError:
        raise MissingExtraError("pypdfium2", "documents", "reading PDFs") from None
    variable = settings.pdf_password_env
    password = os.environ.get(variable) if variable else None
    with _LOCK:
        try:
            document = pypdfium2.PdfDocument(path, password=password)
            if len(document) == 0:
                document.close()
                raise InputError(name, "is a PDF without pages", "It is likely damaged; get another copy")
        except pypdfium2.PdfiumError as error:
            if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
                seen = "is encrypted" + (f", and the password in ${variable} does not open it" if password else "")
                remedy = "Put its password into an environment variable and name that in extract.documents.pdf_password_env"
                raise InputError(name, seen, remedy) from None
            if getattr(error, "err_code", None) == raw.FPDF_ERR_SECURITY:
                raise InputError(name, "is encrypted in a way that is not known", "Save it without protection") from None
            seen = "is damaged: it begins as a PDF, but its pages can't be found"
            raise InputError(name, seen, "Get another copy, or open it in a viewer and save it anew") from None
        except OSError as error:
            raise InputError(name, f"can't be read ({error.strerror})") from None
    try:
        yield document
    finally:
        with _LOCK:
            document.close()


def _pages(document: Any) -> Iterator[tuple[int, PageText, str]]:
    """Number, text and problem of each page. Pages in a row that can't be opened are told of once, with the first's number."""
    count, broken = len(document), 0
    for number in range(1, count + 1):
        page, problem = _read(document, number)
        if problem == _BROKEN:
            broken += 1
            if broken < MAX_BROKEN:
                continue
            yield number - broken + 1, PageText(), f"pages {number - broken + 1:,} to {count:,} can't be opened: {_BROKEN}"
            return
        if broken:
            yield number - broken, PageText(), _span_of_broken(number - broken, number - 1)
            broken = 0
        yield number, page, problem
    if broken:
        yield count - broken + 1, PageText(), _span_of_broken(count - broken + 1, count)


_BROKEN = "the file is damaged there"


def _span_of_broken(first: int, last: int) -> str:
    return f"page{f' {first}' if first == last else f's {first:,} to {last:,}'} can't be opened: {_BROKEN}"


def _read(document: Any, number: int) -> tuple[PageText, str]:
    """The text of a page and what is wrong with it."""
    import pypdfium2

    with _LOCK:
        try:
            page = document[number - 1]
        except pypdfium2.PdfiumError:
            return PageText(), _BROKEN
        try:
            text_page = page.get_textpage()
            try:
                glyphs, problem = _glyphs(text_page, number)
            finally:
                text_page.close()
            read = read_page(glyphs)
            if len(read.text) < _FEW:
                problem = problem or _lack(page, number, read.text)
            return read, problem
        except pypdfium2.PdfiumError:
            return PageText(), f"page {number:,} can't be read: {_BROKEN}"
        finally:
            page.close()


def _glyphs(text_page: Any, number: int) -> tuple[list[Glyph], str]:
    """The glyphs of a page, and a problem if their fonts do not say which characters they are."""
    from pypdfium2 import raw

    handle, count = text_page.raw, text_page.count_chars()
    if count > MAX_GLYPHS:
        return [], f"page {number:,} holds {count:,} characters, which is no page of a text: it is not read"
    code_of, box_of, is_made = raw.FPDFText_GetUnicode, raw.FPDFText_GetLooseCharBox, raw.FPDFText_IsGenerated
    box = raw.FS_RECTF()
    place = ctypes.byref(box)
    glyphs: list[Glyph] = []
    high = 0
    for at in range(count):
        code = code_of(handle, at)
        if 0xD800 <= code < 0xDC00:
            high = code
            continue
        if 0xDC00 <= code < 0xE000 and high:
            code = 0x10000 + ((high - 0xD800) << 10) + code - 0xDC00
        high = 0
        if not box_of(handle, at, place):
            box.left = box.right = box.bottom = box.top = 0.0
        made = code == 0x20 and is_made(handle, at) == 1
        glyphs.append(Glyph(code, at, box.left, box.bottom, box.right, box.top, made))
    sample = range(0, count, max(1, count // 200))
    num_unknown = sum(raw.FPDFText_HasUnicodeMapError(handle, at) == 1 for at in sample)
    if count and 5 * num_unknown > len(sample):
        share = f"{100 * num_unknown // len(sample)} %"
        return glyphs, f"page {number:,} does not say what {share} of its characters are: its text is likely wrong. It needs OCR"
    return glyphs, ""


def _lack(page: Any, number: int, text: str) -> str:
    """Why a page has hardly any text; empty if nothing seems to lack."""
    from pypdfium2 import raw

    kinds = set()
    covered = 0.0
    for thing in islice(page.get_objects(max_depth=4), 10_000):
        kinds.add(thing.type)
        if thing.type == raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = thing.get_bounds()
            covered = max(covered, (right - left) * (top - bottom))
    if raw.FPDF_PAGEOBJ_IMAGE in kinds and not text:
        return f"page {number:,} holds an image and no text: it needs OCR"
    if raw.FPDF_PAGEOBJ_IMAGE in kinds and covered > 0.7 * page.get_width() * page.get_height():
        return f"page {number:,} is an image with only {len(text)} characters of text: it needs OCR"
    if text:
        return ""
    if raw.FPDF_PAGEOBJ_PATH in kinds:
        return f"page {number:,} holds drawings and no text: it needs OCR if they are letters"
    return f"page {number:,} is blank, or its content is damaged"


def _outline(document: Any, number: int, wanted: list[int]) -> list[Box]:
    """The boxes of glyphs, those of one line that touch each other as one."""
    from pypdfium2 import raw

    found: list[Box] = []
    with _LOCK:
        page = document[number - 1]
        text_page = page.get_textpage()
        box = raw.FS_RECTF()
        for at in wanted:
            if not raw.FPDFText_GetLooseCharBox(text_page.raw, at, ctypes.byref(box)):
                continue
            new = Box(number, box.left, box.bottom, box.right, box.top)
            last = found[-1] if found else None
            if last is not None and _touches(last, new):
                found[-1] = Box(
                    number, min(last.x0, new.x0), min(last.y0, new.y0), max(last.x1, new.x1), max(last.y1, new.y1)
                )  # fmt: skip
            else:
                found.append(new)
        text_page.close()
        page.close()
    return found


def _touches(last: Box, new: Box) -> bool:
    """Whether a box goes on where the last one ended, on the same line, horizontal or vertical."""
    across = min(last.y1, new.y1) - max(last.y0, new.y0) > 0.5 * (new.y1 - new.y0)
    down = min(last.x1, new.x1) - max(last.x0, new.x0) > 0.5 * (new.x1 - new.x0)
    near = 0.8 * max(new.x1 - new.x0, new.y1 - new.y0)
    apart = max(new.x0 - last.x1, last.x0 - new.x1) if across else max(new.y0 - last.y1, last.y0 - new.y1)
    return (across or down) and apart < near


def _is_cut_off(path: Path, name: str) -> bool:
    with open_to_read(path) as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return b"%%EOF" not in file.read()
