"""The packing of rows, held against what it promises by brute force."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.base import Pack, Segment
from whet.train import batches
from whet.train.batches import num_computed, pack_numbered, pack_rows
from whet.train.encode import Row

# Few different ids, so that prompts share beginnings, are equal, or are beginnings of others; some with a long one in front.
tails = st.lists(st.integers(1, 3), min_size=1, max_size=9)
prompts = st.builds(lambda head, tail: (*head, *tail), st.sampled_from([(), (7,) * 4, (7,) * 9, (7, 8) * 7]), tails)
answers = st.lists(st.integers(1, 3), min_size=1, max_size=9).map(tuple)
rows = st.lists(
    st.builds(
        lambda number, prompt, answer: Row(f"e{number}", "f:1", prompt, answer, False), st.integers(0, 9), prompts, answers
    ),
    max_size=14,
)
least = st.sampled_from([1, 2, 5, 16])


def packed(found: Sequence[Row], max_tokens: int, least_shared: int) -> list[tuple[Pack, list[int]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MIN_SHARED", least_shared)
        return pack_numbered(found, max_tokens)


def size_behind(pack: Pack) -> int:
    return pack.num_tokens - len(pack.prefix)


@given(rows=rows, max_tokens=st.integers(1, 90), least=least)
def test_every_row_is_held_once_whole_with_what_it_learns(rows: list[Row], max_tokens: int, least: int) -> None:
    held = []
    for pack, numbers in packed(rows, max_tokens, least):
        assert len(numbers) == len(pack.leaves)
        for number, leaf in zip(numbers, pack.leaves, strict=True):
            assert pack.row(leaf) == rows[number].prompt_ids + rows[number].answer_ids
            assert pack.segments[leaf].num_learnt == len(rows[number].answer_ids)
        held += numbers
    assert sorted(held) == list(range(len(rows)))


@given(rows=rows, max_tokens=st.integers(1, 90), least=least)
def test_packs_are_trees_in_preorder_that_learn_at_the_ends_only(rows: list[Row], max_tokens: int, least: int) -> None:
    for pack, _ in packed(rows, max_tokens, least):
        path: list[int] = [-1]
        for number, segment in enumerate(pack.segments):
            assert segment.parent in path  # else it would stand behind a branch that is over
            path = [*path[: path.index(segment.parent) + 1], number]
        children = Counter(segment.parent for segment in pack.segments)
        for number, segment in enumerate(pack.segments):
            if number in children:
                assert segment.num_learnt == 0
                assert children[number] >= 2
                assert len(segment.ids) >= least
            else:
                assert segment.num_learnt < len(segment.ids)  # its first id is never learnt
        assert not pack.prefix or len(pack.prefix) >= least


@given(rows=rows, max_tokens=st.integers(1, 90), least=least)
def test_packs_keep_the_budget_unless_one_row_alone_is_over_it(rows: list[Row], max_tokens: int, least: int) -> None:
    found = [pack for pack, _ in packed(rows, max_tokens, least)]
    for pack in found:
        allowed = max(max_tokens - len(pack.prefix), max_tokens // 2)
        assert size_behind(pack) <= allowed or len(pack.segments) == 1
        if len(pack.segments) == 1 and pack.prefix:  # it stands behind a prefix because it shares it
            assert sum(other.prefix == pack.prefix for other in found) > 1
    # Packs with one prefix follow each other, so that it is computed once.
    runs = [prefix for prefix, _ in groupby(found, key=lambda pack: pack.prefix) if prefix]
    assert len(runs) == len(set(runs))


@given(rows=rows, max_tokens=st.integers(1, 90), least=least, seed=st.randoms(use_true_random=False))
def test_packing_does_not_know_the_order_of_rows(rows: list[Row], max_tokens: int, least: int, seed) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)
    assert [pack for pack, _ in packed(rows, max_tokens, least)] == [pack for pack, _ in packed(shuffled, max_tokens, least)]
    assert pack_rows(rows, max_tokens, "padded") == pack_rows(shuffled, max_tokens, "padded")


@given(rows=rows, max_tokens=st.integers(1, 90), least=least)
def test_sharing_never_computes_more_than_rows_apart(rows: list[Row], max_tokens: int, least: int) -> None:
    found = [pack for pack, _ in packed(rows, max_tokens, least)]
    assert num_computed(found) <= sum(row.num_tokens for row in rows)


@given(rows=rows)
def test_all_rows_that_fit_share_every_beginning_that_two_of_them_have(rows: list[Row]) -> None:
    found = [pack for pack, _ in packed(rows, 10_000, 1)]
    assert len(found) == bool(rows)
    shareable = {row.prompt_ids[:size] for row in rows for size in range(1, len(row.prompt_ids))}
    own = sum(1 + len(row.answer_ids) for row in rows)  # the last id of a prompt predicts what is learnt, and is each row's own
    assert num_computed(found) == len(shareable) + own


@given(rows=rows, max_tokens=st.integers(30, 90))
@settings(max_examples=30)
def test_one_pack_where_all_rows_fit(rows: list[Row], max_tokens: int) -> None:
    whole = packed(rows, 10_000, 2)
    if whole and whole[0][0].num_tokens <= max_tokens:
        assert packed(rows, max_tokens, 2) == whole


def row(name: str, prompt: Sequence[int], answer: Sequence[int] = (2,)) -> Row:
    return Row(name, "f:1", tuple(prompt), tuple(answer), False)


def test_a_tree_by_hand() -> None:
    head, block = tuple(range(100, 140)), tuple(range(200, 220))
    found = pack_rows([row("c", (*head, 9, 8)), row("a", (*head, *block, 1)), row("b", (*head, *block, 5, 6), (3, 2))], 1000)
    assert found[0].prefix == head
    assert sorted(found[0].segments, key=lambda segment: segment.ids[0]) == [
        Segment((1, 2), 1, found[0].segments.index(Segment(block, 0))),
        Segment((5, 6, 3, 2), 2, found[0].segments.index(Segment(block, 0))),
        Segment((9, 8, 2), 1),
        Segment(block, 0),
    ]


def test_few_shared_ids_are_repeated() -> None:
    short, long = tuple(range(100, 115)), tuple(range(100, 116))
    assert [pack.prefix for pack in pack_rows([row("a", (*short, 1, 1)), row("b", (*short, 2, 2))], 100)] == [()]
    assert [pack.prefix for pack in pack_rows([row("a", (*long, 1, 1)), row("b", (*long, 2, 2))], 100)] == [long]


def test_a_long_prefix_stands_before_each_of_several_packs_and_is_computed_once() -> None:
    head = tuple(range(1000, 1900))
    found = pack_rows([row(f"e{n}", (*head, n + 1), (7,) * 99) for n in range(11)], 1024)
    # Behind 900 ids there is room for 124 more; half the budget, 512, is given all the same: five rows of 100.
    assert [(len(pack.prefix), len(pack.segments)) for pack in found] == [(900, 5), (900, 5), (900, 1)]
    assert num_computed(found) == 900 + 11 * 100


def test_a_branch_that_is_too_large_is_cut_behind_its_longer_path() -> None:
    head, block = tuple(range(1000, 1020)), tuple(range(2000, 2030))
    large = [row(f"l{n}", (*head, *block, n + 1), (7,) * 19) for n in range(6)]
    small = [row(f"s{n}", (*head, n + 50), (7,) * 19) for n in range(3)]
    found = pack_rows([*large, *small], 100)
    assert [(pack.prefix, len(pack.segments)) for pack in found] == [(head, 3), *[(head + block, 2)] * 3]


def test_one_pack_up_to_the_budget_with_its_prefix() -> None:
    head = tuple(range(1000, 1020))
    rows = [row(f"e{n}", (*head, n + 1), (7,) * 9) for n in range(4)]
    assert [pack.num_tokens for pack in pack_rows(rows, 60)] == [60]
    assert [size_behind(pack) for pack in pack_rows(rows, 59)] == [30, 10]


def test_what_shares_its_path_with_no_other_pack_has_no_prefix_of_its_own() -> None:
    head, block = tuple(range(1000, 1020)), tuple(range(2000, 2030))
    large = [row(f"l{n}", (*head, *block, n + 1), (7,) * 19) for n in range(6)]
    alone = pack_rows([*large, row("s", (*head, 50), (7,) * 19)], 100)
    assert [(pack.prefix, len(pack.segments)) for pack in alone] == [((), 1), *[(head + block, 2)] * 3]
    twins = [row(f"t{n}", (*head, *range(3000, 3016), n + 1), (7,)) for n in range(2)]
    joined = pack_rows([*large, *twins], 100)
    assert [(len(pack.prefix), len(pack.segments)) for pack in joined] == [(36, 2), *[(50, 2)] * 3]


def test_packs_are_filled() -> None:
    found = pack_rows([row(f"e{n}", (n + 1,), (1,) * size) for n, size in enumerate([5, 3, 4, 2, 1, 3])], 12)
    # Best-fit decreasing, by hand: 6 5 | 4 4 3 | 2.
    assert sorted(pack.num_tokens for pack in found) == [2, 11, 11]
    tight = pack_rows([row(f"e{n}", (n + 1,), (1,) * (size - 1)) for n, size in enumerate([7, 6, 3, 4])], 10)
    assert [pack.num_tokens for pack in tight] == [10, 10]  # 7 3 | 6 4


@given(rows=rows, max_tokens=st.integers(1, 60))
def test_padded_packs_hold_every_row_once_and_keep_the_budget_with_their_padding(rows: list[Row], max_tokens: int) -> None:
    packs = pack_rows(rows, max_tokens, "padded")
    held = Counter((segment.ids, segment.num_learnt) for pack in packs for segment in pack.segments)
    assert held == Counter(((*row.prompt_ids, *row.answer_ids), len(row.answer_ids)) for row in rows)
    for pack in packs:
        assert pack.prefix == ()
        assert pack.num_padded == max(len(segment.ids) for segment in pack.segments) * len(pack.segments)
        assert pack.num_padded <= max_tokens or len(pack.segments) == 1
    assert num_computed(packs, "padded") == sum(pack.num_padded for pack in packs)


def test_computed_tokens_by_hand() -> None:
    head = tuple(range(1000, 1020))
    rows = [row("a", (*head, 1), (7,) * 9), row("b", (*head, 2), (7,) * 19), row("c", (*head, 3), (7,) * 4)]
    assert num_computed(pack_rows(rows, 1000)) == 20 + 10 + 20 + 5
    assert num_computed(pack_rows(rows, 1000, "padded"), "padded") == 3 * 40
    assert num_computed([]) == 0
