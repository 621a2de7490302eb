"""Sends a run's metrics to the tracker that a user has: TensorBoard, W&B, MLflow or trackio, each opened late."""

import contextlib
import importlib
import json
import math
import os
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from whet.config import Settings
from whet.errors import InputError, MissingExtraError
from whet.storage import read_json, write_json
from whet.train.course import Progress, TrainResult

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Values = dict[str, float]
Failures = tuple[type[Exception], ...]
MAX_PARAMS = 100  # that MLflow takes in one call
DEFAULTS = {
    # The libraries tell their makers about their use, or wait minutes for a server, unless they are told not to.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class TrackerSettings(Settings):
    """Where the metrics of training go besides metrics.jsonl. Nothing leaves the machine unless a tracker's own environment
    variable names a server: WANDB_MODE=online, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL.
    """

    to: tuple[Name, ...] = ()
    """Trackers that get the metrics of every step."""
    project: str = Field(default="whet", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")
    """Project, or experiment, that the run belongs to there."""
    run: str | None = Field(default=None, min_length=1)
    """Name of the run there; null takes the name of the run folder."""

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        for name in ("project", "run"):
            if not self.to and getattr(self, name) != TrackerSettings.model_fields[name].default:
                raise ValueError(f"{name} does nothing without a tracker in `to`")
        return self


@dataclass(slots=True)
class Opening:
    """What a tracker is opened with. `id` is that of the run to continue, or a new one; a tracker may set its own."""

    project: str
    run: str
    id: str
    is_resumed: bool
    folder: Path
    facts: dict[str, str | int | float | bool]


class _Tracker(Protocol):
    place: str
    """Where the metrics are to be found, for the user."""
    failures: Failures
    """What its library raises when it can't do its work."""

    def open(self, run: Opening) -> None: ...

    def log(self, step: int, values: Values) -> None: ...

    def finish(self, ended: str, facts: Mapping[str, Any]) -> None: ...


class _TensorBoard:
    """Event files in a folder of the run's own; also read by `tensorboard --logdir` over many run folders."""

    def __init__(self) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2, summary_v2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.failures: Failures = (OSError,)
        self._open, self._event, self._summary = EventFileWriter, event_pb2.Event, summary_pb2.Summary
        self._start, self._status = summary_v2.hparams_pb, api_pb2.Status
        self._metadata, self._plugin = metadata, plugin_data_pb2

    def open(self, run: Opening) -> None:
        self.place = str(run.folder / "tensorboard" / f"{run.run}-{run.id}")
        self._writer = self._open(self.place)
        if not run.is_resumed:
            self._write(self._start(run.facts), 0)

    def log(self, step: int, values: Values) -> None:
        self._write(self._summary(value=[self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]), step)

    def finish(self, ended: str, facts: Mapping[str, Any]) -> None:
        status = self._status.Value("STATUS_SUCCESS" if ended in ("finished", "plateau", "forgot") else "STATUS_FAILURE")
        # tensorboard's own function for this summary imports TensorFlow.
        end = self._plugin.HParamsPluginData(
            session_end_info=self._plugin.SessionEndInfo(status=status, end_time_secs=time.time())
        )
        value = self._summary.Value(tag=self._metadata.SESSION_END_INFO_TAG, metadata=self._metadata.create_summary_metadata(end))
        self._write(self._summary(value=[value]), 0)
        self._writer.flush()
        self._writer.close()

    def _write(self, summary: Any, step: int) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


class _Wandb:
    """A run of Weights & Biases; offline unless WANDB_MODE says otherwise."""

    def __init__(self) -> None:
        import wandb

        self.failures: Failures = (OSError, wandb.Error)
        self._wandb = wandb

    def open(self, run: Opening) -> None:
        # Console and code stay here: the console holds a row of the data.
        quiet = self._wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True)
        mode = os.environ.get("WANDB_MODE") or "offline"
        self._run = self._wandb.init(
            project=run.project, name=run.run, id=run.id, resume="allow", dir=str(run.folder), config=run.facts, settings=quiet,
            mode=mode,
        )  # fmt: skip
        url = None if self._run.offline else self._run.url  # asked offline, it warns
        self.place = url or f"{run.folder / 'wandb'}, {mode}; send it with `wandb sync`"

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def finish(self, ended: str, facts: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(facts))
        self._run.finish(exit_code=0 if ended in ("finished", "plateau", "forgot") else 1)


class _Mlflow:
    """A run in the file store of the run folder, or on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self) -> None:
        import mlflow

        self.failures: Failures = (OSError, mlflow.exceptions.MlflowException)
        self._mlflow = mlflow

    def open(self, run: Opening) -> None:
        self.place = os.environ.get("MLFLOW_TRACKING_URI") or (run.folder / "mlruns").resolve().as_uri()
        self._client = self._mlflow.MlflowClient(tracking_uri=self.place)
        if run.is_resumed:
            self._client.update_run(run.id, status="RUNNING")
        else:
            found = self._client.get_experiment_by_name(run.project)
            experiment = found.experiment_id if found else self._client.create_experiment(run.project)
            run.id = self._client.create_run(experiment, run_name=run.run).info.run_id
            params = [self._mlflow.entities.Param(name, str(value)) for name, value in run.facts.items()]
            for start in range(0, len(params), MAX_PARAMS):
                self._client.log_batch(run.id, params=params[start : start + MAX_PARAMS])
        self._id = run.id

    def log(self, step: int, values: Values) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._mlflow.entities.Metric(name, v, now, step) for name, v in values.items()])

    def finish(self, ended: str, facts: Mapping[str, Any]) -> None:
        for name, value in facts.items():
            self._client.set_tag(self._id, f"whet.{name}", str(value))
        status = {"finished": "FINISHED", "plateau": "FINISHED", "forgot": "FINISHED", "interrupted": "KILLED"}.get(
            ended, "FAILED"
        )
        self._client.set_terminated(self._id, status)


class _Trackio:
    """A run in trackio's own local database, or in the Space or on the server that its environment variables name."""

    def __init__(self) -> None:
        with _told_on_stderr():
            import trackio

        # Over a network trackio buffers and warns by itself; what is left are its files and its database.
        self.failures: Failures = (OSError, sqlite3.Error)
        self._trackio = trackio

    def open(self, run: Opening) -> None:
        self._name = f"{run.run}-{run.id}"  # trackio knows a run by its name
        with _told_on_stderr():
            self._run = self._trackio.init(
                project=run.project, name=self._name, config=run.facts, resume="allow", embed=False, auto_log_gpu=False,
                auto_log_cpu=False,
            )  # fmt: skip
        self.place = f"{self._name}; look with: trackio show --project {run.project!r}"

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def finish(self, ended: str, facts: Mapping[str, Any]) -> None:
        with _told_on_stderr():
            self._run.log({f"result/{name}": value for name, value in facts.items() if not isinstance(value, str)})
            self._trackio.finish()  # the run's own finish is done again, and told, when Python ends


KINDS: dict[Name, type[_Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "mlflow": _Mlflow, "trackio": _Trackio}


@dataclass(slots=True)
class LostTracker:
    """A tracker that failed and was switched off; training went on."""

    name: str
    step: int
    """First step that it did not get."""
    error: str
    num_missed: int
    """Steps that it did not get."""

    @property
    def words(self) -> str:
        if not self.num_missed:
            return f"{self.name} could not end its run ({self.error}); metrics.jsonl is whole"
        return f"{self.name} failed at step {self.step} ({self.error}) and is switched off; metrics.jsonl goes on"


@dataclass(slots=True)
class Trackers:
    """The trackers of a run. Within `with`, a run that breaks off is marked as failed."""

    live: dict[str, _Tracker]
    say: Callable[[str], None]
    lost: list[LostTracker] = field(default_factory=list)
    _step: int = 0
    _is_finished: bool = False

    def log(self, progress: Progress) -> None:
        """Hand on a step's metrics under the names of metrics.jsonl; what is null there is left out."""
        facts = asdict(progress)
        self._step = facts.pop("step")
        del facts["num_steps"]
        values = {name: float(value) for name, value in facts.items() if value is not None and math.isfinite(value)}
        for lost in self.lost:
            lost.num_missed += 1
        self._each(lambda tracker: tracker.log(self._step, values), 1)

    def finish(self, result: TrainResult | None) -> None:
        """Mark the run as ended, with its figures; None where training broke off with an error."""
        if self._is_finished:
            return
        self._is_finished = True
        facts = {} if result is None else asdict(result)
        facts = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
        facts = {name: value for name, value in facts.items() if not isinstance(value, float) or math.isfinite(value)}
        self._each(lambda tracker: tracker.finish(str(facts.get("ended", "failed")), facts), 0)

    def _each(self, do: Callable[[_Tracker], None], num_steps: int) -> None:
        for name, tracker in list(self.live.items()):
            try:
                do(tracker)
            except tracker.failures as error:
                del self.live[name]
                self.lost.append(LostTracker(name, self._step, _first_line(error), num_steps))
                self.say(self.lost[-1].words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.finish(None)


def open_trackers(
    settings: TrackerSettings,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    is_resumed: bool = False,
    say: Callable[[str], None] = lambda words: None,
) -> Trackers:
    """Open what the settings name; their files go to `folder`, the train folder of a run folder.

    `facts` (nested settings) become the run's parameters; under `key` they say what the training depends on. The ids of
    the runs are kept in trackers.json; a resumed training with the same key continues the same ones. Raises
    MissingExtraError for a package that is not installed and InputError for a tracker that can't be opened: before
    training that is a fault to mend, later a tracker that fails is only switched off.
    """
    if not settings.to:
        return Trackers({}, say)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trackers.json"
    key = str(facts.get("key", ""))
    kept = read_json(path) if is_resumed and path.is_file() else {}
    known: dict[str, str] = kept["ids"] if kept.get("key") == key else {}
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    flat = dict(_flatten(facts))
    found = Trackers({}, say)
    for kind in dict.fromkeys(settings.to):
        run_name = settings.run or folder.resolve().parent.name
        run = Opening(settings.project, run_name, known.get(kind, secrets.token_hex(4)), kind in known, folder, flat)
        tracker = _open(kind, run)
        known[kind] = run.id
        # At once: a kill before the next tracker is open must not lose this one's run.
        write_json(path, {"key": key, "ids": known})
        found.live[kind] = tracker
        say(f"{kind}: {tracker.place}")
    return found


def _open(kind: Name, run: Opening) -> _Tracker:
    try:
        importlib.import_module(kind)
        tracker = KINDS[kind]()
    except ImportError as error:
        if error.name == kind:
            raise MissingExtraError(kind, kind, f"train.trackers.to={kind}") from None
        raise InputError("train.trackers.to", f"{kind} can't be imported ({_first_line(error)})", "Install it again") from None
    failures: Failures = (*tracker.failures, ValueError)
    try:
        tracker.open(run)
    except failures as error:
        remedy = f"Mend it, or take {kind} out of train.trackers.to"
        raise InputError("train.trackers.to", f"{kind} can't be opened ({_first_line(error)})", remedy) from None
    return tracker


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Dotted names and plain values of nested facts; lists as JSON."""
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def _told_on_stderr() -> Iterator[None]:
    """What a library prints goes to standard error: standard output is for what whet gives."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
