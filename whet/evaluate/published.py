"""Results that other runners publish as one JSON object: read, recounted, and refused with the reasons where they show no skill.

The shape: benchmark_name, model_name, accuracy, num_questions, num_correct, avg_latency_ms, total_time_sec, timestamp, and
details with category_accuracy and latencies_ms. Some keep the answers too, as a list of objects under details or beside it.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.data.clean import normalised
from whet.errors import InputError
from whet.evaluate.statistics import Interval, wilson
from whet.storage import read_json

REQUIRED = ("accuracy", "num_questions", "num_correct")
LISTS = ("answers", "responses", "predictions", "results", "questions", "samples")
NO_MODEL_MS = 5.0  # no model reads a question and answers within: at the median, such requests were refused, not answered
CHANCE = 1e-6  # a pattern that independent questions would show less often than this is no accident
MOST_ERRORS = 0.05
MOST_CONSTANT = 0.99  # share of one letter among the answers from which they are one constant
ERROR_NAMES = ("num_errors", "errors", "num_failed", "failed", "error_count", "error_rate")

Kind = Literal["shape", "errors", "repeated", "constant", "unkept"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a published figure can't be believed: its kind, and a sentence."""

    kind: Kind
    words: str


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure, and all that speaks against it; none of `reasons` means that it could be recounted."""

    benchmark: str
    model: str
    accuracy: float
    """A share, 0 to 1, as the file says it (a percentage is taken for one)."""
    num_questions: int
    num_correct: int
    categories: Mapping[str, float]
    reasons: tuple[Reason, ...]
    interval: Interval
    """Wilson's, of what the file says: true only if its questions are distinct and were answered."""


def read_published(path: Path) -> Published:
    """A published result and what speaks against it; InputError where the file is no such result."""
    raw = read_json(path)
    if not isinstance(raw, dict) or not all(_is_number(raw.get(name)) for name in REQUIRED):
        raise InputError(
            str(path), "is no published result", f"It needs the numbers {', '.join(REQUIRED)}; a suite's own result is a folder"
        )
    details = raw["details"] if isinstance(raw.get("details"), dict) else {}
    num, right = int(raw["num_questions"]), int(raw["num_correct"])
    if not 0 <= right <= num:
        raise InputError(str(path), f"says that {right} of {num} questions are right", "Is it whole?")
    scale = 100 if raw["accuracy"] > 1 else 1
    said = details.get("category_accuracy")
    categories = (
        {str(name): float(share) / scale for name, share in said.items() if _is_number(share)} if isinstance(said, dict) else {}
    )
    rows = _rows(raw, details)
    accuracy = float(raw["accuracy"]) / scale
    reasons = [
        *_shape(accuracy, num, right, details),
        *(_recount(rows, num) if rows else _guess(raw, details, num, categories, accuracy)),
    ]
    return Published(
        str(raw.get("benchmark_name", path.stem)), str(raw.get("model_name", "")), accuracy, num, right, categories,
        tuple(reasons), wilson(right, num),
    )  # fmt: skip


def refuse_published(path: Path) -> Published:
    """A published result that can be believed; InputError with every reason where it can't."""
    found = read_published(path)
    if found.reasons:
        lines = "\n  ".join(f"{reason.kind}: {reason.words}" for reason in found.reasons)
        raise InputError(
            str(path), f"{found.accuracy:.0%} of {found.num_questions} questions is no score, for these reasons:\n  {lines}",
            "Ask the questions again: whet evaluate MODEL --suite SUITE",
        )  # fmt: skip
    return found


def _shape(accuracy: float, num: int, right: int, details: Mapping[str, Any]) -> list[Reason]:
    """Figures of the file that contradict one another."""
    found = []
    if num == 0:
        return [Reason("shape", "no question was asked")]
    if abs(accuracy - right / num) > 0.5 / num + 5e-3:
        found.append(Reason("shape", f"accuracy says {accuracy:.3f}, and {right} of {num} are {right / num:.3f}"))
    latencies = details.get("latencies_ms")
    if isinstance(latencies, list) and latencies and len(latencies) != num:
        found.append(Reason("shape", f"{len(latencies)} latencies for {num} questions"))
    return found


