"""How far confidences can be believed: calibration error, Brier score, reliability, and risk against coverage."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import Interval

if TYPE_CHECKING:
    import numpy as np

MAX_BINS = 15
A_BIN = 20  # values that a bin holds at least, where there is more than one
MAX_POINTS = 200  # of a curve; a line of the page shows no more
NUM_RESAMPLES = 999  # fewer above 5,000 values, where a resample takes long and says little new


@dataclass(frozen=True, slots=True)
class Bin:
    """Values of like confidence: their mean confidence, and the share of them that is right."""

    confidence: float
    share_right: float
    num: int
    interval: Interval
    """Of the share, by Wilson."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well confidences fit what was right."""

    num: int
    num_right: int
    ece: float
    """Expected calibration error: mean distance of share right and confidence, over bins of equal mass."""
    ece_interval: Interval
    """By bootstrap over documents, moved by what resampling adds. Chance alone lifts the error above 0, less with more values."""
    brier: float
    """Mean squared distance of confidence and outcome (Brier 1950, Mon. Weather Rev. 78:1)."""
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """Of the surest records, `coverage` of all: the least confidence among them, and the share that is right."""

    coverage: float
    precision: float
    confidence: float


def measure(
    confidences: Sequence[float], rights: Sequence[bool], groups: Sequence[Hashable], level: float, seed: int = 0
) -> Reliability:
    """The figures of confidences, of which there must be some; level: confidence of the intervals."""
    import numpy as np

    said, right = np.asarray(confidences, dtype=np.float64), np.asarray(rights, dtype=np.float64)
    num_bins = max(1, min(MAX_BINS, len(said) // A_BIN))
    bins = []
    for members in _bins(said, num_bins):
        num, num_right = len(members), int(right[members].sum())
        bins.append(
            Bin(
                float(said[members].mean()),
                num_right / num,
                num,
                share_interval(right[members], level, [groups[at] for at in members]),
            )
        )
    error, interval = calibration_error(said, right, num_bins), _interval(said, right, groups, num_bins, level, seed)
    return Reliability(len(said), int(right.sum()), error, interval, float(((said - right) ** 2).mean()), tuple(bins))


def calibration_error(confidences: "np.ndarray", rights: "np.ndarray", num_bins: int) -> float:
    """Expected calibration error over bins of equal mass (Naeini et al. 2015, AAAI; Nixon et al. 2019, arXiv 1904.01685)."""
    gaps = [abs(float((confidences[members] - rights[members]).sum())) for members in _bins(confidences, num_bins)]
    return sum(gaps) / len(confidences)


def cover(confidences: Sequence[float], rights: Sequence[bool]) -> tuple[CoveragePoint, ...]:
    """The risk-coverage curve (El-Yaniv and Wiener 2010, J. Mach. Learn. Res. 11:1605), surest records first, thinned.

    Records of equal confidence are taken together, so its last point is all records.
    """
    import numpy as np

    if not confidences:
        return ()
    order = np.argsort(-np.asarray(confidences, dtype=np.float64), kind="stable")
    sure, right = np.asarray(confidences, dtype=np.float64)[order], np.cumsum(np.asarray(rights, dtype=np.int64)[order])
    ends = np.flatnonzero(np.append(sure[:-1] > sure[1:], True))
    picked = ends[np.unique(np.linspace(0, len(ends) - 1, min(MAX_POINTS, len(ends))).round().astype(int))]
    return tuple(CoveragePoint((at + 1) / len(sure), float(right[at]) / (at + 1), float(sure[at])) for at in picked.tolist())


def _bins(confidences: "np.ndarray", num_bins: int) -> "list[np.ndarray]":
    """Places of the values of each bin, least sure first: bins of equal mass, equal values always in the same one."""
    import numpy as np

    order = np.argsort(confidences, kind="stable")
    ranked = confidences[order]
    owners = np.searchsorted(ranked, ranked, side="left") * num_bins // len(ranked)
    return np.split(order, np.flatnonzero(np.diff(owners)) + 1)


def _interval(
    said: "np.ndarray", right: "np.ndarray", groups: Sequence[Hashable], num_bins: int, level: float, seed: int
) -> Interval:
    """The percentile bootstrap interval of the calibration error, whole groups drawn; (0, 1) with fewer than two.

    A resample is further from its bins' confidences than the sample was, and that by as much on average as the sample from the
    truth: the interval is moved down by it, so that it lies around the error that is shown.
    """
    import numpy as np

    members: dict[Hashable, list[int]] = {}
    for at, group in enumerate(groups):
        members.setdefault(group, []).append(at)
    if len(members) < 2:
        return Interval(0.0, 1.0)
    places = [np.array(found) for found in members.values()]
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(max(99, min(NUM_RESAMPLES, 5_000_000 // len(said)))):
        drawn = np.concatenate([places[at] for at in random.integers(len(places), size=len(places))])
        errors.append(calibration_error(said[drawn], right[drawn], num_bins))
    added = float(np.mean(errors)) - calibration_error(said, right, num_bins)
    low, high = (max(0.0, float(end) - added) for end in np.quantile(errors, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(low, high)
