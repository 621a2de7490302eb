"""Reliability: calibration error and Brier score against brute force and scikit-learn, risk against coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from whet.evaluate.reliability import A_BIN, MAX_BINS, MAX_POINTS, calibration_error, cover, measure

shares = st.sampled_from([at / 8 for at in range(9)]) | st.floats(0, 1)
pairs = st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=80)


def brute_error(said: list[float], rights: list[bool], num_bins: int) -> float:
    """Value by value: its bin is that of the first of its equals in the order."""
    ranked = sorted(said)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in zip(said, rights, strict=True):
        bins.setdefault(ranked.index(confidence) * num_bins // len(said), []).append((confidence, right))
    return sum(
        len(members) / len(said)
        * abs(sum(right for _, right in members) / len(members) - sum(confidence for confidence, _ in members) / len(members))
        for members in bins.values()
    )  # fmt: skip


@given(found=pairs, num_bins=st.integers(1, 9))
def test_the_calibration_error_is_the_brute_force_one(found: list[tuple[float, bool]], num_bins: int) -> None:
    said, rights = [pair[0] for pair in found], [pair[1] for pair in found]
    error = calibration_error(np.array(said), np.array(rights, dtype=float), num_bins)
    assert error == pytest.approx(brute_error(said, rights, num_bins), abs=1e-12)
    assert 0 <= error <= 1


@settings(max_examples=12)
@given(found=pairs)
def test_figures_agree_with_scikit_learn(found: list[tuple[float, bool]]) -> None:
    said, rights = [pair[0] for pair in found], [pair[1] for pair in found]
    figures = measure(said, rights, list(range(len(said))), 0.95)
    assert figures.brier == pytest.approx(brier_score_loss(rights, said))
    assert (figures.num, figures.num_right) == (len(said), sum(rights))
    assert sum(bin_.num for bin_ in figures.bins) == len(said)
    assert sum(bin_.num * bin_.share_right for bin_ in figures.bins) == pytest.approx(sum(rights))
    assert [bin_.confidence for bin_ in figures.bins] == sorted(bin_.confidence for bin_ in figures.bins)
    assert all(bin_.interval.low <= bin_.share_right + 1e-9 for bin_ in figures.bins)
    assert figures.ece_interval.low <= figures.ece_interval.high


def test_bins_of_equal_mass_are_those_of_scikit_learn_where_no_values_are_equal() -> None:
    random = np.random.default_rng(0)
    said = random.random(MAX_BINS * A_BIN)
    rights = random.random(len(said)) < said
    figures = measure(said.tolist(), rights.tolist(), list(range(len(said))), 0.95)
    share_right, confidence = calibration_curve(rights, said, n_bins=MAX_BINS, strategy="quantile")
    assert [bin_.share_right for bin_ in figures.bins] == pytest.approx(share_right, abs=0.06)  # quantiles are cut otherwise
    assert [bin_.confidence for bin_ in figures.bins] == pytest.approx(confidence, abs=0.01)


@pytest.mark.integration
def test_a_model_that_is_too_sure_is_told_from_one_that_is_not() -> None:
    random = np.random.default_rng(1)
    true = random.random(2000)
    rights, groups = (random.random(2000) < true).tolist(), [at // 3 for at in range(2000)]
    honest, sure = measure(true.tolist(), rights, groups, 0.95), measure(np.sqrt(true).tolist(), rights, groups, 0.95)
    assert honest.ece < 0.04
    assert sure.ece == pytest.approx(float((np.sqrt(true) - true).mean()), abs=0.03)
    assert honest.brier < sure.brier
    for figures in (honest, sure):
        assert figures.ece_interval.low <= figures.ece <= figures.ece_interval.high
    assert honest.ece_interval.high < sure.ece_interval.low
    assert measure([0.5], [True], ["a"], 0.95).ece_interval.high == 1.0  # one document says nothing


@given(found=pairs)
def test_coverage_is_counted_record_by_record(found: list[tuple[float, bool]]) -> None:
    said, rights = [pair[0] for pair in found], [pair[1] for pair in found]
    points = cover(said, rights)
    for point in points:
        taken = [right for confidence, right in found if confidence >= point.confidence]
        assert point.coverage == pytest.approx(len(taken) / len(found))
        assert point.precision == pytest.approx(sum(taken) / len(taken))
    assert points[-1].coverage == 1.0
    assert len(points) == len(set(said))


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    said = np.linspace(0, 1, 5000)
    points = cover(said.tolist(), [True] * 5000)
    assert len(points) == MAX_POINTS
    assert (points[0].coverage, points[-1].coverage) == (1 / 5000, 1.0)
    assert cover([], []) == ()
