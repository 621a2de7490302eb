"""Asks an engine every held-out example, keeps each answer, and scores them with the task."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from pydantic import Field

from whet.config import Settings
from whet.engines.base import Engine
from whet.errors import InputError
from whet.records import Completion, Counts, Example, Record, Request, Score, completion_from_json, completion_to_json
from whet.storage import read_jsonl, write_jsonl
from whet.tasks.base import Task, Total

EXAMPLES_AT_ONCE = 64


class EvaluateSettings(Settings):
    """What is evaluated, and how sure the figures must be."""

    split: Literal["test", "valid"] = "test"
    """The split whose examples are asked."""
    max_examples: int | None = Field(default=None, ge=1)
    """Most examples, spread evenly over the split; null asks all."""
    baselines: tuple[Literal["dictionary", "crf"], ...] = ("dictionary", "crf")
    """Baselines that are trained on the same train split, for scale. They apply to extraction only."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""
    resamples: int = Field(default=9999, ge=99)
    """Resamples of bootstrap and permutation tests."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""
    max_error_rate: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of requests that may fail; above it there is no score."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One system's answers to the split."""

    name: str
    scores: tuple[Score, ...]
    total: Total
    seconds: float


def pick(examples: Sequence[Example], max_examples: int | None) -> list[Example]:
    """At most `max_examples`, spread evenly, in their order."""
    if max_examples is None or len(examples) <= max_examples:
        return list(examples)
    return [examples[at * len(examples) // max_examples] for at in range(max_examples)]


def ask_engine(engine: Engine, task: Task, examples: Sequence[Example]) -> Iterator[Completion]:
    """Each example's completion: ranked where the task gives choices, answered in text elsewhere."""
    for start in range(0, len(examples), EXAMPLES_AT_ONCE):
        requests = [task.ask(example) for example in examples[start : start + EXAMPLES_AT_ONCE]]
        if all(not request.choices for request in requests):
            yield from engine.answer(requests)
            continue
        yield from (choose(engine, request) for request in requests)


def choose(engine: Engine, request: Request) -> Completion:
    """The likeliest of a request's choices, as a completion."""
    try:
        ranks = engine.rank(request)
    except InputError as error:
        return Completion("", "error", error=str(error))
    if any(math.isnan(rank) for rank in ranks):
        return Completion("", "error", error="a log-likelihood is no number")
    best = max(range(len(ranks)), key=ranks.__getitem__)
    return Completion(request.choices[best], "stop")


def predict_all(predict: Callable[[str], Sequence[Record]], task: Task, examples: Sequence[Example]) -> Iterator[Completion]:
    """A baseline's records, written as the reply that a perfect writer of JSON would give."""
    for example in examples:
        said = Example(example.id, example.text, example.source, example.group, records=tuple(predict(example.text)))
        yield Completion(task.reply(said), "stop")


def evaluate(
    name: str,
    completions: Iterator[Completion],
    task: Task,
    examples: Sequence[Example],
    out: Path,
    max_error_rate: float,
    watch: Callable[[int, int], None] = lambda done, num: None,
) -> Evaluation:
    """Score the completions of `examples` and keep every answer in `out`/answers.jsonl; too many errors raise InputError."""
    began = monotonic()
    scores: list[Score] = []

    def rows() -> Iterator[dict[str, Any]]:
        for number, (example, completion) in enumerate(zip(examples, completions, strict=True), 1):
            score = task.score(example, completion)
            scores.append(score)
            watch(number, len(examples))
            place = {"id": example.id, "source": example.source, "group": example.group}
            yield {**place, **completion_to_json(completion), "score": score_to_json(score)}

    write_jsonl(out / "answers.jsonl", rows())
    total = task.total(scores)
    rate = total.rates.get("error", 0.0)
    if rate > max_error_rate:
        first = next(score.detail.get("error", "") for score in scores if score.status == "error")
        raise InputError(
            str(out / "answers.jsonl"),
            f"{rate:.0%} of the requests to {name} failed, so there is no score; the first: {first}",
            "Mend the cause, or raise evaluate.max_error_rate",
        )
    return Evaluation(name, tuple(scores), total, monotonic() - began)


def is_answered(score: Score) -> bool:
    """Whether a score counts in its headline: no engine's error, no reply whose task leaves unread ones out."""
    return score.status != "error" and (score.right is not None or bool(score.counts))


def score_to_json(score: Score) -> dict[str, Any]:
    """A score as plain JSON."""
    return asdict(score) | {"counts": {name: asdict(counts) for name, counts in score.counts.items()}}


def read_completions(folder: Path) -> dict[str, Completion]:
    """The completions that `evaluate` wrote into a folder, by the ids of their examples."""
    return {row["id"]: completion_from_json(row) for row in read_jsonl(folder / "answers.jsonl")}


def read_scores(folder: Path) -> list[Score]:
    """The scores that `evaluate` wrote into a folder."""
    scores = []
    for row in read_jsonl(folder / "answers.jsonl"):
        fields = dict(row["score"])
        fields["counts"] = {name: Counts(**counts) for name, counts in fields["counts"].items()}
        scores.append(Score(**fields))
    return scores
