"""A document's text cut into chunks that overlap: at sentence ends if there are any, never inside a visible character."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, model_validator

from whet.config import Settings
from whet.data.documents.source import Piece
from whet.errors import InputError

if TYPE_CHECKING:
    import regex

Unit = Literal["characters", "tokens"]
MOST_SIZE = 900  # of a chunk where nobody says how long it shall be
MAX_CHARACTERS_A_TOKEN = 16  # of a chunk in tokens, however few those are
ENDS_ALONE = "。！？；｡︒︕︖︔﹒﹔﹖﹗．։؟؛۔܀।॥၊။។᠃᠉"
"""Ends of sentences in themselves, in scripts that have no spaces behind them."""
CLOSERS = "”’」』）】》〉〕］｝﹂﹄︶︸︺︼︾﹀\"')\\]}»›"


class _Patterns(NamedTuple):
    """Where sentences, lines and words end, white space after them included; and what is seen as one character."""

    sentence: "regex.Pattern[str]"
    line: "regex.Pattern[str]"
    space: "regex.Pattern[str]"
    cluster: "regex.Pattern[str]"
    sure: "regex.Pattern[str]"


@cache
def _patterns() -> _Patterns:
    import regex  # late: it takes a while, and settings need none of it

    # An end in itself in the scripts that have no spaces; in others only where white space follows.
    alone, spaced = f"[{ENDS_ALONE}]++", "[.!?;…‼⁇⁈⁉]++"
    closed = f"[{CLOSERS}]*+"
    return _Patterns(
        regex.compile(rf"(?:{alone}{closed}|{spaced}{closed}(?=\s))\s*+|\n[ \t\u3000]*+\r?\n\s*+"),
        regex.compile(r"(?:\r\n|[\n\r\f\v\x85\u2028\u2029])[ \t]*+"),
        regex.compile(r"\s++"),
        regex.compile(r"\X"),
        regex.compile(r"[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fffA-Za-z0-9]{2}"),
    )


class ChunkSettings(Settings):
    """How documents are cut."""

    size: int | None = Field(default=None, ge=8)
    """Most characters (or tokens) of a chunk; null: as the longest text that the specialist was trained on, at most 900."""
    overlap: int | None = Field(default=None, ge=0)
    """Most characters (or tokens) at the beginning of a chunk that stood at the end of the one before; null: 2/15 of the size."""
    unit: Unit = "characters"
    """What size and overlap count: characters (code points), or tokens of the base."""

    @model_validator(mode="after")
    def _overlap_is_small(self) -> "ChunkSettings":
        if self.overlap is not None and self.overlap > (self.size or MOST_SIZE) // 2:
            raise ValueError(f"overlap {self.overlap} is more than half of size {self.size or MOST_SIZE}")
        return self

    def cut_to(self, longest: int | None) -> "Cut":
        """The figures; `longest` is the longest text of the training in characters, None where nobody knows.

        Cut to the training's measure, an overlap that was asked for gives way where it is more than half of the size.
        """
        by_training = longest if self.unit == "characters" else None
        size = self.size or min(max(by_training or MOST_SIZE, 8), MOST_SIZE)
        return Cut(size, min(size * 2 // 15 if self.overlap is None else self.overlap, size // 2), self.unit)


@dataclass(frozen=True, slots=True)
class Cut:
    """How documents are cut, in figures: most characters or tokens of a chunk, and of what it has of the one before."""

    size: int = MOST_SIZE
    overlap: int = MOST_SIZE * 2 // 15
    unit: Unit = "characters"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Characters `start` to `end` of a document."""

    id: str
    """32 hexadecimal digits of the document's name, the start and the text: equal as long as all of them are."""
    document: str
    start: int
    end: int
    text: str
    page: int | None
    """The page of its first character."""
    pages: tuple[tuple[int, int], ...] = ()
    """Each page that it has characters of, and the offset in the document where that page begins; the first may begin
    before `start`."""


def cut_chunks(
    document_name: str, pieces: Iterable[Piece], settings: Cut, count_tokens: Callable[[str], int] | None = None
) -> Iterator[Chunk]:
    """The chunks of a document, in order; together they cover every character of it.

    Where they are cut depends on the text alone, not on how it comes in pieces, and the cuts before the last chunk stay
    where they are when the document grows. No chunk is larger than the size. Raises InputError for tokens without
    count_tokens.
    """
    if settings.unit == "tokens" and count_tokens is None:
        raise InputError("extract.chunks.unit", "counts tokens, and there is no tokenizer to count them", "Set it to characters")
    text = _Window(pieces)
    ruler = _Ruler(settings, count_tokens)
    start = 0
    while text.fill(start, start + ruler.most + 1):
        rest = text.slice(start, start + ruler.most + 1)
        limit = ruler.reach(rest)
        length = len(rest) if limit == len(rest) and text.ends_at(start + len(rest)) else ruler.cut(rest, limit)
        end = start + length
        yield _chunk(document_name, text, start, end)
        if text.ends_at(end):
            return
        start = start + _overlap_start(rest, length, ruler.back(rest[:length]))


