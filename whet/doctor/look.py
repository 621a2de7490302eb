"""Finds out what the paths are that a user gives, looks at each with the checks of its kind, and sorts what was found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.doctor import adapters, figures, gguf_files, modelfiles, models, rows, runs, settings, splits
from whet.doctor.finding import SEVERITIES, Context, Finding, Findings, note
from whet.errors import InputError
from whet.exchange.reading import PICKLE_SUFFIXES, read_settings
from whet.exchange.script import CALLS
from whet.models.base_model import EMBEDDED, EMBEDDED_PATH
from whet.storage import read_json

DATA_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
SETTINGS_SUFFIXES = (".yaml", ".yml", ".py")
MOST_FILES = 200
DESCRIBED = {"adapter_config.json", "config.json", "trainer_state.json"}
WHOLE = ("all", "full", "whole", "complete", "combined", "everything")
SMALL_JSON = 64_000_000


THINGS = {
    "data": "data file", "settings": "settings file", "adapters": "adapter", "models": "model", "runs": "run",
    "gguf": "GGUF file", "modelfiles": "Modelfile", "results": "result",
}  # fmt: skip
"""What the kinds of things are called."""


@dataclass(slots=True)
class Things:
    """What the paths hold, by kind."""

    data: list[Path] = field(default_factory=list)
    settings: list[Path] = field(default_factory=list)
    adapters: list[Path] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    gguf: list[Path] = field(default_factory=list)
    modelfiles: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, str]] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        """How many things of each kind there are."""
        return {name: len(getattr(self, name)) for name in THINGS if getattr(self, name)}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was looked at, and what was found, the gravest first."""

    looked_at: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> str:
        """The gravest severity; empty where nothing was found."""
        return self.findings[0].severity if self.findings else ""

    def to_json(self) -> dict[str, Any]:
        return {"looked_at": self.looked_at, "findings": [finding.to_json() for finding in self.findings]}


def diagnose(paths: Sequence[Path], base: Path | str | None = None, max_length: int | None = None) -> Diagnosis:
    """Look at files and folders without training anything. InputError for a path that is not there, or that holds nothing known.

    base: a model folder whose tokenizer and template the rest is held against. max_length: most tokens of a row.
    """
    things = Things()
    for path in paths:
        _sort(path, things, is_named=True)
    if not things.kinds():
        why = f" ({things.unread[0][1]})" if things.unread else ""
        raise InputError(
            str(paths[0]),
            f"holds nothing that whet can look at{why}",
            "Give data, settings, an adapter, a model, a GGUF file, a Modelfile or a benchmark result",
        )
    folder = EMBEDDED_PATH if str(base) == EMBEDDED else Path(base) if base is not None else None
    if folder is not None and not folder.is_dir():
        raise InputError(str(folder), "no such folder", "Give --base a model folder, or `embedded`")
    found = list(_findings(things, Context(folder, max_length)))
    found += [note("not looked at", path, why, "What it holds was not checked.", "") for path, why in things.unread]
    unique = dict.fromkeys(found)
    return Diagnosis(things.kinds(), tuple(sorted(unique, key=lambda one: SEVERITIES.index(one.severity))))


def _findings(things: Things, context: Context) -> Findings:
    """Settings first: they say what the rows are held against. Adapters before what serves them."""
    try:
        context.chat()
    except InputError as fault:
        yield note(
            "not looked at", fault.place or str(context.base), fault.what, "Tokens were not counted or compared with it.",
            fault.remedy or "Copy the base's tokenizer again from where it came",
        )  # fmt: skip
    for path in things.settings:
        yield from _guarded(path, settings.look(read_settings(path), context))
    if things.data:
        yield from _guarded(things.data[0], _rows(_parts(things.data), context))
    for path in things.adapters:
        yield from _guarded(path, adapters.look(path, context))
    for path in things.runs:
        yield from _guarded(path, runs.look(path, context))
    for path in things.models:
        yield from _guarded(path, models.look(path, context))
    for path in things.gguf:
        yield from _guarded(path, gguf_files.look(path, context))
    for path in things.modelfiles:
        yield from _guarded(path, modelfiles.look(path, context))
    if things.results:
        yield from _guarded(things.results[0], figures.look(things.results, context))


