"""Bounds and margins against scipy, statsmodels, brute force and published tables."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from whet.evaluate.margin import CountsEvidence, Shares, tango_bound, tango_z, weigh
from whet.evaluate.paired import Pairs

Z = stats.norm.ppf(0.975)


def shares(gained, lost, both=0, neither=0, groups=None):
    live = [0] * gained + [1] * lost + [1] * both + [0] * neither
    candidate = [1] * gained + [0] * lost + [1] * both + [0] * neither
    return paired("accuracy", live, candidate, groups)


def paired(figure, live, candidate, groups=None):
    num = len(live)
    ids = tuple(f"e{at}" for at in range(num))
    groups = None if groups is None else np.asarray(groups)
    return Pairs(figure, ids, np.array(live), np.array(candidate), np.array([""] * num), groups)


def drawn(rng, num, hit):
    gold = rng.integers(0, 4, num)
    found = rng.binomial(gold, hit)
    return np.stack([found, rng.poisson(0.2, num), gold - found], axis=1)


def likeliest_variance(gained, lost, num, margin):
    """Variance of the difference at the numerically likeliest shares under the margin: independent of Tango's closed form."""

    def loss(share):
        up, down, rest = share + margin, share, 1 - 2 * share - margin
        terms = [(gained, up), (lost, down), (num - gained - lost, rest)]
        return -sum(count * np.log(max(p, 1e-300)) for count, p in terms if count)

    low, high = max(0.0, -margin), (1 - margin) / 2
    share = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return num * (2 * share + margin - margin**2)


@pytest.mark.parametrize(
    ("gained", "lost", "num", "margin"),
    [(12, 2, 50, 0.05), (12, 2, 50, -0.1), (3, 9, 40, -0.05), (5, 5, 100, -0.03), (1, 0, 30, 0.2)],
)
def test_tangos_statistic_is_the_score_at_the_likeliest_shares(gained, lost, num, margin):
    expected = (gained - lost - num * margin) / likeliest_variance(gained, lost, num, margin) ** 0.5
    assert tango_z(gained, lost, num, margin) == pytest.approx(expected, abs=2e-4)


def test_at_margin_zero_it_is_mcnemars_statistic():
    table = [[20, 4], [13, 30]]
    found = reference_mcnemar(table, exact=False, correction=False)
    assert tango_z(13, 4, 67, 0.0) ** 2 == pytest.approx(found.statistic)


def test_no_pair_that_differs_still_leaves_a_loss_open():
    assert tango_bound(0, 0, 20, Z) == pytest.approx(-(Z**2) / (20 + Z**2))
    assert weigh(shares(0, 0, both=20), 0, 999).bounds(0.025).low < -0.1


@pytest.mark.parametrize("chances", [(0.5, 0.2, 0.1), (0.1, 0.15, 0.2), (0.85, 0.03, 0.03)])
def test_each_bound_is_passed_about_as_often_as_it_says(chances):
    """Over every table of 30 pairs, weighted by its probability: no simulation."""
    num, truth, missed, whole = 30, chances[1] - chances[2], 0.0, 0.0
    for gained, lost in itertools.product(range(num + 1), repeat=2):
        if gained + lost > num:
            continue
        chance = stats.multinomial.pmf((gained, lost, num - gained - lost), num, (*chances[1:], 1 - sum(chances[1:])))
        if chance > 1e-5:
            whole += chance
            missed += chance * (tango_bound(gained, lost, num, 1.645) > truth)
    assert whole > 0.99
    assert missed < 0.066  # a score bound holds its level on average, not at every point (Tango 1998)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 15), st.integers(0, 15), st.integers(1, 30), st.sampled_from([0.05, 0.025, 0.005]))
def test_shares_swap_sides_and_improve_with_each_answer(gained, lost, same, alpha):
    evidence = Shares(shares(gained, lost, both=same))
    bounds, swapped = evidence.bounds(alpha), Shares(shares(lost, gained, both=same)).bounds(alpha)
    assert (bounds.low, bounds.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)
    assert bounds.low <= evidence.difference <= bounds.high
    better = Shares(shares(gained + 1, lost, both=same - 1))
    assert better.bounds(alpha).low >= bounds.low - 1e-9
    assert better.p_better() <= evidence.p_better() + 1e-12
    if lost:
        mended = Shares(shares(gained, lost - 1, both=same + 1))
        assert mended.bounds(alpha).low >= bounds.low - 1e-9
        assert mended.p_better() <= evidence.p_better() + 1e-12


@given(st.integers(0, 20), st.integers(0, 20))
def test_better_is_mcnemars_exact_test_on_one_side(gained, lost):
    found = Shares(shares(gained, lost, both=5)).p_better()
    expected = stats.binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    assert found == pytest.approx(expected)


def test_p_values_and_bounds_say_the_same():
    for evidence in (
        Shares(shares(20, 9, 60, 30)),
        weigh(paired("f1", drawn(np.random.default_rng(1), 90, 0.6), drawn(np.random.default_rng(2), 90, 0.7)), 0, 4_999),
    ):
        bounds = evidence.bounds(0.05)
        assert evidence.p_above(bounds.low) == pytest.approx(0.05, abs=0.004)
        assert evidence.p_below(bounds.high) == pytest.approx(0.05, abs=0.004)


