"""Results of suites that a gate can judge, made by hand: in memory, or on disk as an evaluation leaves them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whet.evaluate.policy import GatePolicy
from whet.evaluate.results import Asked, Latency, Overlap, PartResult, SuiteResult, System, write_result
from whet.evaluate.run import score_to_json
from whet.records import Counts, Score
from whet.storage import write_jsonl

QUICK = GatePolicy(resamples=999)
ASKED = Asked("prompts", "template", 16, "end of turn")


@dataclass(frozen=True, slots=True)
class Held(SuiteResult):
    """A result whose scores are in memory."""

    answered: Mapping[str, Sequence[Score]] = field(default_factory=dict)

    def scores(self, part: str) -> list[Score]:
        return list(self.answered[part])


def rights(outcomes: Sequence[int], categories: Sequence[str] = ("",)) -> list[Score]:
    """Examples right or wrong, in these categories in turn."""
    return [
        Score(f"e{at}", "read", right=bool(right), category=categories[at % len(categories)]) for at, right in enumerate(outcomes)
    ]


def counts(rows: Sequence[tuple[int, int, int]], categories: Sequence[str] = ("",)) -> list[Score]:
    """Examples with counts of the measure "record"."""
    return [
        Score(f"e{at}", "read", {"record": Counts(*row)}, category=categories[at % len(categories)])
        for at, row in enumerate(rows)
    ]


def part(name: str, scores: Sequence[Score], **changes: Any) -> PartResult:
    is_counted = any(score.counts for score in scores)
    rates = {"error": sum(score.status == "error" for score in scores) / len(scores), "unread": 0.0, "ungrounded": 0.0}
    made = PartResult(
        name, "task", "extraction" if is_counted else "free_qa", ("record", "f1") if is_counted else ("exact", "accuracy"),
        f"questions of {len(scores)}", ASKED, len(scores), len(scores), len(scores), 0.5, None, {}, rates,
        Latency(0.1, 0.2, 0.3, 50.0), overlap=Overlap(0, 0, (), None),
    )  # fmt: skip
    return replace(made, **changes)


def result(label: str, answered: Mapping[str, Sequence[Score]], parts: Mapping[str, Mapping[str, Any]] | None = None) -> Held:
    """A result; a part named "general..." is one that is watched for forgetting."""
    roles = {name: {"role": "general" if name.startswith("general") else "task"} for name in answered}
    changes = {name: roles[name] | dict((parts or {}).get(name, {})) for name in answered}
    made = {name: part(name, scores, **changes[name]) for name, scores in answered.items()}
    return Held(
        Path(label), "suite", "f", System("adapter", label, {"adapter": label}, 1_000_000), made, 5_000_000, answered=answered
    )


def on_disk(folder: Path, held: Held, groups: Mapping[str, str] | None = None) -> Path:
    """Write a result as an evaluation of a suite does."""
    plain = SuiteResult(folder, held.suite, held.fingerprint, held.system, held.parts, held.peak_memory_bytes)
    for name, scores in held.answered.items():
        rows = [
            {
                "id": score.example_id,
                "group": (groups or {}).get(score.example_id, score.example_id),
                "score": score_to_json(score),
            }
            for score in scores
        ]
        write_jsonl(folder / name / "answers.jsonl", rows)
    write_result(plain)
    return folder


def answers(num, right, changed=0, turned=0):
    """`right` of `num` right, the last `changed` wrong ones mended, the first `turned` right ones spoilt."""
    found = [1] * right + [0] * (num - right)
    for at in range(changed):
        found[num - 1 - at] = 1
    for at in range(turned):
        found[at] = 0
    return found


def pair(num=400, right=200, changed=60, turned=5, **parts):
    live = result("live", {"exam": rights(answers(num, right))})
    return result("new", {"exam": rights(answers(num, right, changed, turned))}, parts), live


def check(verdict, name):
    return next(check for check in verdict.checks if check.name.startswith(name))


def with_general(turned, num=1_000, mended=0):
    candidate, live = pair()
    live = result("live", live.answered | {"general": rights(answers(num, num // 2))})
    return result("new", candidate.answered | {"general": rights(answers(num, num // 2, mended, turned))}), live
