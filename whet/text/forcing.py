"""The ids of text that must follow, as far as they are the ones that the tokenizer gives whatever comes behind."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from whet.errors import InputError
from whet.text.closing import Vocabulary
from whet.text.shape import num_shared
from whet.text.tokenizer import Tokenizer

CONTEXTS = (1, 3)  # ids before the text that it is encoded with; the second where the first don't come out as they stand
KEPT = 4096  # answers kept


class Forcer:
    """Encodes text that must follow as training did.

    Where a token could reach over the text's end into what follows, the text is also encoded up to where that token would
    begin, and only the ids that all of these share are given. That is exact for byte-pair encoding: a text whose ids part
    at some place has, before it, the ids of that part alone.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer, self._pieces = tokenizer, vocabulary.pieces
        self._sorted = sorted(vocabulary.ids)
        self._rests: dict[bytes, tuple[bytes, ...]] = {}
        self._kept: dict[tuple[tuple[int, ...], bytes, tuple[int, ...]], tuple[int, ...]] = {}

    def ids(self, before: Sequence[int], text: bytes, cuts: tuple[int, ...]) -> tuple[int, ...]:
        """The first ids of a text that stands behind the ids `before`; `cuts` are its own (see `cuts`)."""
        if not text or 0 in cuts:
            return ()
        for size in CONTEXTS:
            key = (tuple(before[-size:]), text, cuts)
            if key not in self._kept:
                if len(self._kept) >= KEPT:
                    self._kept.clear()
                self._kept[key] = self._encode(*key)
            if self._kept[key]:
                return self._kept[key]
        return ()

    def cuts(self, text: bytes, may_follow: Callable[[bytes], bool]) -> tuple[int, ...]:
        """Where in a text a token may begin that reaches beyond its end, as far as what it brings there may follow."""
        return tuple(at for at in range(len(text)) if any(map(may_follow, self._beyond(text[at:]))))

    def _beyond(self, start: bytes) -> tuple[bytes, ...]:
        """What stands behind `start` in tokens that begin with it and are longer."""
        if start not in self._rests:
            rests, at = list[bytes](), bisect_right(self._sorted, start)
            while at < len(self._sorted) and self._sorted[at].startswith(start):
                rests.append(self._sorted[at][len(start) :])
                at += 1
            self._rests[start] = tuple(rests)
        return self._rests[start]

    def _encode(self, before: tuple[int, ...], text: bytes, cuts: tuple[int, ...]) -> tuple[int, ...]:
        """The ids that the text has up to its end and up to each cut; none where the ids before it come out otherwise."""
        head = b"".join(self._pieces[number] or b"" for number in before)
        head = head[next((at for at, byte in enumerate(head) if byte & 0xC0 != 0x80), len(head)) :]  # from a whole character on
        found: list[tuple[int, ...]] = []
        for end in (*cuts, len(text)):
            try:
                ids = self._tokenizer.encode((head + text[:end]).decode())
            except (UnicodeDecodeError, InputError):
                return ()
            at, size = len(ids), 0
            while at and size < end:
                at -= 1
                size += len(self._pieces[ids[at]] or b"")
            here = tuple(ids[at:])
            is_same = ids[at - 1 : at] == list(before[-1:]) if before else at == 0
            if not is_same or b"".join(self._pieces[number] or b"" for number in here) != text[:end]:
                return ()
            found.append(here)
        return found[0][: num_shared(found)]
