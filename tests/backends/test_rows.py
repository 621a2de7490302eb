"""Packed and padded rows against the rows of the pack, id by id."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.base import Pack, Segment
from whet.backends.on_torch.rows import Rows, packed_row, padded_rows

CPU = torch.device("cpu")


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """A random tree of ids in preorder; its leaves learn some of their last ids, never the first."""
    ids = st.integers(3, 999)
    segments: list[Segment] = []

    def grow(parent: int, depth: int) -> None:
        for _ in range(draw(st.integers(1, 4))):
            found = tuple(draw(st.lists(ids, min_size=1, max_size=40)))
            at = len(segments)
            segments.append(Segment(found, 0, parent))
            if depth < 2 and draw(st.booleans()) and draw(st.booleans()):
                grow(at, depth + 1)
            else:
                segments[at] = Segment(found, draw(st.integers(0, len(found) - 1)), parent)

    grow(-1, 0)
    return Pack(tuple(draw(st.lists(ids, max_size=30))), tuple(segments))


def wanted_learnt(pack: Pack) -> list[tuple[int, int, int, int]]:
    """For each learnt id in the order of the segments: its segment, position, itself, and the id before it."""
    found = []
    for leaf in pack.leaves:
        row = pack.row(leaf)
        found += [(leaf, at, row[at], row[at - 1]) for at in range(len(row) - pack.segments[leaf].num_learnt, len(row))]
    return found


def learnt_of(rows: Rows) -> list[tuple[int, int, int, int]]:
    """The same, as tensors tell it: the predicting token stands one position before."""
    ids, positions = rows.ids_BT[rows.row_N, rows.at_N], rows.positions_BT[rows.row_N, rows.at_N]
    return list(zip(rows.segment_N.tolist(), (positions + 1).tolist(), rows.target_N.tolist(), ids.tolist(), strict=True))


@settings(max_examples=25)
@given(pack=packs(), is_apart=st.booleans())
def test_a_packed_row_holds_every_row_of_the_pack(pack: Pack, is_apart: bool) -> None:
    rows = packed_row(pack, CPU, is_prefix_apart=is_apart)
    ids, positions = rows.ids_BT[0].tolist(), rows.positions_BT[0].tolist()
    num_before = len(pack.prefix) if is_apart else 0
    assert len(ids) == len(positions) == rows.tree.num_tokens == pack.num_tokens - num_before
    ends = rows.tree.ends(CPU).tolist()
    assert rows.mask_BT is None
    column = len(pack.prefix) - num_before
    for number, segment in enumerate(pack.segments):
        row = pack.row(number)
        # What the segment's last token sees is its row, each id at its place.
        last = column + len(segment.ids) - 1
        seen = [at for at in range(last + 1) if last < ends[at]]
        assert [ids[at] for at in seen] == list(row[num_before:])
        assert [positions[at] for at in seen] == list(range(num_before, len(row)))
        column = last + 1
    assert learnt_of(rows) == wanted_learnt(pack)
    assert rows.longest == max(len(pack.row(number)) for number in range(len(pack.segments)))


@settings(max_examples=25)
@given(pack=packs())
def test_a_packed_row_computes_each_leaf_in_one_bucket(pack: Pack) -> None:
    tree = packed_row(pack, CPU).tree
    columns = sorted(column for bucket in tree.leaves for column in bucket.at_M.tolist())
    columns += [column for start, end, _ in tree.inner for column in range(start, end)]
    assert sorted(columns) == list(range(pack.num_tokens))
    num_alone = sum(last == end for _, end, last in tree.inner)
    assert sum(bucket.num_leaves for bucket in tree.leaves) + num_alone == len(pack.leaves)
    for bucket in tree.leaves:
        assert torch.equal(bucket.at_S[bucket.slot_M], bucket.at_M)
        assert sorted(bucket.slot_M.tolist() + bucket.empty.tolist()) == list(range(len(bucket.at_S)))


@settings(max_examples=25)
@given(pack=packs())
def test_padded_rows_are_the_rows_of_the_pack(pack: Pack) -> None:
    rows = padded_rows(pack, CPU, 1)
    assert rows.tree is None
    for number, leaf in enumerate(pack.leaves):
        row = pack.row(leaf)
        assert rows.ids_BT[number].tolist() == [*row, *[1] * (rows.longest - len(row))]
        assert rows.mask_BT[number].tolist() == [at < len(row) for at in range(rows.longest)]
    assert rows.ids_BT.numel() == pack.num_padded
    assert learnt_of(rows) == wanted_learnt(pack)


def test_leaves_of_unlike_length_are_not_padded_to_each_other() -> None:
    lengths = (100, 90, 40, 38, 4, 1)
    tree = packed_row(Pack((), tuple(Segment((5,) * length, 0) for length in lengths)), CPU).tree
    assert [(bucket.num_leaves, len(bucket.empty)) for bucket in tree.leaves] == [(2, 2), (2, 3)]
    # Long ones are computed by themselves, with nothing behind them.
    assert tree.inner == ((0, 100, 100), (100, 190, 190))
    assert tree.seen == []
