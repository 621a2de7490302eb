"""Cuts a chunk whose reply did not fit, or could not be read, in two halves that overlap."""

import regex

from whet.extract.sentences import ENDS
from whet.extract.state import Part
from whet.storage import canonical, hash_text

MIN_CHARS = 24  # a half that is shorter says too little by itself


def halve(part: Part, document: str, overlap: int) -> list[Part]:
    """Two parts that overlap by about `overlap` characters, at most a quarter; none if they would be too short."""
    text = part.text
    if len(text) < 2 * MIN_CHARS:
        return []
    middle = len(text) // 2
    reach = min(overlap, len(text) // 4)
    end = _near_end(text, middle + reach // 2, middle, len(text) - 1)
    start = _near_end(text, end - reach, 1, end)
    return [_stretch(part, document, 0, end), _stretch(part, document, start, len(text))]


def _near_end(text: str, at: int, low: int, high: int) -> int:
    """The end of a sentence nearest to a place, if there is one in reach; else the place, but never inside a character."""
    ends = [found.end() for found in ENDS.finditer(text, low, high + 1) if low <= found.end() <= high]
    best = min(ends, key=lambda end: abs(end - at), default=None)
    if best is not None and abs(best - at) <= len(text) // 8:
        return best
    return max(low, max((found.end() for found in regex.finditer(r"\X", text) if found.end() <= min(at, high)), default=low))


def _stretch(part: Part, document: str, start: int, end: int) -> Part:
    """Characters `start` to `end` of a part as one of their own, with the pages on which they stand."""
    first = part.start + start
    before = [(first, page) for at, page in part.pages if at <= first][-1:]
    within = [(at, page) for at, page in part.pages if first < at < part.start + end]
    text = part.text[start:end]
    return Part(
        id=hash_text(canonical(["half", document, first, text]))[:32],
        document=part.document,
        version=part.version,
        start=first,
        end=part.start + end,
        text=text,
        pages=(*before, *within),
        root=part.root or part.id,
        tries=part.tries,
        was="waiting",
    )
