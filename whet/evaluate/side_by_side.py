"""Systems side by side: each is held against the first on every part, with all tests corrected together."""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whet.errors import InputError
from whet.evaluate.agreement import Agreement, agree
from whet.evaluate.compare import Category, Comparison, Verdict, compare, judge
from whet.evaluate.results import PartResult, Role, SuiteResult
from whet.evaluate.shares import exact_interval
from whet.evaluate.statistics import CONFIDENCE, NUM_RESAMPLES, Interval, holm
from whet.evaluate.votes import Votes
from whet.records import Score

SHOWN_HASH = 8  # characters of a hash in a message
BASELINE = "baseline"
"""Kind of a system that is not prompted at all, so that there is nothing to differ in."""
ASKED = {
    "prompts": "prompts", "template": "chat template", "max_tokens": "budget of new tokens", "stop": "stop rule",
    "temperature": "temperature", "constraint": "constraint",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """One system's answers to all parts.

    label: its name here, unlike any other's. replies: by part and example id, what a reader is shown of its reply.
    """

    label: str
    result: SuiteResult
    scores: Mapping[str, Sequence[Score]]
    replies: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What a reader is shown of an example: its text and its gold; and the group that it was drawn with."""

    text: str
    gold: str
    group: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which a system was not asked as the first one, and on which parts."""

    label: str
    what: str
    first: str
    other: str
    parts: tuple[str, ...]

    def say(self, first_label: str) -> str:
        where = ", ".join(self.parts)
        return f"{self.label} and {first_label} differ in their {self.what} on {where}: {self.other} against {self.first}"


@dataclass(frozen=True, slots=True)
class Turned:
    """The examples whose outcome changed: how many of them turned right, with the exact interval of that share.

    The share less one half is Cohen's g, an effect size for McNemar's test (Cohen 1988, "Statistical power analysis",
    chapter 5). None where no example changed.
    """

    num: int
    num_right: int
    share: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Flip:
    """An example that turned from right to wrong ("lost") or from wrong to right ("gained"), with both replies."""

    kind: Literal["lost", "gained"]
    example_id: str
    category: str
    text: str
    gold: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Held:
    """A system held against the first on one part; `adjusted_p` is Holm's over all systems and parts.

    categories: their p-values are Holm's over all systems, parts and categories.
    """

    label: str
    part: str
    role: Role
    comparison: Comparison
    adjusted_p: float
    verdict: Verdict
    turned: Turned
    categories: tuple[Category, ...]
    flips: tuple[Flip, ...]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """All that a comparison says; the first side is what the others are held against."""

    sides: tuple[Side, ...]
    differences: tuple[Difference, ...]
    held: tuple[Held, ...]
    agreements: tuple[Agreement, ...]
    unscored: tuple[tuple[str, str], ...]
    """System and part where so many requests failed that there is no score, and no test."""
    confidence: float = CONFIDENCE
    votes: Votes | None = None
    """What a reader said who did not know the sides."""

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(side.label for side in self.sides)

    @property
    def parts(self) -> tuple[PartResult, ...]:
        """The first system's results of all parts, what the specialist is for before what is watched."""
        return tuple(sorted(self.sides[0].result.parts.values(), key=lambda part: part.role == "general"))

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values; a number that is not finite is null."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "sides"}
        systems = [
            {"label": side.label, **_plain(side.result), "folder": str(side.result.folder)} for side in self.sides
        ]  # fmt: skip
        return {"systems": systems, **{name: _plain(value) for name, value in plain.items()}}


def put_side_by_side(
    sides: Sequence[Side],
    *,
    shows_differences: bool = False,
    questions: Mapping[str, Mapping[str, Question]] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> SideBySide:
    """Hold every system against the first.

    questions: by part and example id, for what is shown of flips, and for the groups that are swapped and resampled whole. Raises
    InputError where the systems did not answer the same questions, and, unless `shows_differences`, where they were not
    asked in the same way.
    """
    if len({side.label for side in sides}) < len(sides) or len(sides) < 2:
        raise ValueError("two sides or more, each with a label of its own, can be compared")
    _refuse_other_parts(sides)
    differences = find_differences(sides)
    if differences and not shows_differences:
        raise _refusal(differences, sides[0].label)
    first, known = sides[0], questions or {}
    found: list[tuple[Side, PartResult, Comparison]] = []
    unscored = [(side.label, name) for side in sides for name, part in side.result.parts.items() if part.value is None]
    for part in SideBySide(tuple(sides), (), (), (), ()).parts:
        groups = _groups(known.get(part.name, {}), first.scores[part.name])
        for side in sides[1:]:
            if not {(side.label, part.name), (first.label, part.name)} & set(unscored):
                found.append((side, part, compare(
                    first.scores[part.name], side.scores[part.name], part.headline, names=(first.label, side.label),
                    groups=groups, confidence=confidence, seed=seed, num_resamples=num_resamples,
                )))  # fmt: skip
    adjusted = holm([comparison.paired.p_value for _, _, comparison in found])
    over_all = iter(holm([category.paired.p_value for _, _, comparison in found for category in comparison.categories]))
    held = tuple(
        _hold(first, side, part, comparison, p, tuple(itertools.islice(over_all, len(comparison.categories))),
              known.get(part.name, {}), confidence)
        for (side, part, comparison), p in zip(found, adjusted, strict=True)
    )  # fmt: skip
    agreements = tuple(
        agree(name, (a.label, b.label), a.scores[name], b.scores[name], part.headline[0], confidence,
              _groups(known.get(name, {}), a.scores[name]))
        for name, part in first.result.parts.items()
        for a, b in itertools.combinations(sides, 2)
    )  # fmt: skip
    return SideBySide(tuple(sides), differences, held, agreements, tuple(unscored), confidence)


def _hold(
    first: Side, side: Side, part: PartResult, comparison: Comparison, p: float, category_ps: tuple[float, ...],
    questions: Mapping[str, Question], confidence: float,
) -> Held:  # fmt: skip
    """One comparison with all that is said of it."""
    categories = tuple(
        dataclasses.replace(category, adjusted_p=own, verdict=judge(category.paired.difference, own))
        for category, own in zip(comparison.categories, category_ps, strict=True)
    )
    return Held(
        side.label, part.name, part.role, comparison, p, judge(comparison.paired.difference, p),
        _turn(comparison, _groups(questions, first.scores[part.name]), confidence),
        categories, tuple(_flips(first, side, part, comparison, questions)),
    )  # fmt: skip


def _groups(questions: Mapping[str, Question], scores: Sequence[Score]) -> dict[str, Hashable] | None:
    """Each example's group, an example without one being its own; None where not all questions are known."""
    if not all(score.example_id in questions for score in scores):
        return None
    return {score.example_id: questions[score.example_id].group or ("alone", score.example_id) for score in scores}


def _turn(comparison: Comparison, groups: Mapping[str, Hashable] | None, confidence: float) -> Turned:
    right, wrong = comparison.flips.wrong_to_right, comparison.flips.right_to_wrong
    if not right and not wrong:
        return Turned(0, 0, None, None)
    group_of = None if groups is None else [groups[id_] for id_ in (*right, *wrong)]
    around = exact_interval([True] * len(right) + [False] * len(wrong), confidence, group_of)
    return Turned(len(right) + len(wrong), len(right), len(right) / (len(right) + len(wrong)), around)


def _flips(first: Side, side: Side, part: PartResult, comparison: Comparison, questions: Mapping[str, Question]) -> list[Flip]:
    """Lost ones first, in the order asked."""
    scores = {score.example_id: score for score in first.scores[part.name]}
    none = Question("", "")
    befores, afters = first.replies.get(part.name, {}), side.replies.get(part.name, {})
    found = []
    kinds: tuple[tuple[Literal["lost", "gained"], tuple[str, ...]], ...] = (
        ("lost", comparison.flips.right_to_wrong), ("gained", comparison.flips.wrong_to_right),
    )  # fmt: skip
    for kind, ids in kinds:
        for id_ in ids:
            question, score = questions.get(id_, none), scores[id_]
            gold = question.gold or str(score.detail.get("gold", ""))
            found.append(Flip(kind, id_, score.category, question.text, gold, befores.get(id_, ""), afters.get(id_, "")))
    return found


def _refuse_other_parts(sides: Sequence[Side]) -> None:
    """InputError where the systems did not answer the same questions of the same parts."""
    first = sides[0]
    for side in sides[1:]:
        place = f"{first.label} against {side.label}"
        here, there = first.result.parts, side.result.parts
        if here.keys() != there.keys():
            only = [sorted(here.keys() - there.keys()), sorted(there.keys() - here.keys())]
            said = [
                f"{', '.join(names)} only in {label}"
                for names, label in zip(only, (first.label, side.label), strict=True)
                if names
            ]
            raise InputError(place, f"not the same parts: {'; '.join(said)}", "Evaluate both on the same suite")
        for name, part in here.items():
            other = there[name]
            if (part.task, tuple(part.headline)) != (other.task, tuple(other.headline)):
                raise InputError(
                    place, f"{name} is a {part.task} part by {'/'.join(part.headline)} in one, a {other.task} part by "
                    f"{'/'.join(other.headline)} in the other", "Evaluate both on the same suite",
                )  # fmt: skip
            ids, other_ids = ({score.example_id for score in one.scores[name]} for one in (first, side))
            if ids != other_ids:
                one = sorted(ids ^ other_ids)[0]
                raise InputError(
                    place, f"not the same questions in {name}: {len(ids - other_ids)} only in {first.label}, "
                    f"{len(other_ids - ids)} only in {side.label}, {len(ids & other_ids)} in both; one is {one}",
                    "Evaluate both on the same suite, or on the same split of the same data",
                )  # fmt: skip
            if part.questions != other.questions:
                raise InputError(
                    place, f"not the same questions in {name}: all {len(ids)} ids are the same, their texts or golds are not",
                    "Evaluate both on the same suite",
                )  # fmt: skip


def find_differences(sides: Sequence[Side]) -> tuple[Difference, ...]:
    """In what each system was not asked as the first one; a baseline is asked nothing."""
    first = sides[0]
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for side in sides[1:]:
        if BASELINE in (first.result.system.kind, side.result.system.kind):
            continue
        for name in first.result.parts:
            for key, what in ASKED.items():
                here, there = (getattr(one.result.parts[name].asked, key) for one in (first, side))
                if here != there:
                    found.setdefault((side.label, what, _say(key, here), _say(key, there)), []).append(name)
    return tuple(Difference(*key, tuple(parts)) for key, parts in found.items())


def _say(key: str, value: Any) -> str:
    if value is None:
        return "the server's own"
    return f"{value[:SHOWN_HASH]}…" if key in ("prompts", "template") else str(value)


def _refusal(differences: Sequence[Difference], first: str) -> InputError:
    lines = "".join(f"\n  {difference.say(first)}" for difference in differences[:8])
    more = f"\n  and {len(differences) - 8} more" if len(differences) > 8 else ""
    return InputError(
        f"{first} against {differences[0].label}", f"they were not asked in the same way:{lines}{more}",
        "Evaluate both alike; or, if that is what you want to compare, say --show-differences, and the comparison says so too",
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """Plain JSON values of nested classes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value) if item.name != "folder"}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
