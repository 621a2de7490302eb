"""The lines of a page: glyphs cut at breaks and wide gaps, measured along the page's writing direction."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

HYPHEN = 2  # what pdfium gives for a hyphen that only breaks a word at the end of a line
SOFT_HYPHEN = 0xAD
SPACES = frozenset((0x09, 0x20, 0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F))
EAST = re.compile("[\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe10-\ufe4f\uff00-\uffef\U0001aff0-\U0003ffff]")
_BREAKS = (0x0A, 0x0D)
_WIDE_GAP = 1.8  # in ems: cells of a table, columns
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_CLOSING = re.compile("[\u3001\u3002\uff0c\uff0e\uff1a\uff1b\uff1f\uff01”’」』）】》〉〕］｝)\\]},.;:!?]")
_FIRST_WORD = re.compile(rf"{EAST.pattern}{_CLOSING.pattern}*|\S+")


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


def find_lines(glyphs: Sequence[Glyph]) -> list[Line]:
    """The glyphs cut at breaks, at hyphens and at wide gaps that no space of the file fills; all measured."""
    lines: list[Line] = []
    now: list[Glyph] = []
    last: Glyph | None = None

    def end(has_hyphen: bool = False) -> None:
        nonlocal now, last
        while now and now[-1].is_made:
            now.pop()
        if any(glyph.code not in SPACES for glyph in now):
            lines.append(Line(now, has_hyphen or now[-1].code == SOFT_HYPHEN))
        now, last = [], None

    for glyph in glyphs:
        if glyph.code in _BREAKS:
            end()
        elif glyph.code == HYPHEN:
            end(has_hyphen=True)
        elif glyph.is_made:
            now.append(glyph)
        elif glyph.code <= 0x10FFFF:
            beside = 0.5 * (glyph.x1 - glyph.x0)
            if last is not None and not (-beside < glyph.x0 - last.x1 < beside and last.y0 < glyph.y1 and glyph.y0 < last.y1):
                em = max(min(glyph.x1 - glyph.x0, glyph.y1 - glyph.y0), min(last.x1 - last.x0, last.y1 - last.y0), 1.0)
                gap = max(glyph.x0 - last.x1, last.x0 - glyph.x1, glyph.y0 - last.y1, last.y0 - glyph.y1)
                if gap > _WIDE_GAP * max(em, 0.7 * min(glyph.y1 - glyph.y0, last.y1 - last.y0)):
                    end()
            now.append(glyph)
            last = glyph
    end()
    if lines:
        _turn(lines)
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
    rises = sum(after.v0 > line.v1 for line, after in pairwise(lines))
    falls = sum(after.v1 < line.v0 for line, after in pairwise(lines))
    if way == "down" or rises > falls:
        _sort(lines)


def _sort(lines: list[Line]) -> None:
    """Put lines into the order in which they follow one another on the page, those beside each other from their beginning.

    pdfium gives lines that it sees upright (vertical writing, pages that lie on their side) in the order of their x.
    """
    lines.sort(key=lambda line: -line.v0 - line.v1)
    row, rows = lines[0], 0
    places: dict[int, tuple[int, float]] = {}
    for line in lines:
        if row.v0 + row.v1 - line.v0 - line.v1 > 0.6 * row.size:
            row, rows = line, rows + 1
        places[id(line)] = rows, line.u0
    lines.sort(key=lambda line: places[id(line)])


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
