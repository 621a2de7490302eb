"""Compare two runs over the same examples: a paired test, what turned right and wrong, and a verdict in words."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.errors import InputError
from whet.evaluate.shares import EffectSize, cohen_h, mcnemar
from whet.evaluate.statistics import CONFIDENCE, NUM_RESAMPLES, Paired, holm, paired_f1
from whet.records import Counts, Score

ALPHA = 0.05  # two-sided

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Flips:
    """Ids of the examples, taken whole, whose outcome changed from A to B."""

    right_to_wrong: tuple[str, ...]
    wrong_to_right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Category:
    """The comparison within one category; `adjusted_p` is Holm's over all categories, and the verdict is by it."""

    name: str
    num_pairs: int
    a: float
    b: float
    paired: Paired
    adjusted_p: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Comparison:
    """B held against A. `a` and `b` are the headline figures on the pairs alone.

    words: verdict and figures as a sentence. numbers: the figures alone.

    num_left_out: examples on which either engine failed; they are in no figure here.
    """

    names: tuple[str, str]
    headline: tuple[str, str]
    num_pairs: int
    num_left_out: int
    a: float
    b: float
    paired: Paired
    alpha: float
    verdict: Verdict
    words: str
    numbers: str
    flips: Flips
    categories: tuple[Category, ...] = ()
    cohen_h: EffectSize | None = None
    """The effect size of a difference of shares; None for F1."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values, keys as the fields are named."""
        return dataclasses.asdict(self)


