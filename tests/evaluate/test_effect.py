"""Effect sizes: relative change and odds of a gain, each with its interval."""

import numpy as np
import pytest
from scipy import stats

from whet.evaluate.effect import measure_effect
from whet.evaluate.margin import weigh
from whet.evaluate.paired import Pairs


def pairs(figure, live, candidate):
    num = len(live)
    return Pairs(figure, tuple(map(str, range(num))), np.array(live), np.array(candidate), np.array([""] * num), None)


def test_odds_are_those_of_gains_against_losses():
    found = measure_effect(weigh(pairs("accuracy", [0] * 12 + [1] * 4 + [1] * 34, [1] * 12 + [0] * 4 + [1] * 34), 0, 999))
    low, high = stats.binomtest(12, 16).proportion_ci(0.95, method="exact")
    assert found.odds == 3.0
    assert found.odds_interval == pytest.approx((low / (1 - low), high / (1 - high)))
    assert found.relative == pytest.approx(8 / 38)
    assert found.relative_interval[0] < 8 / 38 < found.relative_interval[1]


def test_what_has_no_end_is_none():
    gained = measure_effect(weigh(pairs("accuracy", [0] * 5, [1] * 5), 0, 999))
    assert (gained.relative, gained.odds, gained.odds_interval[1]) == (None, None, None)
    assert measure_effect(weigh(pairs("accuracy", [1] * 5, [1] * 5), 0, 999)).odds_interval is None


def test_the_relative_change_of_f1_is_resampled_as_a_ratio():
    rng = np.random.default_rng(0)
    gold = rng.poisson(2, 200)
    sides = [np.stack([found, gold * 0, gold - found], axis=1) for found in (rng.binomial(gold, 0.5), rng.binomial(gold, 0.6))]
    evidence = weigh(pairs("f1", *sides), 0, 1_999)
    found = measure_effect(evidence)
    assert found.relative == pytest.approx(evidence.candidate / evidence.live - 1)
    assert 0 < found.relative_interval[0] < found.relative < found.relative_interval[1]
    assert found.odds is None
