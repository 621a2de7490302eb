"""Shares and paired shares, alone and in groups: against scipy, statsmodels, every swap one by one, and simulation."""

import itertools
import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_effectsize

from whet.evaluate.shares import cohen_h, design_effect, exact_interval, mcnemar, share_interval
from whet.evaluate.statistics import Interval, number_groups, wilson

grouped = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)


# Alone


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_counts_the_tail_of_fair_coins(pairs):
    found = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    gained, lost = sum(b > a for a, b in pairs), sum(a > b for a, b in pairs)
    num = gained + lost
    tail = sum(math.comb(num, k) for k in range(max(gained, lost), num + 1)) / 2**num
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx((gained - lost) / len(pairs))
    assert -1 <= found.interval.low <= found.difference <= found.interval.high <= 1
    other = mcnemar([b for _, b in pairs], [a for a, _ in pairs])
    assert (other.interval.low, other.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))


def arcsines(share):
    return 2 * math.asin(math.sqrt(share))


@pytest.mark.parametrize(
    ("measure", "scale", "most"), [(mcnemar, float, 0.995), (cohen_h, arcsines, 1.0)], ids=["difference", "h"]
)
@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.1, 0.2), (0.05, 0.4, 0.05, 0.5), (0.85, 0.1, 0.02, 0.03)])
def test_an_interval_of_pairs_covers_the_truth_exactly_computed(shares, measure, scale, most):
    """Coverage over every table of 20 pairs, weighted by its multinomial probability: no simulation."""
    num, covered, whole = 20, 0.0, 0.0
    truth = scale(shares[0] + shares[1]) - scale(shares[0] + shares[2])
    for both, gained, lost in itertools.product(range(num + 1), repeat=3):
        neither = num - both - gained - lost
        probability = stats.multinomial.pmf((both, gained, lost, neither), num, shares) if neither >= 0 else 0.0
        if probability < 2e-4:
            continue
        a = [True] * both + [False] * gained + [True] * lost + [False] * neither
        b = [True] * both + [True] * gained + [False] * lost + [False] * neither
        found = measure(a, b)
        whole += probability
        covered += probability * (found.interval.low <= truth <= found.interval.high)
    assert whole > 0.9
    assert 0.93 < covered / whole <= most  # Newcombe 1998 finds it a little wide where the shares are extreme


@settings(max_examples=40)
@given(grouped)
def test_cohen_h_is_statsmodels_effect_size_and_groups_widen_it(rows):
    a, b, groups = ([row[at] for row in rows] for at in range(3))
    alone, together = cohen_h(a, b), cohen_h(a, b, groups=groups)
    assert alone.value == together.value == pytest.approx(proportion_effectsize(np.mean(b), np.mean(a)))
    for one in (alone, together):
        assert -math.pi <= one.interval.low <= one.value <= one.interval.high <= math.pi
    assert together.interval.high - together.interval.low >= alone.interval.high - alone.interval.low - 1e-9
    other = cohen_h(b, a)
    assert (other.interval.low, other.interval.high) == pytest.approx((-alone.interval.high, -alone.interval.low))


@settings(max_examples=40)
@given(st.lists(st.booleans(), max_size=30))
def test_examples_that_stand_alone_are_counted_as_ever(rights):
    alone = [f"d{at}" for at in range(len(rights))]
    assert share_interval(rights, groups=alone) == share_interval(rights) == wilson(sum(rights), len(rights))
    if rights:
        expected = stats.binomtest(sum(rights), len(rights)).proportion_ci(method="exact")
        for found in (exact_interval(rights), exact_interval(rights, groups=alone)):
            assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert mcnemar(rights, rights[::-1], groups=alone) == mcnemar(rights, rights[::-1])


def test_nothing_is_open():
    assert share_interval([]) == exact_interval([]) == Interval(0.0, 1.0)
    assert mcnemar([], []).interval == Interval(-1.0, 1.0)
    with pytest.raises(ValueError, match="2 and 1"):
        mcnemar([True, False], [True])


# In groups


