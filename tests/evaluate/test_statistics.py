"""Intervals and paired tests against scipy, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from whet.evaluate.margin import tango_z
from whet.evaluate.statistics import (
    Interval,
    f1_interval,
    holm,
    paired_f1,
    score_intervals,
    wilson,
)
from whet.records import Counts

counts_lists = st.lists(st.builds(Counts, *[st.integers(0, 3)] * 3), min_size=1, max_size=12)


def total(counts):
    return sum(counts, Counts())


def draw_counts(rng, num, hit=0.7, invent=0.2):
    """Examples with 0 to 3 gold records, each found with probability `hit`, and some invented ones."""
    gold = rng.integers(0, 4, num)
    found = rng.binomial(gold, hit)
    return [Counts(int(t), int(f), int(g - t)) for t, f, g in zip(found, rng.poisson(invent, num), gold, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_solves_the_score_equation(right, num):
    right = min(right, num)
    found = wilson(right, num)
    z = stats.norm.ppf(0.975)
    for end in (found.low, found.high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(right / num - end) == pytest.approx(z * math.sqrt(end * (1 - end) / num), rel=1e-6)
    assert 0 <= found.low <= right / num <= found.high <= 1


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == Interval(0.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(counts_lists)
def test_intervals_are_defined_for_anything_and_hold_what_they_should(counts):
    found = score_intervals(counts, num_resamples=199)
    for name in ("precision", "recall", "f1"):
        interval = getattr(found, name)
        assert 0 <= interval.low <= interval.high <= 1


@pytest.mark.parametrize("count", [Counts(), Counts(3, 0, 0), Counts(0, 2, 1), Counts(1, 1, 1)])
@pytest.mark.parametrize("num", [1, 2, 40])
def test_where_all_examples_agree_the_interval_is_neither_empty_nor_without_the_score(count, num):
    found = f1_interval([count] * num)
    assert found.low <= count.f1 <= found.high
    assert found.high - found.low > 0.02
    wider = f1_interval([count])
    assert wider.high - wider.low >= found.high - found.low


def test_f1_interval_equals_an_own_percentile_bootstrap_where_bca_has_nothing_to_mend():
    counts = draw_counts(np.random.default_rng(1), 300)
    rows = np.array([(c.tp, c.fp, c.fn) for c in counts])
    rng = np.random.default_rng(2)
    sums = np.stack([rows[rng.integers(0, 300, 300)].sum(0) for _ in range(3000)])
    f1s = 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])
    low, high = np.quantile(f1s, [0.025, 0.975])
    found = f1_interval(counts)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    all_three = score_intervals(counts)
    assert all_three.f1 == found
    assert all_three.precision.low < total(counts).precision < all_three.precision.high


def test_recall_of_one_gold_each_is_the_bootstrap_of_a_mean():
    rights = np.random.default_rng(3).random(120) < 0.8
    found = score_intervals([Counts(int(r), 0, int(not r)) for r in rights]).recall
    reference = stats.bootstrap((rights.astype(float),), np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)


@pytest.mark.integration
def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth = total(draw_counts(rng, 200_000)).f1
    trials = 100
    covered = 0
    for trial in range(trials):
        found = f1_interval(draw_counts(rng, 60), seed=trial, num_resamples=299)
        covered += found.low <= truth <= found.high
    assert 0.89 * trials <= covered <= 0.99 * trials


def test_groups_widen_the_interval_when_they_repeat_each_other():
    counts = draw_counts(np.random.default_rng(5), 40)
    repeated = [count for count in counts for _ in range(9)]
    groups = [place for place in range(40) for _ in range(9)]
    alone, by_example, by_group = (
        f1_interval(counts),
        f1_interval(repeated),
        f1_interval(repeated, groups=groups),
    )
    assert by_group == alone
    assert by_example.high - by_example.low < 0.5 * (by_group.high - by_group.low)


def test_many_units_need_no_jackknife():
    counts = draw_counts(np.random.default_rng(6), 3_500)
    found = f1_interval(counts, num_resamples=99)
    assert found.low < total(counts).f1 < found.high < found.low + 0.05


def all_swaps(a, b):
    """Two-sided p by going through every swap, one at a time, as scipy defines it: twice the smaller tail."""
    seen = total(b).f1 - total(a).f1
    differences = []
    for swaps in itertools.product([False, True], repeat=len(a)):
        left = [y if swap else x for x, y, swap in zip(a, b, swaps, strict=True)]
        right = [x if swap else y for x, y, swap in zip(a, b, swaps, strict=True)]
        differences.append(total(right).f1 - total(left).f1)
    upper = sum(d >= seen - 1e-12 for d in differences) / len(differences)
    lower = sum(d <= seen + 1e-12 for d in differences) / len(differences)
    return min(1.0, 2 * min(upper, lower))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.builds(Counts, *[st.integers(0, 2)] * 3)] * 2), min_size=1, max_size=7))
def test_paired_f1_goes_through_all_swaps_of_few_examples(pairs):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    found = paired_f1(a, b, seed=0, num_resamples=199)
    assert found.p_value == pytest.approx(all_swaps(a, b))
    assert found.difference == pytest.approx(total(b).f1 - total(a).f1)
    assert -1 <= found.interval.low <= found.interval.high <= 1


def test_paired_f1_of_many_examples_agrees_with_own_swapping_and_is_antisymmetric():
    rng = np.random.default_rng(7)
    a, b = draw_counts(rng, 80, 0.66), draw_counts(rng, 80, 0.78)
    rows_a, rows_b = (np.array([(c.tp, c.fp, c.fn) for c in side]) for side in (a, b))
    weights = np.array([2.0, 1.0, 1.0])

    def f1(rows):
        sums = rows.sum(axis=-2)
        return 2 * sums[..., 0] / (sums @ weights)

    swap = np.random.default_rng(8).random((9_999, 80, 1)) < 0.5
    null = f1(np.where(swap, rows_a, rows_b)) - f1(np.where(swap, rows_b, rows_a))
    reference = (np.sum(np.abs(null) >= abs(f1(rows_b) - f1(rows_a)) - 1e-12) + 1) / 10_000
    found, other = paired_f1(a, b, seed=1), paired_f1(b, a, seed=1)
    assert 0.001 < reference < 0.3
    assert found.p_value == pytest.approx(reference, rel=0.25)
    assert found.difference == -other.difference
    assert found.interval.low < found.difference < found.interval.high


def test_identical_systems_show_nothing():
    counts = draw_counts(np.random.default_rng(9), 50)
    found = paired_f1(counts, counts, seed=0)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    # As many pairs without a change: where Tango's statistic, at that margin, is the normal quantile.
    assert found.interval.low == -found.interval.high
    assert tango_z(0, 0, 50, found.interval.low) == pytest.approx(stats.norm.ppf(0.975))
    fewer = paired_f1(counts[:8], counts[:8], seed=0)
    assert fewer.interval.high > 0.3 > 3 * found.interval.high


def test_all_against_nothing_is_certain_of_the_sign_but_not_of_the_size():
    nothing, everything = [Counts(0, 0, 2)] * 30, [Counts(2, 0, 0)] * 30
    found = paired_f1(nothing, everything, seed=0)
    assert found.difference == 1.0
    assert found.p_value == pytest.approx(2 / 10_000)
    assert 0.5 < found.interval.low < 0.99
    assert found.interval.high == 1.0
    assert paired_f1(nothing[:1], everything[:1], seed=0).p_value == 1.0


@pytest.mark.integration
def test_false_alarms_under_the_null_come_about_as_often_as_alpha():
    rng = np.random.default_rng(10)
    trials = 200
    alarms = sum(
        paired_f1(draw_counts(rng, 40), draw_counts(rng, 40), seed=trial, num_resamples=199).p_value <= 0.05
        for trial in range(trials)
    )
    assert stats.binomtest(alarms, trials, 0.05).pvalue > 0.01


def test_groups_are_swapped_whole():
    a, b = [Counts(1, 0, 1)] * 40, [Counts(2, 0, 0)] * 40
    assert paired_f1(a, b, seed=0).p_value < 0.001
    assert paired_f1(a, b, seed=0, groups=[place // 10 for place in range(40)]).p_value == pytest.approx(2 / 2**4)


def test_same_seed_same_answer():
    rng = np.random.default_rng(11)
    a, b = draw_counts(rng, 30), draw_counts(rng, 30)
    assert paired_f1(a, b, seed=5) == paired_f1(a, b, seed=5)
    assert f1_interval(a, seed=5) == f1_interval(a, seed=5) != f1_interval(a, seed=6)


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        paired_f1([Counts(), Counts()], [Counts()], seed=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_bonferroni_test(p_values):
    """A hypothesis is rejected when every intersection that holds it is: the definition that Holm's steps shorten."""
    places = range(len(p_values))
    expected = [
        max(
            min(1.0, len(family) * min(p_values[i] for i in family))
            for size in range(1, len(p_values) + 1)
            for family in itertools.combinations(places, size)
            if place in family
        )
        for place in places
    ]
    assert holm(p_values) == pytest.approx(expected)
