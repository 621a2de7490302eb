"""Looks at published benchmark results: errors scored as answers, constants, repeats, and differences inside the noise."""

from collections.abc import Sequence
from pathlib import Path

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.evaluate.published import Published, read_published

_WHY = {
    "errors": "A failed request that is scored as an answer counts as a guess.",
    "repeated": "The same question many times is one question: the figure is far less sure than it looks.",
    "constant": "A constant answer scores what its letter is worth, and shows no skill.",
    "shape": "The file contradicts itself.",
    "unkept": "Nobody can look whether the figure is true.",
}
_NAMES = {
    "errors": "errors scored as answers",
    "repeated": "repeated questions",
    "constant": "a constant answer",
    "shape": "figures that contradict",
    "unkept": "answers that were not kept",
}


def look(paths: Sequence[Path], _: Context) -> Findings:
    """All findings about results, each by itself and any two of one benchmark against each other."""
    read = [(path, read_published(path)) for path in paths]
    for path, found in read:
        proved = any(reason.kind in ("repeated", "constant", "shape") for reason in found.reasons)
        for reason in found.reasons:
            # That errors are not counted, or answers not kept, is common; it weighs where the rest is odd too.
            is_habit = reason.kind == "unkept" or "not counted" in reason.words or "no answer says" in reason.words
            makes = note if is_habit and not proved else warning if is_habit else error
            yield makes(
                _NAMES[reason.kind],
                path,
                f"{found.accuracy:.0%} of {found.num_questions}: {reason.words}",
                _WHY[reason.kind],
                "Ask the questions again: whet evaluate MODEL --suite SUITE",
            )
    for at, (path, one) in enumerate(read):
        for other_path, other in read[at + 1 :]:
            if one.benchmark == other.benchmark:
                yield from _pair(path, one, other_path, other)


def _pair(path: Path, one: Published, other_path: Path, other: Published) -> Findings:
    if one.num_questions != other.num_questions:
        yield error(
            "other questions",
            other_path,
            f"{other.num_questions} questions, and {one.num_questions} in {path}",
            "They were not asked the same.",
            "Ask both the same suite: whet evaluate, whet compare",
        )
        return
    if one.accuracy != other.accuracy and one.interval.low <= other.interval.high and other.interval.low <= one.interval.high:
        yield warning(
            "a difference inside the noise",
            other_path,
            f"{one.accuracy:.1%} and {other.accuracy:.1%} of {one.num_questions}: "
            f"the 95 % intervals overlap ({one.interval.low:.1%} to {one.interval.high:.1%}, {other.interval.low:.1%} to "
            f"{other.interval.high:.1%})",
            "The one may be no better than the other.",
            "Compare them question by question: whet compare",
        )
    better, worse = (one, other) if one.accuracy >= other.accuracy else (other, one)
    fell = {
        name: (worse.categories[name], better.categories[name])
        for name in better.categories
        if name in worse.categories and better.categories[name] < worse.categories[name] - 0.2
    }
    if fell and better.accuracy > worse.accuracy:
        name, (before, after) = min(fell.items(), key=lambda item: item[1][1] - item[1][0])
        yield warning(
            "a gain that is paid for elsewhere",
            path if better is one else other_path,
            f"better by {better.accuracy - worse.accuracy:.0%} in all, and worse on {name}: {before:.0%} before, {after:.0%} now",
            "What was learnt has pushed out what was known.",
            "Mix general rows in (train.mix.general), and compare by category",
        )
