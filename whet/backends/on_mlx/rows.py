"""Packs as MLX arrays: one packed row with an exact mask and its own positions, or plain padded rows; the learnt ids' losses."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from whet.backends.base import Pack
from whet.backends.padded import pad_rows


@dataclass(frozen=True)
class Positions:
    """The place of each token of a packed row in its own row; stands where mlx-lm's models take a cache's offset."""

    at_T: mx.array


class PackedRow:
    """What mlx-lm's layers take for a cache, to compute one packed row: positions and mask from the pack, nothing kept."""

    def __init__(self, positions_T: np.ndarray, is_visible_TT: np.ndarray) -> None:
        self.offset = Positions(mx.array(positions_T))
        self._positions_T, self._is_visible_TT = positions_T, is_visible_TT
        self._masks: dict[int | None, mx.array] = {}

    def make_mask(self, _num_tokens: int, *, window_size: int | None = None, **_ignored: Any) -> mx.array:
        """(T, T) booleans, true where a token may be seen; a window counts positions within a row, not places in the pack."""
        if window_size not in self._masks:
            is_visible_TT = self._is_visible_TT
            if window_size is not None:
                is_visible_TT = is_visible_TT & (self._positions_T[:, None] - self._positions_T[None, :] < window_size)
            self._masks[window_size] = mx.array(is_visible_TT)
        return self._masks[window_size]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


class PositionedRope(nn.Module):
    """A model's own rotary embedding, that also takes a position for each token."""

    def __init__(self, rope: Callable[..., mx.array]) -> None:
        super().__init__()
        self.rope = rope

    def __call__(self, x: mx.array, offset: Any = 0, **others: Any) -> mx.array:
        if not isinstance(offset, Positions):
            return self.rope(x, offset=offset, **others)
        # mlx takes an offset for each row of a batch: a row of T tokens goes in as T rows of one token.
        return self.rope(x.transpose(2, 1, 0, 3), offset=offset.at_T, **others).transpose(2, 1, 0, 3)


@dataclass(frozen=True)
class Rows:
    """What a forward pass needs. B rows of T tokens; N learnt ids over all rows, in the order of the pack's segments."""

    ids_BT: mx.array
    packed: PackedRow | None
    """None for padded rows: they are padded on the right, so a causal mask keeps the padding out."""
    row_N: mx.array
    at_N: mx.array
    """Row and column of the token that predicts each learnt id."""
    target_N: mx.array
    segment_N: np.ndarray
    """Number of the segment that each learnt id belongs to."""


def packed_row(pack: Pack) -> Rows:
    """One row: the prefix, then the segments in preorder. A token sees those before it on its own path from the prefix."""
    ids, positions = list(pack.prefix), list(range(len(pack.prefix)))
    starts, ends = [], list[int]()
    at, segment_of = [], []
    for number, segment in enumerate(pack.segments):
        start = len(ids)
        last = ends[segment.parent] - 1 if segment.parent >= 0 else len(pack.prefix) - 1
        first = positions[last] + 1 if last >= 0 else 0
        ids += segment.ids
        positions += range(first, first + len(segment.ids))
        starts.append(start)
        ends.append(len(ids))
        for offset in range(len(segment.ids) - segment.num_learnt, len(segment.ids)):
            at.append(start + offset - 1 if offset else last)
            segment_of.append(number)
    learnt = [segment.ids[len(segment.ids) - segment.num_learnt :] for segment in pack.segments]
    # Where the subtree of each token's segment ends; who stands at or behind that end does not see the token.
    until_T = np.full(len(ids), len(ids))
    subtree = list(ends)
    for number in reversed(range(len(pack.segments))):
        parent = pack.segments[number].parent
        if parent >= 0:
            subtree[parent] = max(subtree[parent], subtree[number])
        until_T[starts[number] : ends[number]] = subtree[number]
    place_T = np.arange(len(ids))
    is_visible_TT = (place_T[None, :] <= place_T[:, None]) & (place_T[:, None] < until_T[None, :])
    return Rows(
        mx.array([ids]),
        PackedRow(np.array(positions, dtype=np.int32), is_visible_TT),
        mx.zeros(len(at), dtype=mx.int32),
        mx.array(at, dtype=mx.int32),
        mx.array([token for tokens in learnt for token in tokens], dtype=mx.int32),
        np.array(segment_of, dtype=np.int64),
    )


def padded_rows(pack: Pack, pad_id: int = 0) -> Rows:
    """As many rows as leaves, each from the prefix to its leaf, padded on the right."""
    found = pad_rows(pack)
    return Rows(
        mx.array(found.padded(pad_id)),
        None,
        mx.array(found.row_N, dtype=mx.int32),
        mx.array(found.at_N, dtype=mx.int32),
        mx.array(found.target_N, dtype=mx.int32),
        np.array(found.segment_N, dtype=np.int64),
    )


def learnt_losses(model: Any, head: Callable[[mx.array], mx.array] | None, rows: Rows, most_logits: int) -> mx.array:
    """(N,) cross entropies of the learnt ids, in nats, computed in fp32.

    head: from hidden states to logits; it runs at learnt places only, and on pieces of at most `most_logits` logits, which
    the backward pass computes again. None for a model whose head can't be told apart: every place gets logits then.
    """
    cache = None if rows.packed is None else [rows.packed] * len(model.layers)

    def losses(hidden_ND: mx.array, target_N: mx.array) -> mx.array:
        logits_NV = hidden_ND if head is None else head(hidden_ND)
        return nn.losses.cross_entropy(logits_NV.astype(mx.float32), target_N)

    if head is None:
        return losses(model(rows.ids_BT, cache=cache)[rows.row_N, rows.at_N], rows.target_N)
    hidden_ND = model.model(rows.ids_BT, cache=cache)[rows.row_N, rows.at_N]
    num_rows = max(1, most_logits // model.args.vocab_size)
    if len(rows.target_N) <= num_rows:
        return losses(hidden_ND, rows.target_N)
    pieces = []
    for at in range(0, len(rows.target_N), num_rows):
        # The ids are bound and not passed: mlx would ask for their gradient.
        piece = mx.checkpoint(partial(losses, target_N=rows.target_N[at : at + num_rows]))
        pieces.append(piece(hidden_ND[at : at + num_rows]))
    return mx.concatenate(pieces)
