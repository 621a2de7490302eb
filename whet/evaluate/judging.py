"""From the scores of a part to its result: figures with intervals, categories, and what they are without known questions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from whet.evaluate.questions import Found, Questions
from whet.evaluate.results import Asked, Latency, Overlap, PartResult, Role
from whet.evaluate.run import is_answered
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import Interval, count_groups, score_intervals
from whet.records import Counts, Example, Request, Score
from whet.storage import canonical, hash_text
from whet.tasks.base import Task, Total

SIDE_RESAMPLES = 1999  # of intervals that no verdict rests on
NAMED = 20  # rows that were left out, named in the result


@dataclass(frozen=True, slots=True)
class Doubt:
    """How the intervals are made."""

    confidence: float
    seed: int
    resamples: int


@dataclass(frozen=True, slots=True)
class PartAnswered:
    """A part as it was asked and answered. max_error_rate: above it there is no score."""

    name: str
    role: Role
    task: Task
    questions: Questions
    asked: Asked
    scores: Sequence[Score]
    latency: Latency
    max_error_rate: float
    found: Found | None = None
    """Questions that stand in the training data; None where there was none to compare with."""


def describe_asking(task: Task, examples: Sequence[Example], *, template: str | None, stop: str, enforced: str = "") -> Asked:
    """How a part is put to a system. enforced: how a server is made to keep a constraint; empty where whet itself sees to it."""
    requests = [task.ask(example) for example in examples]
    messages = [[[message.role, message.content] for message in request.messages] for request in requests]
    constraint = _constraint(requests)
    is_ranked = constraint == RANKED
    if enforced and constraint in (GROUNDED, JSON):
        constraint += f", asked of the server as {enforced}"
    return Asked(
        prompts=hash_text(canonical(messages)),
        template=template,
        max_tokens=max((request.max_tokens for request in requests), default=0),
        stop="nothing is written" if is_ranked else stop,
        temperature=max((request.temperature for request in requests), default=0.0),
        constraint=constraint,
    )


RANKED, GROUNDED, JSON = "letters ranked by likelihood", "grounded records", "records"


def _constraint(requests: Sequence[Request]) -> str:
    """What replies may be, in words."""
    if any(request.choices for request in requests):
        return RANKED
    constraints = [request.constraint for request in requests if request.constraint is not None]
    if not constraints:
        return "none"
    return GROUNDED if any(constraint.source is not None for constraint in constraints) else JSON


def judge_part(part: PartAnswered, doubt: Doubt) -> PartResult:
    """The result of a part. Its value is None where too many requests failed, or nothing could be read."""
    total = part.task.total(part.scores)
    by_id = {example.id: example for example in part.questions.examples}
    groups = {name: example.group for name, example in by_id.items()}
    is_scored = total.rates.get("error", 0.0) <= part.max_error_rate and total.num_scored > 0
    value, around = figure_of(total, part.scores, groups, doubt) if is_scored else (None, None)
    overlap = None
    if part.found is not None:
        overlap = _overlap(part, total, groups, doubt, is_scored)
    return PartResult(
        name=part.name,
        role=part.role,
        task=part.task.name,
        headline=total.headline,
        questions=part.questions.fingerprint,
        asked=part.asked,
        num_asked=total.num_asked,
        num_scored=total.num_scored,
        num_distinct=len(part.questions.examples),
        value=value,
        interval=around,
        measures=total.measures if is_scored else {},
        rates=total.rates,
        latency=part.latency,
        duplicates=part.questions.duplicates,
        overlap=overlap,
        categories=_categories(part, total, groups, doubt) if is_scored else {},
        extra=_extra(part, total, groups, doubt, is_scored=is_scored),
        num_groups=count_groups([groups[score.example_id] for score in part.scores if is_answered(score)]),
    )


def figure_of(
    total: Total, scores: Sequence[Score], groups: Mapping[str, str], doubt: Doubt, measure: tuple[str, str] | None = None
) -> tuple[float, Interval]:
    """A figure and its interval: Wilson's for a share, a bootstrap for one of counts; both by groups where examples share one."""
    name, figure = measure or total.headline
    figures = total.measures[name]
    if "tp" not in figures:
        judged = [score for score in scores if score.right is not None]
        return figures[figure], _share(judged, [bool(score.right) for score in judged], groups, doubt)
    answered = [score for score in scores if score.status != "error" and name in score.counts]
    found = score_intervals(
        [score.counts[name] for score in answered], confidence=doubt.confidence, seed=doubt.seed, num_resamples=doubt.resamples,
        groups=[groups[score.example_id] for score in answered],
    )  # fmt: skip
    return figures[figure], getattr(found, figure)