def _parts(paths: list[Path]) -> list[Path]:
    """The files, but for one that holds all the others of its folder (all.jsonl beside train.jsonl)."""
    train = {path.parent for path in paths if "train" in path.stem.lower()}
    return [path for path in paths if path.stem.lower() not in WHOLE or path.parent not in train]


def _rows(paths: list[Path], context: Context) -> Findings:
    yield from rows.look(splits.read_rows(paths), context)


def _guarded(path: Path, found: Findings) -> Findings:
    """What a reader refuses is a finding too."""
    try:
        yield from found
    except InputError as fault:
        yield Finding(
            "error",
            "can't be read",
            fault.place or str(path),
            fault.what,
            "Whoever reads it stops, or reads part of it.",
            fault.remedy,
        )


def _sort(path: Path, things: Things, *, is_named: bool) -> None:
    """Put a path where it belongs; a folder may hold things of several kinds."""
    if path.is_dir():
        _sort_folder(path, things)
    elif not path.exists():
        raise InputError(str(path), "no such file", "Check the path; it is taken from the folder you stand in")
    else:
        _sort_file(path, things, is_named=is_named)


def _sort_folder(folder: Path, things: Things) -> None:
    names = {entry.name for entry in folder.iterdir()}
    if "adapter_config.json" in names:
        things.adapters.append(folder)
    if "config.json" in names:
        things.models.append(folder)
    checkpoints = runs.checkpoints_of(folder)
    if "trainer_state.json" in names or checkpoints:
        things.runs.append(folder)
    is_model = bool(names & DESCRIBED)
    entries = sorted(folder.iterdir())
    if len(entries) > MOST_FILES:
        things.unread.append((folder, f"holds {len(entries):,} entries, of which the first {MOST_FILES} were looked at"))
    for entry in entries[:MOST_FILES]:
        if entry.is_dir() and not (names & DESCRIBED or entry in checkpoints or entry.name.startswith(".")):
            things.unread.append((entry, "is a folder within a folder: name it too"))
        if entry.is_file() and not (
            is_model and entry.suffix not in (".gguf", ".yaml", ".yml", ".jsonl") and entry.name != "Modelfile"
        ):
            _sort_file(entry, things, is_named=False)


def _sort_file(path: Path, things: Things, *, is_named: bool) -> None:
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        things.gguf.append(path)
    elif path.name.lower().startswith("modelfile") or suffix == ".modelfile":
        things.modelfiles.append(path)
    elif suffix in DATA_SUFFIXES:
        if not path.name.endswith((".losses.jsonl", "metrics.jsonl")):
            things.data.append(path)
    elif suffix in SETTINGS_SUFFIXES:
        if is_named or suffix != ".py" or any(call in path.read_text("utf-8", "replace")[:200_000] for call in CALLS):
            things.settings.append(path)
    elif suffix == ".json":
        _sort_json(path, things, is_named=is_named)
    elif is_named or suffix in PICKLE_SUFFIXES:
        if suffix in PICKLE_SUFFIXES:
            things.settings.append(path)  # refused by its reader, in one line
        else:
            things.unread.append((path, "is of no kind that whet knows"))


def _sort_json(path: Path, things: Things, *, is_named: bool) -> None:
    """A JSON file is data, a result, a run's state, or settings."""
    if path.name == "trainer_state.json":
        if path.parent not in things.runs:
            things.runs.append(path.parent)
        return
    if path.name == "adapter_config.json" and is_named:
        things.settings.append(path)
        return
    if path.stat().st_size > SMALL_JSON:
        things.data.append(path)
        return
    try:
        value = read_json(path)
    except InputError:
        things.data.append(path)
        return
    if isinstance(value, list):
        things.data.append(path)
    elif isinstance(value, dict) and {"accuracy", "num_questions"} <= value.keys():
        things.results.append(path)
    elif isinstance(value, dict) and any(
        isinstance(inner, list) and inner and isinstance(inner[0], dict) for inner in value.values()
    ):
        things.data.append(path)
    elif is_named:
        things.settings.append(path)


def every(found: Diagnosis, severity: str) -> Iterator[Finding]:
    """The findings of one severity."""
    return (finding for finding in found.findings if finding.severity == severity)
