"""Text preparation that can be undone: Unicode form, width and script, with the place of every character kept."""

import functools
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from whet.config import Settings
from whet.records import Example, Message, Record, Span, Value

Convert = Callable[[str], str]
Block = tuple[int, int, int, int]
"""Old start and end, new start and end of a cluster whose characters don't correspond one to one."""

_ASCII = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TO_HALF = {ord(char) + 0xFEE0: char for char in _ASCII}
_TO_FULL = {ord(char): chr(ord(char) + 0xFEE0) for char in _ASCII}
_SURROGATES = re.compile("([\ud800-\udfff]+)")
_CUTS_TRIED = 40  # places tried around the middle of a stretch whose length changed


class PrepareSettings(Settings):
    """How texts are made uniform before anything is learnt from them; what is not said is kept as it is."""

    unicode: Literal["keep", "NFC", "NFKC"] = "keep"
    """Unicode normal form. NFKC also unfolds ligatures, circled numbers and full-width punctuation."""
    width: Literal["keep", "half", "full"] = "keep"
    """Width of ASCII letters and digits; punctuation is left alone."""
    script: Literal["keep", "simplified", "traditional"] = "keep"
    """Chinese script, converted by OpenCC (t2s or s2t)."""


class Alignment:
    """Which characters of the old text became which of the new: one to one but for the `blocks`, which ascend."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._old = [b[0] for b in blocks], [b[1] for b in blocks]
        self._new = [b[2] for b in blocks], [b[3] for b in blocks]

    def forward(self, span: Span) -> Span:
        return Span(_start(span.start, *self._old, *self._new), _end(span.end, *self._old, *self._new))

    def backward(self, span: Span) -> Span:
        return Span(_start(span.start, *self._new, *self._old), _end(span.end, *self._new, *self._old))


def _start(at: int, starts: list[int], ends: list[int], to_starts: list[int], to_ends: list[int]) -> int:
    """Where a span that starts at `at` starts on the other side; inside a block that is the block's start."""
    index = bisect_left(ends, at)
    while index < len(ends) and ends[index] == at and starts[index] < at:
        index += 1
    if index < len(ends) and starts[index] <= at:
        return to_starts[index]
    return to_ends[index - 1] + at - ends[index - 1] if index else at


