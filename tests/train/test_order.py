"""The order of rows: permutations, mixes, and from easy to hard, always a function of (seed, step)."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from whet.backends.base import Pack
from whet.data.mix import MixSettings, mix
from whet.errors import InputError, SettingsError
from whet.records import Example
from whet.train.batches import pack_numbered
from whet.train.encode import Row
from whet.train.order import Order, OrderSettings, base_losses, competence, difficulties, steps_per_epoch

BY_LENGTH = OrderSettings(curriculum="length", curriculum_share=0.1)


@given(num=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 4))
def test_each_epoch_sees_every_row_once(num: int, size: int, seed: int, epoch: int) -> None:
    per_epoch = steps_per_epoch(num, size)
    steps = [Order(num, size, seed).rows(epoch * per_epoch + at) for at in range(per_epoch)]
    assert sorted(number for step in steps for number in step) == list(range(num))
    assert [len(step) for step in steps] == [size] * (num // size) + ([num % size] if num % size else [])


def test_the_order_is_a_function_of_seed_and_step() -> None:
    order = [Order(50, 8, 3).rows(step) for step in range(14)]
    asked = Order(50, 8, 3)
    assert [asked.rows(step) for step in reversed(range(14))] == order[::-1]  # asked in any order
    assert [Order(50, 8, 4).rows(step) for step in range(14)] != order
    assert order[:7] != order[7:]  # another epoch, another order
    assert order[0] != sorted(order[0])


@given(
    difficulty=st.lists(st.floats(-5, 5), min_size=1, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
    epochs=st.integers(1, 3),
    epoch=st.integers(0, 4),
)
def test_a_curriculum_draws_from_the_easiest_and_leaves_none_out(
    difficulty: list[float], share: float, seed: int, epochs: int, epoch: int
) -> None:
    chosen = OrderSettings(curriculum="length", curriculum_share=share, curriculum_epochs=epochs)
    num = len(difficulty)
    rows = Order(num, 3, seed, settings=chosen, difficulty=difficulty).epoch(epoch)
    assert sorted(rows) == list(range(num))
    if epoch >= epochs:
        assert rows == Order(num, 3, seed).epoch(epoch)
        return
    ranked = sorted(range(num), key=lambda number: (difficulty[number], number))
    start = math.sqrt(share**2 + (1 - share**2) * epoch / epochs)
    for at, number in enumerate(rows):
        allowed = math.sqrt(start**2 + (1 - start**2) * at / num) * num
        assert ranked.index(number) < max(at + 1, math.ceil(allowed + 1e-9))


def test_a_curriculum_goes_from_easy_to_hard_and_less_so_in_each_epoch() -> None:
    chosen = OrderSettings(curriculum="length", curriculum_epochs=2)
    order = Order(2000, 16, 5, settings=chosen, difficulty=[float(-number) for number in range(2000)])
    halves = []
    for epoch in range(3):
        rows = order.epoch(epoch)
        halves.append(sum(number >= 1000 for number in rows[:1000]) / 1000)  # share of easy rows in the first half
    assert halves[0] > 0.63 > halves[1] > 0.53 > halves[2] > 0.45
    assert order.epoch(0) != sorted(order.epoch(0), reverse=True)  # it is drawn, not sorted
    assert [order.rows(step) for step in (3, 140, 3)] == [order.epoch(0)[48:64], order.epoch(1)[240:256], order.epoch(0)[48:64]]


def test_competence_is_the_papers() -> None:
    assert competence(0.01, 0) == pytest.approx(0.01)
    assert competence(0.01, 1) == 1
    assert competence(0.01, 0.25) == pytest.approx(0.5, abs=1e-3)


@given(
    sources=st.lists(st.sampled_from("ab"), min_size=2, max_size=30).filter(lambda names: {*names} == {"a", "b"}),
    seed=st.integers(0, 2**63 - 1),
    size=st.integers(1, 7),
    is_graded=st.booleans(),
)
@settings(max_examples=50)
def test_an_epoch_is_the_mix(sources: list[str], seed: int, size: int, is_graded: bool) -> None:
    mixing = MixSettings(weights={"a": 1, "b": 1}, max_repeats=2)
    graded = {"settings": BY_LENGTH, "difficulty": [float(at % 5) for at in range(len(sources))]} if is_graded else {}
    order = Order(len(sources), size, seed, mixing=mixing, sources=sources, **graded)
    by_source = {name: [at for at, held in enumerate(sources) if held == name] for name in "ab"}
    drawn = [by_source[name][at] for name, at in mix({name: len(held) for name, held in by_source.items()}, mixing, seed, 0)]
    steps = [order.rows(step) for step in range(order.steps_per_epoch)]
    found = [number for step in steps for number in step]
    assert Counter(found) == Counter(drawn)
    assert is_graded or found == drawn
    assert len(found) == order.rows_per_epoch
    scarce = min(map(len, by_source.values()))
    assert bool(order.mix_limit) == (4 * scarce < len(sources))


def test_faults_of_a_mix_are_told_when_the_order_is_made() -> None:
    with pytest.raises(SettingsError, match="did you mean annals"):
        Order(2, 1, 0, mixing=MixSettings(caps={"anals": 3}), sources=["annals", "annals"])


def test_settings_that_do_nothing_are_refused() -> None:
    for said in ({"curriculum_share": 0.2}, {"curriculum_epochs": 2}, {"curriculum": "loss", "curriculum_field": "num_records"}):
        with pytest.raises(ValidationError, match="curriculum"):
            OrderSettings(**said)


def test_difficulties() -> None:
    rows = [Row("e0", "f:1", (1, 2), (3,), False), Row("e1", "f:2", (1,), (3,), False)]
    examples = [
        Example("e0", "", "f:1", "", category="2.5", records=({}, {})),
        Example("e1", "", "f:2", "", category="-1", records=()),
    ]

    def told(**chosen: str) -> list[float] | None:
        return difficulties(OrderSettings(**chosen), rows, examples, lambda: [0.5, 0.25])

    assert told() is None
    assert told(curriculum="length") == [3, 2]
    assert told(curriculum="loss") == [0.5, 0.25]
    assert told(curriculum="field") == [2.5, -1]
    assert told(curriculum="field", curriculum_field="num_records") == [2, 0]
    examples[1] = Example("e1", "", "f:2", "", category="hard")
    with pytest.raises(InputError, match=r"f:2.*'hard'"):
        told(curriculum="field")


class Likely:
    """A backend whose log-probability of an id is minus the id."""

    def log_likelihoods(self, pack: Pack) -> list[float]:
        return [-float(sum(pack.row(leaf)[-pack.segments[leaf].num_learnt :])) for leaf in pack.leaves]


def test_base_losses_are_those_of_each_row() -> None:
    prompt = tuple(range(50, 80))
    rows = [Row(f"e{n}", "f:1", (*prompt, 90 - n), (n + 1, n + 3), False) for n in range(9)]
    for budget in (20, 60, 1000):
        packs = pack_numbered(rows, budget)
        assert base_losses(Likely(), packs, len(rows)) == [n + 2 for n in range(9)]  # type: ignore[arg-type]
