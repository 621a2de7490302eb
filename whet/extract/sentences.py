"""Finds the sentences of a text that hold some of its characters."""

import re

from whet.data.chunks import CLOSERS, ENDS_ALONE
from whet.records import Span

ENDS = re.compile(rf"[{ENDS_ALONE}!?;]+[{CLOSERS}]*|\.(?=\s|$)|[\n\r\u2028\u2029]+")
"""Where a sentence ends, with the quotation marks and brackets that close behind it."""


def sentences_around(text: str, span: Span) -> Span:
    """The whole sentences that hold the characters of `span`, without white space at their edges."""
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
    return Span(start, end)
