"""How far two systems say the same: the share of equal answers, and Cohen's kappa."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from whet.evaluate.compare import is_right
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import CONFIDENCE, Interval, number_groups
from whet.records import Score
from whet.storage import canonical
from whet.tasks.free_qa import words


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two systems agree on a part, over the `num` examples that both answered readably.

    kappa: agreement beyond chance, of the letters of choice questions (`kappa_of` "letters"), else of right and wrong
    ("right or wrong"); None where chance alone would agree always.
    """

    part: str
    names: tuple[str, str]
    num: int
    num_equal: int
    interval: Interval
    """Of the share of equal answers."""
    kappa: float | None
    kappa_interval: Interval | None
    """None also where no pair differs, which says nothing of how far kappa may lie from 1."""
    kappa_of: str

    @property
    def share(self) -> float:
        return self.num_equal / self.num if self.num else 0.0


def agree(
    part: str, names: tuple[str, str], a: Sequence[Score], b: Sequence[Score], measure: str, confidence: float = CONFIDENCE,
    groups: Mapping[str, Hashable] | None = None,
) -> Agreement:  # fmt: skip
    """The agreement of two systems on the examples of a part, paired by id.

    Letters stand for choices in the order of their prompt: where the two prompts order them otherwise (their golds have
    other letters), only being right or wrong is compared. groups: each example's group by id, for the interval.
    """
    of_b = {score.example_id: score for score in b}
    pairs = [(score, of_b[score.example_id]) for score in a if score.example_id in of_b]
    pairs = [(x, y) for x, y in pairs if x.status == y.status == "read"]
    has_letters = all("letter" in x.detail and "letter" in y.detail and x.detail["gold"] == y.detail["gold"] for x, y in pairs)
    said = [(_said(x), _said(y)) for x, y in pairs]
    rights = [(is_right(x, measure), is_right(y, measure)) for x, y in pairs]
    is_said = has_letters or not any("letter" in score.detail for pair in pairs for score in pair)
    equal = [x == y if is_said and x is not None and y is not None else right == other
             for (x, y), (right, other) in zip(said, rights, strict=True)]  # fmt: skip
    letters = [(str(x.detail["letter"]), str(y.detail["letter"])) for x, y in pairs] if has_letters else []
    labels = letters if has_letters else [(str(x), str(y)) for x, y in rights]
    group_of = None if groups is None else [groups[x.example_id] for x, _ in pairs]
    return Agreement(
        part, names, len(pairs), sum(equal), share_interval(equal, confidence, group_of),
        cohen_kappa(labels), kappa_interval(labels, confidence, group_of), "letters" if has_letters else "right or wrong",
    )  # fmt: skip


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa, (seen - chance) / (1 - chance), of two raters' labels (Cohen 1960, Educ. Psychol. Meas. 20:37).

    None without pairs, and where both always say the same one label.
    """
    if not pairs:
        return None
    seen = sum(x == y for x, y in pairs) / len(pairs)
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(left[label] * right[label] for label in left) / len(pairs) ** 2
    return None if chance == 1 else (seen - chance) / (1 - chance)


def kappa_interval(
    pairs: Sequence[tuple[str, str]], confidence: float = CONFIDENCE, groups: Sequence[Hashable] | None = None
) -> Interval | None:
    """The interval of Cohen's kappa by its asymptotic standard error (Fleiss, Cohen and Everitt 1969, Psychol. Bull. 72:323).

    The error is that of the mean of each pair's influence on kappa. Where pairs share groups, influences are summed by
    group, which never narrows the interval, and the quantile is Student's with one degree of freedom less than there are
    groups. None where no error can be known.
    """
    import numpy as np
    from scipy import special

    kappa, num = cohen_kappa(pairs), len(pairs)
    if kappa is None:
        return None
    seen = sum(x == y for x, y in pairs) / num
    left, right = Counter(x for x, _ in pairs), Counter(y for _, y in pairs)
    chance = sum(left[label] * right[label] for label in left) / num**2
    influence = np.array([
        ((x == y) - seen) / (1 - chance) - (1 - seen) * ((right[x] + left[y]) / num - 2 * chance) / (1 - chance) ** 2
        for x, y in pairs
    ])  # fmt: skip
    numbers = number_groups(groups)
    upper = (1 + confidence) / 2
    if numbers is None:
        quantile, sums = float(special.ndtri(upper)), influence
    else:
        sums = np.bincount(numbers, weights=influence)
        if len(sums) < 2:
            return None
        quantile = float(special.stdtrit(len(sums) - 1, upper)) * (len(sums) / (len(sums) - 1)) ** 0.5
    reach = quantile * max(float((sums**2).sum()), float((influence**2).sum())) ** 0.5 / num
    return Interval(max(-1.0, kappa - reach), min(1.0, kappa + reach)) if reach > 1e-9 else None


def _said(score: Score) -> str | None:
    """What a reply comes down to, whatever its wording: the letter, the records in any order, the words of a text."""
    if "letter" in score.detail:
        return str(score.detail["letter"])
    if "records" in score.detail:
        return canonical(sorted(canonical(dict(row)) for row in score.detail["records"]))
    return " ".join(words(str(score.detail["text"]))) if "text" in score.detail else None
