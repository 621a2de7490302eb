"""Trackers: each gets every step through its library's documented calls, stays on this machine, and can't stop a training."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from pydantic import ValidationError

from whet.config import load
from whet.errors import InputError, MissingExtraError, SettingsError
from whet.storage import read_json
from whet.train.course import Progress, TrainResult
from whet.train.trackers import DEFAULTS, TrackerSettings, open_trackers

FACTS = {
    "learning_rate": 1e-3,
    "lora": {"rank": 16, "targets": ["q_proj"], "rslora": False},
    "schedule": "cosine",
    "patience": None,
}
FLAT = {
    "learning_rate": 1e-3, "lora.rank": 16, "lora.targets": '["q_proj"]', "lora.rslora": False, "schedule": "cosine",
    "patience": "null",
}  # fmt: skip
NAMES = ("tensorboard", "wandb", "mlflow", "trackio")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)


def progress(step: int, valid: float | None = None) -> Progress:
    """A step before the first validation: the best loss is infinite."""
    numbers = dict.fromkeys(Progress.__dataclass_fields__, 1.0)
    return Progress(
        **{**numbers, "step": step, "num_steps": 9, "loss": 2.5, "valid_loss": valid, "best_loss": valid or float("inf")}
    )


def result(ended: str = "finished"):
    numbers = dict.fromkeys(TrainResult.__dataclass_fields__, 3)
    return TrainResult(
        **{**numbers, "ended": ended, "best_valid_loss": 0.5, "train_curve": ((1, 2.5),), "valid_curve": ((0, 2.6),)}
    )


class Files:
    """Stands in for TensorBoard's writer."""

    def __init__(self, folder: str) -> None:
        self.folder, self.events, self.is_closed = folder, [], False

    def add_event(self, event) -> None:
        self.events.append(event)

    def flush(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The four libraries as modules that record the calls that their documentation gives."""

    def module(name: str, **parts) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(parts)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    writers: list[Files] = []

    class Writer(Files):
        def __init__(self, folder: str) -> None:
            super().__init__(folder)
            writers.append(self)

    kept = type("Summary", (SimpleNamespace,), {"Value": SimpleNamespace})
    status = SimpleNamespace(Value=lambda name: name)
    for name in ("", ".compat", ".compat.proto", ".plugins", ".plugins.hparams", ".summary", ".summary.writer"):
        module(f"tensorboard{name}")
    sys.modules["tensorboard.compat.proto"].__dict__.update(
        event_pb2=SimpleNamespace(Event=SimpleNamespace), summary_pb2=SimpleNamespace(Summary=kept)
    )
    sys.modules["tensorboard.plugins.hparams"].__dict__.update(
        api_pb2=SimpleNamespace(Status=status),
        metadata=SimpleNamespace(SESSION_END_INFO_TAG="end", create_summary_metadata=lambda data: data.session_end_info.status),
        plugin_data_pb2=SimpleNamespace(HParamsPluginData=SimpleNamespace, SessionEndInfo=SimpleNamespace),
        summary_v2=SimpleNamespace(hparams_pb=lambda facts: ("start", facts)),
    )
    module("tensorboard.summary.writer.event_file_writer", EventFileWriter=Writer)

    class WandbError(Exception):
        pass

    wandb_run = MagicMock(url=None, summary={})
    wandb = module("wandb", Error=WandbError, Settings=dict, init=MagicMock(return_value=wandb_run))

    class MlflowException(Exception):
        pass

    client = MagicMock()
    client.get_experiment_by_name.return_value = None
    client.create_experiment.return_value = "1"
    client.create_run.return_value = SimpleNamespace(info=SimpleNamespace(run_id="r1"))
    entities = SimpleNamespace(Param=lambda *a: a, Metric=lambda *a: a)
    mlflow = module(
        "mlflow",
        exceptions=SimpleNamespace(MlflowException=MlflowException),
        entities=entities,
        MlflowClient=MagicMock(return_value=client),
    )
    trackio_run = MagicMock()
    trackio = module("trackio", init=MagicMock(return_value=trackio_run), finish=MagicMock())
    return SimpleNamespace(
        writers=writers, wandb=wandb, wandb_run=wandb_run, mlflow=mlflow, client=client, trackio=trackio, trackio_run=trackio_run
    )


def test_without_trackers_nothing_is_opened_or_written(tmp_path: Path) -> None:
    with open_trackers(TrackerSettings(), tmp_path / "run", FACTS) as trackers:
        trackers.log(progress(1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_the_command(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"needs {name}.*pip install 'whet\[{name}\]'"):
        open_trackers(TrackerSettings(to=(name,)), tmp_path, FACTS)


def test_a_broken_package_is_not_called_missing(fakes: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(InputError, match="tensorboard can't be imported"):
        open_trackers(TrackerSettings(to=("tensorboard",)), tmp_path, FACTS)


@pytest.mark.parametrize("changes", [{"project": "mine"}, {"run": "first"}])
def test_names_for_no_tracker_are_refused(changes: Any) -> None:
    with pytest.raises(ValidationError, match="does nothing without a tracker"):
        TrackerSettings(**changes)
    assert TrackerSettings(to=("wandb",), **changes)


def test_unknown_trackers_are_refused() -> None:
    with pytest.raises(SettingsError):
        load(TrackerSettings, {"to": ["tensorbord"]}, {}, "x")
    with pytest.raises(SettingsError):
        load(TrackerSettings, {"project": "../x"}, {}, "x")


def test_every_tracker_gets_every_step_and_the_end(fakes: SimpleNamespace, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "mine" / "train"
    trackers = open_trackers(TrackerSettings(to=NAMES), folder, FACTS, say=said.append)
    trackers.log(progress(1))
    trackers.log(progress(2, valid=0.5))
    trackers.finish(result())
    trackers.finish(None)  # a second end says nothing
    first = {name: 1.0 for name in Progress.__dataclass_fields__ if name not in ("step", "num_steps", "valid_loss", "best_loss")}
    first["loss"] = 2.5
    second = {**first, "valid_loss": 0.5, "best_loss": 0.5}
    ended = {"ended": "finished", "best_step": 3, "best_valid_loss": 0.5}

    events = fakes.writers[0].events
    assert events[0].summary == ("start", FLAT)
    assert [(event.step, {v.tag: v.simple_value for v in event.summary.value}) for event in events[1:-1]] == [
        (1, first),
        (2, second),
    ]
    assert [(value.tag, value.metadata) for value in events[-1].summary.value] == [("end", "STATUS_SUCCESS")]
    assert fakes.writers[0].is_closed

    assert fakes.wandb.init.call_args.kwargs.items() >= {"project": "whet", "name": "mine", "config": FLAT}.items()
    assert [(call.args, call.kwargs) for call in fakes.wandb_run.log.call_args_list] == [
        ((first,), {"step": 1}), ((second,), {"step": 2}),
    ]  # fmt: skip
    assert fakes.wandb_run.summary.items() >= ended.items()
    fakes.wandb_run.finish.assert_called_once_with(exit_code=0)

    calls = fakes.client.log_batch.call_args_list
    assert dict(calls[0].kwargs["params"]) == {name: str(value) for name, value in FLAT.items()}
    assert [{name: (value, step) for name, value, _, step in call.args[1]} for call in calls[1:]] == [
        {name: (value, 1) for name, value in first.items()}, {name: (value, 2) for name, value in second.items()},
    ]  # fmt: skip
    fakes.client.set_terminated.assert_called_once_with("r1", "FINISHED")

    assert fakes.trackio.init.call_args.kwargs["config"] == FLAT
    assert [call.args[0] for call in fakes.trackio_run.log.call_args_list[:2]] == [first, second]
    fakes.trackio.finish.assert_called_once_with()
    assert [line.partition(":")[0] for line in said] == list(NAMES)
    assert not trackers.lost


def test_nothing_leaves_the_machine_unless_the_environment_names_a_server(
    fakes: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_trackers(TrackerSettings(to=NAMES), tmp_path, FACTS)
    assert fakes.wandb.init.call_args.kwargs["mode"] == "offline"
    assert fakes.mlflow.MlflowClient.call_args.kwargs["tracking_uri"] == (tmp_path / "mlruns").as_uri()
    assert not {"space_id", "server_url", "bucket_id", "dataset_id"} & set(fakes.trackio.init.call_args.kwargs)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    open_trackers(TrackerSettings(to=NAMES), tmp_path, FACTS)
    assert fakes.wandb.init.call_args.kwargs["mode"] == "online"
    assert fakes.mlflow.MlflowClient.call_args.kwargs["tracking_uri"] == "http://server:5000"


def test_a_resumed_training_continues_the_same_runs_and_a_new_one_does_not(fakes: SimpleNamespace, tmp_path: Path) -> None:
    settings = TrackerSettings(to=NAMES)
    open_trackers(settings, tmp_path, FACTS)
    ids = read_json(tmp_path / "trackers.json")["ids"]
    open_trackers(settings, tmp_path, FACTS, is_resumed=True)
    assert read_json(tmp_path / "trackers.json")["ids"] == ids
    assert fakes.writers[0].folder == fakes.writers[1].folder
    assert [call.kwargs["id"] for call in fakes.wandb.init.call_args_list] == [ids["wandb"]] * 2
    assert fakes.client.create_run.call_count == 1
    fakes.client.update_run.assert_called_once_with(ids["mlflow"], status="RUNNING")
    names = [call.kwargs["name"] for call in fakes.trackio.init.call_args_list]
    assert names[0] == names[1] == f"{tmp_path.parent.name}-{ids['trackio']}"
    open_trackers(settings, tmp_path, FACTS | {"key": "other"}, is_resumed=True)  # a checkpoint of something else
    assert fakes.client.create_run.call_count == 2
    open_trackers(settings, tmp_path, FACTS)
    assert fakes.client.create_run.call_count == 3
    assert len({call.kwargs["id"] for call in fakes.wandb.init.call_args_list}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_that_fails_is_named_once_counted_and_the_others_go_on(
    name: str, fakes: SimpleNamespace, tmp_path: Path
) -> None:
    said: list[str] = []
    trackers = open_trackers(TrackerSettings(to=NAMES), tmp_path, FACTS, say=said.append)
    del said[:]
    trackers.log(progress(1))
    errors = {"wandb": fakes.wandb.Error("gone"), "mlflow": fakes.mlflow.exceptions.MlflowException("gone")}
    error = errors.get(name, OSError("gone"))
    if name == "tensorboard":
        fakes.writers[0].add_event = MagicMock(side_effect=error)
    else:
        called = {"wandb": fakes.wandb_run.log, "mlflow": fakes.client.log_batch, "trackio": fakes.trackio_run.log}[name]
        called.side_effect = error
    for step in (2, 3, 4):
        trackers.log(progress(step))
    trackers.finish(result("interrupted"))
    assert said == [f"{name} failed at step 2 (gone) and is switched off; metrics.jsonl goes on"]
    assert [(lost.name, lost.step, lost.num_missed) for lost in trackers.lost] == [(name, 2, 3)]
    assert set(trackers.live) == {*NAMES} - {name}
    if name != "wandb":
        assert fakes.wandb_run.log.call_count == 4
        fakes.wandb_run.finish.assert_called_once_with(exit_code=1)
    if name != "mlflow":
        fakes.client.set_terminated.assert_called_once_with("r1", "KILLED")


def test_a_fault_of_ours_is_not_taken_for_one_of_the_tracker(fakes: SimpleNamespace, tmp_path: Path) -> None:
    trackers = open_trackers(TrackerSettings(to=("wandb",)), tmp_path, FACTS)
    fakes.wandb_run.log.side_effect = TypeError("ours")
    with pytest.raises(TypeError):
        trackers.log(progress(1))


def test_a_tracker_that_cannot_be_opened_is_refused_before_training(fakes: SimpleNamespace, tmp_path: Path) -> None:
    fakes.wandb.init.side_effect = fakes.wandb.Error("no API key")
    with pytest.raises(InputError, match=r"wandb can.t be opened \(no API key\)"):
        open_trackers(TrackerSettings(to=("wandb",)), tmp_path, FACTS)


def test_a_training_that_breaks_off_is_marked_as_failed(fakes: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_trackers(TrackerSettings(to=NAMES), tmp_path, FACTS):
        raise ZeroDivisionError
    fakes.client.set_terminated.assert_called_once_with("r1", "FAILED")
    fakes.wandb_run.finish.assert_called_once_with(exit_code=1)


def run_twice(name: str, folder: Path) -> None:
    """Two steps, an interruption, and a third step by a resume."""
    with open_trackers(TrackerSettings(to=(name,)), folder, FACTS) as trackers:
        trackers.log(progress(1))
        trackers.log(progress(2, valid=0.5))
        trackers.finish(result("interrupted"))
        assert not trackers.lost
    with open_trackers(TrackerSettings(to=(name,)), folder, FACTS, is_resumed=True) as trackers:
        trackers.log(progress(3))
        trackers.finish(result())
        assert not trackers.lost


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_itself_reads_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice("tensorboard", tmp_path)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    found = EventAccumulator(str(folder)).Reload()
    assert found.PluginTagToContent("hparams").keys() == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert [(event.step, event.value) for event in found.Scalars("valid_loss")] == [(2, 0.5)]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_itself_reads_what_was_written(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_twice("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("whet").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in FLAT.items()}
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 2.5),
        (2, 2.5),
        (3, 2.5),
    ]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself_writes_offline_runs_of_one_id(tmp_path: Path) -> None:
    run_twice("wandb", tmp_path)
    ids = read_json(tmp_path / "trackers.json")["ids"]
    assert list(tmp_path.glob(f"wandb/offline-run-*-{ids['wandb']}/run-{ids['wandb']}.wandb"))


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_itself_reads_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run_twice("trackio", tmp_path)
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{tmp_path.parent.name}-{read_json(tmp_path / 'trackers.json')['ids']['trackio']}"
    logs = [log for log in SQLiteStorage.get_logs("whet", name) if "loss" in log]
    assert [(log["step"], log["loss"]) for log in logs] == [(1, 2.5), (2, 2.5), (3, 2.5)]
    assert capsys.readouterr().out == ""
