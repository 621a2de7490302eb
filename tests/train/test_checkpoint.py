"""Checkpoints: a run that is killed at any moment ends as if it had never been; what is torn or foreign is named and left."""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_training import ROWS, ScriptedBackend, lines, settings

from whet.errors import InputError
from whet.models.base_model import BaseModel
from whet.storage import hash_folder, read_json, write_json
from whet.train.course import Course
from whet.train.loop import Progress, Training, TrainResult

LOSSES = [3.0, 2.0, 2.5, 1.5, 1.2, 1.3, 1.1, 1.6, 1.15, 1.4, 1.0, 1.7, 0.9]
CHANGES: dict[str, Any] = {
    "epochs": 6,
    "guards": {"policy": "lower", "window": 10},
    "checkpoints": {"every": 2},
    "learning_rate": 0.01,
}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def scripted() -> ScriptedBackend:
    # One step is no number and lowers the rate, in the middle of the run.
    return ScriptedBackend(LOSSES.__getitem__, lambda step: math.nan if step == 5 else 1.0 + 1 / step)


class Trained:
    """A run to its end, or to where `watch` breaks it."""

    def __init__(
        self,
        out: Path,
        base: BaseModel,
        watch: Callable[[Progress], None] = lambda progress: None,
        is_stopped: Callable[[], bool] = lambda: False,
        key: str = "k",
        **changes: Any,
    ) -> None:
        self.out, self.said, self.backend = out, list[str](), scripted()
        training = Training(
            self.backend, base, ROWS, ROWS[:3], settings(**(CHANGES | changes)), out, key=key, say=self.said.append
        )
        self.result: TrainResult = training.run(watch, is_stopped)

    def facts(self) -> dict[str, Any]:
        """All that a run leaves, without the time that it took."""
        timed = ("seconds", "seconds_left", "tokens_per_s", "examples_per_s", "learnt_per_s")
        log = [{name: value for name, value in row.items() if name not in timed} for row in lines(self.out / "metrics.jsonl")]
        result = {name: getattr(self.result, name) for name in TrainResult.__slots__ if name != "seconds"}
        return {
            "result": result,
            "adapter": hash_folder(self.out / "adapter"),
            "log": log,
            "guards": lines(self.out / "guards.jsonl"),
            "weight": self.backend.weight,
        }


def kill_at(step: int) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.step == step:
            raise KilledError

    return watch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug; a disk that is waited for makes them slow."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def whole(tmp_path: Path, base: BaseModel) -> dict[str, Any]:
    """What a run leaves that nothing stopped."""
    run = Trained(tmp_path / "whole", base)
    assert (run.result.steps, run.result.num_refused, run.result.best_step) == (12, 1, 11)
    return run.facts()


@pytest.mark.parametrize("step", range(1, 13))
def test_a_run_that_is_killed_after_any_step_ends_the_same(step: int, tmp_path: Path, base: BaseModel, whole: Any) -> None:
    with pytest.raises(KilledError):
        Trained(tmp_path / "run", base, kill_at(step))
    run = Trained(tmp_path / "run", base)
    assert run.facts() == whole
    # The checkpoint is of the step before, or the one before that.
    begun = (step - 1) // 2 * 2
    assert run.backend.rates == [row["learning_rate"] for row in whole["log"]][begun:]
    assert [words for words in run.said if "goes on" in words] == ([] if not begun else [run.said[0]])


