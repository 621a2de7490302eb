"""Learning rates: against the schedules of transformers, by numbers, and at the ends."""

from typing import Any

import pytest
from pydantic import ValidationError

from whet.train.schedule import ScheduleSettings, learning_rate_at


def rates(num_steps: int, **changes: Any) -> list[float]:
    chosen = ScheduleSettings(**({"learning_rate": 0.01} | changes))
    return [learning_rate_at(chosen, step, num_steps) for step in range(num_steps)]


def theirs(num_steps: int, name: str, warm_up: int, **more: Any) -> list[float]:
    """The learning rates of a schedule of transformers."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = get_scheduler(name, optimizer, warm_up, num_steps, scheduler_specific_kwargs=more)
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


WSD = {"num_decay_steps": 12, "decay_type": "1-sqrt"}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("ours", "name", "more"),
    [
        ({"schedule": "linear"}, "linear", {}),
        ({"schedule": "cosine"}, "cosine", {}),
        ({"schedule": "cosine", "min_rate": 0.1}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ({"schedule": "constant"}, "constant_with_warmup", {}),
        ({"schedule": "wsd", "decay": 0.3}, "warmup_stable_decay", WSD),
        ({"schedule": "wsd", "decay": 0.3, "min_rate": 0.2}, "warmup_stable_decay", WSD | {"min_lr_ratio": 0.2}),
    ],
)
def test_learning_rates_are_those_of_transformers_after_the_warm_up(ours: Any, name: str, more: Any) -> None:
    assert rates(40, warm_up_steps=8, **ours)[8:] == pytest.approx(theirs(40, name, 8, **more)[8:], rel=1e-9, abs=1e-12)


@pytest.mark.integration
def test_a_warm_up_is_that_of_transformers_without_its_idle_first_step() -> None:
    assert rates(40, warm_up_steps=8, schedule="constant")[:8] == pytest.approx(theirs(40, "constant_with_warmup", 9)[1:9])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 400])
def test_the_learning_rate_rises_from_more_than_zero_and_falls_to_about_zero(schedule: Any, num_steps: int) -> None:
    found = rates(num_steps, schedule=schedule, warm_up=0.1)
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert min(found) > 0
    assert max(found) == pytest.approx(0.01)
    assert top == round(0.1 * num_steps)
    chosen = ScheduleSettings(learning_rate=0.01, schedule=schedule, warm_up=0.1)
    assert learning_rate_at(chosen, num_steps, num_steps) == pytest.approx(0.0)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_the_end_is_the_least_rate(schedule: Any) -> None:
    chosen = ScheduleSettings(learning_rate=0.01, schedule=schedule, min_rate=0.25)
    assert learning_rate_at(chosen, 300, 300) == pytest.approx(0.0025)
    assert min(rates(300, schedule=schedule, min_rate=0.25, warm_up=0.0)) >= 0.0025


def test_a_constant_schedule_keeps_the_learning_rate() -> None:
    assert set(rates(9, schedule="constant", warm_up=0.0)) == {0.01}


def test_wsd_stays_until_it_falls() -> None:
    found = rates(100, schedule="wsd", warm_up_steps=10)
    assert set(found[10:81]) == {0.01}  # a fifth of the steps is the default
    assert all(late < 0.01 for late in found[81:])


def test_warm_up_by_steps_comes_before_the_share() -> None:
    assert rates(50, warm_up_steps=3) == rates(50, warm_up=0.06)
    assert rates(50, warm_up_steps=0)[0] == 0.01


@pytest.mark.parametrize(
    "changes",
    [{"decay": 0.1}, {"schedule": "constant", "min_rate": 0.1}, {"warm_up_steps": 0, "warm_up": 0.1}, {"schedule": "step"}],
)
def test_settings_that_do_nothing_are_refused(changes: Any) -> None:
    with pytest.raises(ValidationError, match=r"is for schedule wsd only|does nothing|Input should be"):
        ScheduleSettings(**changes)


@pytest.mark.integration
@pytest.mark.parametrize(("ours", "name"), [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")])
def test_from_zero_every_learning_rate_is_that_of_transformers(ours: Any, name: str) -> None:
    found = rates(40, warm_up_steps=8, warm_up_from_zero=True, schedule=ours)
    assert found == pytest.approx(theirs(40, name, 8), rel=1e-9, abs=1e-12)


def test_a_fall_over_fewer_steps_ends_early_and_stays() -> None:
    short = rates(10, warm_up=0, schedule="linear", min_rate=0.1)
    assert rates(40, warm_up=0, schedule="linear", min_rate=0.1, decay_steps=10) == pytest.approx([*short, *[0.001] * 30])


@pytest.mark.parametrize("changes", [{"warm_up_from_zero": True, "warm_up": 0.0}, {"decay_steps": 5, "schedule": "wsd"}])
def test_settings_of_the_fall_and_the_rise_that_do_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"warm-up|linear and cosine only"):
        ScheduleSettings(**changes)
