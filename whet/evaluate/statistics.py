"""Intervals and paired tests for scores of counts: bootstrap, paired permutation; Wilson, Holm; p-values are scipy's.

Everywhere `figure` is "precision", "recall" or "f1" of summed counts (micro average), and `groups`, where given, names
for each example what it was drawn with (a document): groups, not examples, are then resampled and swapped whole.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.records import Counts

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999
MAX_BCA = 3_000  # above so many units the BCa correction, O(1/n), is nothing, and its jackknife costs n * n
BATCH_CELLS = 4_000_000  # resampled indices held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Intervals:
    """The intervals of the three figures of the same counts, from the same resamples."""

    precision: Interval
    recall: Interval
    f1: Interval


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired comparison: `difference` is B minus A with its interval; `p_value` is two-sided; `method` says how.

    num_groups: groups of examples that were taken whole; None where each example stands alone.
    """

    difference: float
    interval: Interval
    p_value: float
    method: str
    num_groups: int | None = None


def number_groups(names: "Sequence[Hashable] | np.ndarray | None") -> "np.ndarray | None":
    """Each example's group as a number from 0, in the order in which groups appear; None where no two examples share one."""
    import numpy as np

    if names is None:
        return None
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return None if len(places) == len(names) else np.array([places[name] for name in names], dtype=np.int64)


def count_groups(names: Sequence[Hashable] | None) -> int | None:
    """How many groups there are; None where no two examples share one."""
    numbers = number_groups(names)
    return None if numbers is None else int(numbers.max()) + 1