def _end(at: int, starts: list[int], ends: list[int], _: list[int], to_ends: list[int]) -> int:
    """Where a span that ends at `at` ends on the other side; inside a block that is the block's end."""
    index = bisect_right(starts, at) - 1
    while index >= 0 and starts[index] == at and ends[index] > at:
        index -= 1
    if index < 0:
        return at
    return to_ends[index] + max(0, at - ends[index])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared text, and the way back to the original."""

    text: str
    original_length: int
    """Characters of the original."""
    steps: tuple[Alignment, ...] = ()

    def to_new(self, span: Span) -> Span | None:
        """Where a span of the original stands now, whole clusters taken; None if it is empty or not inside the text."""
        if not 0 <= span.start < span.end <= self.original_length:
            return None
        for step in self.steps:
            span = step.forward(span)
        return span if span.start < span.end else None

    def to_original(self, span: Span) -> Span:
        """The characters of the original that a span of the prepared text came from, whole clusters taken."""
        for step in reversed(self.steps):
            span = step.backward(span)
        return span


def prepare(text: str, settings: PrepareSettings) -> Prepared:
    """Normal form, then width, then script. Lone surrogates pass through as they are."""
    steps: list[Alignment] = []
    new = text
    if settings.unicode != "keep" and not unicodedata.is_normalized(settings.unicode, new):
        new, blocks = _normalise(new, settings.unicode)
        steps += [Alignment(blocks)] if blocks else []
    if settings.width != "keep":
        new = new.translate(_TO_HALF if settings.width == "half" else _TO_FULL)
    if settings.script != "keep":
        new, blocks = convert_aligned(new, _converter("t2s" if settings.script == "simplified" else "s2t"))
        steps += [Alignment(blocks)] if blocks else []
    return Prepared(new, len(text), tuple(steps))


def prepare_example(example: Example, settings: PrepareSettings) -> Example:
    """The example with all its texts prepared, and its spans moved with them.

    A value that is not the characters of its span is prepared by itself: a gold that did not stand in the text before
    does not come to stand there unseen.
    """
    if settings == PrepareSettings():
        return example
    prepared = prepare(example.text, settings)

    def convert(text: str) -> str:
        return prepare(text, settings).text

    def value_of(value: Value | None) -> Value | None:
        if value is None:
            return None
        span = prepared.to_new(value.span) if value.span else None
        if value.span and span and example.text[value.span.start : value.span.end] == value.text:
            return Value(prepared.text[span.start : span.end], span)
        return Value(convert(value.text), span)

    def record_of(record: Record) -> Record:
        return {name: value_of(value) for name, value in record.items()}

    return replace(
        example,
        text=prepared.text,
        records=None if example.records is None else tuple(record_of(record) for record in example.records),
        choices=tuple(convert(choice) for choice in example.choices),
        messages=tuple(Message(message.role, convert(message.content)) for message in example.messages),
    )


def _normalise(text: str, form: Literal["NFC", "NFKC"]) -> tuple[str, list[Block]]:
    """The normal form, with a block for each cluster that is not one character turned into one."""
    parts: list[str] = []
    blocks: list[Block] = []
    at = 0
    for start, end in _clusters(text, "NFD" if form == "NFC" else "NFKD"):
        old = text[start:end]
        new = unicodedata.normalize(form, old)
        if new != old and not len(old) == len(new) == 1:
            blocks.append((start, end, at, at + len(new)))
        parts.append(new)
        at += len(new)
    return "".join(parts), blocks


def _clusters(text: str, form: Literal["NFD", "NFKD"]) -> Iterator[tuple[int, int]]:
    """Stretches that normalise independently: a new one starts where a character can't join the one before it."""
    start = 0
    for index in range(1, len(text)):
        if not _joins(text[index], form):
            yield start, index
            start = index
    if text:
        yield start, len(text)


@functools.lru_cache(maxsize=8192)
def _joins(char: str, form: Literal["NFD", "NFKD"]) -> bool:
    """Whether a character may compose with the one before it, or change places with it.

    All characters for which Unicode's quick check says "maybe" are marks (category M) or Hangul vowel and final jamo.
    """
    first = unicodedata.normalize(form, char)[0]
    return unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff"


@functools.cache
def _converter(name: str) -> Convert:
    from opencc import OpenCC

    convert: Any = OpenCC(name).convert
    return lambda text: str(convert(text))


def convert_aligned(text: str, convert: Convert) -> tuple[str, list[Block]]:
    """A text converted by whole phrases, with a block for each stretch whose length changed.

    Such a stretch is found by cutting where the two sides, converted apart, give the same as together.
    """
    parts: list[str] = []
    blocks: list[Block] = []
    old_at = new_at = 0
    for index, piece in enumerate(_SURROGATES.split(text)):
        if not piece:
            continue
        for old, new in [(piece, piece)] if index % 2 else _aligned(piece, convert(piece), convert):
            if len(old) != len(new):
                blocks.append((old_at, old_at + len(old), new_at, new_at + len(new)))
            parts.append(new)
            old_at, new_at = old_at + len(old), new_at + len(new)
    return "".join(parts), blocks


def _aligned(old: str, new: str, convert: Convert) -> Iterator[tuple[str, str]]:
    """Pieces of a text and what they became; a piece whose length changed is as short as cutting can make it."""
    if len(old) == len(new) or len(old) == 1:
        yield old, new
        return
    middle = len(old) // 2
    for cut in sorted(range(1, len(old)), key=lambda at: abs(at - middle))[:_CUTS_TRIED]:
        left, right = convert(old[:cut]), convert(old[cut:])
        if left + right == new:
            yield from _aligned(old[:cut], left, convert)
            yield from _aligned(old[cut:], right, convert)
            return
    yield old, new
