"""The count of updates, the random numbers that follow from it, and the loss scale of fp16."""

import pytest

from whet.backends.on_torch import steps
from whet.backends.on_torch.steps import LARGEST, START, Steps


def test_an_overflow_halves_the_scale_down_to_one() -> None:
    held = Steps(0, is_scaled=True)
    assert held.scale == START
    halvings = 0
    while held.overflow():
        halvings += 1
        assert held.scale == START / 2**halvings
    assert (halvings, held.scale) == (15, 1.0)


def test_without_a_scale_an_overflow_is_final() -> None:
    held = Steps(0, is_scaled=False)
    assert held.scale == 1.0
    assert not held.overflow()
    for _ in range(3):
        held.done()
    assert (held.scale, held.count) == (1.0, 3)


def test_the_scale_grows_after_as_many_good_updates_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "GROW_AFTER", 3)
    held = Steps(0, is_scaled=True)
    scales = []
    for number in range(9):
        if number == 4:
            assert held.overflow()  # the row begins anew
        held.done()
        scales.append(held.scale / START)
    assert scales == [1, 1, 2, 2, 1, 1, 2, 2, 2]
    held.scale = LARGEST
    for _ in range(4):
        held.done()
    assert held.scale == LARGEST


def test_random_numbers_follow_from_seed_and_count() -> None:
    found = set()
    for seed in (0, 1, 2**62):
        held = Steps(seed, is_scaled=False)
        for _ in range(50):
            found |= {held.random_seed(rank) for rank in range(3)}
            held.done()
    assert len(found) == 450  # no rank repeats another's, now or later
    assert all(0 <= seed < 2**63 for seed in found)  # what torch takes


def test_a_state_goes_on_where_it_was() -> None:
    held = Steps(5, is_scaled=True)
    held.done()
    held.overflow()
    held.done()
    again = Steps(5, is_scaled=True)
    again.load_state_dict(held.state_dict())
    assert vars(again) == vars(held)
    assert again.random_seed(1) == held.random_seed(1)
