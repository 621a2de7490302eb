"""Guards: steps that leap are not taken, their rows are named, and the policy says what follows."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scripted_training import ROWS, Run, ScriptedBackend

from whet.backends.base import Pack, StepLimits, StepResult
from whet.models.base_model import BaseModel
from whet.train.guards import FEWEST, Guard, GuardSettings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug; a disk that is waited for makes them slow."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def guard_after(losses: Sequence[float], norms: Sequence[float] = (), **changes: Any) -> Guard:
    guard = Guard(GuardSettings(**changes), max_gradient_norm=1.0)
    for at, loss in enumerate(losses):
        guard.judge(StepResult(loss * 3, 3, norms[at] if norms else 0.5))
    return guard


def test_limits_are_ratios_to_the_median_of_the_last_steps() -> None:
    losses, norms = [9.0] * 40 + [3.0] * 6 + [4.0] * 5, [50.0] * 40 + [5.0] * 11
    guard = guard_after(losses, norms, window=11, max_loss_ratio=4.0, max_gradient_ratio=20.0)
    assert guard.limits() == StepLimits(12.0, 100.0)


def test_before_there_is_a_median_nothing_may_leap_over_the_largest_loss() -> None:
    assert guard_after([]).limits() == StepLimits(math.inf, math.inf)
    assert guard_after([7.0, 2.0, 1.0]).limits() == StepLimits(35.0, math.inf)
    assert guard_after([7.0] + [1.0] * (FEWEST - 2)).limits() == StepLimits(35.0, math.inf)
    assert guard_after([7.0] + [1.0] * (FEWEST - 1)).limits() == StepLimits(5.0, 50.0)


def test_small_values_are_no_leaps() -> None:
    guard = guard_after([0.01] * 20, [1e-4] * 20, min_loss=1.5)
    assert guard.limits() == StepLimits(1.5, 1.0)  # an unclipped gradient is no explosion


def test_ratios_can_be_switched_off() -> None:
    assert guard_after([1.0] * 20, max_loss_ratio=None, max_gradient_ratio=None).limits() == StepLimits()


def test_a_guard_comes_back_from_json() -> None:
    guard = guard_after([0.1 * at for at in range(30)], window=20, policy="lower")
    guard.judge(StepResult(math.nan, 3, 1.0, is_taken=False))
    again = Guard(guard.settings, 1.0)
    again.restore(json.loads(json.dumps(guard.to_json())))
    assert (again.to_json(), again.limits()) == (guard.to_json(), guard.limits())
    assert again.rate_factor == 0.5


class Poisoned(ScriptedBackend):
    """Rows 3 and 7 alone have large losses; a step that trains them together with others is over the top."""

    def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
        if len(packs) == 1 and len(packs[0].leaves) == 1:
            last = packs[0].row(packs[0].leaves[0])[-1 - 1]
            return {3: 80.0, 7: math.nan}.get(last, 2.0), 2
        return super().loss(packs)


def spiking(*steps: int) -> Poisoned:
    return Poisoned(lambda weight: 2.0 / (weight + 1), lambda step: 60.0 if step in steps else 1.0)


def run(folder: Path, base: BaseModel, backend: ScriptedBackend, **guards: Any) -> Run:
    changes = {"epochs": 30, "examples_per_step": 10, "validate_every": 5, "learning_rate": 0.01, "schedule": "constant"}
    return Run(folder, base, backend, guards=guards, warm_up=0.0, **changes)


def test_a_leap_stops_the_run_with_the_last_good_state_and_names_its_rows(tmp_path: Path, base: BaseModel) -> None:
    found = run(tmp_path, base, spiking(23))
    assert (found.result.ended, found.result.steps, found.result.best_step, found.saved) == ("diverged", 23, 22, 22)
    [note] = found.guarded
    assert (note["step"], note["loss"], note["follows"]) == (23, 60.0, "stop")
    assert note["rows"][:3] == [
        {"source": "f:7", "example": "e7", "loss": None},
        {"source": "f:3", "example": "e3", "loss": 40.0},
        {"source": "f:0", "example": "e0", "loss": 1.0},
    ]
    assert len(note["rows"]) == len(ROWS)
    assert found.said == [
        "step 23 is not taken: the loss leapt to 60 nats a token, beyond 5; "
        "worst rows: f:7 (loss nan), f:3 (loss 40), f:0 (loss 1); training stops"
    ]


def test_leaps_are_skipped(tmp_path: Path, base: BaseModel) -> None:
    found = run(tmp_path, base, spiking(12, 13, 15, 16), policy="skip", max_in_a_row=3)
    assert (found.result.ended, found.result.steps, found.result.num_refused) == ("finished", 30, 4)
    assert found.backend.weight == 26
    assert [row["step"] for row in found.guarded] == [12, 13, 15, 16]
    assert set(found.backend.rates) == {0.01}
    assert [row["loss"] for row in found.log][10:13] == [1.0, 60.0, 60.0]


def test_so_many_leaps_in_a_row_stop_the_run_anyway(tmp_path: Path, base: BaseModel) -> None:
    found = run(tmp_path, base, spiking(12, 13, 15, 16, 17, 18), policy="skip", max_in_a_row=3)
    assert (found.result.ended, found.result.steps) == ("diverged", 17)


def test_leaps_lower_the_learning_rate(tmp_path: Path, base: BaseModel) -> None:
    found = run(tmp_path, base, spiking(12, 20), policy="lower")
    assert found.result.ended == "finished"
    assert found.backend.rates == [0.01] * 12 + [0.005] * 8 + [0.0025] * 10
    assert "the learning rate is 0.25 of the schedule's from here" in found.said[1]


def test_an_exploding_gradient_is_no_step(tmp_path: Path, base: BaseModel) -> None:
    backend = ScriptedBackend(lambda weight: 2.0 / (weight + 1), norm=lambda step: 1000.0 if step == 12 else 2.0)
    found = run(tmp_path, base, backend, policy="skip")
    assert [(row["step"], row["gradient_norm"]) for row in found.guarded] == [(12, 1000.0)]
    assert "the gradient norm leapt to 1000, beyond 200" in found.said[0]
    assert backend.limits[11] == StepLimits(5.0, 200.0)


def test_what_is_no_number_is_written_as_null(tmp_path: Path, base: BaseModel) -> None:
    backend = ScriptedBackend(lambda weight: 1.0 / (weight + 1), lambda step: math.inf if step == 2 else 1.0)
    found = run(tmp_path, base, backend, policy="skip")
    assert (found.guarded[0]["loss"], found.guarded[0]["reason"]) == (None, "the loss is no number")
    assert found.log[1]["loss"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"max_in_a_row": 4},
        {"max_loss_ratio": None, "min_loss": 1.0},
        {"max_loss_ratio": None, "max_gradient_ratio": None, "window": 20},
    ],
)
def test_settings_of_a_guard_that_do_nothing_are_refused(changes: Any) -> None:
    with pytest.raises(ValidationError, match="does nothing with"):
        GuardSettings(**changes)
    # Read again from a file that names every field, what does nothing at its default is no fault.
    plain = GuardSettings(**{name: value for name, value in changes.items() if value is None})
    assert GuardSettings(**plain.model_dump()) == plain