@settings(max_examples=40)
@given(grouped)
def test_the_design_effect_is_that_of_a_regression_with_clustered_errors(rows):
    """statsmodels: least squares on a constant, HC0-like variance against the one clustered by group."""
    values, groups = np.array([float(a) for a, _, _ in rows]), number_groups([group for _, _, group in rows])
    found = design_effect(values, groups)
    if groups is None:
        assert found == 1.0
        return
    num, num_groups = len(values), int(groups.max()) + 1
    assert 1.0 <= found <= num
    rarer = values != (values.mean() > 0.5) if values.mean() != 0.5 else values != values.min()
    if num_groups < 2 or len(set(groups[rarer])) < 2 or values.mean() == 0.5:
        return
    fit = sm.OLS(values, np.ones(num)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert found == pytest.approx(max(1.0, float(fit.bse[0]) ** 2 * num / values.var()))


@settings(max_examples=40)
@given(grouped)
def test_groups_never_narrow_an_interval_and_it_holds_the_share(rows):
    rights, groups = [a for a, _, _ in rows], [group for _, _, group in rows]
    share = sum(rights) / len(rights)
    for method in (share_interval, exact_interval):
        alone, together = method(rights), method(rights, groups=groups)
        assert 0 <= together.low <= share <= together.high <= 1
        assert together.high - together.low >= alone.high - alone.low - 1e-9
    test = mcnemar([a for a, _, _ in rows], [b for _, b, _ in rows], groups=groups)
    assert -1 <= test.interval.low <= test.difference <= test.interval.high <= 1


def test_documents_that_say_the_same_throughout_count_once():
    rights = [True] * 12 + [False] * 8
    repeated = [right for right in rights for _ in range(9)]
    groups = [at for at in range(20) for _ in range(9)]
    by_group, by_example, alone = share_interval(repeated, groups=groups), share_interval(repeated), share_interval(rights)
    assert by_group.low < alone.low + 0.01 < by_example.low - 0.05  # Student's quantile on top
    assert by_group.low > alone.low - 0.03
    # Those that all agree leave as much open as so many single examples, Student's quantile on top.
    assert share_interval([True] * 90, groups=[at // 9 for at in range(90)]).low < wilson(10, 10).low
    assert share_interval([True] * 90, groups=["one"] * 90) == Interval(0.0, 1.0)
    a, b = [False] * 180, repeated
    assert mcnemar(a, b, groups=groups).p_value == pytest.approx(mcnemar([False] * 20, rights).p_value)
    assert mcnemar(a, b, groups=groups).p_value > 100 * mcnemar(a, b).p_value


def test_swaps_of_many_groups_agree_with_scipys_random_ones():
    rng = np.random.default_rng(1)
    gaps, groups = rng.integers(-1, 2, 400) + (rng.random(400) < 0.08), np.repeat(np.arange(80), 5)
    a, b = np.zeros(400, bool), np.clip(gaps, 0, 1).astype(bool)
    a |= gaps < 0
    found = mcnemar(a.tolist(), b.tolist(), groups=groups.tolist())
    sums = np.bincount(groups, weights=b.astype(int) - a.astype(int))
    reference = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(2)
    ).pvalue
    assert found.p_value == pytest.approx(reference, abs=0.012)
    assert 0.005 < found.p_value < 0.5
    assert (found.num_groups, "80 groups" in found.method) == (80, True)


def test_sides_swapped_turn_the_sign_and_nothing_else():
    rng = np.random.default_rng(3)
    a, b, groups = rng.random(90) < 0.5, rng.random(90) < 0.6, rng.integers(0, 20, 90).tolist()
    one, other = mcnemar(a.tolist(), b.tolist(), groups=groups), mcnemar(b.tolist(), a.tolist(), groups=groups)
    assert one.p_value == other.p_value
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))


# What intervals and tests promise, simulated


def draw_documents(rng, num_groups, spread, shift=0.0, size=6):
    """Two systems on documents of unequal size; documents are easy or hard, and suit one system or the other by `spread`."""
    sizes = rng.integers(1, 2 * size, num_groups)
    groups = np.repeat(np.arange(num_groups), sizes)
    ease = rng.normal(size=num_groups)
    sides = [
        rng.normal(size=len(groups)) < (ease + spread * rng.normal(size=num_groups))[groups] + by for by in (0.0, shift)
    ]  # fmt: skip
    return sides[0], sides[1], groups


@pytest.mark.parametrize("num_groups", [15, 60])
def test_the_interval_of_a_share_covers_the_truth_where_documents_differ(num_groups):
    rng, covered, by_example, trials = np.random.default_rng(4), 0, 0, 400
    for _ in range(trials):
        rights, _, groups = draw_documents(rng, num_groups, 0.0)
        found, plain = share_interval(rights, groups=groups.tolist()), share_interval(rights)
        covered += found.low <= 0.5 <= found.high  # by symmetry the truth is one half
        by_example += plain.low <= 0.5 <= plain.high
    assert 0.92 * trials <= covered <= 0.98 * trials
    assert by_example < 0.85 * trials  # what it would be if documents were not looked at


@pytest.mark.parametrize("num_groups", [15, 60])
def test_the_paired_test_errs_as_often_as_it_says_where_documents_suit_one_system(num_groups):
    rng, trials = np.random.default_rng(5), 400
    alarms = plain = covered = 0
    for _ in range(trials):
        a, b, groups = draw_documents(rng, num_groups, 1.0)
        found = mcnemar(a, b, groups=groups.tolist())
        alarms += found.p_value <= 0.05
        covered += found.interval.low <= 0 <= found.interval.high
        plain += mcnemar(a, b).p_value <= 0.05
    assert stats.binomtest(alarms, trials, 0.05).pvalue > 0.01 or alarms < 0.05 * trials
    assert 0.92 * trials <= covered <= 0.99 * trials
    assert plain > 0.12 * trials  # what it would be if documents were not looked at


def test_the_paired_test_finds_what_is_there():
    rng = np.random.default_rng(6)
    found = sum(
        mcnemar(a, b, groups=groups.tolist()).p_value <= 0.05
        for a, b, groups in (draw_documents(rng, 80, 0.5, shift=0.5) for _ in range(60))
    )
    assert found > 48
