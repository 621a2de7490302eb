"""What pairs say about the true difference of two systems: one-sided bounds, and tests against any margin.

Everywhere the difference is candidate minus live. "Non-inferior by a tolerance t" is that the lower bound of the difference
lies above -t; "better" that it lies above 0. A test that finds nothing is no proof of equality; this is.
"""

import functools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from whet.evaluate.paired import Pairs
from whet.evaluate.shares import design_effect, exact_interval
from whet.evaluate.statistics import BATCH_CELLS, Interval
from whet.evaluate.swaps import CHECKED_CELLS, swap_p, swap_tail


class Evidence(Protocol):
    """What is known of the true difference.

    live, candidate: the two figures on the pairs. num: examples. num_units: groups of examples that were drawn together.
    """

    live: float
    candidate: float
    num: int
    num_units: int
    method: str

    @property
    def difference(self) -> float: ...

    def bounds(self, alpha: float) -> Interval:
        """A lower and an upper bound, each of which the true difference passes with probability `alpha` at most."""
        ...

    def p_above(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is `margin` or less."""
        ...

    def p_below(self, margin: float) -> float:
        """One-sided p-value of the hypothesis that the true difference is `margin` or more."""
        ...

    def p_better(self) -> float:
        """One-sided p-value that the candidate is no better, by an exact test (right or wrong) or by swapping (counts)."""
        ...


def weigh(pairs: Pairs, seed: int, num_resamples: int) -> Evidence:
    """The evidence of some pairs, by their figure; ValueError where there are none."""
    if len(pairs) == 0:
        raise ValueError("no pairs")
    return Shares(pairs) if pairs.figure == "accuracy" else CountsEvidence(pairs, seed, num_resamples)


class Shares:
    """Right or wrong: Tango's score interval (Tango 1998, Stat. Med. 17:891), and McNemar's exact test for "better".

    Where examples share a group, the pairs are worth fewer: their number is divided by the design effect, the variance of the
    difference over groups to that over examples, never below 1 (Rao and Scott 1992, Biometrics 48:577), and the normal
    quantile becomes Student's with one degree of freedom less than there are groups. "Better" then swaps whole groups.
    """

    def __init__(self, pairs: Pairs) -> None:
        gaps = pairs.candidate - pairs.live
        self.gained, self.lost = int((gaps > 0).sum()), int((gaps < 0).sum())
        self.num = len(gaps)
        self.live, self.candidate = float(pairs.live.mean()), float(pairs.candidate.mean())
        self._gaps, self._groups = gaps, pairs.groups
        self.num_units = self.num if pairs.groups is None else int(pairs.groups.max()) + 1
        self.effective = self.num / design_effect(gaps, pairs.groups)
        self._freedom = None if pairs.groups is None else self.num_units - 1
        self.method = "Tango's score interval, McNemar's exact test"
        if pairs.groups is not None:
            self.method = f"Tango's score interval on {self.effective:.0f} effective pairs, McNemar's test over groups"

    @property
    def difference(self) -> float:
        return (self.gained - self.lost) / self.num

    @property
    def discordance(self) -> float:
        """Share of the pairs in which the two differ."""
        return (self.gained + self.lost) / self.num

    def bounds(self, alpha: float) -> Interval:
        quantile = _quantile(alpha, self._freedom)
        low = tango_bound(self._scaled(self.gained), self._scaled(self.lost), self.effective, quantile)
        high = -tango_bound(self._scaled(self.lost), self._scaled(self.gained), self.effective, quantile)
        return Interval(low, high)

    def p_above(self, margin: float) -> float:
        return _tail(tango_z(self._scaled(self.gained), self._scaled(self.lost), self.effective, margin), self._freedom)

    def p_below(self, margin: float) -> float:
        return _tail(tango_z(self._scaled(self.lost), self._scaled(self.gained), self.effective, -margin), self._freedom)

    def p_better(self) -> float:
        if self._groups is not None:
            return swap_tail(np.bincount(self._groups, weights=self._gaps).round().astype(np.int64))
        # The binomial tail of at least `gained` heads in as many tosses as pairs differ.
        return float(special.bdtrc(self.gained - 1, self.gained + self.lost, 0.5)) if self.gained else 1.0

    def gain_interval(self, confidence: float) -> Interval:
        """Exact interval of the share of gains among the pairs that differ."""
        at = np.flatnonzero(self._gaps)
        return exact_interval(self._gaps[at] > 0, confidence, None if self._groups is None else self._groups[at].tolist())

    def _scaled(self, count: int) -> float:
        return count * self.effective / self.num


class CountsEvidence:
    """Precision, recall or F1 of summed counts: a paired bootstrap over groups or examples.

    The percentile interval, expanded for the narrowness of few units (Hesterberg 2015, Am. Stat. 69:371). No bound is
    nearer to the difference than what as many units that all agree would leave open (Tango's interval without a
    discordant pair), so that a handful of equal answers proves nothing. "Better" is tested by swapping the two
    systems within units (`swap_p`).

    The bootstrap is not scipy's, which makes the intervals of `whet.evaluate.statistics`: any margin must be tested on the
    resamples themselves, and the same draws serve all tests of as many units, at a tenth of the time.
    """

    def __init__(self, pairs: Pairs, seed: int = 0, num_resamples: int = 9_999) -> None:
        self._column = {"precision": 0, "recall": 1, "f1": 2}[pairs.figure]
        both = np.concatenate([pairs.live, pairs.candidate], axis=1).astype(np.float64)
        if pairs.groups is not None:
            stacked = np.zeros((int(pairs.groups.max()) + 1, 6))
            np.add.at(stacked, pairs.groups, both)
            both = stacked
        self._units, self._seed, self._num_resamples = both, seed, num_resamples
        self.num, self.num_units = len(pairs), len(both)
        sums = both.sum(axis=0)
        self.live, self.candidate = float(self._figure(sums[:3])), float(self._figure(sums[3:]))
        unit = "examples" if pairs.groups is None else "groups"
        self.method = f"paired bootstrap and permutation over {unit}"

    @property
    def difference(self) -> float:
        return self.candidate - self.live

    @functools.cached_property
    def resampled(self) -> NDArray[np.float64]:
        """Live and candidate figures in each resample [2, resamples]."""
        found = [
            np.stack([self._figure(sums[:, :3]), self._figure(sums[:, 3:])])
            for weights in _resamples(self.num_units, self._num_resamples, self._seed)
            for sums in [weights @ self._units]
        ]
        return np.concatenate(found, axis=1)

    @functools.cached_property
    def differences(self) -> NDArray[np.float64]:
        """The difference in each resample, sorted."""
        live, candidate = self.resampled
        return np.sort(candidate - live)

    def bounds(self, alpha: float) -> Interval:
        if self.num_units < 2:
            return Interval(-1.0, 1.0)
        tail = float(special.ndtr(-_quantile(alpha, self.num_units - 1) * (self.num_units / (self.num_units - 1)) ** 0.5))
        low, high = np.quantile(self.differences, [tail, 1 - tail])
        square = float(special.ndtri(1 - alpha)) ** 2
        reach = square / (self.num_units + square)
        low, high = min(float(low), self.difference - reach), max(float(high), self.difference + reach)
        return Interval(max(-1.0, low), min(1.0, high))

    def p_above(self, margin: float) -> float:
        return self._p(int(np.searchsorted(self.differences, margin, side="right")), self.difference - margin)

    def p_below(self, margin: float) -> float:
        num_above = len(self.differences) - int(np.searchsorted(self.differences, margin, side="left"))
        return self._p(num_above, margin - self.difference)

    def p_better(self) -> float:
        live, candidate = self._units[:, :3].astype(np.int64), self._units[:, 3:].astype(np.int64)
        return swap_p(live, candidate, self._figure, seed=self._seed, num_resamples=self._num_resamples, is_two_sided=False)

    def _p(self, num_beyond: int, distance: float) -> float:
        """The p-value whose inversion is `bounds`: `num_beyond` resamples lie on the hypothesis' side, `distance` away."""
        if self.num_units < 2 or distance <= 0:
            return 1.0 if self.num_units < 2 else max(0.5, num_beyond / len(self.differences))
        share = (num_beyond + 1) / (len(self.differences) + 1)
        z = -float(special.ndtri(min(share, 0.5))) * ((self.num_units - 1) / self.num_units) ** 0.5
        floor = (self.num_units * distance / (1 - distance)) ** 0.5 if distance < 1 else np.inf
        return max(float(special.stdtr(self.num_units - 1, -z)), float(special.ndtr(-floor)))

    def _figure(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The figure of sums whose last axis is tp, fp, fn; 0 where undefined."""
        tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
        part, whole = ((tp, tp + fp), (tp, tp + fn), (2 * tp, 2 * tp + fp + fn))[self._column]
        found: NDArray[np.float64] = np.divide(part, whole, out=np.zeros_like(np.asarray(part)), where=whole > 0)
        return found


def tango_z(gained: float, lost: float, num: float, margin: float) -> float:
    """Tango's score statistic of the hypothesis that the true difference of two paired shares is `margin`.

    gained, lost: pairs in which the candidate alone, the live system alone, is right; of `num`. Positive where the
    difference seen lies above the margin. At margin 0 its square is McNemar's statistic without continuity correction.
    """
    if abs(margin) >= 1:
        return -np.inf if margin > 0 else np.inf
    a, b = 2 * num, -gained - lost + (2 * num - gained + lost) * margin
    c = -lost * margin * (1 - margin)
    # The likeliest share of lost pairs, were the margin the truth.
    share = (max(b * b - 4 * a * c, 0.0) ** 0.5 - b) / (2 * a)
    variance = num * (2 * share + margin * (1 - margin))
    distance = gained - lost - num * margin
    if variance <= 0:
        return 0.0 if distance == 0 else float(np.copysign(np.inf, distance))
    return float(distance / variance**0.5)


def tango_bound(gained: float, lost: float, num: float, quantile: float) -> float:
    """The lower bound of the difference: where Tango's statistic falls to a quantile of its distribution."""
    low, high = -1.0, (gained - lost) / num
    for _ in range(50):
        middle = (low + high) / 2
        if tango_z(gained, lost, num, middle) > quantile:
            low = middle
        else:
            high = middle
    return low


def _quantile(alpha: float, freedom: int | None) -> float:
    """The quantile that is passed with probability alpha: the normal one, or Student's; infinite without any freedom."""
    if freedom is None:
        return float(special.ndtri(1 - alpha))
    return float(special.stdtrit(freedom, 1 - alpha)) if freedom > 0 else np.inf


def _tail(z: float, freedom: int | None) -> float:
    if freedom is None:
        return float(special.ndtr(-z))
    return float(special.stdtr(freedom, -z)) if freedom > 0 else 1.0


def _resamples(num_units: int, num: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """How often each unit is drawn in each resample [at most `num`, units]; the same for as many units and the same seed."""
    if num_units * num <= CHECKED_CELLS:
        yield _kept_resamples(num_units, num, seed)
        return
    rng, batch = np.random.default_rng(seed), max(1, BATCH_CELLS // num_units)
    for start in range(0, num, batch):
        yield _draw(rng, num_units, min(batch, num - start))


@functools.lru_cache(maxsize=8)
def _kept_resamples(num_units: int, num: int, seed: int) -> NDArray[np.float32]:
    return _draw(np.random.default_rng(seed), num_units, num)


def _draw(rng: np.random.Generator, num_units: int, num: int) -> NDArray[np.float32]:
    picked = rng.integers(0, num_units, (num, num_units)) + np.arange(num)[:, None] * num_units
    return np.bincount(picked.ravel(), minlength=num * num_units).reshape(num, num_units).astype(np.float32)
