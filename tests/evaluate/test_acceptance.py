"""Acceptance: exact bounds, and a promise that holds in simulated draws, where a naive threshold breaks it."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from whet.evaluate.acceptance import AcceptSettings, design_effects, find_threshold, lower_bound, num_needed

LEVELS = st.sampled_from([0.01, 0.05, 0.2])


@given(num=st.integers(1, 400), wrong=st.integers(0, 400), alpha=LEVELS)
def test_the_bound_is_that_of_the_exact_binomial_test(num: int, wrong: int, alpha: float) -> None:
    right = max(0, num - wrong)
    exact = stats.binomtest(right, num, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    assert lower_bound(right, num, alpha) == pytest.approx(exact, abs=1e-9)


@given(precision=st.sampled_from([0.5, 0.9, 0.95, 0.99]), alpha=LEVELS)
def test_the_fewest_records_that_can_show_a_precision(precision: float, alpha: float) -> None:
    num = num_needed(precision, alpha)
    assert lower_bound(num, num, alpha) >= precision - 1e-9
    assert num == 1 or lower_bound(num - 1, num - 1, alpha) < precision
    assert num_needed(0.99, 0.05) == 299


@given(
    groups=st.lists(st.sampled_from("abcde"), min_size=2, max_size=12),
    seed=st.integers(0, 9),
)
def test_the_design_effect_is_that_of_an_analysis_of_variance(groups: list[str], seed: int) -> None:
    residuals = np.random.default_rng(seed).normal(size=len(groups))
    effects = design_effects(groups, residuals)
    counts = Counter(groups)
    if 1 < len(counts) < len(groups):
        members = [residuals[[at for at, other in enumerate(groups) if other == group]] for group in counts]
        ratio = float(stats.f_oneway(*members).statistic)
        usual = (len(groups) - sum(c * c for c in counts.values()) / len(groups)) / (len(counts) - 1)
        correlation = min(1.0, max(0.0, (ratio - 1) / (ratio + usual - 1)))
    else:
        correlation = 1.0
    for num, effect in enumerate(effects, 1):
        sizes = Counter(groups[:num]).values()
        assert effect == pytest.approx(1 + (sum(size * size for size in sizes) / num - 1) * correlation)


def test_records_of_one_document_count_as_one_where_they_are_right_or_wrong_together() -> None:
    residuals = np.repeat([0.5, -0.5, 0.5, -0.5], 10)
    assert design_effects(np.repeat(range(4), 10).tolist(), residuals)[-1] == pytest.approx(10)
    assert set(design_effects(list(range(40)), residuals)) == {1.0}
    # 40 documents of ten records each are 40 looks, not 400.
    sure, right = [0.9] * 400, ([True] * 10 + [False] * 10) * 20
    together = find_threshold(sure, right, np.repeat(range(40), 10).tolist(), AcceptSettings(precision=0.45))
    apart = find_threshold(sure, right, list(range(400)), AcceptSettings(precision=0.45))
    assert (together.threshold, apart.threshold) == (None, 0.9)


class World:
    """Records whose confidence says how likely each is right, alone or in documents that are easy or hard as a whole."""

    def __init__(self, seed: int, is_clustered: bool) -> None:
        self.random, self.is_clustered = np.random.default_rng(seed), is_clustered

    def draw(self, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Confidence, true probability and document of about `num` records."""
        sizes = self.random.geometric(1 / 4, num // 4) if self.is_clustered else np.ones(num, dtype=int)
        groups = np.repeat(np.arange(len(sizes)), sizes)
        ease = self.random.normal(0, 1.5, len(sizes))[groups] if self.is_clustered else 0.0
        odds = self.random.normal(2, 2, len(groups))
        return 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-odds - ease)), groups