def _chunk(name: str, text: "_Window", start: int, end: int) -> Chunk:
    words = text.slice(start, end)
    head = f"{len(name)}:{name}:{start}:".encode("utf-8", "surrogatepass")
    number = blake2b(head + words.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    pages = text.pages(start, end)
    return Chunk(number, name, start, end, words, pages[0][0] if pages else None, pages)


class _Window:
    """The part of a text around the next chunk; what lies behind is forgotten, what lies ahead not yet read."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = iter(pieces)
        self._text = ""
        self._start = 0
        """Offset of the window in the document."""
        self._is_last = False
        self._pages: list[tuple[int, int]] = []

    def fill(self, start: int, end: int) -> bool:
        """Read up to offset `end`, or all there is, and forget what is before `start`; whether there is anything after it."""
        parts, have = [], self._start + len(self._text)
        while have < end and not self._is_last:
            piece = next(self._pieces, None)
            if piece is None:
                self._is_last = True
            elif piece.text:
                if piece.page is not None:
                    self._pages.append((piece.page, have))
                parts.append(piece.text)
                have += len(piece.text)
        if parts:
            self._text = self._text[start - self._start :] + "".join(parts)
            self._start = start
        return have > start

    def slice(self, start: int, end: int) -> str:
        return self._text[start - self._start : end - self._start]

    def ends_at(self, offset: int) -> bool:
        return self._is_last and offset == self._start + len(self._text)

    def pages(self, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """The pages with characters between two offsets; pages before them are forgotten."""
        first = max(0, bisect_right(self._pages, start, key=lambda page: page[1]) - 1)
        del self._pages[:first]
        return tuple(page for page in self._pages if page[1] < end)


class _Ruler:
    """How far a chunk may reach and how far the next one begins before its end, in characters or tokens."""

    def __init__(self, settings: Cut, count_tokens: Callable[[str], int] | None) -> None:
        self._settings = settings
        self._count = count_tokens if settings.unit == "tokens" else None
        self.most = settings.size * (MAX_CHARACTERS_A_TOKEN if self._count else 1)
        """Most characters of a chunk."""
        self._a_token = 1.0
        """Characters of a token, as the last chunks had them."""

    def reach(self, rest: str) -> int:
        """How many characters of `rest` a chunk may have at most."""
        most = min(self.most, len(rest))
        return most if self._count is None else self._fitting(rest[:most], self._settings.size, self._count)

    def cut(self, rest: str, limit: int) -> int:
        """Where to end a chunk of at most `limit` characters."""
        length = _cut(rest, limit)
        # A shorter text may have more tokens, where the cut parts what was one.
        while self._count is not None and length < limit and length > 1 and self._count(rest[:length]) > self._settings.size:
            limit = length - 1
            length = _cut(rest, limit)
        return length

    def back(self, words: str) -> int:
        """How many characters at the end of a chunk the next one may repeat."""
        if self._count is None or not self._settings.overlap:
            return self._settings.overlap
        return self._fitting(words[::-1], self._settings.overlap, lambda turned: self._count(turned[::-1]) if self._count else 0)

    def _fitting(self, words: str, size: int, count: Callable[[str], int]) -> int:
        """Characters at the beginning of `words` of which at most `size` tokens are made, nearly as many as there may be.

        A few guesses from how long tokens were, each counted; what is returned was counted and fits.
        """
        low, high = 0, len(words) + 1  # low fits, high does not or is too long
        guess = min(len(words), int(size * self._a_token))
        for _ in range(24):
            guess = min(max(guess, low + 1), high - 1)
            number = count(words[:guess])
            if number <= size:
                low = guess
                if number >= size - max(1, size // 64) or guess == len(words):
                    break
            else:
                high = guess
            if high - low <= 1:
                break
            self._a_token = guess / max(number, 1)
            guess = int(self._a_token * size) if number <= size else int(self._a_token * size * 0.99)
        return max(low, 1)


def _cut(rest: str, limit: int) -> int:
    """Where to end a chunk of at most `limit` characters: behind the last sentence, line or word that ends in its second
    half, else behind the last character that one sees.
    """
    for pattern in _patterns()[:3]:
        ends = [place for place in _ends(pattern, rest, limit // 2, limit) if place > limit // 2]
        if ends:
            return ends[-1]
    return limit if is_parted(rest, limit) else max(_clusters(rest, limit), default=limit)


def _overlap_start(rest: str, length: int, back: int) -> int:
    """Where the next chunk begins: at the first sentence, line, word or character that begins within the last `back`."""
    back = min(back, length // 2)  # so that each chunk brings something new
    if back <= 0:
        return length
    begin = length - back
    for pattern in _patterns()[:3]:
        place = next((place for place in _ends(pattern, rest, max(0, begin - 64), length) if place >= begin), length)
        if place < length:
            return place
    return begin if is_parted(rest, begin) else next((place for place in _clusters(rest, length) if begin <= place), length)


def _ends(pattern: "regex.Pattern[str]", rest: str, begin: int, limit: int) -> Iterator[int]:
    """Where matches end, if a character that one sees ends there too; white space that goes on over the limit is cut there."""
    for match in pattern.finditer(rest, begin, limit + 1):
        place = match.end()
        if place > limit and rest[limit].isspace():
            place = limit
        if place <= limit and _is_between(rest, place):
            yield place


def _is_between(rest: str, place: int) -> bool:
    """Whether the character before a place ends there. It is white space or punctuation, so what is before it does not matter."""
    match = _patterns().cluster.match(rest, place - 1)
    return match is None or match.end() == place


def is_parted(rest: str, place: int) -> bool:
    """Whether two characters meet there that nothing joins: Chinese ones, kana, letters and digits of ASCII."""
    return _patterns().sure.match(rest, max(0, place - 1)) is not None and 0 < place < len(rest)


def _clusters(rest: str, limit: int) -> Iterator[int]:
    """The ends of the characters that one sees (grapheme clusters), up to the limit. The text begins with a whole one."""
    for match in _patterns().cluster.finditer(rest):
        if match.end() > limit:
            return
        yield match.end()
