"""The order of rows and their packing, held against what they promise by brute force."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from whet.train.batches import OPEN_PACKS, num_shared, pack_rows, rows_of_step, steps_per_epoch
from whet.train.encode import Row

ids = st.lists(st.integers(1, 3), min_size=1, max_size=9).map(tuple)
rows = st.lists(
    st.builds(lambda number, prompt, answer: Row(f"e{number}", "f:1", prompt, answer, False), st.integers(0, 99), ids, ids),
    max_size=14,
)


@given(num=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 4))
def test_each_epoch_sees_every_row_once(num: int, size: int, seed: int, epoch: int) -> None:
    per_epoch = steps_per_epoch(num, size)
    steps = [rows_of_step(num, size, seed, epoch * per_epoch + at) for at in range(per_epoch)]
    assert sorted(number for step in steps for number in step) == list(range(num))
    assert [len(step) for step in steps] == [size] * (num // size) + ([num % size] if num % size else [])


def test_the_order_is_a_function_of_seed_and_step() -> None:
    order = [rows_of_step(50, 8, 3, step) for step in range(14)]
    assert [rows_of_step(50, 8, 3, step) for step in reversed(range(14))] == order[::-1]  # asked in any order
    assert [rows_of_step(50, 8, 4, step) for step in range(14)] != order
    assert order[:7] != order[7:]  # another epoch, another order
    assert order[0] != sorted(order[0])


@given(left=ids, right=ids, most=st.integers(0, 12))
def test_two_prompts_share_their_longest_common_beginning(left: tuple[int, ...], right: tuple[int, ...], most: int) -> None:
    num, highest = num_shared(left, right, most), min(most, len(left), len(right))
    assert left[:num] == right[:num]
    assert 0 <= num <= highest
    assert num == highest or left[num] != right[num]


@given(rows=rows, max_tokens=st.integers(1, 40))
def test_packs_hold_every_row_once_and_keep_the_budget(rows: list[Row], max_tokens: int) -> None:
    packs = pack_rows(rows, max_tokens)
    held = Counter(
        ((*pack.prefix, *segment.ids)[: -segment.num_learnt], segment.ids[-segment.num_learnt :])
        for pack in packs
        for segment in pack.segments
    )
    assert held == Counter((row.prompt_ids, row.answer_ids) for row in rows)
    for pack in packs:
        assert pack.segments
        assert pack.num_tokens <= max_tokens or len(pack.segments) == 1
        assert all(segment.num_learnt <= len(segment.ids) for segment in pack.segments)  # a prefix is never learnt
        assert pack.num_learnt == sum(segment.num_learnt for segment in pack.segments)


@given(rows=rows, max_tokens=st.integers(1, 40))
def test_packing_does_not_know_the_order_of_rows(rows: list[Row], max_tokens: int) -> None:
    rows = [Row(f"e{number}", row.source, row.prompt_ids, row.answer_ids, False) for number, row in enumerate(rows)]
    assert pack_rows(rows, max_tokens) == pack_rows(rows[::-1], max_tokens)


def test_a_shared_prefix_is_computed_once() -> None:
    prompt = tuple(range(1, 41))
    found = pack_rows([Row(f"e{n}", "f:1", (*prompt, 50 + n), (60 + n, 2), False) for n in range(8)], 1000)
    assert [(pack.prefix, len(pack.segments)) for pack in found] == [(prompt, 8)]
    assert found[0].num_tokens == 40 + 8 * 3


def test_packs_are_filled() -> None:
    rows = [Row(f"e{n}", "f:1", (n + 1,), (1,) * size, False) for n, size in enumerate([5, 3, 4, 2, 1, 3])]
    # First-fit decreasing, by hand: 6 5 | 4 4 3 | 2.
    assert [pack.num_tokens for pack in pack_rows(rows, 12)] == [11, 11, 2]
    assert [pack.num_tokens for pack in pack_rows(rows, 24)] == [24]


@given(rows=rows, max_tokens=st.integers(1, 60))
def test_padded_packs_hold_every_row_once_and_keep_the_budget_with_their_padding(rows: list[Row], max_tokens: int) -> None:
    packs = pack_rows(rows, max_tokens, "padded")
    held = Counter((segment.ids, segment.num_learnt) for pack in packs for segment in pack.segments)
    assert held == Counter(((*row.prompt_ids, *row.answer_ids), len(row.answer_ids)) for row in rows)
    for pack in packs:
        longest = max(len(pack.prefix) + len(segment.ids) for segment in pack.segments)
        assert pack.num_padded == longest * len(pack.segments)
        assert pack.num_padded <= max_tokens or len(pack.segments) == 1


def test_more_packs_than_are_held_open_are_filled_too() -> None:
    rows = [Row(f"e{n:04}", "f:1", (5, 6, 7, n + 10), (1,), False) for n in range(20 * 3 * OPEN_PACKS)]
    assert [pack.num_tokens for pack in pack_rows(rows, 3 + 2 * 20)] == [43] * 3 * OPEN_PACKS