@pytest.mark.integration
@pytest.mark.parametrize("is_clustered", [False, True], ids=["alone", "in documents"])
def test_the_promised_precision_holds_in_all_but_one_in_twenty_draws(is_clustered: bool) -> None:
    world, target, num_draws = World(1, is_clustered), 0.9, 120
    settings = AcceptSettings(precision=target, confidence=0.95)
    sure, likely, _ = world.draw(100_000)
    order = np.argsort(-sure)
    ranked, precision = sure[order], np.cumsum(likely[order]) / np.arange(1, len(order) + 1)

    def breaks(threshold: float) -> bool:
        num = int(np.searchsorted(-ranked, -threshold, side="right"))
        return num > 0 and bool(precision[num - 1] < target)

    broken = naive = found = 0
    for _ in range(num_draws):
        said, chance, groups = world.draw(300)
        right = world.random.random(len(said)) < chance
        threshold = find_threshold(said.tolist(), right.tolist(), groups.tolist(), settings).threshold
        found += threshold is not None
        broken += threshold is not None and breaks(threshold)
        # What looks good on the valid split itself.
        ranks = np.argsort(-said)
        shares = np.cumsum(right[ranks]) / np.arange(1, len(said) + 1)
        naive += breaks(float(said[ranks][np.flatnonzero(shares >= target)[-1]]))
    print(f"broken {broken}, naive {naive}, found {found} of {num_draws}")
    assert broken <= stats.binom.ppf(0.99, num_draws, 0.05)
    assert naive > stats.binom.ppf(0.9999, num_draws, 0.05)  # so the world is one in which promises break
    assert found > 0.3 * num_draws


def brute(sure: list[float], right: list[bool], precision: float, alpha: float) -> float | None:
    """The search written down a second time, over independent records: one list of tests with their levels."""
    order = sorted(range(len(sure)), key=lambda at: -sure[at])
    passed = [
        lambda level, num=num: stats.binomtest(sum(right[at] for at in order[:num]), num, precision, "greater").pvalue <= level
        for num in range(1, len(sure) + 1)
    ]
    first = num_needed(precision, alpha / 2)
    shares = {first * 2**at: alpha / 2 ** (at + 1) for at in range(20) if first * 2**at <= len(sure)}
    if len(shares) < 2:
        shares = {num_needed(precision, alpha): alpha}
    else:
        shares[max(shares)] *= 2
    assert sum(shares.values()) == pytest.approx(alpha)
    level, owed, best = 0.0, 0.0, None
    for num in range(1, len(sure) + 1):
        owed += shares.get(num, 0.0)
        if num < len(sure) and sure[order[num - 1]] == sure[order[num]]:
            continue
        level, owed = level + owed, 0.0
        if level and passed[num - 1](level):
            best = sure[order[num - 1]]
        else:
            level = 0.0
    return best


@given(
    sure=st.lists(st.sampled_from([at / 16 for at in range(17)]) | st.floats(0, 1), min_size=1, max_size=60),
    seed=st.integers(0, 99),
    precision=st.sampled_from([0.4, 0.6, 0.8]),
)
def test_the_search_is_the_fallback_procedure(sure: list[float], seed: int, precision: float) -> None:
    random = np.random.default_rng(seed)
    right = (random.random(len(sure)) < np.sqrt(sure)).tolist()
    found = find_threshold(sure, right, list(range(len(sure))), AcceptSettings(precision=precision, confidence=0.8))
    assert found.threshold == brute(sure, right, precision, 0.2)
    accepted = [at for at, confidence in enumerate(sure) if found.accepts(confidence)]
    assert (found.num_accepted, found.num_right) == (len(accepted), sum(right[at] for at in accepted))


def test_too_few_records_accept_nothing_and_say_how_many_are_needed() -> None:
    found = find_threshold([0.999] * 298, [True] * 298, list(range(298)), AcceptSettings())
    assert (found.threshold, found.num_accepted, found.num_needed) == (None, 0, 299)
    assert not found.accepts(1.0)
    found = find_threshold([0.999] * 299, [True] * 299, list(range(299)), AcceptSettings())
    assert (found.threshold, found.num_accepted, found.lower) == (0.999, 299, 0.99)
    assert [found.accepts(confidence) for confidence in (0.999, 0.998, None)] == [True, False, False]
    assert find_threshold([], [], [], AcceptSettings()).threshold is None


def test_a_threshold_that_is_given_is_kept_and_told_what_it_promises() -> None:
    sure = list(itertools.chain([0.9] * 60, [0.4] * 40))
    right = [True] * 57 + [False] * 3 + [False] * 40
    found = find_threshold(sure, right, list(range(100)), AcceptSettings(threshold=0.5))
    assert (found.threshold, found.is_given, found.num_accepted, found.num_right) == (0.5, True, 60, 57)
    assert found.lower == pytest.approx(lower_bound(57, 60, 0.05))
    assert find_threshold(sure, right, list(range(100)), AcceptSettings(threshold=0.95)).lower == 0.0
