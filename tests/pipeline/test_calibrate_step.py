"""The calibrate step over a scripted specialist: what it learns, keeps, skips, and says where it can't."""

import dataclasses
import json
import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import official

from whet.engines.scripted import ScriptedEngine
from whet.errors import InputError
from whet.evaluate.sureness import NO_LOG_PROBS, NO_RECORDS, assess, gather, say_acceptance
from whet.pipeline import calibrate_step
from whet.pipeline.bench import Bench, Silent
from whet.pipeline.calibrate_step import open_calibration, run
from whet.recipe import recipe_from
from whet.records import Completion, Example, Request, Step, example_to_json
from whet.storage import read_json, read_jsonl, write_jsonl

NAMES = "程富李蕡楊榮蹇義王直"
NUM = 90  # so few that Platt's curve is taken at once
FIELDS = [{"name": "name"}, {"name": "office"}, {"name": "event", "kind": "choice", "choices": ["Death", "Other"]}]


def examples(num: int, seed: int) -> list[Example]:
    chance = random.Random(seed)
    made = []
    for number in range(num):
        name = "".join(chance.sample(NAMES, 2))
        text = f"第{seed}年{number}日，少師{name}卒。"
        made.append(dataclasses.replace(official(text, name, "少師", "Death", number), id=f"{seed}-{number}"))
    return made


def reply(request: Request) -> Completion:
    """The gold with a name that is wrong about as often as a specialist would say that is far too sure."""
    text = request.messages[-1].content.rpartition("\n")[2]
    chance = random.Random(text)
    raw = chance.choice([0.6, 0.9, 0.97, 0.999, 0.999])
    is_right = chance.random() < {0.6: 0.3, 0.9: 0.6, 0.97: 0.85, 0.999: 1.0}[raw]
    name = text[text.index("少師") + 2 : text.index("卒")] if is_right else "少師"
    pieces = ['[{"name":', f'"{name}"', ',"office":"', "少師", '","event":"Death"', "}]", ""]
    log_probs = [0.0, math.log(raw), 0.0, math.log(raw) / 9, 0.0, 0.0, 0.0]
    ends = [len("".join(pieces[: at + 1])) for at in range(len(pieces))]
    steps = tuple(Step(end, log_prob) for end, log_prob in zip(ends, log_probs, strict=True))
    return Completion("".join(pieces), "stop", num_tokens=len(pieces), steps=steps)


