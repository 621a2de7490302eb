"""The glyphs of a page to its text: lines, columns and writing direction found, lines of a paragraph joined."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from statistics import median
from typing import NamedTuple

HYPHEN = 2  # what pdfium gives for a hyphen that only breaks a word at the end of a line
_SOFT_HYPHEN = 0xAD
_BREAKS = (0x0A, 0x0D)
_SPACES = frozenset((0x09, 0x20, 0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F))
_WIDE_GAP = 1.8  # in ems: cells of a table, columns
_MIN_LINES = 3  # of a column
_EAST = re.compile("[\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe10-\ufe4f\uff00-\uffef\U0001aff0-\U0003ffff]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_CLOSING = re.compile("[\u3001\u3002\uff0c\uff0e\uff1a\uff1b\uff1f\uff01”’」』）】》〉〕］｝)\\]},.;:!?]")
_FIRST_WORD = re.compile(rf"{_EAST.pattern}{_CLOSING.pattern}*|\S+")
_SENTENCE_END = re.compile('[。！？；：.!?;:”’」』）"]\\Z')
# Fonts of many Chinese PDFs map a character to the radical that looks like it, which no search would find.
_RADICALS = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2F00, 0x2FD6)}


class Glyph(NamedTuple):
    """One glyph: its character (a code point), its number on the page, its box in points, y upwards."""

    code: int
    number: int
    x0: float
    y0: float
    x1: float
    y1: float
    is_made: bool = False
    """Whether it is a space that stands nowhere in the file and was put in for a gap."""


@dataclass(slots=True)
class Line:
    """Glyphs on one line, with nothing but small gaps between them. `u` runs along the line, `v` falls from line to line."""

    glyphs: list[Glyph]
    has_hyphen: bool = False
    u0: float = 0.0
    u1: float = 0.0
    v0: float = 0.0
    v1: float = 0.0
    size: float = 0.0
    """Of a glyph, across the line."""
    first_width: float = 0.0
    """Of its first word, in the direction of `u`."""
    text: str = ""

    @property
    def width(self) -> float:
        return self.u1 - self.u0


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
    lines = _lines(glyphs)
    if not lines:
        return PageText()
    _turn(lines)
    page = PageText()
    before: tuple[Line, _Block] | None = None
    for block in _blocks(lines):
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


def _lines(glyphs: Sequence[Glyph]) -> list[Line]:
    """The glyphs cut at breaks, at hyphens and at wide gaps that no space of the file fills."""
    lines: list[Line] = []
    now: list[Glyph] = []
    last: Glyph | None = None

    def end(has_hyphen: bool = False) -> None:
        nonlocal now, last
        while now and now[-1].is_made:
            now.pop()
        if any(glyph.code not in _SPACES for glyph in now):
            lines.append(Line(now, has_hyphen or now[-1].code == _SOFT_HYPHEN))
        now, last = [], None

    for glyph in glyphs:
        if glyph.code in _BREAKS:
            end()
        elif glyph.code == HYPHEN:
            end(has_hyphen=True)
        elif glyph.is_made:
            now.append(glyph)
        else:
            beside = 0.5 * (glyph.x1 - glyph.x0)
            if last is not None and not (-beside < glyph.x0 - last.x1 < beside and last.y0 < glyph.y1 and glyph.y0 < last.y1):
                em = max(min(glyph.x1 - glyph.x0, glyph.y1 - glyph.y0), min(last.x1 - last.x0, last.y1 - last.y0), 1.0)
                gap = max(glyph.x0 - last.x1, last.x0 - glyph.x1, glyph.y0 - last.y1, last.y0 - glyph.y1)
                if gap > _WIDE_GAP * max(em, 0.7 * min(glyph.y1 - glyph.y0, last.y1 - last.y0)):
                    end()
            now.append(glyph)
            last = glyph
    end()
    return lines


def _turn(lines: list[Line]) -> None:
    """Measure all lines in the page's writing direction: right, left, down (columns from right to left), or up."""
    votes: Counter[str] = Counter()
    for line in lines:
        first, last = line.glyphs[0], line.glyphs[-1]
        right, up = first.x0 + first.x1 - last.x0 - last.x1, first.y0 + first.y1 - last.y0 - last.y1
        if max(abs(right), abs(up)) > 0:
            way = ("left" if right > 0 else "right") if abs(right) >= abs(up) else ("down" if up > 0 else "up")
            votes[way] += len(line.glyphs)
    way = votes.most_common(1)[0][0] if votes else "right"
    if way == "left":
        text = "".join(chr(glyph.code) for line in lines for glyph in line.glyphs)
        way = "script" if 2 * len(_RIGHT_TO_LEFT.findall(text)) > len(text) / 2 else "left"
    for line in lines:
        _measure(line, way)
    if way == "down":
        # pdfium has put columns that begin at one height into the order of their x.
        lines.sort(key=lambda line: -line.v1)


