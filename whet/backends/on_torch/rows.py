"""Packs as tensors: one packed row with the tree of who sees whom, or plain padded rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whet.backends.base import Pack
from whet.backends.padded import pad_rows

FILL = 0.75  # leaves are computed together when the shortest has at least this share of the longest one's tokens
LONG = 48  # ids from which on a CPU a leaf is computed by itself: copying it into a batch costs more than a call
SHORT = 16  # ids up to which a leaf may be padded whatever its share: a call costs more than so few tokens


@dataclass(frozen=True)
class Bucket:
    """Leaves of like length, computed as one padded batch. n leaves of at most L tokens, M tokens in all."""

    at_S: torch.Tensor
    """For each of the S = n * L places of the batch the column of its token in the packed row; padding repeats a last token."""
    at_M: torch.Tensor
    """Columns of the tokens in the packed row."""
    slot_M: torch.Tensor
    """Their places in the flat batch."""
    empty: torch.Tensor
    """Places of the flat batch that are padding."""
    num_leaves: int


@dataclass(frozen=True)
class Tree:
    """Who sees whom in a packed row of T tokens: token t sees u iff u <= t < end(u), the end of the subtree of u's segment."""

    inner: tuple[tuple[int, int, int], ...]
    """Segments that are computed by themselves: those that others stand behind, and long leaves. First column, column after the
    last one, column after the whole subtree."""
    leaves: tuple[Bucket, ...]
    num_tokens: int

    def ends(self, device: torch.device) -> torch.Tensor:
        """(T,) the column after each token's subtree."""
        ends_T = torch.empty(self.num_tokens, dtype=torch.long, device=device)
        for bucket in self.leaves:
            at_nL = bucket.at_S.view(bucket.num_leaves, -1)
            ends_T[at_nL] = at_nL[:, -1:].expand_as(at_nL) + 1
        for start, end, last in self.inner:
            ends_T[start:end] = last
        return ends_T

    @property
    def seen(self) -> list[tuple[int, int, int]]:
        """The inner segments that have tokens behind them in this row (a prefix that is computed apart has none)."""
        return [span for span in self.inner if span[2] > span[1]]


@dataclass(frozen=True)
class Rows:
    """What a forward pass needs. B rows of T tokens; N learnt ids over all rows, in the order of the pack's segments."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_BT: torch.Tensor | None
    """True where a token is no padding; None for a packed row."""
    tree: Tree | None
    """Who sees whom in a packed row; None for padded rows."""
    row_N: torch.Tensor
    at_N: torch.Tensor
    """Row and column of the token that predicts each learnt id."""
    target_N: torch.Tensor
    segment_N: torch.Tensor
    """Number of the segment that each learnt id belongs to."""
    longest: int
    """Tokens of the longest row."""


def packed_row(pack: Pack, device: torch.device, *, is_prefix_apart: bool = False) -> Rows:
    """One row: the prefix once, then every segment. Positions go on after the parent.

    is_prefix_apart: the row holds the segments only; the prefix was computed before, and every segment sees it.
    """
    has_prefix = bool(pack.prefix) and not is_prefix_apart
    ids: list[int] = list(pack.prefix) if has_prefix else []
    positions = list(range(len(ids)))
    starts, firsts = [], []
    at, target, segment_of = [], [], []
    for number, segment in enumerate(pack.segments):
        first = firsts[segment.parent] + len(pack.segments[segment.parent].ids) if segment.parent >= 0 else len(pack.prefix)
        start = len(ids)
        starts.append(start)
        firsts.append(first)
        ids += segment.ids
        positions += range(first, first + len(segment.ids))
        learnt_from = len(segment.ids) - segment.num_learnt
        assert learnt_from > 0, "the first id of a segment is never learnt"
        at += range(start + learnt_from - 1, len(ids) - 1)
        target += segment.ids[learnt_from:]
        segment_of += [number] * segment.num_learnt
    tree = _tree(pack, starts, len(ids), len(pack.prefix) if has_prefix else 0, device)
    return Rows(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        None,
        tree,
        torch.zeros(len(at), dtype=torch.long, device=device),
        torch.tensor(at, dtype=torch.long, device=device),
        torch.tensor(target, dtype=torch.long, device=device),
        torch.tensor(segment_of, dtype=torch.long, device=device),
        1 + max(positions),
    )


def _tree(pack: Pack, starts: Sequence[int], num_tokens: int, num_prefix: int, device: torch.device) -> Tree:
    ends = [start + len(segment.ids) for start, segment in zip(starts, pack.segments, strict=True)]
    last = list(ends)  # column after each segment's subtree
    for number in reversed(range(len(pack.segments))):
        parent = pack.segments[number].parent
        if parent >= 0:
            last[parent] = max(last[parent], last[number])
    inner = [(0, num_prefix, num_tokens)] if num_prefix else []
    leaves = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if last[number] > end or (end - start >= LONG and device.type == "cpu"):
            inner.append((start, end, last[number]))
        else:
            leaves.append((end - start, start))
    return Tree(tuple(inner), tuple(_buckets(leaves, device)), num_tokens)


def _buckets(leaves: Sequence[tuple[int, int]], device: torch.device) -> list[Bucket]:
    """Leaves, given as length and first column, in batches of like length."""
    groups: list[list[tuple[int, int]]] = []
    for length, start in sorted(leaves, reverse=True):
        longest = groups[-1][0][0] if groups else 0
        if not groups or (longest > SHORT and length < FILL * longest):
            groups.append([])
        groups[-1].append((length, start))
    buckets = []
    for group in groups:
        width = group[0][0]
        lengths_n1 = torch.tensor([[length] for length, _ in group])
        offset_nL = torch.arange(width).expand(len(group), width)
        at_S = (torch.tensor([[start] for _, start in group]) + offset_nL.minimum(lengths_n1 - 1)).flatten()
        is_token_S = (offset_nL < lengths_n1).flatten()
        slot_M, empty = is_token_S.nonzero()[:, 0], (~is_token_S).nonzero()[:, 0]
        buckets.append(Bucket(*(t.to(device) for t in (at_S, at_S[slot_M], slot_M, empty)), len(group)))
    return buckets


def padded_rows(pack: Pack, device: torch.device, pad_id: int) -> Rows:
    """As many rows as leaves, each from the first id of the prefix on, padded on the right."""
    found = pad_rows(pack)
    width = found.width
    mask = [[True] * len(row) + [False] * (width - len(row)) for row in found.rows]
    positions_BT = torch.arange(width, device=device)[None].expand(len(found.rows), -1)
    return Rows(
        torch.tensor(found.padded(pad_id), device=device),
        positions_BT,
        torch.tensor(mask, device=device),
        None,
        torch.tensor(found.row_N, dtype=torch.long, device=device),
        torch.tensor(found.at_N, dtype=torch.long, device=device),
        torch.tensor(found.target_N, dtype=torch.long, device=device),
        torch.tensor(found.segment_N, dtype=torch.long, device=device),
        width,
    )
