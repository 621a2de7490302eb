"""Makes one list of the records of overlapping chunks: each once, by its place in the document, in the document's order."""

import heapq
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from whet.extract.found import ChunkFound, Found
from whet.records import Span

Sureness = Callable[[Found], float]
Rank = tuple[float, int, int]
"""How much a chunk's word on a place counts: how sure it is, how far the place lies from the chunk's nearer end, the earlier."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A record of the document, and the chunk that said it best."""

    record: Found
    chunk: ChunkFound


Texts = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class _Said:
    """A record, and what it is compared by."""

    record: Found
    spans: Mapping[str, Span]
    place: Hashable
    """The offsets of all spans; of a record without any its texts."""
    texts: Texts
    free: Texts
    """What it says without a place."""
    begin: int
    end: int
    """The first and the last character of its spans; its chunk's where it has none."""


@dataclass(slots=True)
class _Side:
    """A chunk with its records by place, while another that overlaps it may still come."""

    chunk: ChunkFound
    places: dict[Hashable, list[_Said]] = field(default_factory=dict)
    is_decided: bool = False


def merge(chunks: Iterable[ChunkFound], sureness: Sureness, away: Counter[str]) -> Iterator[Merged]:
    """The records of a document's chunks (in order of their starts), by where they begin.

    Records of several chunks whose spans are the same are one: the surest chunk's word counts. A record whose spans lie
    within those of a record from another chunk which did not say it is that one, cut by the chunk's end. What one reply
    says differently stays, in the same sentence too. Records without spans are the same where all their texts are and
    their chunks overlap. `away` counts what was merged away, as "repeated" and "contained". Holds a few chunks at a time.
    """
    window: list[_Side] = []
    heap: list[tuple[int, int, int, int, Merged]] = []
    for chunk in chunks:
        yield from _settle(window, heap, chunk.start, sureness, away)
        window.append(_side(chunk, away))
    yield from _settle(window, heap, None, sureness, away)


def _settle(
    window: list[_Side],
    heap: list[tuple[int, int, int, int, Merged]],
    start: int | None,
    sureness: Sureness,
    away: Counter[str],
) -> Iterator[Merged]:
    """Decide the chunks that nothing from `start` on can overlap, and give the records that come before all others."""
    for side in window:
        if not side.is_decided and (start is None or side.chunk.end <= start):
            for number, said in enumerate(_decide(side, window, sureness, away)):
                heapq.heappush(heap, (said.begin, said.end, side.chunk.start, number, Merged(said.record, side.chunk)))
            side.is_decided = True
    open_starts = [side.chunk.start for side in window if not side.is_decided]
    first = min(open_starts, default=start)
    window[:] = [side for side in window if not side.is_decided or (first is not None and side.chunk.end > first)]
    while heap and (first is None or heap[0][0] < first):
        yield heapq.heappop(heap)[-1]


def _decide(side: _Side, window: list[_Side], sureness: Sureness, away: Counter[str]) -> Iterator[_Said]:
    """What stays of a chunk's records, held against all chunks that overlap it.

    Only these can have said something of a place in the chunk, or around it: the window holds all that is needed.
    """
    near = [other for other in window if _overlap(side.chunk, other.chunk)]
    for place, records in side.places.items():
        live = {other.chunk.id: _uncut(other.places[place], near) for other in near if place in other.places}
        own = live[side.chunk.id]
        heard = [other for other in near if live.get(other.chunk.id)]
        best = max(heard, key=lambda other: _rank(other.chunk, live[other.chunk.id], sureness), default=None)
        away["contained"] += len(records) - len(own)
        if best is side:
            yield from own
        else:
            away["repeated"] += len(own)


def _uncut(records: list[_Said], near: list[_Side]) -> list[_Said]:
    return [said for said in records if not any(_is_cut(said, other) for other in near)]


def _is_cut(said: _Said, other: _Side) -> bool:
    """Whether a chunk that did not say a record said a fuller one around it."""
    there = other.places.get(said.place, ())
    if any(one.texts == said.texts for one in there):
        return False
    # Where the place itself was told of, only the same record told more fully is known to be this one.
    return any(
        _lies_in(said, one) and (not there or (one.free == said.free and one.place != said.place))
        for found in other.places.values()
        for one in found
    )


def _lies_in(said: _Said, fuller: _Said) -> bool:
    if said.begin < fuller.begin or fuller.end < said.end or not said.spans:
        return False
    return all(
        name in fuller.spans and fuller.spans[name].start <= span.start and span.end <= fuller.spans[name].end
        for name, span in said.spans.items()
    )


def _rank(chunk: ChunkFound, records: list[_Said], sureness: Sureness) -> Rank:
    from_end = min(records[0].begin - chunk.start, chunk.end - records[0].end)
    return max(sureness(said.record) for said in records), from_end, -chunk.start


def _side(chunk: ChunkFound, away: Counter[str]) -> _Side:
    """A chunk's records by place, what it says twice once."""
    side = _Side(chunk)
    for record in chunk.records:
        said = _compared(record, chunk)
        there = side.places.setdefault(said.place, [])
        if any(one.texts == said.texts for one in there):
            away["repeated"] += 1
        else:
            there.append(said)
    return side


def _compared(record: Found, chunk: ChunkFound) -> _Said:
    spans = record.spans
    texts = tuple((name, value.text if value else None) for name, value in record.values.items())
    free = tuple((name, value.text) for name, value in record.values.items() if value and not value.span)
    begin = min((span.start for _, span in spans), default=chunk.start)
    end = max((span.end for _, span in spans), default=chunk.end)
    return _Said(record, dict(spans), spans or texts, texts, free, begin, end)


def _overlap(one: ChunkFound, other: ChunkFound) -> bool:
    return one.start < other.end and other.start < one.end
