"""How large a difference is, with intervals: relative to the live figure, and as the odds of a gain against a loss."""

from dataclasses import dataclass

import numpy as np

from whet.evaluate.margin import CountsEvidence, Evidence, Shares
from whet.evaluate.statistics import CONFIDENCE, Interval


@dataclass(frozen=True, slots=True)
class EffectSize:
    """relative: candidate's figure over live's, less one; None where live's is 0. odds: answers that turned right for each that
    turned wrong (right or wrong only); None where nothing turned wrong. An interval's infinite end is None too.
    """

    relative: float | None
    relative_interval: tuple[float | None, float | None] | None
    odds: float | None = None
    odds_interval: tuple[float | None, float | None] | None = None


def measure_effect(evidence: Evidence, confidence: float = CONFIDENCE) -> EffectSize:
    """The effect sizes of some evidence, with two-sided intervals.

    relative: the interval of the difference, over the live figure taken as it is (right or wrong), or percentiles of the
    bootstrap of the ratio itself (counts). odds: Clopper and Pearson's interval of the share of gains among the pairs that
    differ (Clopper and Pearson 1934, Biometrika 26:404), on effective counts where examples share groups, turned into odds.
    """
    tail = (1 - confidence) / 2
    relative = evidence.difference / evidence.live if evidence.live else None
    around: tuple[float | None, float | None] | None = None
    if relative is not None:
        around = _relative(evidence, evidence.bounds(tail), tail)
    if not isinstance(evidence, Shares) or evidence.gained + evidence.lost == 0:
        return EffectSize(relative, around)
    found = evidence.gain_interval(confidence)
    odds = evidence.gained / evidence.lost if evidence.lost else None
    return EffectSize(relative, around, odds, (_odds(found.low), _odds(found.high)))


def _relative(evidence: Evidence, bounds: Interval, tail: float) -> tuple[float, float]:
    if isinstance(evidence, CountsEvidence) and evidence.num_units > 1:
        live, candidate = evidence.resampled
        ratios = candidate[live > 0] / live[live > 0] - 1
        if len(ratios):
            low, high = np.quantile(ratios, [tail, 1 - tail])
            return float(low), float(high)
    return bounds.low / evidence.live, bounds.high / evidence.live


def _odds(share: float) -> float | None:
    return share / (1 - share) if share < 1 else None
