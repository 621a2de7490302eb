"""Finds the sentences of a text that hold some of its characters."""

import re
from bisect import bisect_left, bisect_right

from whet.data.chunks import CLOSERS, ENDS_ALONE, is_parted
from whet.records import Span

ENDS = re.compile(rf"[{ENDS_ALONE}!?;]+[{CLOSERS}]*|\.(?=\s|$)|[\n\r\u2028\u2029]+")
"""Where a sentence ends, with the quotation marks and brackets that close behind it."""

MOST = 200  # characters that are quoted, where the span itself has no more: a text without marks is one sentence


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
    if is_parted(text, low) and is_parted(text, high):
        return Span(low, high)
    import regex  # late, as in data/chunks.py

    places = [start, *(start + found.end() for found in regex.finditer(r"\X", text[start:end]))]
    first, last = places[bisect_left(places, low)], places[bisect_right(places, high) - 1]
    return Span(min(first, span.start), max(last, span.end))
