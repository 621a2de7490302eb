"""What an evaluation of a suite leaves behind: one folder a system, result.json and every answer of every part."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.errors import InputError
from whet.evaluate.run import read_scores
from whet.evaluate.statistics import Interval
from whet.records import Example, Score, example_from_json
from whet.storage import read_json, read_jsonl, write_json

VERSION = 1
Role = Literal["task", "general"]


@dataclass(frozen=True, slots=True)
class Asked:
    """How a part was put to a system: two results may be held against each other silently only where these are equal.

    prompts: hash of all messages as the task renders them. template: hash of the chat template, None where a server
    keeps its own. stop: what ends a reply, in words.
    """

    prompts: str
    template: str | None
    max_tokens: int
    stop: str
    temperature: float = 0.0
    constraint: str = "none"


@dataclass(frozen=True, slots=True)
class Overlap:
    """Questions of a part that stand in the training data too, and what the headline is without them."""

    num_exact: int
    num_near: int
    ids: tuple[str, ...]
    without: float | None
    without_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds a request at the 50th, 95th and 99th percentile, and new tokens a second over the whole part.

    p50_s, p95_s, p99_s: None where requests were answered together, so that none has a time of its own.
    """

    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    tokens_per_s: float | None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PartResult:
    """One part of a suite as one system answered it.

    role: "task" is what the specialist is for, "general" is watched for forgetting. questions: hash of the ids and
    golds that were asked. value: the headline's figure; None where too many requests failed to give one. num_groups: groups
    (documents) of the examples that are scored; None where each stands alone.
    """

    name: str
    role: Role
    task: str
    headline: tuple[str, str]
    questions: str
    asked: Asked
    num_asked: int
    num_scored: int
    num_distinct: int
    value: float | None
    interval: Interval | None
    measures: Mapping[str, Mapping[str, float]]
    rates: Mapping[str, float]
    latency: Latency
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Ids of questions that are the same after normalisation."""
    overlap: Overlap | None = None
    """None where no training data was given to compare with."""
    categories: Mapping[str, tuple[int, float, Interval]] = field(default_factory=dict)
    """Number scored, figure and interval of each category."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Letters, best constant answer, position bias and what else only this task reports."""
    num_groups: int | None = None


@dataclass(frozen=True, slots=True)
class System:
    """What answered: its kind ("base", "adapter", "model", "gguf", "server", "engine"), its label, and what it is made of."""

    kind: str
    label: str
    identity: Mapping[str, Any]
    """Fingerprints of base and adapter, file hashes, or a server's address and model; never a key."""
    num_bytes: int | None = None
    """Size on disk of all that must be there to answer."""


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """All parts of a suite, answered by one system. `folder` holds for each PART/answers.jsonl and PART/questions.jsonl."""

    folder: Path
    suite: str
    fingerprint: str
    """Hash of the suite's settings and questions."""
    system: System
    parts: Mapping[str, PartResult]
    peak_memory_bytes: int | None = None
    cost: float | None = None
    """In the currency of the engine's price settings; None where nothing costs."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Date, versions, machine."""

    def scores(self, part: str) -> list[Score]:
        """Each example's score of a part, in the order asked."""
        return read_scores(self.folder / part)

    def questions(self, part: str) -> list[Example]:
        """The examples of a part, in the order asked: question, gold, category, group."""
        return [example_from_json(row) for row in read_jsonl(self.folder / part / "questions.jsonl")]


def write_result(result: SuiteResult) -> None:
    """Write result.json into the result's folder, last of all that stands there."""
    row = asdict(result)
    del row["folder"]
    write_json(result.folder / "result.json", {"version": VERSION, **row})


def read_result(folder: Path) -> SuiteResult:
    """The result that `write_result` wrote; InputError where the folder holds none, or one of another version."""
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(str(folder), "holds no result of a suite (no result.json)", "Make one: whet evaluate WHAT --suite SUITE")
    row = read_json(path)
    try:
        if row.pop("version") != VERSION:
            raise InputError(str(path), "was written by another version of whet", "Evaluate again")
        system = System(**row.pop("system"))
        parts = {name: _part(part) for name, part in row.pop("parts").items()}
        return SuiteResult(folder=folder, system=system, parts=parts, **row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(str(path), f"can't be read: {error!r}", "Evaluate again") from None


def _interval(row: Mapping[str, Any] | None) -> Interval | None:
    return None if row is None else Interval(**row)


def _part(row: dict[str, Any]) -> PartResult:
    overlap = row.pop("overlap")
    if overlap is not None:
        around = _interval(overlap["without_interval"])
        overlap = Overlap(**overlap | {"ids": tuple(overlap["ids"]), "without_interval": around})
    categories = {name: (num, value, Interval(**around)) for name, (num, value, around) in row.pop("categories").items()}
    return PartResult(
        **row
        | {
            "headline": tuple(row["headline"]),
            "asked": Asked(**row["asked"]),
            "interval": _interval(row["interval"]),
            "latency": Latency(**row["latency"]),
            "duplicates": tuple(tuple(ids) for ids in row["duplicates"]),
            "overlap": overlap,
            "categories": categories,
        }
    )
