"""Divides the packs of a step among processes: the same division on each of them, from the packs alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from whet.backends.base import Pack

ROOM = 1.1  # a pack may be larger than a process's fair share by this factor before it is halved


def spread(packs: Sequence[Pack], count: int) -> list[list[Pack]]:
    """Each process's packs, some maybe none: the longest to the one with least to do, packs behind one prefix together where
    they can be, so that few processes compute it (Graham 1969, longest processing time first).
    """
    if count == 1:
        return [list(packs)]
    pieces = _cut(packs, count)
    fair = sum(map(_own_tokens, pieces)) / count
    blocks: list[list[Pack]] = []
    for _, group in groupby(pieces, key=lambda pack: pack.prefix):
        block: list[Pack] = []
        for pack in group:
            if block and sum(map(_own_tokens, block)) + _own_tokens(pack) > ROOM * fair:
                blocks.append(block)
                block = []
            block.append(pack)
        blocks.append(block)
    shares: list[list[Pack]] = [[] for _ in range(count)]
    loads = [0] * count
    for block in sorted(blocks, key=lambda block: -_tokens_of(block)):
        least = loads.index(min(loads))
        loads[least] += _tokens_of(block)
        shares[least] += block
    return shares


def deal(packs: Sequence[Pack], count: int) -> list[list[Pack]]:
    """Each process's packs where all compute in step, pass by pass: like lengths at the same time.

    The first processes may have one pack more than the others.
    """
    pieces = sorted(_cut(packs, count), key=lambda pack: -pack.num_tokens) if count > 1 else packs
    return [list(pieces[number::count]) for number in range(count)]


def _cut(packs: Sequence[Pack], count: int) -> list[Pack]:
    """The packs, those halved until they fit that are more than a fair share; no row is cut."""
    fair = sum(map(_own_tokens, packs)) / count
    return [piece for pack in packs for piece in _pieces(pack, ROOM * fair)]


def _pieces(pack: Pack, limit: float) -> Iterator[Pack]:
    """A pack in pieces of at most `limit` tokens behind the prefix, as far as its rows allow."""
    starts = [number for number, segment in enumerate(pack.segments) if segment.parent < 0]
    if _own_tokens(pack) <= limit or len(starts) < 2:
        yield pack
        return
    half = _own_tokens(pack) / 2
    cut = min(starts[1:], key=lambda start: abs(sum(len(segment.ids) for segment in pack.segments[:start]) - half))
    behind = [replace(segment, parent=max(-1, segment.parent - cut)) for segment in pack.segments[cut:]]
    yield from _pieces(Pack(pack.prefix, pack.segments[:cut]), limit)
    yield from _pieces(Pack(pack.prefix, tuple(behind)), limit)


def _own_tokens(pack: Pack) -> int:
    return pack.num_tokens - len(pack.prefix)


def _tokens_of(block: Sequence[Pack]) -> int:
    """Tokens that packs behind one prefix compute."""
    return len(block[0].prefix) + sum(map(_own_tokens, block))
