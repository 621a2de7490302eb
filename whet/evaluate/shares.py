"""Shares, and paired differences of shares, of examples that may stand in groups: Wilson, Clopper and Pearson, McNemar.

Examples that were drawn together (of one document) tell less than as many drawn apart. Intervals count them as fewer: their
number is divided by the design effect (Rao and Scott 1992, Biometrics 48:577), and the normal quantile becomes Student's with one
degree of freedom less than there are groups (Korn and Graubard 1998, Surv. Methodol. 24:193; Dean and Pagano 2015, J. Surv. Stat.
Methodol. 3:484, find Wilson's interval on effective counts among the best). The paired test swaps whole groups.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.evaluate.statistics import CONFIDENCE, Interval, Paired, number_groups, square_and_add, wilson

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class EffectSize:
    """An effect size with its interval."""

    value: float
    interval: Interval


def design_effect(values: "np.ndarray", groups: "np.ndarray | None") -> float:
    """By how much groups widen the variance of the mean of some values [examples]; at least 1.

    groups: numbers from 0. The variance is that of the ratio of groups' sums to their sizes, by linearisation, as a regression
    on a constant with standard errors clustered by group has it. Where fewer than two groups hold a value other than the
    commonest, nothing can be learnt of it: each group then counts as one example.
    """
    import numpy as np

    if groups is None:
        return 1.0
    num, num_groups = len(values), int(groups.max()) + 1
    kinds, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    is_rare = places != int(counts.argmax())
    if num_groups < 2 or len(kinds) < 2 or len(np.unique(groups[is_rare])) < 2:
        return num / num_groups
    mean = float(values.mean())
    alone = float(((values - mean) ** 2).mean())
    sums, sizes = np.bincount(groups, weights=values), np.bincount(groups)
    together = num_groups / (num_groups - 1) * float(((sums - sizes * mean) ** 2).sum()) / num
    return max(1.0, together / alone)


def share_interval(
    rights: "Sequence[bool] | np.ndarray", confidence: float = CONFIDENCE, groups: Sequence[Hashable] | None = None
) -> Interval:
    """Wilson's interval of the share of `rights`, on effective counts where examples share groups; (0, 1) of nothing.

    Groups may be of any size; where all stand alone it is `wilson`.
    """
    import numpy as np

    values, numbers = np.asarray(rights, dtype=np.float64), number_groups(groups)
    if numbers is None:
        return wilson(int(values.sum()), len(values), confidence)
    num_groups = int(numbers.max()) + 1
    if num_groups < 2:
        return Interval(0.0, 1.0)
    share, effective = float(values.mean()), len(values) / design_effect(values, numbers)
    return _wilson(share, effective, _quantile(confidence, num_groups - 1))


def exact_interval(
    rights: "Sequence[bool] | np.ndarray", confidence: float = CONFIDENCE, groups: Sequence[Hashable] | None = None
) -> Interval:
    """Clopper and Pearson's interval of a share (1934, Biometrika 26:404), by scipy.stats; (0, 1) of nothing.

    Where examples share groups, with beta quantiles at effective counts (Korn and Graubard 1998, Surv. Methodol. 24:193).
    """
    import numpy as np
    from scipy import stats

    values, numbers = np.asarray(rights, dtype=np.float64), number_groups(groups)
    if len(values) == 0:
        return Interval(0.0, 1.0)
    if numbers is None:
        found = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence_level=confidence, method="exact")
        return Interval(float(found.low), float(found.high))
    num_groups = int(numbers.max()) + 1
    if num_groups < 2:
        return Interval(0.0, 1.0)
    narrowed = (_quantile(confidence, len(values) - 1) / _quantile(confidence, num_groups - 1)) ** 2
    num = len(values) / design_effect(values, numbers) * narrowed
    num_right, tail = float(values.mean()) * num, (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, num_right, num - num_right + 1)) if values.any() else 0.0
    high = float(stats.beta.ppf(1 - tail, num_right + 1, num - num_right)) if not values.all() else 1.0
    return Interval(low, high)


def mcnemar(
    a_right: Sequence[bool], b_right: Sequence[bool], confidence: float = CONFIDENCE, groups: Sequence[Hashable] | None = None
) -> Paired:
    """McNemar's exact test of two systems that answered the same questions, right or wrong.

    The p-value is the two-sided binomial test on the discordant pairs (McNemar 1947, Psychometrika 12:153), by
    scipy.stats.binomtest; 1 where no pair differs. The interval of the difference of the two shares is method 10 of
    Newcombe 1998, Stat. Med. 17:2635.

    Where examples share groups the two systems are swapped in whole groups, and the p-value counts all swaps (`swap_tail`): the
    exact form of the tests of Obuchowski 1998, Stat. Med. 17:1495, and of Durkalski et al. 2003, Stat. Med. 22:2417, who
    hold the same sum against its estimated variance. The interval is Newcombe's on effective counts.
    """
    import numpy as np

    from whet.evaluate.swaps import swap_tail

    gaps, numbers, table = _paired(a_right, b_right, groups)
    num, (_, gained, lost, _) = len(gaps), table
    difference = (gained - lost) / num if num else 0.0
    if numbers is None:
        interval = _newcombe(table, float(num), _quantile(confidence, None))
        return Paired(difference, interval, _two_sided(gained, lost), "McNemar, exact; interval by Newcombe's method 10")
    num_groups = int(numbers.max()) + 1
    sums = np.bincount(numbers, weights=gaps).round().astype(np.int64)
    p_value = min(1.0, 2 * swap_tail(sums if sums.sum() >= 0 else -sums))
    effective = num / design_effect(gaps, numbers)
    test = f"McNemar over {num_groups} groups, all swaps counted"
    method = f"{test}; interval by Newcombe's method 10 on {effective:.0f} effective pairs"
    interval = _newcombe(table, effective, _quantile(confidence, num_groups - 1)) if num_groups > 1 else Interval(-1.0, 1.0)
    return Paired(difference, interval, p_value, method, num_groups)


def cohen_h(
    a_right: Sequence[bool], b_right: Sequence[bool], confidence: float = CONFIDENCE, groups: Sequence[Hashable] | None = None
) -> EffectSize:
    """Cohen's h of two systems that answered the same questions, 2 asin sqrt(b) - 2 asin sqrt(a), within -pi and pi.

    Cohen 1988, "Statistical power analysis", chapter 6. The interval is that of the difference of the shares (`mcnemar`) with
    each share's own interval on the scale of arcsines: square-and-add serves any two estimates (Zou and Donner 2008, Stat. Med.
    27:1693).
    """
    gaps, numbers, table = _paired(a_right, b_right, groups)
    if numbers is None:
        effective, quantile = float(len(gaps)), _quantile(confidence, None)
    else:
        effective, quantile = len(gaps) / design_effect(gaps, numbers), _quantile(confidence, max(1, int(numbers.max())))
    interval = _newcombe(table, effective, quantile, lambda share: 2 * math.asin(math.sqrt(share)), math.pi)
    both, gained, lost, _ = table
    a, b = (math.sqrt((both + more) / max(1, len(gaps))) for more in (lost, gained))
    is_one_group = numbers is not None and int(numbers.max()) == 0
    return EffectSize(2 * math.asin(b) - 2 * math.asin(a), Interval(-math.pi, math.pi) if is_one_group else interval)


def _paired(
    a_right: Sequence[bool], b_right: Sequence[bool], groups: Sequence[Hashable] | None
) -> tuple["np.ndarray", "np.ndarray | None", tuple[int, int, int, int]]:
    """B's right less A's by example, the examples' groups, and how many both have right, were gained, were lost, neither has."""
    import numpy as np

    if len(a_right) != len(b_right):
        raise ValueError(f"{len(a_right)} and {len(b_right)} examples can't be paired")
    a, b = np.asarray(a_right, dtype=np.int64), np.asarray(b_right, dtype=np.int64)
    gaps = b - a
    gained, lost, both = int((gaps > 0).sum()), int((gaps < 0).sum()), int((a & b).sum())
    return gaps, number_groups(groups), (both, gained, lost, len(a) - both - gained - lost)


