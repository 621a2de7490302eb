"""Looks at a suite while a run trains: one that forgets is stopped, and an interruption changes nothing."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_training import Run, ScriptedBackend, lines

from whet.errors import WhetError
from whet.models.base_model import BaseModel
from whet.train.looks import Look, LookSettings
from whet.train.loop import TrainSettings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test pulls the plug; a disk that is waited for makes them slow."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


def looks(values: list[float], tolerance: float = 0.1) -> Any:
    """A look whose general part has these values, one after each step, and that forgets where they fall too far."""

    def look(first: Any) -> Look:
        value = values[look.backend.weight]  # type: ignore[attr-defined]
        fell = first is not None and value < first["general"] - tolerance
        return Look(
            {"general": value, "task": 1 - value}, 1 - value, {"general": value}, "it forgets: general fell" if fell else ""
        )

    return look


def looked(tmp_path: Path, base: BaseModel, values: list[float], every: int = 2, stop_at: int = 0, **changes: Any) -> Run:
    backend, look = ScriptedBackend([2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4].__getitem__), looks(values)
    look.backend = backend
    settings = {"suite": Path("s.yaml"), "every": every} | changes.pop("looks", {})
    return Run(tmp_path, base, backend, stop_at, look=look, looks=LookSettings(**settings), **changes)


def test_a_run_that_forgets_is_stopped_and_keeps_what_had_not(tmp_path: Path, base: BaseModel) -> None:
    run = looked(tmp_path, base, [0.5, 0.5, 0.48, 0.45, 0.3, 0.2, 0.1, 0.1, 0.1])
    assert (run.result.ended, run.result.steps) == ("forgot", 4)
    assert [look["step"] for look in run.result.looks] == [0, 2, 4]
    assert run.result.forgotten == "it forgets: general fell"
    # Step 4 has the lowest loss, but it is the one that was seen to forget.
    assert (run.result.best_step, run.saved) == (3, 3)
    assert [row["step"] for row in lines(tmp_path / "looks.jsonl")] == [0, 2, 4]
    told = looked(tmp_path / "told", base, [0.5, 0.5, 0.48, 0.45, 0.3, 0.2, 0.1, 0.1, 0.1], looks={"on_forgetting": "tell"})
    assert (told.result.ended, told.result.steps) == ("finished", 8)
    assert "it forgets: general fell" in told.said


def test_the_best_adapter_may_be_that_of_the_best_look(tmp_path: Path, base: BaseModel) -> None:
    run = looked(tmp_path, base, [0.5, 0.5, 0.45, 0.5, 0.41, 0.5, 0.43, 0.5, 0.5], choose_by="suite", validate_every=None)
    assert [step for step, _ in run.result.valid_curve] == [0, 2, 4, 6, 8]
    assert (run.result.best_step, run.saved, run.result.best_score) == (4, 4, pytest.approx(0.59))


@pytest.mark.parametrize("choose_by", ["valid_loss", "suite"])
@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 5])
def test_looks_are_the_same_after_an_interruption(stop_at: int, choose_by: str, tmp_path: Path, base: BaseModel) -> None:
    values = [0.5, 0.5, 0.45, 0.5, 0.41, 0.5, 0.3, 0.5, 0.5]
    changes = {"choose_by": choose_by, "validate_every": None if choose_by == "suite" else 1}
    whole = looked(tmp_path / "whole", base, values, **changes)
    stopped = looked(tmp_path / "again", base, values, stop_at=stop_at, **changes)
    assert stopped.result.ended == "interrupted"
    again = looked(tmp_path / "again", base, values, **changes)
    assert replace(again.result, seconds=0) == replace(whole.result, seconds=0)
    assert (whole.result.ended, whole.result.steps) == ("forgot", 6)
    assert (again.saved, lines(tmp_path / "again/looks.jsonl")) == (whole.saved, lines(tmp_path / "whole/looks.jsonl"))


def test_a_run_that_forgets_at_once_keeps_nothing(tmp_path: Path, base: BaseModel) -> None:
    with pytest.raises(WhetError, match="it forgets: general fell; no adapter was kept"):
        looked(tmp_path, base, [0.5, 0.1, 0.1], every=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"choose_by": "suite"}, "needs looks"),
        ({"choose_by": "suite", "looks": LookSettings(suite=Path("s")), "validate_every": 3}, "looks.every"),
        ({"choose_by": "suite", "looks": LookSettings(suite=Path("s")), "score_examples": 3}, "score_examples"),
    ],
)
def test_settings_of_looks_that_do_nothing_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainSettings(**changes)