def _categories(
    part: PartAnswered, total: Total, groups: Mapping[str, str], doubt: Doubt
) -> dict[str, tuple[int, float, Interval]]:
    """Number scored, headline and interval of each category; nothing where there is one or none."""
    members: dict[str, list[Score]] = defaultdict(list)
    for score in part.scores:
        members[score.category].append(score)
    if len(members) < 2:
        return {}
    found = {}
    for name, scores in sorted(members.items()):
        own = part.task.total(scores)
        if own.num_scored:
            value, around = figure_of(own, scores, groups, replace(doubt, resamples=min(doubt.resamples, SIDE_RESAMPLES)))
            found[name or "none"] = (own.num_scored, value, around)
    return found


def _overlap(part: PartAnswered, total: Total, groups: Mapping[str, str], doubt: Doubt, is_scored: bool) -> Overlap:
    """The questions that were met in training, and the headline of the others."""
    assert part.found is not None
    met = frozenset((*part.found.exact, *part.found.near))
    rest = [score for score in part.scores if score.example_id not in met]
    without: tuple[float | None, Interval | None] = (None, None)
    others = part.task.total(rest)
    if is_scored and others.num_scored:
        without = figure_of(others, rest, groups, doubt)
    return Overlap(len(part.found.exact), len(part.found.near), (*part.found.exact, *part.found.near), *without)


def _extra(part: PartAnswered, total: Total, groups: Mapping[str, str], doubt: Doubt, *, is_scored: bool) -> dict[str, Any]:
    """What the task alone reports, rows that are no questions, and the intervals of all other figures."""
    # The categories stand in the result themselves, with their intervals.
    extra = {name: value for name, value in total.extra.items() if name not in ("by_category", "num_distinct")}
    questions = part.questions
    extra["rows"] = {
        "num_distinct": questions.num_there,
        "num_conflicting": questions.num_conflicting,
        "num_long": questions.num_long,
        "num_left_out": len(questions.left_out),
        "left_out": list(questions.left_out[:NAMED]),
    }
    side = replace(doubt, resamples=min(doubt.resamples, SIDE_RESAMPLES))
    intervals: dict[str, Interval | None] = {
        f"rate.{name}": rate_interval(name, part.scores, groups, side) for name in total.rates
    }
    if is_scored:
        for name, figures in total.measures.items():
            for figure in ("accuracy", "precision", "recall", "f1"):
                if figure in figures and (name, figure) != total.headline:
                    intervals[f"{name}.{figure}"] = figure_of(total, part.scores, groups, side, (name, figure))[1]
        read = [score for score in part.scores if score.status == "read"]
        for letter in extra.get("by_position", {}):
            of_letter = [score for score in read if score.detail["gold"] == letter]
            intervals[f"by_position.{letter}"] = _share(of_letter, [bool(s.right) for s in of_letter], groups, doubt)
        for letter in extra.get("letters", {}):
            intervals[f"letters.{letter}"] = _share(read, [s.detail["letter"] == letter for s in read], groups, doubt)
        if "of_all" in extra:
            answered = [score for score in part.scores if score.status != "error"]
            intervals["of_all"] = _share(answered, [bool(score.right) for score in answered], groups, doubt)
    extra["intervals"] = {name: asdict(around) for name, around in intervals.items() if around is not None}
    return extra


def _share(scores: Sequence[Score], holds: Sequence[bool], groups: Mapping[str, str], doubt: Doubt) -> Interval:
    """The interval of the share of scores of which something holds."""
    return share_interval(holds, doubt.confidence, [groups[score.example_id] for score in scores])


def rate_interval(name: str, scores: Sequence[Score], groups: Mapping[str, str], doubt: Doubt) -> Interval | None:
    """The interval of a rate: a share of the examples, or, of ungrounded values, of all values; None of another rate."""
    answered = [score for score in scores if score.status != "error"]
    if name == "error":
        return _share(scores, [score.status == "error" for score in scores], groups, doubt)
    if name == "unread":
        return _share(answered, [score.status == "unread" for score in answered], groups, doubt)
    if name in ("truncated", "violated"):
        return _share(answered, [bool(score.flags.get(name)) for score in answered], groups, doubt)
    if name != "ungrounded" or not any(score.flags.get("span_values") for score in answered):
        return None
    values = [
        Counts(score.flags.get(name, 0), score.flags.get("span_values", 0) - score.flags.get(name, 0)) for score in answered
    ]
    return score_intervals(
        values, confidence=doubt.confidence, seed=doubt.seed, num_resamples=doubt.resamples,
        groups=[groups[score.example_id] for score in answered],
    ).precision  # fmt: skip