def _two_sided(gained: int, lost: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _quantile(confidence: float, freedom: int | None) -> float:
    """The two-sided quantile: the normal one, or Student's."""
    from scipy import special

    upper = (1 + confidence) / 2
    return float(special.ndtri(upper) if freedom is None else special.stdtrit(freedom, upper))


def _wilson(share: float, num: float, quantile: float) -> Interval:
    """Wilson's interval of a share of any number of trials, whole or not."""
    square = quantile * quantile / num
    centre = (share + square / 2) / (1 + square)
    reach = (share * (1 - share) * square + square * square / 4) ** 0.5 / (1 + square)
    return Interval(max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach)))


def _newcombe(
    table: tuple[int, int, int, int], effective: float, quantile: float,
    scale: Callable[[float], float] = float, most: float = 1.0,
) -> Interval:  # fmt: skip
    """Newcombe's method 10 for the difference of two paired shares, B minus A, with his correction of phi.

    table: pairs that both have right, gained, lost, neither. effective: how many pairs these are worth. scale: a growing
    function of a share, whose difference is meant; most: the largest there is.
    """
    both, gained, lost, neither = table
    num = sum(table)
    if num == 0:
        return Interval(-most, most)
    num_a, num_b = both + lost, both + gained
    product = num_a * (num - num_a) * num_b * (num - num_b)
    cross = both * neither - gained * lost
    # The correction n / 2 of counts that are worth `effective`, brought back to the size of `cross`.
    corrected = max(cross - num * num / (2 * effective), 0.0) if cross > 0 else cross
    phi = corrected / product**0.5 if product else 0.0
    a, b = num_a / num, num_b / num
    around = [_wilson(share, effective, quantile) for share in (a, b)]
    around_a, around_b = (Interval(scale(one.low), scale(one.high)) for one in around)
    return square_and_add(scale(a), around_a, scale(b), around_b, phi, most)
