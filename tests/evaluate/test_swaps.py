"""Swaps of paired outcomes: all of them one by one, scipy's random ones, and what they must not depend on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from whet.evaluate.swaps import swap_p, swap_tail


def all_group_swaps(sums):
    """One-sided: the share of all sign flips of the groups' sums that give at least the sum seen, one by one."""
    flips = itertools.product([-1, 1], repeat=len(sums))
    return sum(np.dot(flip, sums) >= sum(sums) for flip in flips) / 2 ** len(sums)


@settings(max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_the_swaps_of_groups_are_counted_as_if_one_by_one(sums):
    assert swap_tail(np.array(sums)) == pytest.approx(all_group_swaps(sums))


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(0, 40))
def test_swaps_of_single_changes_are_mcnemars_tail(gained, lost):
    expected = stats.binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    assert swap_tail(np.array([1] * gained + [-1] * lost, dtype=np.int64)) == pytest.approx(expected)


def f1(sums):
    whole = 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], whole, out=np.zeros_like(np.asarray(whole, dtype=float)), where=whole > 0)


def drawn(rng, num, hit):
    gold = rng.poisson(1.5, num)
    found = rng.binomial(gold, hit)
    return np.stack([found, rng.poisson(0.3, num), gold - found], axis=1)


counts = st.tuples(*[st.integers(0, 2)] * 3)


@settings(max_examples=30)
@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=8), st.booleans())
def test_a_few_units_go_through_all_swaps(pairs, is_two_sided):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    seen, found = f1(b.sum(0)) - f1(a.sum(0)), []
    for swaps in itertools.product([False, True], repeat=len(a)):
        at = np.array(swaps)[:, None]
        found.append(f1(np.where(at, a, b).sum(0)) - f1(np.where(at, b, a).sum(0)))
    upper, lower = (np.mean([sign * (d - seen) >= -1e-12 for d in found]) for sign in (1, -1))
    expected = min(1.0, 2 * min(upper, lower)) if is_two_sided else upper
    assert swap_p(a, b, f1, seed=0, num_resamples=999, is_two_sided=is_two_sided) == pytest.approx(expected)


@pytest.mark.parametrize(("is_two_sided", "alternative"), [(True, "two-sided"), (False, "greater")])
def test_many_units_agree_with_scipys_permutation_test(is_two_sided, alternative):
    rng = np.random.default_rng(1)
    a, b = drawn(rng, 150, 0.60), drawn(rng, 150, 0.68)
    gaps, both = b - a, (a + b).sum(0)

    def differ(signs, axis=-1):
        gap = np.moveaxis(signs, axis, -1) @ gaps
        return f1((both + gap) / 2) - f1((both - gap) / 2)

    reference = stats.permutation_test(
        (np.ones(150),), differ, permutation_type="samples", vectorized=True, alternative=alternative, n_resamples=9_999,
        rng=np.random.default_rng(2),
    ).pvalue  # fmt: skip
    found = swap_p(a, b, f1, seed=3, num_resamples=9_999, is_two_sided=is_two_sided)
    assert 0.005 < reference < 0.5
    assert found == pytest.approx(reference, abs=4 * (2 * reference * (1 + is_two_sided) / 10_000) ** 0.5)  # four standard errors


def test_units_that_do_not_differ_and_units_in_pieces_change_little():
    rng = np.random.default_rng(4)
    a, b = drawn(rng, 200, 0.6), drawn(rng, 200, 0.66)
    one = swap_p(a, b, f1, seed=0, num_resamples=4_999, is_two_sided=False)
    same = drawn(rng, 2_000, 0.6) * 0  # nothing asked for, nothing said: in no figure; too many cells to be kept
    other = swap_p(
        np.concatenate([a, same]), np.concatenate([b, same]), f1, seed=0, num_resamples=4_999, is_two_sided=False
    )  # fmt: skip
    assert other == pytest.approx(one, abs=0.02)
    assert swap_p(a, a, f1, seed=0, num_resamples=99, is_two_sided=True) == 1.0
