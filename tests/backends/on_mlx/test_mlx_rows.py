"""A pack as one MLX row: who sees whom and where each token stands, against paths walked one by one."""

# ruff: noqa: E402 (what follows the skip needs mlx)

import pytest

for name in ("mlx", "mlx_lm"):
    pytest.importorskip(name, reason="MLX is an extra of its own: pip install 'whet[mlx]'")

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whet.backends.base import Pack, Segment
from whet.backends.on_mlx.rows import PositionedRope, Positions, packed_row, padded_rows


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """Trees in preorder: the next segment stands behind the last one, or behind one of those that it stands behind."""
    segments: list[Segment] = []
    path = [-1]
    for number in range(draw(st.integers(1, 7))):
        parent = path[draw(st.integers(0, len(path) - 1))]
        path = [*path[: path.index(parent) + 1], number]
        segments.append(Segment(tuple(draw(st.lists(st.integers(0, 99), min_size=1, max_size=4))), 0, parent))
    inner = {segment.parent for segment in segments}
    learnt = [0 if n in inner else draw(st.integers(0, len(s.ids) - 1)) for n, s in enumerate(segments)]
    prefix = draw(st.lists(st.integers(0, 99), min_size=1, max_size=4))
    return Pack(tuple(prefix), tuple(Segment(s.ids, n, s.parent) for s, n in zip(segments, learnt, strict=True)))


@given(packs())
def test_a_token_sees_its_own_path_and_counts_along_it(pack: Pack) -> None:
    rows = packed_row(pack)
    assert rows.packed is not None
    mask_TT, positions_T = np.array(rows.packed.make_mask(0)), np.array(rows.packed.offset.at_T)
    ids_T = np.array(rows.ids_BT[0])
    starts = len(pack.prefix) + np.cumsum([0, *(len(segment.ids) for segment in pack.segments)])
    for leaf in pack.leaves:
        # The row of a leaf, walked by hand: its places in the packed row.
        path, at = [], leaf
        while at >= 0:
            path.append(range(starts[at], starts[at + 1]))
            at = pack.segments[at].parent
        places = [*range(len(pack.prefix)), *(place for run in reversed(path) for place in run)]
        assert tuple(ids_T[places]) == pack.row(leaf)
        assert list(positions_T[places]) == list(range(len(places)))
        for number, place in enumerate(places):
            assert set(np.flatnonzero(mask_TT[place])) == set(places[: number + 1])
            seen = np.flatnonzero(np.array(rows.packed.make_mask(0, window_size=2))[place])
            assert set(seen) == set(places[max(0, number - 1) : number + 1])


@given(packs())
def test_packed_and_padded_rows_learn_the_same_ids_behind_the_same_rows(pack: Pack) -> None:
    packed, padded = packed_row(pack), padded_rows(pack)
    assert np.array_equal(np.array(packed.target_N), np.array(padded.target_N))
    assert np.array_equal(packed.segment_N, padded.segment_N)
    assert len(packed.segment_N) == pack.num_learnt
    assert packed.packed is not None
    mask_TT, ids_T = np.array(packed.packed.make_mask(0)), np.array(packed.ids_BT[0])
    for at, row, column in zip(*(np.array(a) for a in (packed.at_N, padded.row_N, padded.at_N)), strict=True):
        assert np.array_equal(ids_T[mask_TT[at]], np.array(padded.ids_BT[row, : column + 1]))


def test_positions_of_their_own_turn_as_a_run_of_positions_does() -> None:
    from mlx import nn
    from mlx_lm.models.rope_utils import Llama3RoPE, SuScaledRoPE, YarnRoPE

    x = mx.random.normal((1, 3, 5, 16), key=mx.random.key(0))
    ropes = [
        nn.RoPE(16),
        nn.RoPE(8, traditional=True, base=500.0, scale=0.5),
        Llama3RoPE(16, scaling_config={"factor": 8.0}),
        YarnRoPE(16, scaling_factor=4.0),
        SuScaledRoPE(16, long_factor=[2.0] * 8),
    ]
    for rope in ropes:
        wrapped = PositionedRope(rope)
        assert np.allclose(wrapped(x, offset=Positions(mx.array([7, 8, 9, 10, 11]))), rope(x, offset=7), atol=1e-6)
        mixed = wrapped(x, offset=Positions(mx.array([0, 3, 3, 0, 9])))
        for place, position in enumerate([0, 3, 3, 0, 9]):
            assert np.allclose(mixed[:, :, place], rope(x[:, :, place : place + 1], offset=position)[:, :, 0], atol=1e-6)
        assert np.array_equal(wrapped(x, offset=2), rope(x, offset=2))


def test_a_pack_without_prefix_starts_its_rows_at_nought() -> None:
    rows = packed_row(Pack((), (Segment((5, 6, 7), 1), Segment((8, 9), 1))))
    assert rows.packed is not None
    assert np.array(rows.packed.offset.at_T).tolist() == [0, 1, 2, 0, 1]
    assert np.array(rows.at_N).tolist() == [1, 3]