def wilson(num_right: int, num: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share `num_right / num`; (0, 1) where nothing was counted.

    Wilson 1927, J. Am. Stat. Assoc. 22:209; computed by scipy.stats.binomtest.
    """
    if num == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(num_right, num).proportion_ci(confidence_level=confidence, method="wilson")
    return Interval(float(found.low), float(found.high))


def score_intervals(
    counts: Sequence[Counts],
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[Hashable] | None = None,
) -> Intervals:
    """Bootstrap intervals of micro precision, recall and F1, over examples or groups.

    BCa (Efron 1987, J. Am. Stat. Assoc. 82:171) by scipy.stats.bootstrap; the percentile interval where BCa is
    undefined or the units are more than 3,000. Where every unit scores alike resampling shows no doubt at all, which
    would be false certainty: then it is Wilson's interval with each unit as one trial.
    """
    units = _stack(counts, groups)
    found = _bootstrap(lambda picked: _figures(units[picked].sum(axis=-2)), len(units), confidence, seed, num_resamples)
    scores = _figures(units.sum(axis=0))
    ends = [
        interval if interval is not None else _unresampled(units, index, float(scores[index]), confidence)
        for index, interval in enumerate(found)
    ]
    return Intervals(*ends)


def f1_interval(
    counts: Sequence[Counts],
    confidence: float = CONFIDENCE,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[Hashable] | None = None,
) -> Interval:
    """The bootstrap interval of micro F1; see `score_intervals`."""
    return score_intervals(counts, confidence=confidence, seed=seed, num_resamples=num_resamples, groups=groups).f1


def paired_f1(
    a: Sequence[Counts],
    b: Sequence[Counts],
    seed: int = 0,
    *,
    figure: str = "f1",
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    groups: Sequence[Hashable] | None = None,
) -> Paired:
    """Paired permutation test of two systems' F1 (or precision, or recall), with a paired bootstrap interval.

    Under the null hypothesis the two answers to an example may be swapped (Yeh 2000, COLING, "More accurate tests for
    the statistical significance of result differences"): see `whet.evaluate.swaps`. Raises ValueError where a and b differ in
    length.
    """
    import numpy as np

    from whet.evaluate.swaps import swap_p

    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} examples can't be paired")
    units_a, units_b = _stack(a, groups), _stack(b, groups)
    index = list(Intervals.__dataclass_fields__).index(figure)

    def differ(of_a: "np.ndarray", of_b: "np.ndarray") -> "np.ndarray":
        return np.asarray(_figures(of_b)[index] - _figures(of_a)[index])

    difference = float(differ(units_a.sum(axis=0), units_b.sum(axis=0)))
    (interval,) = _bootstrap(
        lambda picked: differ(units_a[picked].sum(axis=-2), units_b[picked].sum(axis=-2))[None],
        len(units_a), confidence, seed, num_resamples,
    )  # fmt: skip
    if interval is None:
        interval = _unresampled_difference(units_a, units_b, index, confidence)
    p_value = swap_p(
        units_a, units_b, lambda sums: _figures(sums)[index], seed=seed, num_resamples=num_resamples, is_two_sided=True
    )
    num_groups = count_groups(groups)
    unit = "examples" if num_groups is None else f"{num_groups} groups"
    return Paired(difference, interval, p_value, f"paired permutation over {unit}; interval by paired bootstrap", num_groups)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values of a family of tests, in the order given: each may be held against alpha as it is.

    Holm 1979, Scand. J. Stat. 6:65: the k-th smallest of m is multiplied by m - k + 1 and never falls below the one
    before it.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def _stack(counts: Sequence[Counts], groups: Sequence[Hashable] | None) -> "np.ndarray":
    """Counts as whole numbers, one row (tp, fp, fn) an example or a group, groups in the order in which they appear."""
    import numpy as np

    rows = np.array([(c.tp, c.fp, c.fn) for c in counts], dtype=np.int64).reshape(-1, 3)
    numbers = number_groups(groups)
    if numbers is None:
        return rows
    stacked = np.zeros((int(numbers.max()) + 1, 3), dtype=np.int64)
    np.add.at(stacked, numbers, rows)
    return stacked


def _figures(sums: "np.ndarray") -> "np.ndarray":
    """Precision, recall and F1 along a new first axis, from sums whose last axis is (tp, fp, fn); 0 where undefined."""
    import numpy as np

    tp, fp, fn = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    parts, wholes = np.stack([tp, tp, 2 * tp]), np.stack([tp + fp, tp + fn, 2 * tp + fp + fn])
    found: np.ndarray = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    return found


def _bootstrap(
    statistic: Callable[["np.ndarray"], "np.ndarray"], num: int, confidence: float, seed: int, num_resamples: int
) -> list[Interval | None]:
    """One interval for each row of `statistic(indices of units)`; None where all resamples agree."""
    import numpy as np
    from scipy import stats

    if num < 2:
        return [None] * len(statistic(np.zeros(0, dtype=np.int64)))

    def of_last_axis(picked: "np.ndarray", axis: int = -1) -> "np.ndarray":
        return statistic(np.moveaxis(picked, axis, -1))

    with (
        warnings.catch_warnings(),
        np.errstate(invalid="ignore", divide="ignore"),
    ):  # an undefined BCa is looked for below
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (np.arange(num),), of_last_axis, n_resamples=num_resamples, vectorized=True, confidence_level=confidence,
            method="BCa" if num <= MAX_BCA else "percentile", batch=max(1, BATCH_CELLS // num),
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    ends = np.stack(found.confidence_interval)
    tail = (1 - confidence) / 2
    plain = np.quantile(found.bootstrap_distribution, [tail, 1 - tail], axis=-1)
    ends = np.where(np.isnan(ends).any(axis=0), plain, ends)
    is_spread = np.ptp(found.bootstrap_distribution, axis=-1) > 0
    return [Interval(float(low), float(high)) if spread else None for low, high, spread in zip(*ends, is_spread, strict=True)]


def _unresampled(units: "np.ndarray", index: int, score: float, confidence: float) -> Interval:
    """What units that all score alike still leave open: Wilson's interval with each unit as one trial.

    F1 is 2J / (1 + J) with J = tp / (tp + fp + fn), so J's interval is taken and carried over. Units that have no part
    in the figure say nothing; without any the interval is (0, 1).
    """
    tp, fp, fn = units.T
    wholes = (tp + fp, tp + fn, tp + fp + fn)[index]
    num = int((wholes > 0).sum())
    share = float(tp.sum() / wholes.sum()) if num else 0.0
    found = wilson(round(share * num), num, confidence)
    low, high = found.low, found.high
    if index == 2:
        low, high = 2 * low / (1 + low), 2 * high / (1 + high)
    return Interval(min(low, score), max(high, score))


def _unresampled_difference(units_a: "np.ndarray", units_b: "np.ndarray", index: int, confidence: float) -> Interval:
    """The interval of a difference that no resample changes.

    Where the two systems' counts are the same on every unit it is what as many units without a single change leave open (Tango's
    score interval, Tango 1998, Stat. Med. 17:891); else each system's own interval, joined by the square-and-add rule for
    independent figures (Newcombe 1998, Stat. Med. 17:873), which is the wider for paired ones.
    """
    if (units_a == units_b).all() and len(units_a):
        from scipy import special

        square = float(special.ndtri((1 + confidence) / 2)) ** 2
        return Interval(-square / (len(units_a) + square), square / (len(units_a) + square))
    scores = [float(_figures(units.sum(axis=0))[index]) for units in (units_a, units_b)]
    around_a = _unresampled(units_a, index, scores[0], confidence)
    around_b = _unresampled(units_b, index, scores[1], confidence)
    return square_and_add(scores[0], around_a, scores[1], around_b, 0.0)


def square_and_add(a: float, around_a: Interval, b: float, around_b: Interval, phi: float, most: float = 1.0) -> Interval:
    """The interval of b - a from the intervals of a and b and their correlation phi, within -most and most."""
    below = (b - around_b.low, around_a.high - a)
    above = (around_b.high - b, a - around_a.low)
    reach = [max(0.0, x * x - 2 * phi * x * y + y * y) ** 0.5 for x, y in (below, above)]
    return Interval(max(-most, b - a - reach[0]), min(most, b - a + reach[1]))