def _measure(line: Line, way: str) -> None:
    glyphs = [glyph for glyph in line.glyphs if not glyph.is_made]
    line.u0, line.u1, line.v0, line.v1 = _turned(glyphs, way)
    if way in ("down", "up"):
        line.size = max(median([glyph.x1 - glyph.x0 for glyph in glyphs]), 1.0)
    else:
        line.size = max(median([glyph.y1 - glyph.y0 for glyph in glyphs]), 1.0)
    line.text = "".join([chr(glyph.code) for glyph in line.glyphs])
    begin = len(line.text) - len(line.text.lstrip())
    word = _FIRST_WORD.match(line.text, begin)
    inside = [glyph for glyph in line.glyphs[begin : word.end() if word else begin] if not glyph.is_made]
    u0, u1, _, _ = _turned(inside or glyphs[:1], way)
    line.first_width = u1 - u0


def _turned(glyphs: Sequence[Glyph], way: str) -> tuple[float, float, float, float]:
    """The box of glyphs as u0, u1, v0, v1."""
    x0, x1 = min([glyph.x0 for glyph in glyphs]), max([glyph.x1 for glyph in glyphs])
    y0, y1 = min([glyph.y0 for glyph in glyphs]), max([glyph.y1 for glyph in glyphs])
    match way:
        case "down":
            return -y1, -y0, x0, x1
        case "up":
            return y0, y1, -x1, -x0
        case "left":
            return -x1, -x0, -y1, -y0
        case "script":
            return -x1, -x0, y0, y1
    return x0, x1, y0, y1


