"""A source text as the bytes that a JSON string writes for it, with the places where a value may begin and end."""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator

WALL = 1 << 30
"""Characters that the place of a lone surrogate counts for: no value is so long, so none reaches across it."""

_SURROGATES = re.compile("[\ud800-\udfff]+")
_SIZES = [2 if code in b'\b\t\n\f\r"\\' else 6 if code < 0x20 else 1 for code in range(0x80)]


class Source:
    """The JSON bytes of a text, escaped as json.dumps(ensure_ascii=False) does.

    A value begins and ends between grapheme clusters (Unicode's UAX 29): it takes no mark away from its letter and cuts no
    emoji in two. A lone surrogate, which no reply can hold, is a NUL byte here, which no escaped text holds.
    """

    def __init__(self, text: str) -> None:
        import regex

        self.num_chars = len(text)
        self.counts: list[int] = []
        """For each place in the bytes, and for their end, the characters that are whole before it."""
        self.starts: list[int] = []
        """Places where a cluster begins."""
        self.ends: list[int] = []
        written, count, place = [], 0, 0
        for number, stretch in enumerate(_SURROGATES.split(text)):
            if number:
                written.append(b"\0")
                self.counts.append(count)
                count, place = count + WALL, place + 1
            places = []
            for char in stretch:
                size = _size(ord(char))
                places.append(place)
                self.counts += [count] * size
                count, place = count + 1, place + size
            clusters = [places[found.start()] for found in regex.finditer(r"\X", stretch)]
            self.starts += clusters
            self.ends += [*clusters[1:], place] if clusters else []
            written.append(json.dumps(stretch, ensure_ascii=False)[1:-1].encode())
        self.counts.append(count)
        self.bytes = b"".join(written)
        self.is_start = _flags(self.starts, place)
        self.is_end = _flags(self.ends, place)
        self._first_bytes = frozenset(self.bytes[start] for start in self.starts)
        self._end_counts = [self.counts[end] for end in self.ends]

    def chunks(self) -> Iterator[str]:
        """The escaped clusters in their order; a NUL where the text is torn."""
        place = 0
        for start, end in zip(self.starts, self.ends, strict=True):
            if start > place:
                yield "\0"
            yield self.bytes[start:end].decode()
            place = end

    def find(self, data: bytes) -> tuple[int, ...]:
        """The places behind `data`, wherever it begins a cluster."""
        if data[0] not in self._first_bytes:
            return ()
        found, at = [], self.bytes.find(data)
        while at >= 0:
            if self.is_start[at]:
                found.append(at + len(data))
            at = self.bytes.find(data, at + 1)
        return tuple(found)

    def rest_of_char(self, place: int) -> bytes:
        """What is lacking of the character that a place stands inside of; nothing where it stands between two."""
        count, end = self.counts[place], place
        if place and count == self.counts[place - 1]:
            while self.counts[end] == count:
                end += 1
        return self.bytes[place:end]

    def end_after(self, start: int, place: int, min_chars: int, max_chars: int) -> int | None:
        """The first end at or after `place` of a value from `start` that has so many characters; None where there is none."""
        number = max(bisect_left(self.ends, place), bisect_left(self._end_counts, self.counts[start] + min_chars))
        if number == len(self.ends) or self._end_counts[number] - self.counts[start] > max_chars:
            return None
        return self.ends[number]

    def holds(self, min_chars: int, max_chars: int) -> bool:
        """Whether any piece of the text has so many characters."""
        return any(self.end_after(start, start, min_chars, max_chars) is not None for start in self.starts)


def _size(code: int) -> int:
    """Bytes of a character in JSON, escaped where it must be."""
    if code < 0x80:
        return _SIZES[code]
    return 2 if code < 0x800 else 3 if code < 0x10000 else 4


def _flags(places: list[int], last: int) -> bytearray:
    """1 at each of these places, up to and with `last`."""
    flags = bytearray(last + 1)
    for place in places:
        flags[place] = 1
    return flags