def _recount(rows: Sequence[Mapping[str, Any]], num: int) -> list[Reason]:
    """What the answers themselves say."""
    found = []
    if len(rows) != num:
        found.append(Reason("shape", f"{len(rows)} answers for {num} questions"))
    if not any(name in row for row in rows for name in ("error", "exception", "status")):
        found.append(Reason("errors", "no answer says whether its request failed, so each may stand for a failed one"))
    failed = [row for row in rows if _first(row, "error", "exception") or row.get("status") in ("error", "timeout", "failed")]
    if len(failed) > MOST_ERRORS * len(rows):
        scored = sum(
            _first(row, "predicted", "prediction", "answer", "response", "model_answer") not in (None, "") for row in failed
        )
        extra = f", and {scored} of them are scored as answers" if scored else ""
        found.append(Reason("errors", f"{len(failed)} of {len(rows)} requests failed{extra}"))
    questions = [normalised(str(text)) for row in rows if (text := _first(row, "question", "prompt", "input"))]
    if questions and len(set(questions)) < len(questions):
        most, times = Counter(questions).most_common(1)[0]
        found.append(
            Reason("repeated", f"{len(set(questions))} distinct questions among {len(questions)}; one was asked {times} times")
        )
    said = [
        str(text).strip()
        for row in rows
        if (text := _first(row, "predicted", "prediction", "model_answer", "response")) is not None
    ]
    if len(said) >= 5:
        most, times = Counter(said).most_common(1)[0]
        if times >= MOST_CONSTANT * len(said):
            found.append(Reason("constant", f"{times} of {len(said)} answers are {most[:20]!r}: a constant is no skill"))
    return found


def _guess(
    raw: Mapping[str, Any], details: Mapping[str, Any], num: int, categories: Mapping[str, float], accuracy: float
) -> list[Reason]:
    """What can be told without the answers."""
    found = []
    counted = next((raw.get(name, details.get(name)) for name in ERROR_NAMES if name in raw or name in details), None)
    if counted is None:
        found.append(Reason("errors", "failed requests are not counted, so each may have been scored as an answer"))
    elif _is_number(counted) and (counted if counted < 1 else counted / max(num, 1)) > MOST_ERRORS:
        found.append(Reason("errors", f"{counted} requests failed, and there is a score all the same"))
    latencies = [float(value) for value in details.get("latencies_ms") or [] if _is_number(value)]
    if latencies and statistics.median(latencies) < NO_MODEL_MS:
        found.append(
            Reason(
                "errors",
                f"half of the replies came within {statistics.median(latencies):.1f} ms: a refused connection, not a model",
            )
        )
    if len(categories) >= 2 and num >= 2 * len(categories) and all(share in (0.0, 1.0) for share in categories.values()):
        # Independent questions give a category of n all right or all wrong with probability p^n + (1 - p)^n.
        each = num / len(categories)
        chance = math.prod(accuracy**each + (1 - accuracy) ** each for _ in categories)
        if chance < CHANCE:
            nothing, everything = (
                ", ".join(name for name, share in categories.items() if share == wanted) or "none" for wanted in (0.0, 1.0)
            )
            words = (
                f"every category is all wrong ({nothing}) or all right ({everything}), as one question each gives that is "
                f"repeated {each:.0f} times; {num} questions are then {len(categories)}"
            )
            found.append(Reason("repeated", words))
            found.append(Reason("constant", "all or nothing by category is what one constant answer scores, whatever was asked"))
    found.append(Reason("unkept", "the answers were not kept, so nothing can be recounted"))
    return found


def _rows(raw: Mapping[str, Any], details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers, where the file keeps them."""
    for place in (details, raw):
        for name in LISTS:
            rows = place.get(name)
            if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                return list(rows)
    return []


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
