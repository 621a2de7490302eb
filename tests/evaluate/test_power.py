"""Planned sizes against statsmodels, simulation and each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower, TTestPower

from whet.evaluate import power
from whet.evaluate.margin import CountsEvidence, Shares, tango_z
from whet.evaluate.paired import Pairs


def simulated(num, discordance, effect, alpha, at_least, rng, draws=20_000):
    table = rng.multinomial(num, [(discordance + effect) / 2, (discordance - effect) / 2, 1 - discordance], draws)
    gained, lost = table[:, 0], table[:, 1]
    p_values = stats.binom.sf(gained - 1, gained + lost, 0.5)
    return np.mean((p_values <= alpha) & ((gained - lost) / num >= at_least - 1e-12))


@pytest.mark.parametrize(
    ("num", "discordance", "effect", "at_least"), [(200, 0.2, 0.08, 0.0), (90, 0.3, 0.15, 0.1), (40, 0.5, 0.5, 0.0)]
)
def test_power_of_mcnemars_exact_test_is_what_simulation_gives(num, discordance, effect, at_least):
    found = power.power_of_shares(num, discordance, effect, 0.025, at_least)
    assert found == pytest.approx(simulated(num, discordance, effect, 0.025, at_least, np.random.default_rng(0)), abs=0.012)


def test_the_size_is_near_the_normal_formula_and_a_little_above_it():
    discordance, effect = 0.2, 0.05
    by_formula = NormalIndPower(ddof=0).solve_power(
        effect / (discordance - effect**2) ** 0.5, alpha=0.025, power=0.8, ratio=0, alternative="larger"
    )
    found = power.needed_for_shares(discordance, effect, 0.025, 0.8)
    assert by_formula < found < 1.1 * by_formula


@settings(max_examples=6, deadline=None)
@given(st.floats(0.05, 0.6), st.floats(0.2, 1.0), st.sampled_from([0.05, 0.025]), st.sampled_from([0.8, 0.95]))
def test_more_power_a_smaller_effect_or_a_stricter_level_need_more(discordance, share, alpha, wanted):
    effect = max(0.02, share * discordance)
    found = power.needed_for_shares(discordance, effect, alpha, wanted)
    assert power.power_of_shares(found, max(discordance, effect), effect, alpha) >= wanted
    assert power.needed_for_shares(discordance, effect / 2, alpha, wanted) >= found
    assert power.needed_for_shares(discordance, effect, alpha / 5, wanted) >= found


def test_what_is_detectable_needs_about_as_many_as_there_are():
    found = power.detectable_share(400, 0.025, 0.8)
    assert found is not None
    assert power.power_of_shares(400, 0.2, found, 0.025) >= 0.8
    assert power.needed_for_shares(0.2, found, 0.025, 0.8) == pytest.approx(400, rel=0.05)
    assert power.detectable_share(100, 0.025, 0.8) > found
    assert power.detectable_share(3, 0.025, 0.8) is None
    assert power.detectable_share(0, 0.025, 0.8) is None


@pytest.mark.parametrize(("discordance", "tolerance"), [(0.2, 0.1), (0.1, 0.03), (0.4, 0.05), (0.02, 0.05)])
def test_the_size_for_a_margin_shows_it_as_often_as_planned(discordance, tolerance):
    num = power.needed_for_margin(discordance, tolerance, 0.025, 0.9)
    table = np.random.default_rng(1).multinomial(num, [discordance / 2, discordance / 2, 1 - discordance], 3_000)
    shown = np.mean([tango_z(gained, lost, num, -tolerance) > 1.96 for gained, lost, _ in table])
    assert 0.87 < shown < 0.97


def test_the_size_for_a_mean_is_that_of_a_t_test():
    expected = TTestPower().solve_power(0.25, alpha=0.025, power=0.8, alternative="larger")
    assert power.needed_units(0.4, 0.1, 0.025, 0.8) == pytest.approx(expected, abs=2)
    assert power.detectable_mean(power.needed_units(0.4, 0.1, 0.025, 0.8), 0.4, 0.025, 0.8) == pytest.approx(0.1, rel=0.02)


def test_a_difference_that_must_be_seen_asks_for_more():
    assert power.needed_units(0.4, 0.1, 0.025, 0.8, at_least=0.08) > power.needed_units(0.4, 0.1, 0.025, 0.8)
    for plan in (
        lambda: power.needed_units(0.4, 0.1, 0.025, 0.8, 0.1),
        lambda: power.needed_for_shares(0.2, 0.1, 0.025, 0.8, 0.1),
    ):
        with pytest.raises(ValueError, match="half of the cases"):
            plan()


def test_units_that_all_agree_are_still_asked_for():
    assert power.needed_units(0.0, 0.03, 0.025, 0.8) > 100


def counted(num, seed, per_group=1):
    rng = np.random.default_rng(seed)
    gold = rng.poisson(1.5, num // per_group).repeat(per_group)
    sides = []
    for hit in (0.6, 0.66):
        found = rng.binomial(gold, hit)
        sides.append(np.stack([found, rng.poisson(0.2, num), gold - found], axis=1))
    groups = np.arange(num) // per_group if per_group > 1 else None
    return Pairs("f1", tuple(map(str, range(num))), *sides, np.array([""] * num), groups)


def test_f1_is_planned_by_the_spread_of_resamples():
    pilot = CountsEvidence(counted(150, 0), 0, 1_999)
    assert power.spread_of(pilot) > pilot.differences.std() * 150**0.5
    truth = 2 * 1.5 * 0.66 / (1.5 + 1.5 * 0.66 + 0.2) - 2 * 1.5 * 0.6 / (1.5 + 1.5 * 0.6 + 0.2)
    needed = power.plan_better(pilot, truth, 0.025, 0.8)
    better = [CountsEvidence(counted(needed, seed), 0, 999).bounds(0.025).low > 0 for seed in range(1, 41)]
    assert np.mean(better) > 0.7
    assert power.plan_margin(pilot, 0.03, 0.025, 0.8) > needed
    assert 0 < power.detectable(pilot, 0.025, 0.8) < 0.3


def test_examples_of_documents_are_counted_as_such():
    alone, grouped = CountsEvidence(counted(200, 1), 0, 999), CountsEvidence(counted(200, 1, per_group=4), 0, 999)
    assert grouped.num_units == 50
    assert power.plan_margin(grouped, 0.05, 0.025, 0.8) % 4 == 0
    assert power.plan_margin(alone, 0.05, 0.025, 0.8) > 200


def test_shares_are_planned_with_an_upper_limit_of_their_discordance():
    live = np.array([0] * 30 + [1] * 70)
    candidate = np.array([1] * 10 + [0] * 20 + [1] * 65 + [0] * 5)
    pilot = Shares(Pairs("accuracy", tuple(map(str, range(100))), live, candidate, np.array([""] * 100), None))
    assert pilot.discordance == 0.15
    assert 0.15 < power.discordance_of(pilot) < 0.2
    assert power.plan_better(pilot, 0.1, 0.025, 0.8) > power.needed_for_shares(0.15, 0.1, 0.025, 0.8)
    assert power.detectable(pilot, 0.025, 0.8) == pytest.approx(
        power.detectable_share(100, 0.025, 0.8, power.discordance_of(pilot))
    )