@pytest.mark.parametrize("number", range(1, 150, 7))
def test_a_run_that_is_killed_in_the_midst_of_a_write_ends_the_same(
    number: int, tmp_path: Path, base: BaseModel, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [0]

    def counted(do: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **more: Any) -> Any:
            made[0] += 1
            if made[0] == number:
                raise KilledError
            return do(*args, **more)

        return act

    def until_killed(do: Callable[..., Any]) -> Callable[..., Any]:
        # A process that is killed clears nothing away.
        act = counted(do)
        return lambda *args, **more: act(*args, **more) if made[0] < number else None

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(os, "fsync", counted(os.fsync))
        patched.setattr(Path, "replace", counted(Path.replace))
        patched.setattr(shutil, "rmtree", until_killed(shutil.rmtree))
        patched.setattr(Path, "unlink", until_killed(Path.unlink))
        Trained(tmp_path / "run", base)
    assert Trained(tmp_path / "run", base).facts() == whole
    assert not [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


def test_an_interrupted_run_ends_the_same_though_it_was_validated_out_of_turn(tmp_path: Path, base: BaseModel) -> None:
    changes = {"validate_every": 4, "checkpoints": {}}
    whole = Trained(tmp_path / "whole", base, **changes).facts()
    told: list[Progress] = []
    for stop_at in (3, 6, 6, 11):
        stopped = Trained(tmp_path / "run", base, told.append, lambda stop_at=stop_at: told[-1].step >= stop_at, **changes)  # type: ignore[misc]
        assert stopped.result.ended == "interrupted"
        assert stopped.result.best_step > 0
        card = read_json(tmp_path / "run" / "adapter" / "whet.json")
        assert (card["step"], card["valid_loss"]) == (stopped.result.best_step, stopped.result.best_valid_loss)
    assert Trained(tmp_path / "run", base, **changes).facts() == whole


def test_a_finished_run_does_nothing_again(tmp_path: Path, base: BaseModel, whole: Any) -> None:
    again = Trained(tmp_path / "whole", base)
    assert again.facts() == whole
    assert again.backend.rates == []


def test_a_plateau_is_known_again(tmp_path: Path, base: BaseModel) -> None:
    first = Trained(tmp_path, base, patience=1)
    assert (first.result.ended, first.result.steps) == ("plateau", 2)
    again = Trained(tmp_path, base, patience=1)
    assert (again.facts(), again.backend.rates) == (first.facts(), [])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_old_checkpoints_are_pruned_and_the_best_is_not(tmp_path: Path, base: BaseModel) -> None:
    kept: list[list[str]] = []

    def watch(progress: Progress) -> None:
        kept.append(names(tmp_path / "checkpoints") if (tmp_path / "checkpoints").is_dir() else [])

    Trained(tmp_path, base, watch, checkpoints={"every": 1, "keep": 2}, max_steps=10)
    # Seen before a step's own checkpoint is written. The best so far: steps 1, 3, 4 and 7.
    assert kept[:4] == [[], ["step-1"], ["step-1", "step-2"], ["step-2", "step-3"]]
    assert kept[6] == ["step-4", "step-5", "step-6"]
    assert names(tmp_path / "checkpoints") == ["step-10", "step-7", "step-9"]
    mark = read_json(tmp_path / "checkpoints" / "step-9" / "complete.json")
    assert set(mark["files"]) == {"loop.json", "state.json", "best/adapter.txt", "best/whet.json"}


def spoil_json(path: Path) -> None:
    path.write_text(path.read_text()[:-3])


SPOILT: dict[str, Callable[[Path], None]] = {
    "no mark": lambda folder: (folder / "complete.json").unlink(),
    "half a mark": lambda folder: spoil_json(folder / "complete.json"),
    "a mark of nothing": lambda folder: write_json(folder / "complete.json", {"files": {}}),
    "a list for a mark": lambda folder: write_json(folder / "complete.json", []),
    "half a state": lambda folder: spoil_json(folder / "state.json"),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "another adapter": lambda folder: (folder / "best" / "adapter.txt").write_text("9"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_torn_checkpoint_is_named_and_skipped(kind: str, tmp_path: Path, base: BaseModel, whole: Any) -> None:
    with pytest.raises(KilledError):
        Trained(tmp_path / "run", base, kill_at(9), checkpoints={"every": 2, "keep": 2})
    torn = tmp_path / "run" / "checkpoints" / "step-8"
    SPOILT[kind](torn)
    run = Trained(tmp_path / "run", base, checkpoints={"every": 2, "keep": 2})
    assert run.said[0].startswith(f"{torn} is torn (")
    assert run.said[0].endswith(": skipped, and left where it is")
    assert "goes on at step 6 of 12" in run.said[1]
    assert run.facts() == whole


def test_a_foreign_checkpoint_is_named_and_skipped(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(KilledError):
        Trained(tmp_path / "run", base, kill_at(12), checkpoints={"every": 5, "keep": 2}, key="another")
    run = Trained(tmp_path / "run", base)
    assert [words.split("checkpoints/")[1] for words in run.said if "another recipe" in words] == [
        "step-10 is of another recipe, other data or another version of whet: skipped, and left where it is",
        "step-5 is of another recipe, other data or another version of whet: skipped, and left where it is",
        "step-10 is of another recipe, other data or another version of whet: replaced by this run's",
    ]
    assert run.facts() == Trained(tmp_path / "whole", base).facts()
    assert names(tmp_path / "run" / "checkpoints") == ["step-12", "step-5"]


def test_nothing_of_an_earlier_run_passes_for_this_ones(tmp_path: Path, base: BaseModel) -> None:
    Trained(tmp_path, base, key="another")

    def watch(progress: Progress) -> None:
        assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == list(range(1, progress.step + 1))
        assert (tmp_path / "adapter").exists() == (progress.step >= 2)

    Trained(tmp_path, base, watch, validate_every=2, checkpoints={})


@pytest.mark.parametrize("step", [4, 6])
def test_a_full_disk_is_one_line_and_earlier_checkpoints_stay(
    step: int, tmp_path: Path, base: BaseModel, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        monkeypatch.context() as patched,
        pytest.raises(InputError, match=r"can't be written \(No space left on device\)\. Free"),
    ):
        Trained(tmp_path / "run", base, lambda progress: patched.setattr(os, "fsync", full) if progress.step == step else None)
    assert f"step-{step - 2}" in names(tmp_path / "run" / "checkpoints")
    run = Trained(tmp_path / "run", base)
    assert f"goes on at step {step - 2}" in run.said[0]
    assert run.facts() == whole


def test_the_files_of_a_checkpoint_do_not_change_with_the_adapter(tmp_path: Path, base: BaseModel) -> None:
    found: list[bytes] = []

    def watch(progress: Progress) -> None:
        if progress.step > 2:
            found.append((tmp_path / "checkpoints" / "step-2" / "best" / "adapter.txt").read_bytes())

    Trained(tmp_path, base, watch, checkpoints={"every": 2, "keep": 9})
    assert set(found) == {b"1"}


def test_a_course_comes_back_to_the_last_bit() -> None:
    course = Course(train_curve=[(1, 0.1 + 0.2)], valid_curve=[(0, 1 / 3)], seconds=1e-9)
    text = json.dumps(course.to_json(), allow_nan=False)
    assert Course.from_json(json.loads(text)) == course
    course.note_validation(1, 2 / 3, 0.7, 0.0)
    assert Course.from_json(json.loads(json.dumps(course.to_json()))) == course
