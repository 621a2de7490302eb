"""The training loop over a scripted backend: what is kept, when it stops, what it writes."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scripted_training import ROWS, Run, ScriptedBackend, settings

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, Pack
from whet.errors import InputError, WhetError
from whet.models.base_model import BaseModel
from whet.train.loop import Training, valid_loss
from whet.train.schedule import learning_rate_at


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug; a disk that is waited for makes them slow."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def test_the_best_state_is_kept_and_saved(tmp_path: Path, base: BaseModel) -> None:
    losses = [2.0, 1.5, 0.75, 0.9, 0.8, 1.0, 0.75, 1.2, 1.3]
    run = Run(tmp_path, base, ScriptedBackend(losses.__getitem__))
    assert (run.result.ended, run.result.steps, run.result.num_steps) == ("finished", 8, 8)
    assert (run.result.best_step, run.result.best_valid_loss, run.result.first_valid_loss) == (2, 0.75, 2.0)
    assert [loss for _, loss in run.result.valid_curve] == pytest.approx(losses)
    assert run.saved == 2
    wanted = {"base_fingerprint": base.fingerprint, "base": "base", "step": 2, "valid_loss": 0.75, "train_key": ""}
    assert wanted.items() <= run.card.items()


def test_the_start_is_never_the_best(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0 + weight))
    assert (run.result.best_step, run.saved) == (1, 1)


def test_a_plateau_stops_the_run(tmp_path: Path, base: BaseModel) -> None:
    # Improvements below min_improvement are kept as best, and still count as none for the patience.
    losses = [2.0, 1.0, 0.99995, 0.9999, 0.99985, 0.1]
    run = Run(tmp_path, base, ScriptedBackend(losses.__getitem__), patience=3)
    assert (run.result.ended, run.result.steps, run.result.best_step, run.saved) == ("plateau", 4, 4, 4)


def test_improvement_resets_the_patience(tmp_path: Path, base: BaseModel) -> None:
    losses = [2.0, 2.5, 1.0, 1.5, 0.5, 0.9, 0.4, 0.6, 0.6]
    assert Run(tmp_path / "a", base, ScriptedBackend(losses.__getitem__), patience=2).result.ended == "plateau"
    losses[8] = 0.1
    assert Run(tmp_path / "b", base, ScriptedBackend(losses.__getitem__), patience=2).result.best_step == 8


def test_an_interruption_validates_and_keeps(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 2.0 / (weight + 1)), stop_at=3, validate_every=100)
    assert (run.result.ended, run.result.steps, run.result.best_step) == ("interrupted", 3, 3)
    assert [step for step, _ in run.result.valid_curve] == [0, 3]
    assert run.saved == 3


def test_an_interruption_after_the_best_keeps_the_best(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend([2.0, 1.0, 0.5, 0.9, 1.0].__getitem__), stop_at=4)
    assert (run.result.ended, run.result.best_step, run.saved, run.backend.weight) == ("interrupted", 2, 2, 4)
    assert len(run.result.valid_curve) == 5  # the last step is not validated twice


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_with_the_last_good_state(bad: float, what: str, tmp_path: Path, base: BaseModel) -> None:
    def at_four(step: int) -> float:
        return bad if step == 4 else 1.0

    script = {"train" if what == "loss" else "norm": at_four}
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 2.0 / (weight + 1), **script))
    assert (run.result.ended, run.result.steps, run.result.best_step, run.result.num_refused) == ("diverged", 4, 3, 1)
    assert run.saved == run.backend.weight == 3
    assert [step for step, _ in run.result.train_curve] == [1, 2, 3]
    json.dumps(run.result.train_curve, allow_nan=False)  # reports are JSON too
    assert len(run.log) == 3
    assert (tmp_path / "checkpoints" / "step-3" / "complete.json").is_file()


def test_divergence_between_validations_keeps_the_last_good_state(tmp_path: Path, base: BaseModel) -> None:
    backend = ScriptedBackend(lambda weight: 2.0 / (weight + 1), lambda step: math.nan if step == 4 else 1.0)
    run = Run(tmp_path, base, backend, validate_every=100)
    assert (run.result.ended, run.result.best_step, run.saved) == ("diverged", 3, 3)


def test_a_validation_that_is_no_number_stops_the_run(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend([2.0, 1.0, math.nan].__getitem__))
    assert (run.result.ended, run.result.steps, run.result.best_step, run.saved) == ("diverged", 2, 1, 1)
    assert [step for step, _ in run.result.valid_curve] == [0, 1]


@pytest.mark.parametrize(
    "backend", [ScriptedBackend(lambda weight: 1.0, lambda step: math.nan), ScriptedBackend(lambda weight: math.nan)]
)
def test_a_run_without_one_good_state_is_an_error(backend: ScriptedBackend, tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(WhetError, match=r"is no number.*no adapter was kept"):
        Run(tmp_path, base, backend)
    assert not (tmp_path / "adapter").exists()


def test_the_log_is_complete_and_is_json(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 2.0 - weight / 10), validate_every=3)
    assert [row["step"] for row in run.log] == list(range(1, 9))
    assert [row["valid_loss"] is not None for row in run.log] == [step in (3, 6, 8) for step in range(1, 9)]
    assert [row["best_loss"] for row in run.log] == pytest.approx([None, None, 1.7, 1.7, 1.7, 1.4, 1.4, 1.2])
    assert all(row["loss"] == 1.0 and row["num_steps"] == 8 for row in run.log)
    assert run.log[-1]["seconds_left"] == 0
    assert [row["learning_rate"] for row in run.log] == run.backend.rates
    assert run.log[-1]["num_tokens"] == run.result.num_tokens
    assert run.log[-1]["num_computed"] == run.result.num_computed
    assert all(row["peak_memory"] == 7 and row["gradient_norm"] == 1.0 for row in run.log)
    assert all(row["learnt_per_s"] * 11.5 == pytest.approx(row["tokens_per_s"]) for row in run.log)
    assert all(row["examples_per_s"] * 23 == pytest.approx(row["tokens_per_s"]) for row in run.log)
    assert [progress.step for progress in run.told] == list(range(1, 9))


def test_counts_are_of_all_steps(tmp_path: Path, base: BaseModel) -> None:
    result = Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0 / (weight + 1))).result
    assert (result.num_tokens, result.num_learnt) == (4 * 10 * 23, 4 * 10 * 2)
    assert 0 < result.num_computed < result.num_tokens  # the shared prefix is computed once a pack


def test_the_same_seed_gives_the_same_order_and_every_row_is_seen(tmp_path: Path, base: BaseModel) -> None:
    runs = [Run(tmp_path / str(at), base, ScriptedBackend(lambda weight: 1.0), seed=seed) for at, seed in enumerate((5, 5, 6))]
    assert runs[0].backend.seen == runs[1].backend.seen
    assert runs[0].backend.seen != runs[2].backend.seen
    wanted = sorted((*row.prompt_ids, *row.answer_ids) for row in ROWS)
    for epoch in range(4):
        assert sorted(row for step in runs[0].backend.seen[2 * epoch : 2 * epoch + 2] for row in step) == wanted


def test_the_backend_is_given_the_schedule(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0))
    assert run.backend.rates == [learning_rate_at(settings(), step, 8) for step in range(8)]


@pytest.mark.parametrize(
    ("changes", "num_steps", "validated"),
    [
        ({"epochs": 0.5}, 1, [0, 1]),
        ({"epochs": 0.01}, 1, [0, 1]),
        ({"epochs": 2, "examples_per_step": 3}, 8, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ({"max_steps": 3, "validate_every": 2}, 3, [0, 2, 3]),
        ({"validate_every": None, "examples_per_step": 1, "epochs": 1}, 10, [0, 2, 4, 6, 8, 10]),
    ],
)
def test_lengths_and_validations(changes: Any, num_steps: int, validated: list[int], tmp_path: Path, base: BaseModel) -> None:
    result = Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0), **changes).result
    assert (result.steps, result.num_steps) == (num_steps, num_steps)
    assert [step for step, _ in result.valid_curve] == validated


def test_the_best_adapter_is_that_of_the_highest_score_where_it_is_chosen_by_that(tmp_path: Path, base: BaseModel) -> None:
    losses, scores = [2.0, 1.0, 0.5, 0.4, 0.6, 0.7], [0.0, 0.3, 0.9, 0.2, 0.9, 0.1]
    backend = ScriptedBackend(losses.__getitem__)
    run = Run(tmp_path, base, backend, score=lambda: scores[backend.weight], choose_by="score", patience=3)
    # Step 4 has the same score and a larger loss; three validations without improvement end the run.
    assert (run.result.best_step, run.saved, run.result.best_score, run.result.best_valid_loss) == (2, 2, 0.9, 0.5)
    assert (run.result.ended, run.result.steps) == ("plateau", 5)
    assert run.result.score_curve == tuple(enumerate(scores))
    by_loss = Run(tmp_path / "loss", base, ScriptedBackend(losses.__getitem__), score=lambda: 1 / 0, max_steps=5)
    assert (by_loss.result.best_step, by_loss.result.best_score) == (3, None)


def test_a_choice_by_score_needs_one(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(InputError, match=r"train\.choose_by: is score, but"):
        Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0), choose_by="score")


@pytest.mark.parametrize(
    "changes",
    [
        {"full": FullSettings(last_layers=1)},
        {"method": "full", "lora": LoraSettings(rank=2)},
        {"method": "full", "optimizer": {"b_ratio": 4.0}},
    ],
)
def test_settings_of_the_other_method_are_refused(changes: Any) -> None:
    with pytest.raises(ValidationError, match="does nothing with method"):
        settings(**changes)


def test_the_method_says_what_is_put_on_the_base() -> None:
    assert settings().adapter == LoraSettings()
    assert settings(method="full", full=FullSettings(last_layers=3)).adapter == FullSettings(last_layers=3)


def test_a_rank_other_than_the_first_writes_nothing(tmp_path: Path, base: BaseModel) -> None:
    backend = ScriptedBackend(lambda weight: 2.0 / (weight + 1), lambda step: math.nan if step == 6 else 1.0)
    backend.rank, backend.num_ranks = 1, 2
    said: list[str] = []
    result = Training(backend, base, ROWS, ROWS[:3], settings(), tmp_path / "run", say=said.append).run(lambda progress: None)
    assert (result.ended, result.best_step) == ("diverged", 5)
    assert not (tmp_path / "run").exists()
    assert said == []


def test_the_validation_loss_is_a_mean_over_tokens() -> None:
    class Uneven(ScriptedBackend):
        def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
            return 13.0, 26

    assert valid_loss(Uneven(lambda weight: 0.0), []) == pytest.approx(0.5)


def test_an_improvement_that_nothing_waits_for_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_improvement does nothing without patience"):
        settings(patience=None, min_improvement=0.1)
    with pytest.raises(ValidationError, match="frozen_cache_on_disk does nothing"):
        DeviceSettings(frozen_cache_on_disk=True)