def test_documents_that_repeat_an_answer_are_worth_one():
    alone = Shares(shares(12, 3, 10, 15))
    groups = np.repeat(np.arange(40), 5)
    once = shares(12, 3, 10, 15)
    repeated = Shares(paired("accuracy", np.repeat(once.live, 5), np.repeat(once.candidate, 5), groups))
    assert repeated.effective == pytest.approx(40, rel=0.03)
    assert repeated.bounds(0.05).low < alone.bounds(0.05).low + 1e-3  # and Student's quantile on top
    assert repeated.bounds(0.05).low > alone.bounds(0.05).low - 0.03
    assert (
        repeated.p_better() > 0.005 > Shares(paired("accuracy", np.repeat(once.live, 5), np.repeat(once.candidate, 5))).p_better()
    )


def test_documents_of_unlike_examples_cost_little():
    rng = np.random.default_rng(3)
    live, candidate = (rng.random(400) < 0.5).astype(int), (rng.random(400) < 0.6).astype(int)
    assert Shares(paired("accuracy", live, candidate, np.repeat(np.arange(80), 5))).effective > 300


def test_a_document_alone_says_nothing():
    found = Shares(paired("accuracy", [0] * 20, [1] * 20, [0] * 20))
    assert (found.bounds(0.05).low, found.p_above(0.0)) == (-1.0, 1.0)
    assert found.p_better() > 0.4
    counted = CountsEvidence(paired("f1", [[0, 0, 1]] * 20, [[1, 0, 0]] * 20, [0] * 20), 0, 999)
    assert (counted.bounds(0.05).low, counted.p_above(0.0)) == (-1.0, 1.0)


def test_bootstrap_bounds_are_scipys_percentiles_but_for_the_expansion():
    rng = np.random.default_rng(4)
    live, candidate = drawn(rng, 300, 0.6), drawn(rng, 300, 0.68)
    found = CountsEvidence(paired("f1", live, candidate), 0, 9_999).bounds(0.025)

    def difference(at, axis=-1):
        sums = np.stack([live, candidate])[:, at].sum(axis=-2)
        f1 = 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])
        return f1[1] - f1[0]

    expected = stats.bootstrap(
        (np.arange(300),), difference, vectorized=True, method="percentile", rng=np.random.default_rng(9), batch=2_000
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.004)
    assert found.low <= expected.low + 0.002


def test_the_permutation_is_that_of_the_comparison():
    from whet.evaluate.statistics import paired_f1
    from whet.records import Counts

    rng = np.random.default_rng(5)
    live, candidate = drawn(rng, 80, 0.62), drawn(rng, 80, 0.72)
    two_sided = paired_f1([Counts(*map(int, row)) for row in live], [Counts(*map(int, row)) for row in candidate], 0).p_value
    assert CountsEvidence(paired("f1", live, candidate), 0, 9_999).p_better() == pytest.approx(two_sided / 2, abs=0.01)


def test_equal_answers_of_a_few_examples_prove_no_tolerance():
    same = drawn(np.random.default_rng(6), 12, 0.6)
    found = CountsEvidence(paired("f1", same, same), 0, 999)
    assert found.difference == 0.0
    assert found.bounds(0.05).low < -0.15
    assert found.p_above(-0.1) > 0.05
    assert (found.p_above(0.0), found.p_better()) == (1.0, 1.0)


def test_many_units_are_resampled_in_pieces_with_the_same_meaning():
    rng = np.random.default_rng(7)
    live, candidate = drawn(rng, 6_000, 0.6), drawn(rng, 6_000, 0.63)
    found = CountsEvidence(paired("f1", live, candidate), 0, 999)
    bounds = found.bounds(0.025)
    assert 0 < bounds.low < found.difference < bounds.high < 0.05
    assert found.p_better() < 0.01


@pytest.mark.parametrize("figure", ["precision", "recall", "f1"])
def test_figures_are_those_of_summed_counts(figure):
    from whet.records import Counts

    rng = np.random.default_rng(8)
    live, candidate = drawn(rng, 30, 0.5), drawn(rng, 30, 0.7)
    found = CountsEvidence(paired(figure, live, candidate), 0, 999)
    assert found.live == pytest.approx(getattr(Counts(*map(int, live.sum(axis=0))), figure))
    assert found.candidate == pytest.approx(getattr(Counts(*map(int, candidate.sum(axis=0))), figure))


def test_a_better_answer_raises_every_bound_of_counts():
    rng = np.random.default_rng(9)
    live, candidate = drawn(rng, 60, 0.6), drawn(rng, 60, 0.6)
    before = CountsEvidence(paired("f1", live, candidate), 0, 999)
    at = int(np.argmax(candidate[:, 2]))
    better = candidate.copy()
    better[at] += [1, 0, -1]
    after = CountsEvidence(paired("f1", live, better), 0, 999)
    assert after.bounds(0.05).low >= before.bounds(0.05).low
    assert after.bounds(0.05).high >= before.bounds(0.05).high


def test_no_pairs_is_no_evidence():
    with pytest.raises(ValueError, match="no pairs"):
        weigh(paired("accuracy", [], []), 0, 999)