def compare(
    a: Sequence[Score],
    b: Sequence[Score],
    headline: tuple[str, str],
    *,
    names: tuple[str, str] = ("A", "B"),
    groups: Mapping[str, Hashable] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Hold run B against run A by the headline measure and figure of their task.

    ("accuracy", "accuracy") takes McNemar's exact test of right and wrong; (measure, "f1"), or "precision" or "recall",
    the paired permutation test of its counts. Where `groups` names one for each example id, groups are swapped and resampled
    whole. The same within each category. InputError where the runs did not answer the same examples or no pair is left.
    """
    pairs, num_left_out = _pair(a, b, names)
    measure = headline[0]

    def test(some: Sequence[tuple[Score, Score]]) -> tuple[float, float, Paired]:
        return _test(some, headline, groups, confidence, seed, num_resamples)

    *scores, paired = test(pairs)
    categories = _by_category(pairs, test)
    verdict = judge(paired.difference, paired.p_value)
    numbers = _say_numbers(headline, (scores[0], scores[1]), paired, len(pairs), num_left_out, confidence)
    return Comparison(
        names, headline, len(pairs), num_left_out, scores[0], scores[1], paired, ALPHA, verdict,
        f"{_say_verdict(names, verdict)}: {numbers}", numbers, _flips(pairs, measure), categories,
        cohen_h(*_rights(pairs, measure), confidence, _group_of(pairs, groups)) if headline[1] == "accuracy" else None,
    )  # fmt: skip


def is_right(score: Score, measure: str) -> bool:
    """Whether an example as a whole was answered rightly: as its task says, or read with nothing missed or invented.

    A reply that could not be read is not right.
    """
    if score.right is not None:
        return score.right
    counts = score.counts.get(measure)
    return score.status == "read" and counts is not None and counts.fp == 0 and counts.fn == 0


def _has_score(score: Score) -> bool:
    """Whether an answer counts at all: an engine's error does not, nor a choice that could not be read."""
    return score.status != "error" and (score.right is not None or bool(score.counts))


def _pair(a: Sequence[Score], b: Sequence[Score], names: tuple[str, str]) -> tuple[list[tuple[Score, Score]], int]:
    """The scores of each example that both engines answered, in A's order, and how many were left out."""
    of_a, of_b = ({score.example_id: score for score in side} for side in (a, b))
    place = f"{names[0]} against {names[1]}"
    for side, by_id, name in ((a, of_a, names[0]), (b, of_b, names[1])):
        if len(by_id) < len(side):
            raise InputError(place, f"{name} scores {len(side) - len(by_id)} examples twice", "Evaluate it again")
    if of_a.keys() != of_b.keys():
        only_a, only_b = sorted(of_a.keys() - of_b.keys()), sorted(of_b.keys() - of_a.keys())
        one = (only_a or only_b)[0]
        raise InputError(
            place,
            f"not the same examples: {len(only_a)} only in {names[0]}, {len(only_b)} only in {names[1]}, such as {one}",
            "Evaluate both on the same split of the same data",
        )
    pairs = [(score, of_b[id_]) for id_, score in of_a.items() if _has_score(score) and _has_score(of_b[id_])]
    if not pairs:
        raise InputError(
            place, f"no example was answered by both (of {len(of_a)})", "See the errors kept with the answers of each"
        )
    return pairs, len(of_a) - len(pairs)


def _test(
    pairs: Sequence[tuple[Score, Score]], headline: tuple[str, str], groups: Mapping[str, Hashable] | None,
    confidence: float, seed: int, num_resamples: int,
) -> tuple[float, float, Paired]:  # fmt: skip
    """The headline figure of both sides on these pairs, and their paired test."""
    measure, figure = headline
    group_of = _group_of(pairs, groups)
    if figure == "accuracy":
        sides = _rights(pairs, measure)
        return sum(sides[0]) / len(pairs), sum(sides[1]) / len(pairs), mcnemar(sides[0], sides[1], confidence, group_of)
    stacks = [[score.counts[measure] for score in side] for side in zip(*pairs, strict=True)]
    paired = paired_f1(
        stacks[0], stacks[1], seed, figure=figure, groups=group_of, confidence=confidence, num_resamples=num_resamples
    )
    a, b = (float(getattr(sum(side, Counts()), figure)) for side in stacks)
    return a, b, paired


def _rights(pairs: Sequence[tuple[Score, Score]], measure: str) -> tuple[list[bool], list[bool]]:
    return [is_right(a, measure) for a, _ in pairs], [is_right(b, measure) for _, b in pairs]


def _group_of(pairs: Sequence[tuple[Score, Score]], groups: Mapping[str, Hashable] | None) -> list[Hashable] | None:
    return None if groups is None else [groups[score.example_id] for score, _ in pairs]


def _by_category(
    pairs: Sequence[tuple[Score, Score]], test: Callable[[Sequence[tuple[Score, Score]]], tuple[float, float, Paired]]
) -> tuple[Category, ...]:
    """The same test within each category, p-values corrected together; nothing where there is one category or none."""
    members: dict[str, list[tuple[Score, Score]]] = {}
    for pair in pairs:
        members.setdefault(pair[0].category, []).append(pair)
    if len(members) < 2:
        return ()
    found = {name: test(members[name]) for name in sorted(members)}
    adjusted = holm([paired.p_value for _, _, paired in found.values()])
    return tuple(
        Category(name, len(members[name]), a, b, paired, p, judge(paired.difference, p))
        for (name, (a, b, paired)), p in zip(found.items(), adjusted, strict=True)
    )


def _flips(pairs: Sequence[tuple[Score, Score]], measure: str) -> Flips:
    turned = [(left.example_id, is_right(left, measure), is_right(right, measure)) for left, right in pairs]
    return Flips(
        tuple(id_ for id_, was, now in turned if was and not now),
        tuple(id_ for id_, was, now in turned if now and not was),
    )


def judge(difference: float, p_value: float) -> Verdict:
    """The verdict on a difference (B minus A) by its two-sided p-value, corrected or not."""
    if p_value >= ALPHA or difference == 0:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


def say_p(p_value: float) -> str:
    """A p-value as it is written: "p < 0.001", "p = 0.032"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def _say_verdict(names: tuple[str, str], verdict: Verdict) -> str:
    return {
        "better": f"{names[1]} is better than {names[0]}",
        "worse": f"{names[1]} is worse than {names[0]}",
        "no difference shown": f"No difference shown between {names[1]} and {names[0]}",
    }[verdict]


def _say_numbers(
    headline: tuple[str, str], scores: tuple[float, float], paired: Paired, num_pairs: int, num_left_out: int,
    confidence: float,
) -> str:  # fmt: skip
    """What the verdict rests on, as one clause with its full stop, and a sentence more where pairs were left out."""
    figure = headline[1] if headline[0] == headline[1] else f"{headline[0]} {headline[1].replace('f1', 'F1')}"
    words = (
        f"{figure} {scores[1]:.3f} against {scores[0]:.3f}, difference {_signed(paired.difference)} "
        f"({100 * confidence:g} % interval {_signed(paired.interval.low)} to {_signed(paired.interval.high)}), "
        f"{say_p(paired.p_value)}, {say_pairs(num_pairs, paired)}."
    )
    if num_left_out:
        words += f" {num_left_out:,} more left out, for which one of the two gave no answer that can be scored."
    return words


def say_pairs(num: int, paired: Paired) -> str:
    """How many examples a test rests on, and how many groups where some share one: "120 paired examples in 20 groups"."""
    words = f"{num:,} paired example{'s' if num != 1 else ''}"
    return words if paired.num_groups is None else f"{words} in {say_groups(paired.num_groups)}"


def say_groups(num: int) -> str:
    """A number of groups."""
    return f"{num:,} group{'s' if num != 1 else ''}"


def _signed(number: float) -> str:
    """A difference with its sign; the minus is the typographic one."""
    return "0.000" if round(number, 3) == 0 else f"{number:+.3f}".replace("-", "−")
