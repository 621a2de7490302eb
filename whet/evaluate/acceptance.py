"""Which records need no review: the lowest confidence above which a promised share of the records is right."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from whet.config import Settings

if TYPE_CHECKING:
    import numpy as np


class AcceptSettings(Settings):
    """Which records of an extraction are accepted, and which go to review."""

    precision: float = Field(default=0.99, gt=0, lt=1)
    """Share of the accepted records that must be right. The threshold is the lowest confidence for which the valid split
    shows it; where none does, every record goes to review."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """How sure that must be: in at most 1 - confidence of all draws of a valid split the promise fails."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Accept records of at least this confidence, whatever share of them is right; null finds the threshold by `precision`."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A threshold of the records' calibrated confidence, and what it rests on in the valid split."""

    threshold: float | None
    """Records of at least this confidence are accepted; None accepts none."""
    precision: float
    """The share that was asked for."""
    confidence: float
    is_given: bool
    """Whether the threshold was set, and not found."""
    num_records: int
    num_accepted: int
    num_right: int
    lower: float
    """Lower bound on the share of right records among the accepted ones, at `confidence`; where the threshold was found, it is
    the precision that was asked for."""
    num_needed: int
    """Records without a single wrong one that would just do, were all independent."""

    def accepts(self, confidence: float | None) -> bool:
        """Whether a record of this calibrated confidence is accepted; one that has none is not."""
        return self.threshold is not None and confidence is not None and confidence >= self.threshold


def find_threshold(
    confidences: Sequence[float], rights: Sequence[bool], groups: Sequence[Hashable], settings: AcceptSettings
) -> Acceptance:
    """The acceptance that the settings ask for, from the records of the valid split: confidence, whether right, document.

    In the way of Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) the sets of the k surest records are tested for
    growing k, each against "a smaller share than `precision` is right", by the exact binomial test, which is that of the lower
    bound of Clopper and Pearson (1934, Biometrika 26:404). The first k is the smallest that could pass. While sets pass, the
    level goes on to the next; where one fails, testing starts again at twice the first k, and so on, with half of the level that
    was left (the fallback procedure of Wiens 2003, Pharm. Stat. 2:211): all tests together err with at most 1 - `confidence`.
    Records of one document are not independent: counts are divided by the design effect.
    """
    import numpy as np

    order = np.argsort(-np.asarray(confidences, dtype=np.float64), kind="stable")
    sure, right = np.asarray(confidences, dtype=np.float64)[order], np.asarray(rights, dtype=np.float64)[order]
    effects = design_effects([groups[at] for at in order], right - sure)
    num_right = np.cumsum(right)
    alpha = 1 - settings.confidence

    def bound(num: int, level: float) -> float:
        return lower_bound(num_right[num - 1] / effects[num - 1], num / effects[num - 1], level) if num else 0.0

    threshold = settings.threshold
    if threshold is not None:
        num = int((sure >= threshold).sum())
        lower = bound(num, alpha)
    else:
        # Records of equal confidence are accepted together.
        sizes = [num for num in range(1, len(sure) + 1) if num == len(sure) or sure[num - 1] > sure[num]]
        starts = _starts([num / effect for num, effect in enumerate(effects, 1)], settings.precision, alpha)
        num, level = 0, 0.0
        for size in sizes:
            level += sum(share for start, share in starts if start <= size)
            starts = [(start, share) for start, share in starts if start > size]
            if level and bound(size, level) >= settings.precision:
                num = size
            else:
                level = 0.0
        threshold, lower = (float(sure[num - 1]), settings.precision) if num else (None, 0.0)
    return Acceptance(
        threshold, settings.precision, settings.confidence, settings.threshold is not None, len(sure), num,
        int(num_right[num - 1]) if num else 0, lower, num_needed(settings.precision, alpha),
    )  # fmt: skip


def lower_bound(num_right: float, num: float, alpha: float) -> float:
    """The one-sided lower bound of Clopper and Pearson on a share `num_right / num`, wrong with at most `alpha`.

    Fractions are allowed: effective counts (Korn and Graubard 1998, Surv. Methodol. 24:193).
    """
    from scipy.stats import beta

    return float(beta.ppf(alpha, num_right, num - num_right + 1)) if num_right > 0 else 0.0


def num_needed(precision: float, alpha: float) -> int:
    """Independent records that, all right, just show that at least `precision` are: precision ** num <= alpha."""
    return math.ceil(math.log(alpha) / math.log(precision) - 1e-9)


def design_effects(groups: Sequence[Hashable], residuals: "np.ndarray") -> list[float]:
    """For the first 1, 2, 3 .. records, by how much the variance of their mean is larger than that of independent ones.

    Kish 1965, Survey Sampling: 1 + (m - 1) r, where m is the mean size of a record's group and r the correlation within groups:
    that of the residuals (right or not, less the confidence) of all records, by analysis of variance; 1 where nothing tells.
    """
    correlation, sizes, squares, effects = _correlation(groups, residuals), Counter[Hashable](), 0, []
    for num, group in enumerate(groups, 1):
        squares += 2 * sizes[group] + 1
        sizes[group] += 1
        effects.append(1 + (squares / num - 1) * correlation)
    return effects


def _correlation(groups: Sequence[Hashable], residuals: "np.ndarray") -> float:
    """The intraclass correlation, 0 to 1."""
    import numpy as np

    places = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    ids = np.array([places[group] for group in groups], dtype=np.int64)
    num, num_groups = len(ids), len(places)
    if num_groups < 2 or num == num_groups:
        return 1.0
    sizes = np.bincount(ids)
    means = np.bincount(ids, residuals) / sizes
    between = float((sizes * (means - residuals.mean()) ** 2).sum()) / (num_groups - 1)
    within = float(((residuals - means[ids]) ** 2).sum()) / (num - num_groups)
    usual = (num - float((sizes**2).sum()) / num) / (num_groups - 1)
    whole = between + (usual - 1) * within
    return min(1.0, max(0.0, (between - within) / whole)) if whole > 0 else 1.0


def _starts(nums: Sequence[float], precision: float, alpha: float) -> list[tuple[int, float]]:
    """Sizes at which testing starts, and the share of `alpha` of each; nums: effective records for each size.

    None depends on which records are right, but for the correlation.
    """
    first = next((size for size, num in enumerate(nums, 1) if num >= num_needed(precision, alpha / 2)), None)
    if first is None or 2 * first > len(nums):
        first = next((size for size, num in enumerate(nums, 1) if num >= num_needed(precision, alpha)), None)
        return [(first, alpha)] if first is not None else []
    sizes = [first * 2**at for at in range(len(nums).bit_length()) if first * 2**at <= len(nums)]
    shares = [alpha / 2 ** (at + 1) for at in range(len(sizes))]
    shares[-1] *= 2
    return list(zip(sizes, shares, strict=True))