class Desk(Bench):
    """A bench whose specialist is a script."""

    script: Any = staticmethod(reply)

    def __init__(self, folder: Path, *overrides: str) -> None:
        raw = {
            "name": "tiny",
            "task": {"kind": "extraction", "fields": FIELDS},
            "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
        }
        self.said: list[str] = []
        self.num_asked = 0
        self.steps: list[tuple[str, bool]] = []
        super().__init__(recipe_from(raw, list(overrides), "test", folder), folder, Silent())
        self.watch.say = self.said.append  # type: ignore[method-assign]
        self.watch.begin = lambda step, is_skipped: self.steps.append((step, is_skipped))  # type: ignore[method-assign]
        self.base = SimpleNamespace(fingerprint="base", max_length=512)  # type: ignore[assignment]

    def local_engine(self, adapter: Path | None) -> ScriptedEngine:
        def counted(request: Request) -> Any:
            self.num_asked += 1
            return self.script(request)

        return ScriptedEngine("specialist", counted)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with an adapter and a valid split."""
    (tmp_path / "train" / "adapter").mkdir(parents=True)
    (tmp_path / "train" / "adapter" / "print").write_text("adapter")
    read = (tmp_path / "train" / "adapter" / "print").read_text
    monkeypatch.setattr(calibrate_step, "trained_adapter", lambda bench: SimpleNamespace(fingerprint=read()))
    write_jsonl(tmp_path / "data" / "valid.jsonl", map(example_to_json, examples(NUM, 1)))
    return tmp_path


@pytest.mark.integration
def test_confidences_are_calibrated_kept_and_hold_on_other_examples(folder: Path) -> None:
    write_jsonl(folder / "data" / "valid.jsonl", map(example_to_json, examples(300, 1)))
    desk = Desk(folder, "extract.accept.precision=0.95")
    found = run(desk)
    assert found is not None
    assert (desk.num_asked, desk.steps) == (300, [("calibrate", False)])
    assert desk.said[-1].startswith("calibrated on 300 records by ")
    assert set(found.fields) == {"name", "office", "event"}
    assert open_calibration(Desk(folder, "extract.accept.precision=0.95")) == found
    others = examples(300, 2)
    completions = {example.id: reply(desk.task.ask(example)) for example in others}
    claims = gather(others, completions, desk.task, ("name", "office", "event"))
    sure = assess(found, claims, ("name", "office", "event"), 0.95)
    whole = sure.measured[0]
    assert [measured.name for measured in sure.measured] == ["record", "name", "office", "event"]
    assert whole.raw.ece > 0.12
    assert whole.calibrated.ece < 0.06
    assert whole.calibrated.brier < whole.raw.brier
    # Only those of which the script is surest are right often enough.
    assert sure.acceptance is not None
    assert sure.acceptance.threshold is not None
    assert sure.accepted is not None
    assert 0.3 < sure.accepted.num_accepted / 300 < 0.55
    assert sure.accepted.num_right / sure.accepted.num_accepted > 0.95
    words = say_acceptance(sure)
    assert words.startswith(f"At 95 % precision {sure.acceptance.num_accepted} of 300 records of the valid split (")
    assert words.endswith(" of them are right.")


def test_unchanged_inputs_ask_nobody_and_another_precision_only_seeks_another_threshold(folder: Path) -> None:
    first = run(Desk(folder))
    again = Desk(folder)
    assert run(again) == first
    assert (again.num_asked, again.steps) == (0, [("calibrate", True)])
    assert first is not None
    assert first.acceptance is not None
    assert (first.acceptance.threshold, first.acceptance.num_needed) == (None, 299)
    lower = Desk(folder, "extract.accept.precision=0.8")
    found = run(lower)
    assert (lower.num_asked, lower.steps) == (0, [("calibrate", False)])
    assert found is not None
    assert found.acceptance is not None
    assert found.acceptance.threshold is not None
    assert found.record == first.record
    # A recipe that asks for another precision later needs no new calibration.
    later = open_calibration(Desk(folder, "extract.accept.threshold=0.7"))
    assert later.acceptance is not None
    assert (later.acceptance.threshold, later.acceptance.is_given) == (0.7, True)
    assert open_calibration(Desk(folder)) == first


def test_a_call_may_change_the_threshold_and_the_budget_but_not_the_task(folder: Path) -> None:
    run(Desk(folder))
    trained = Desk(folder)
    asked = Desk(folder, "extract.accept.threshold=0.7", "task.max_tokens=9").recipe
    opened = open_calibration(trained, asked)
    assert opened.accepts(0.7)
    assert not opened.accepts(0.69)
    for change in ("task.constraint=free", "task.prompt=Names?"):
        assert "another adapter, base or task" in open_calibration(trained, Desk(folder, change).recipe).reason
    assert "null" in open_calibration(trained, Desk(folder, "calibrate=null").recipe).reason


@pytest.mark.parametrize("change", ["calibrate.max_examples=50", "task.prompt=Names?", "evaluate.resamples=99", "train.seed=1"])
def test_what_the_answers_depend_on_asks_again(folder: Path, change: str) -> None:
    run(Desk(folder))
    desk = Desk(folder, change)
    run(desk)
    wanted = {"calibrate.max_examples=50": 50, "task.prompt=Names?": NUM}
    assert desk.num_asked == wanted.get(change, 0)  # another adapter has another fingerprint


def test_another_adapter_is_asked_again_and_an_old_calibration_is_not_used_for_it(folder: Path) -> None:
    run(Desk(folder))
    (folder / "train" / "adapter" / "print").write_text("other")
    opened = open_calibration(Desk(folder))
    assert (opened.record, opened.accepts(1.0)) == (None, False)
    assert "another adapter" in opened.reason
    desk = Desk(folder)
    run(desk)
    assert desk.num_asked == NUM
    assert open_calibration(Desk(folder)).reason == ""


def test_answers_are_kept_when_the_fit_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(calibrate_step, "calibrate", broken)
        run(Desk(folder))
    assert not (folder / "calibrate" / "calibration.json").exists()
    desk = Desk(folder)
    assert run(desk) is not None
    assert desk.num_asked == 0
    assert len(list(read_jsonl(folder / "calibrate" / "held_out.jsonl"))) == NUM


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda request: reply(request).text, NO_LOG_PROBS),
        (lambda _: Completion("[]", "stop", steps=(Step(2, -0.1), Step(2, 0.0))), NO_RECORDS),
        (lambda _: Completion("nothing", "stop", steps=(Step(7, -0.1),)), NO_RECORDS),
    ],
    ids=["no log-probabilities", "no records", "unread"],
)
def test_without_evidence_it_says_so_and_nothing_is_accepted(folder: Path, script: Any, reason: str) -> None:
    desk = Desk(folder)
    desk.script = script
    found = run(desk)
    assert found is not None
    assert (found.record, dict(found.fields), found.acceptance, found.reason) == (None, {}, None, reason)
    assert desk.said[-1] == f"not calibrated: {reason}"
    assert open_calibration(Desk(folder)).reason == reason
    sure = assess(found, gather([], {}, desk.task, ("name",)), ("name",), 0.95)
    assert say_acceptance(sure) == f"Nothing is known of the confidences: {reason}."


def test_a_missing_scikit_learn_loses_only_the_calibration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
            patched.setitem(sys.modules, name, None)
        patched.setitem(sys.modules, "sklearn.linear_model", None)
        desk = Desk(folder)
        found = run(desk)
    assert found is not None
    assert "pip install 'whet[calibrate]'" in found.reason
    assert desk.said[-1].startswith("not calibrated: calibrating confidences needs scikit-learn")
    installed = Desk(folder)
    assert run(installed) != found  # tried again
    assert installed.num_asked == 0


def test_who_is_not_calibrated(folder: Path) -> None:
    assert run(Desk(folder, "calibrate=null")) is None
    assert run(Desk(folder, "train=null")) is None
    assert "no calibration" in open_calibration(Desk(folder)).reason
    assert "null" in open_calibration(Desk(folder, "calibrate=null")).reason
    write_jsonl(folder / "data" / "valid.jsonl", [])
    assert run(Desk(folder)) is None
    (folder / "train" / "adapter" / "print").unlink()
    (folder / "train" / "adapter").rmdir()
    assert run(Desk(folder)) is None


@pytest.mark.parametrize("spoil", ["{}", "[]", '{"inputs": 3', "curve"])
def test_a_broken_calibration_is_refused(folder: Path, spoil: str) -> None:
    run(Desk(folder))
    path = folder / "calibrate" / "calibration.json"
    row = read_json(path)
    row["record"]["weights"] = None
    path.write_text(json.dumps(row) if spoil == "curve" else spoil)
    with pytest.raises(InputError, match=r"calibration\.json.*(is no calibration|not JSON)"):
        open_calibration(Desk(folder))


def test_too_many_failures_give_no_calibration(folder: Path) -> None:
    def down(_: Request) -> str:
        raise ConnectionError("down")

    desk = Desk(folder)
    desk.script = down
    with pytest.raises(InputError, match="the requests to the specialist on valid failed"):
        run(desk)
    assert not (folder / "calibrate" / "calibration.json").exists()
