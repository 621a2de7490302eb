"""Finds the sentences of a text that hold some of its characters."""

import re
from bisect import bisect_left, bisect_right

from whet.data.chunks import CLOSERS, ENDS_ALONE, is_parted
from whet.records import Span

ENDS = re.compile(rf"[{ENDS_ALONE}!?;]+[{CLOSERS}]*|\.(?=\s|$)|[\n\r\u2028\u2029]+")
"""Where a sentence ends, with the quotation marks and brackets that close behind it."""

MOST = 200  # characters that are quoted, where the span itself has no more: a text without marks is one sentence
NEAR = 64  # characters around a place that are looked at, to see which of them are one


def sentences_around(text: str, span: Span) -> Span:
    """The whole sentences that hold the characters of `span`, without white space at their edges.

    Of those that are longer than MOST, as much as may be on both sides, and no half characters.
    """
    start = 0
    end = len(text)
    for found in ENDS.finditer(text):
        if found.end() <= span.start:
            start = found.end()
        elif found.end() >= span.end:
            end = found.end()
            break
    while start < span.start and text[start].isspace():
        start += 1
    while end > span.end and text[end - 1].isspace():
        end -= 1
    return Span(start, end) if end - start <= MOST else _narrowed(text, start, end, span)


def _narrowed(text: str, start: int, end: int, span: Span) -> Span:
    spare = max(0, MOST - (span.end - span.start))
    low = max(start, min(span.start - spare // 2, end - MOST))
    high = min(end, max(low + MOST, span.end))
    before, behind = _edges(text, low, start, end)[1], _edges(text, high, start, end)[0]
    return Span(min(before, span.start), max(behind, span.end))


def _edges(text: str, at: int, start: int, end: int) -> tuple[int, int]:
    """The last place up to `at` and the first one from it on where a character that one sees ends."""
    if at in (start, end) or is_parted(text, at):
        return at, at
    import regex  # late, as in data/chunks.py

    sure = next((place for place in range(at, max(start, at - NEAR), -1) if is_parted(text, place)), max(start, at - NEAR))
    places = [sure, *(sure + found.end() for found in regex.finditer(r"\X", text[sure : min(end, at + NEAR)]))]
    return places[bisect_right(places, at) - 1], places[bisect_left(places, at)]
