"""Permutation tests of paired outcomes: under the null hypothesis two systems may be swapped within each unit.

Units are examples, or groups of examples that were drawn together. For whole numbers of gains less losses the swaps can all be
counted; a figure of summed counts, such as F1, goes through all swaps of a few units, and through random ones of many. scipy
has the latter as stats.permutation_test, which the tests hold this to; it takes about ten times as long, and the gate's
simulation asks for thousands (`python benchmarks/gate_simulation.py --quick`): here signs are drawn once for as many units.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

CHECKED_CELLS = 4_000_000  # swaps times units that are kept for the next test of as many units: 16 MB as float32
BATCH_CELLS = 4_000_000  # signs held at once
SLACK = 1e-12  # below which two differences of a figure are the same but for rounding


def swap_tail(sums: NDArray[np.int64]) -> float:
    """The share of all swaps of whole units that give at least the sum seen; 1 where no unit differs.

    sums: gains less losses of each unit [units]. Under the null hypothesis each has its sign by the toss of a fair coin.
    The sum's distribution is the product of the units' own, multiplied out size by size (Pagano and Tritchler 1983,
    J. Am. Stat. Assoc. 78:435): no resampling, no seed. Where no unit holds more than one change it is McNemar's binomial tail.
    """
    from scipy import stats

    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    chances = np.ones(1)  # of the sum of the sizes of those units whose coin fell on gain, from 0
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(size * count + 1)
        own[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    least = (len(chances) - 1 + int(sums.sum())) // 2
    return min(1.0, float(chances[least:].sum()))


def swap_p(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    seed: int,
    num_resamples: int,
    is_two_sided: bool,
) -> float:
    """The p-value of B's figure less A's, against the swaps of A and B within units (Yeh 2000, COLING).

    a, b: counts [units, n]. figure: from sums [..., n]. One-sided it is the share of swaps with at least the difference seen;
    two-sided twice the smaller tail. All swaps where they are no more than `num_resamples`, else so many random ones, the one
    seen counted among them (Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39).
    """
    gaps, both = (b - a).astype(np.float64), (a + b).sum(axis=0).astype(np.float64)
    differing = gaps[(gaps != 0).any(axis=1)]
    is_whole = 2 ** min(len(differing), 62) <= num_resamples
    if not is_whole:
        differing = gaps  # so that the signs of as many units can be kept for the next test
    tosses = iter([_all_signs(len(differing))]) if is_whole else _signs(len(gaps), num_resamples, seed)

    def differ(gap: NDArray[np.float64]) -> NDArray[np.float64]:
        return figure((both + gap) / 2) - figure((both - gap) / 2)

    seen, upper, lower, num = float(differ(gaps.sum(axis=0))), 0, 0, 0
    for signs in tosses:
        found = differ(signs @ differing)
        upper, lower, num = (
            upper + int((found >= seen - SLACK).sum()),
            lower + int((found <= seen + SLACK).sum()),
            num + len(found),
        )
    if not is_whole:
        upper, lower, num = upper + 1, lower + 1, num + 1
    return min(1.0, 2 * min(upper, lower) / num) if is_two_sided else upper / num


def _all_signs(num_units: int) -> NDArray[np.float32]:
    """Every swap of a few units as signs [2 ** units, units]."""
    bits = np.arange(2**num_units)[:, None] >> np.arange(num_units) & 1
    return (2 * bits - 1).astype(np.float32)


def _signs(num_units: int, num: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Random swaps as signs [at most `num`, units]; the same for as many units and the same seed."""
    if num_units * num <= CHECKED_CELLS:
        yield _kept_signs(num_units, num, seed)
        return
    rng, batch = np.random.default_rng([seed, 1]), max(1, BATCH_CELLS // num_units)
    for start in range(0, num, batch):
        yield _toss(rng, num_units, min(batch, num - start))


@functools.lru_cache(maxsize=8)
def _kept_signs(num_units: int, num: int, seed: int) -> NDArray[np.float32]:
    return _toss(np.random.default_rng([seed, 1]), num_units, num)


def _toss(rng: np.random.Generator, num_units: int, num: int) -> NDArray[np.float32]:
    return 2 * rng.integers(0, 2, (num, num_units), dtype=np.int8).astype(np.float32) - 1
