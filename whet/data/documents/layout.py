"""The glyphs of a page to its text: lines of a paragraph joined, columns one after the other."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from whet.data.documents.columns import Block, find_blocks
from whet.data.documents.lines import EAST, SOFT_HYPHEN, SPACES, Glyph, Line, find_lines

_SENTENCE_END = re.compile('[。！？；：.!?;:”’」』）"]\\Z')
# Fonts of many Chinese PDFs map a character to the radical that looks like it, which no search would find.
_RADICALS = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2F00, 0x2FD6)}


@dataclass(slots=True)
class PageText:
    """The text of a page, and for each of its code points the number of its glyph (-1: put in)."""

    text: str = ""
    numbers: list[int] = field(default_factory=list)
    first: Line | None = None
    last: Line | None = None
    goes_on: bool = False
    """Whether its last line is full, so that its sentence may go on on the next page."""
    begins_full: bool = False
    """Whether its first line is a full line that is not indented."""


def read_page(glyphs: Sequence[Glyph]) -> PageText:
    """Text out of glyphs in the order of the file.

    Lines of one paragraph are joined (with a space between words, nothing between Chinese characters, a hyphen at the
    break taken out); other lines end in a line feed. Columns are read one after the other, vertical ones from right to
    left. Control characters are left out, spaces in a row become one, radicals become the characters they stand for.
    """
    lines = find_lines(glyphs)
    page = PageText()
    if not lines:
        return page
    before: tuple[Line, Block] | None = None
    for block in find_blocks(lines):
        for line in block.lines:
            if before is not None:
                _join(page, before[0], line, before[1], block)
            _write(page, line)
            before = line, block
            page.first = page.first or line
            if page.first is line:
                page.begins_full = block.is_full(line) and line.u0 < block.left + 0.5 * line.size
    if before is not None:
        page.last = before[0]
        page.goes_on = before[1].is_full(before[0]) and not _SENTENCE_END.search(page.text)
    _strip(page)
    return page


def seam(page: PageText, after: PageText) -> str:
    """What stands between the texts of two pages: a line feed, unless a sentence goes on over the break."""
    if page.goes_on and after.begins_full and page.last and after.first and _same_size(page.last, after.first):
        return _between(page.text, after.first)
    return "\n"


def _join(page: PageText, line: Line, after: Line, block: Block, next_block: Block) -> None:
    """Write what stands between two lines that follow one another."""
    shared = min(line.v1, after.v1) - max(line.v0, after.v0)
    if block is next_block and shared > 0.5 * min(line.size, after.size) and after.u0 > line.u1 - 0.3 * line.size:
        _put(page, " ")  # two cells of one row
        return
    flows = _same_size(line, after) and block.is_full(line, after.first_width)
    if block is next_block:
        # What goes on on the next line is neither indented against the line before nor far from it.
        far = line.v0 - after.v1 > 1.2 * line.size or after.v0 > line.v1
        flows = flows and not far and after.u0 < max(line.u0, block.left) + 0.7 * line.size
    else:
        alike = abs(block.right - block.left - next_block.right + next_block.left) < 2 * line.size
        flows = flows and alike and next_block.is_full(after) and after.u0 < next_block.left + 0.5 * after.size
    if flows or (line.has_hyphen and block is next_block):
        _strip(page)
        _put(page, "" if line.has_hyphen else _between(page.text, after))
    else:
        _strip(page)
        _put(page, "\n")


def _same_size(line: Line, after: Line) -> bool:
    return abs(line.size - after.size) < 0.15 * max(line.size, after.size)


def _between(text: str, after: Line) -> str:
    """What parts the words of two lines of one paragraph."""
    return "" if EAST.match(text[-1:]) or EAST.match(after.text.lstrip()[:1]) else " "


def _write(page: PageText, line: Line) -> None:
    """Put the characters of a line behind the page's text."""
    parts, numbers = [], page.numbers
    last = page.text[-1:]
    for at, glyph in enumerate(line.glyphs):
        code = glyph.code
        if 0x3000 <= code < 0xD800:
            text = chr(code)
        elif code in SPACES:
            if last in ("", " ", "\n") or (glyph.is_made and _is_inside_chinese(line.glyphs, at)):
                continue
            text = " "
        elif code in _RADICALS:
            text = _RADICALS[code]
        elif code == SOFT_HYPHEN or _is_no_character(code):
            continue
        else:
            text = chr(code)
        parts.append(text)
        numbers.append(glyph.number)
        last = text
    page.text += "".join(parts)


def _is_no_character(code: int) -> bool:
    return (
        code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code < 0xFDF0
        or code == 0xFEFF
    )  # fmt: skip


def _is_inside_chinese(glyphs: list[Glyph], at: int) -> bool:
    """Whether a space that was made for a gap stands between two Chinese characters that are only set loosely."""
    if not 0 < at < len(glyphs) - 1:
        return False
    before, after = glyphs[at - 1], glyphs[at + 1]
    em = max(before.x1 - before.x0, before.y1 - before.y0)
    gap = max(after.x0 - before.x1, before.x0 - after.x1, after.y0 - before.y1, before.y0 - after.y1)
    return gap < 0.7 * em and bool(EAST.match(chr(before.code)) and EAST.match(chr(after.code)))


def _put(page: PageText, text: str) -> None:
    page.text += text
    page.numbers += [-1] * len(text)


def _strip(page: PageText) -> None:
    """Take spaces off the end."""
    text = page.text.rstrip(" ")
    del page.numbers[len(text) :]
    page.text = text
