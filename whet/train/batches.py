"""Rows to micro-batches: packs under a token budget, in which what prompts begin alike is computed once."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np

from whet.backends.base import Pack, Segment
from whet.train.encode import Row

MIN_SHARED = 16  # ids that a segment of its own must save a row: fewer cost less than the calls for one more segment


def pack_rows(rows: Iterable[Row], max_tokens: int, layout: Literal["packed", "padded"] = "packed") -> list[Pack]:
    """Packs that hold every row once, whatever the order in which the rows come.

    packed: the rows' prompts become a radix tree, whose branches of at least MIN_SHARED ids are computed once. All rows make
    one pack if it has at most `max_tokens` ids. Else the tree is cut from its root on: the path to the cut is the prefix of
    several packs, which follow each other, and the subtrees behind it are dealt out best fit decreasing. Such a pack may hold
    max_tokens - len(prefix) ids behind its prefix, yet never less than max_tokens // 2; one longer row is a pack of its own.
    padded: rows of like length stand together, nothing is shared, and a pack has at most `max_tokens` ids with its padding.
    """
    return [pack for pack, _ in pack_numbered(list(rows), max_tokens, layout)]


def pack_numbered(
    rows: Sequence[Row], max_tokens: int, layout: Literal["packed", "padded"] = "packed"
) -> list[tuple[Pack, list[int]]]:
    """The packs of `pack_rows`, each with the numbers of the rows that its leaves end, in the order of `Pack.leaves`."""
    if layout == "padded":
        groups = _groups_of_like_length(rows, max_tokens)
        return [(Pack((), tuple(rows[number].behind(0) for number in group)), group) for group in groups]
    return list(_Packing(rows).packs(max_tokens)) if rows else []


def num_computed(packs: Sequence[Pack], layout: Literal["packed", "padded"] = "packed") -> int:
    """Tokens that the device computes for packs: an equal prefix of packs that follow each other once, padding too."""
    if layout == "padded":
        return sum(pack.num_padded for pack in packs)
    repeated = sum(len(pack.prefix) for before, pack in pairwise(packs) if before.prefix == pack.prefix)
    return sum(pack.num_tokens for pack in packs) - repeated


def _groups_of_like_length(rows: Sequence[Row], max_tokens: int) -> list[list[int]]:
    """Numbers of rows, longest first, in groups of at most `max_tokens` tokens with their padding."""

    def key(number: int) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
        row = rows[number]
        return -row.num_tokens, row.example_id, row.prompt_ids, row.answer_ids

    groups: list[list[int]] = []
    for number in sorted(range(len(rows)), key=key):
        if not groups or (len(groups[-1]) + 1) * rows[groups[-1][0]].num_tokens > max_tokens:
            groups.append([])
        groups[-1].append(number)
    return groups


@dataclass(slots=True)
class _Node:
    """A branch of the tree, or a row that ends in it: rows `low` to `high` (exclusive) in the order of their prompts."""

    low: int
    high: int
    depth: int
    """Ids from the root to the node's end."""
    size: int = 0
    """Ids behind it."""
    children: list["_Node"] = field(default_factory=list)


class _Packing:
    """The radix tree over the prompts of rows, and its cutting into packs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        # Bytes are compared many times faster than tuples; any order will do in which equal beginnings stand together.
        keys = [array("I", row.prompt_ids).tobytes() for row in rows]
        self._order = sorted(range(len(rows)), key=lambda at: (keys[at], rows[at].example_id, rows[at].answer_ids))
        self._rows = [rows[number] for number in self._order]
        sorted_keys = [keys[number] for number in self._order]
        self._shared = [_num_shared(left, right) for left, right in pairwise(sorted_keys)]
        """Ids that each row may share with the next one."""

    def packs(self, max_tokens: int) -> Iterator[tuple[Pack, list[int]]]:
        root = self._tree()
        if root.depth + root.size <= max_tokens:
            yield self._pack(root.depth, root.children)
            return
        cut = [root]
        while cut:
            node = cut.pop()
            budget = max(max_tokens - node.depth, max_tokens // 2)
            large = [child for child in node.children if child.children and _size_behind(node, child) > budget]
            small = [child for child in node.children if not child.children or _size_behind(node, child) <= budget]
            bins = _best_fit([_size_behind(node, child) for child in small], budget)
            for held in bins:
                items = [small[at] for at in sorted(held)]
                if len(bins) > 1 or len(items) > 1:
                    yield self._pack(node.depth, items)
                else:  # no other pack has this prefix, so that it need not stand apart from its only branch
                    yield self._pack(items[0].depth, items[0].children) if items[0].children else self._pack(0, items)
            cut += reversed(large)

    def _tree(self) -> _Node:
        """The root with all branches that are kept; its depth is what all rows share."""
        num_common = min(self._shared, default=0)
        root = _Node(0, len(self._rows), num_common if num_common >= MIN_SHARED else 0)
        nodes = [root]
        for node in nodes:  # grows on the way
            for low, high in self._branches(node):
                depth = min(self._shared[low : high - 1], default=self._rows[low].num_tokens)
                node.children.append(_Node(low, high, depth))
            nodes += [child for child in node.children if child.high - child.low > 1]
        for node in reversed(nodes):
            node.size = sum(_size_behind(node, child) for child in node.children)
        return root

    def _branches(self, node: _Node) -> Iterator[tuple[int, int]]:
        """Runs of rows that share MIN_SHARED ids more than all rows of the node do; runs of one row where they don't."""
        low = node.low
        for at in range(node.low, node.high):
            if at + 1 == node.high or self._shared[at] < node.depth + MIN_SHARED:
                yield low, at + 1
                low = at + 1

    def _pack(self, num_prefix: int, items: Sequence[_Node]) -> tuple[Pack, list[int]]:
        """The subtrees behind a prefix as a pack, in preorder, and the numbers of its rows."""
        segments: list[Segment] = []
        numbers = []
        todo = [(item, num_prefix, -1) for item in reversed(items)]
        while todo:
            node, start, parent = todo.pop()
            row = self._rows[node.low]
            if node.children:
                todo += [(child, node.depth, len(segments)) for child in reversed(node.children)]
                segments.append(Segment(row.prompt_ids[start : node.depth], 0, parent))
            else:
                segments.append(Segment(row.prompt_ids[start:] + row.answer_ids, len(row.answer_ids), parent))
                numbers.append(self._order[node.low])
        return Pack(self._rows[items[0].low].prompt_ids[:num_prefix], tuple(segments)), numbers


def _size_behind(node: _Node, child: _Node) -> int:
    return child.depth - node.depth + child.size


def _num_shared(left: bytes, right: bytes) -> int:
    """Ids that two prompts may share: their common beginning without the last id of either, which predicts what is learnt."""
    most = min(len(left), len(right)) // array("I").itemsize - 1
    if most <= 0:
        return 0
    differs = np.frombuffer(left, np.uintc, most) != np.frombuffer(right, np.uintc, most)
    first = int(differs.argmax())
    return first if differs[first] else most


def _best_fit(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of the sizes in bins of at most `budget`: largest first, each into the fullest bin with room."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # of each bin, and its number
    for number in sorted(range(len(sizes)), key=lambda at: (-sizes[at], at)):
        at = bisect_left(room, (sizes[number], 0))
        if at == len(room):
            free, bin_number = budget, len(bins)
            bins.append([])
        else:
            free, bin_number = room.pop(at)
        bins[bin_number].append(number)
        insort(room, (free - sizes[number], bin_number))
    return bins
