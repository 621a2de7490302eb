"""The training loop over a scripted backend: what is kept, when it stops, what it writes."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from whet.backends.base import Generated, LoraSettings, Pack, StepResult
from whet.errors import WhetError
from whet.models.base_model import BaseModel
from whet.train.encode import Row
from whet.train.loop import Progress, Training, TrainResult, TrainSettings, learning_rate_at, valid_loss


class ScriptedBackend:
    """A backend in plain Python: its weight is the number of steps done, its losses are read from scripts."""

    row_layout: Literal["packed", "padded"] = "packed"
    layout_reason = ""

    def __init__(
        self, valid: Callable[[int], float], train: Callable[[int], float] = lambda step: 1.0, norm: float = 1.0
    ) -> None:
        self.valid, self.train, self.norm = valid, train, norm
        self.weight = 0
        self.rates: list[float] = []
        self.seen: list[list[tuple[int, ...]]] = []

    def attach(self, adapter: LoraSettings | Path | None, seed: int = 0) -> None:
        self.weight = 0

    def save_adapter(self, folder: Path) -> None:
        (folder / "adapter.txt").write_text(str(self.weight))

    def check_layout(self, packs: Sequence[Pack]) -> str:
        return ""

    def update(self, packs: Sequence[Pack], learning_rate: float) -> StepResult:
        self.rates.append(learning_rate)
        self.seen.append(sorted((*pack.prefix, *segment.ids) for pack in packs for segment in pack.segments))
        self.weight += 1
        num_learnt = sum(pack.num_learnt for pack in packs)
        return StepResult(self.train(self.weight) * num_learnt, num_learnt, self.norm)

    def loss(self, pack: Pack) -> tuple[float, int]:
        return self.valid(self.weight) * pack.num_learnt, pack.num_learnt

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int, end_ids: Sequence[int]) -> list[Generated]:
        raise NotImplementedError

    def log_likelihoods(self, pack: Pack) -> list[float]:
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        self.weight = state["weight"]


ROWS = [Row(f"e{n}", f"f:{n}", (1, 2, n), (n, 9), False) for n in range(10)]


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**({"epochs": 4, "examples_per_step": 5, "validate_every": 1, "patience": None} | changes))


class Run:
    """One run of the loop in a folder, and all that it left."""

    def __init__(self, out: Path, base: BaseModel, backend: ScriptedBackend, stop_at: int = 0, **changes: Any) -> None:
        self.backend, self.told = backend, list[Progress]()
        self.training = Training(backend, base, ROWS, ROWS[:3], settings(**changes), out)
        self.result: TrainResult = self.training.run(self.told.append, lambda: len(self.told) == stop_at)
        self.saved = int((out / "adapter" / "adapter.txt").read_text())
        self.card = json.loads((out / "adapter" / "whet.json").read_text())
        self.log = [json.loads(line, parse_constant=pytest.fail) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("num_steps", [1, 2, 10, 400])
def test_the_learning_rate_rises_from_more_than_zero_and_falls_to_about_zero(schedule: Any, num_steps: int) -> None:
    chosen = settings(schedule=schedule, learning_rate=0.01, warm_up=0.1)
    rates = [learning_rate_at(chosen, step, num_steps) for step in range(num_steps)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) > 0
    assert max(rates) == pytest.approx(0.01)
    assert top == round(0.1 * num_steps)
    assert rates[-1] <= 0.01 / max(1, num_steps - top) + 1e-12
    assert learning_rate_at(chosen, num_steps, num_steps) == pytest.approx(0.0)


def test_a_constant_schedule_keeps_the_learning_rate() -> None:
    chosen = settings(schedule="constant", learning_rate=0.01, warm_up=0.0)
    assert {learning_rate_at(chosen, step, 9) for step in range(9)} == {0.01}


def test_the_best_state_is_kept_and_saved(tmp_path: Path, base: BaseModel) -> None:
    losses = [2.0, 1.5, 0.75, 0.9, 0.8, 1.0, 0.75, 1.2, 1.3]
    run = Run(tmp_path, base, ScriptedBackend(losses.__getitem__))
    assert (run.result.ended, run.result.steps, run.result.num_steps) == ("finished", 8, 8)
    assert (run.result.best_step, run.result.best_valid_loss, run.result.first_valid_loss) == (2, 0.75, 2.0)
    assert [loss for _, loss in run.result.valid_curve] == pytest.approx(losses)
    assert run.saved == run.backend.weight == 2
    assert run.card == {"base_fingerprint": base.fingerprint, "base": "base", "step": 2, "valid_loss": 0.75}
    assert valid_loss(run.backend, run.training.valid_packs) == 0.75


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
    assert Run(tmp_path, base, ScriptedBackend(losses.__getitem__), patience=2).result.ended == "plateau"
    losses[8] = 0.1
    assert Run(tmp_path, base, ScriptedBackend(losses.__getitem__), patience=2).result.best_step == 8


def test_an_interruption_validates_and_keeps(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 2.0 / (weight + 1)), stop_at=3, validate_every=100)
    assert (run.result.ended, run.result.steps, run.result.best_step) == ("interrupted", 3, 3)
    assert [step for step, _ in run.result.valid_curve] == [0, 3]
    assert run.saved == 3


def test_an_interruption_after_the_best_keeps_the_best(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend([2.0, 1.0, 0.5, 0.9, 1.0].__getitem__), stop_at=4)
    assert (run.result.ended, run.result.best_step, run.saved, run.backend.weight) == ("interrupted", 2, 2, 2)
    assert len(run.result.valid_curve) == 5  # the last step is not validated twice


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_with_the_last_good_state(bad: float, what: str, tmp_path: Path, base: BaseModel) -> None:
    backend = ScriptedBackend(lambda weight: 2.0 / (weight + 1))

    def train(step: int) -> float:
        if step == 4 and what == "gradient":
            backend.norm = bad
        return bad if step == 4 and what == "loss" else 1.0

    backend.train = train
    run = Run(tmp_path, base, backend)
    assert (run.result.ended, run.result.steps, run.result.best_step) == ("diverged", 4, 3)
    assert run.saved == run.backend.weight == 3
    assert [step for step, _ in run.result.train_curve] == [1, 2, 3]
    json.dumps(run.result.train_curve, allow_nan=False)  # reports are JSON too
    assert len(run.log) == 3


@pytest.mark.parametrize(
    "backend", [ScriptedBackend(lambda weight: 1.0, lambda step: math.nan), ScriptedBackend(lambda weight: math.nan)]
)
def test_a_run_without_one_good_state_is_an_error(backend: ScriptedBackend, tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(WhetError, match="no adapter was kept"):
        Run(tmp_path, base, backend)
    assert not (tmp_path / "adapter").exists()


def test_the_log_is_complete_and_is_json(tmp_path: Path, base: BaseModel) -> None:
    run = Run(tmp_path, base, ScriptedBackend(lambda weight: 2.0 - weight / 10), validate_every=3)
    assert [row["step"] for row in run.log] == list(range(1, 9))
    assert [row["valid_loss"] is not None for row in run.log] == [step in (3, 6, 8) for step in range(1, 9)]
    assert [row["best_loss"] for row in run.log] == pytest.approx([None, None, 1.7, 1.7, 1.7, 1.4, 1.4, 1.2])
    assert all(row["loss"] == 1.0 and row["num_steps"] == 8 for row in run.log)
    assert run.log[-1]["seconds_left"] == 0
    assert [progress.step for progress in run.told] == list(range(1, 9))


def test_counts_are_of_all_steps(tmp_path: Path, base: BaseModel) -> None:
    result = Run(tmp_path, base, ScriptedBackend(lambda weight: 1.0 / (weight + 1))).result
    assert (result.num_tokens, result.num_learnt) == (4 * 10 * 5, 4 * 10 * 2)
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


def test_the_validation_loss_is_a_mean_over_tokens_not_over_packs() -> None:
    class Uneven(ScriptedBackend):
        def loss(self, pack: Pack) -> tuple[float, int]:
            return (10.0, 1) if pack.num_learnt == 2 else (3.0, 12)

    from whet.train.batches import pack_rows

    packs = pack_rows([Row("a", "f:1", (1,), (2, 3), False)], 64) + pack_rows(ROWS[:6], 64)
    assert valid_loss(Uneven(lambda weight: 0.0), packs) == pytest.approx(1.0)