@dataclass(slots=True)
class _Block:
    """Lines of one column, in the order in which they are read."""

    lines: list[Line]
    left: float = field(init=False)
    right: float = field(init=False)
    is_flush: bool = field(init=False)
    """Whether several lines end at its right edge."""

    def __post_init__(self) -> None:
        size = median(line.size for line in self.lines)
        most = max(2, len(self.lines) // 5)
        begins, ends = sorted(line.u0 for line in self.lines), sorted((line.u1 for line in self.lines), reverse=True)
        # A page number or a note in the margin is no edge: several lines must begin or end there.
        lefts = (low for low, high in zip(begins, begins[most - 1 :], strict=False) if high - low < 0.5 * size)
        flush = next((high for high, low in zip(ends, ends[most - 1 :], strict=False) if high - low < size), None)
        self.left = next(lefts, begins[0])
        self.right, self.is_flush = (ends[0], False) if flush is None else (flush, True)

    def is_full(self, line: Line, room: float | None = None) -> bool:
        """Whether a line ends because there was no room for more. room: what would have had to fit."""
        if line.width < (8 if self.is_flush else 20) * line.size:
            return False
        return line.u1 + (line.size if room is None else room) > self.right - 0.3 * line.size


def _blocks(lines: list[Line]) -> list[_Block]:
    """Columns one after the other. Lines that cross the gap between two columns part what stands above and below them."""
    gutter = _gutter(lines)
    if gutter is None:
        return [_Block(lines)]
    heights = sorted((line.v0 + line.v1 for line in lines if line.u0 < gutter < line.u1), reverse=True)

    def place(line: Line) -> tuple[int, int]:
        """The band that a line is in, bands between crossing lines even, runs of crossing lines odd; and its column."""
        above = sum(height > line.v0 + line.v1 for height in heights)
        return (2 * above + 1, 0) if line.u0 < gutter < line.u1 else (2 * above, 1 if line.u1 <= gutter else 2)

    blocks: list[_Block] = []
    for (_, side), found in groupby(sorted(lines, key=place), key=place):
        group = list(found)
        if side:
            blocks += _blocks(group)
        elif blocks and blocks[-1].lines[-1].u0 < gutter < blocks[-1].lines[-1].u1:
            blocks[-1] = _Block(blocks[-1].lines + group)
        else:
            blocks.append(_Block(group))
    return blocks


def _gutter(lines: list[Line]) -> float | None:
    """Where along the lines two columns of running text are parted; None if they are not.

    Only lines that fill their column make one: cells of a table stay in the order of the file.
    """
    if len(lines) < 2 * _MIN_LINES:
        return None
    begin, end = min(line.u0 for line in lines), max(line.u1 for line in lines)
    em = median(line.size for line in lines)
    edges = sorted({line.u1 for line in lines} | {line.u0 for line in lines})
    best: tuple[int, float, float] | None = None
    for low, high in pairwise(edges):
        if high - low < 0.5 * em or low < begin + 0.15 * (end - begin) or high > end - 0.15 * (end - begin):
            continue
        crossing = sum(line.u0 <= low and line.u1 >= high for line in lines)
        if best is None or (crossing, low - high) < best[:2]:
            best = (crossing, low - high, (low + high) / 2)
    if best is None:
        return None
    sides = [line for line in lines if line.u1 <= best[2]], [line for line in lines if line.u0 >= best[2]]
    for side in sides:
        width = max((line.u1 for line in side), default=0.0) - min((line.u0 for line in side), default=0.0)
        num_full = sum(line.width > 0.7 * width for line in side)
        if len(side) < _MIN_LINES or width < 6 * em or 2 * num_full < len(side):
            return None
    (low, high), (other_low, other_high) = ((min(x.v0 for x in side), max(x.v1 for x in side)) for side in sides)
    shared = min(high, other_high) - max(low, other_low)
    return best[2] if shared > 0.5 * min(high - low, other_high - other_low) else None


def _join(page: PageText, line: Line, after: Line, block: _Block, next_block: _Block) -> None:
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
    return "" if _EAST.match(text[-1:]) or _EAST.match(after.text.lstrip()[:1]) else " "


def _write(page: PageText, line: Line) -> None:
    """Put the characters of a line behind the page's text."""
    parts, numbers = [], page.numbers
    last = page.text[-1:]
    for at, glyph in enumerate(line.glyphs):
        code = glyph.code
        if 0x3000 <= code < 0xD800:
            text = chr(code)
        elif code in _SPACES:
            if last in ("", " ", "\n") or (glyph.is_made and _is_inside_chinese(line.glyphs, at)):
                continue
            text = " "
        elif code in _RADICALS:
            text = _RADICALS[code]
        elif code == _SOFT_HYPHEN or _is_no_character(code):
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
        or code == 0xFEFF or code > 0x10FFFF
    )  # fmt: skip


def _is_inside_chinese(glyphs: list[Glyph], at: int) -> bool:
    """Whether a space that was made for a gap stands between two Chinese characters that are only set loosely."""
    if not 0 < at < len(glyphs) - 1:
        return False
    before, after = glyphs[at - 1], glyphs[at + 1]
    em = max(before.x1 - before.x0, before.y1 - before.y0)
    gap = max(after.x0 - before.x1, before.x0 - after.x1, after.y0 - before.y1, before.y0 - after.y1)
    return gap < 0.7 * em and bool(_EAST.match(chr(before.code)) and _EAST.match(chr(after.code)))


def _put(page: PageText, text: str) -> None:
    page.text += text
    page.numbers += [-1] * len(text)


def _strip(page: PageText) -> None:
    """Take spaces off the end."""
    text = page.text.rstrip(" ")
    del page.numbers[len(text) :]
    page.text = text
