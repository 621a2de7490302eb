"""Calibration: scikit-learn's own curves, honest cross-validation, and application without scikit-learn."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from whet.errors import MissingExtraError
from whet.evaluate import calibration
from whet.evaluate.acceptance import AcceptSettings, find_threshold
from whet.evaluate.calibration import (
    CERTAIN,
    LIMIT,
    MIN_CHOICE,
    TILT,
    CalibrateSettings,
    Calibration,
    Curve,
    Fitted,
    calibration_from_json,
    features,
    fit_curve,
)
from whet.records import Value
from whet.tasks.base import Answer, Evidence, RecordEvidence

SETTINGS = CalibrateSettings()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine threads that wait for each other take most of the time."""
    with threadpool_limits(1):
        yield


def evidence_of(*probabilities: float) -> list[Evidence]:
    """Values that were decided in one token each."""
    return [Evidence(math.log(found), math.log(found), 1) for found in probabilities]


def sample(num: int, seed: int, strength: float = 0.4) -> tuple[list[Evidence], list[bool], list[int]]:
    """Values of several tokens whose model is surer than it should be, and not equally so for short and long ones."""
    random = np.random.default_rng(seed)
    found, rights = [], []
    for _ in range(num):
        steps = -random.exponential(math.exp(-random.normal(2, 1.3)), random.integers(1, 9))
        found.append(Evidence(float(steps.sum()), float(steps.min()), len(steps)))
        total, _, lowest, length = features(found[-1:])[0]
        odds = strength * (total + lowest) - 2 * length + 3
        rights.append(bool(random.random() < 1 / (1 + math.exp(-odds))))
    return found, rights, [at // 2 for at in range(num)]


def fitted(*args: Any) -> Fitted:
    found = fit_curve(*args, SETTINGS)
    assert found is not None
    return found


def test_few_values_get_platts_curve_as_scikit_learn_fits_it() -> None:
    found, rights, groups = sample(MIN_CHOICE - 1, 0)
    curve = fitted(found, rights, groups).curve
    odds = features(found)[:, 0]
    reference = _SigmoidCalibration().fit(odds, np.array(rights, dtype=float))
    assert (curve.method, curve.num, curve.num_right, dict(curve.log_losses)) == ("platt", len(rights), sum(rights), {})
    assert curve.of(found) == pytest.approx(reference.predict(odds), abs=1e-4)


def test_an_isotonic_curve_is_scikit_learns_but_keeps_the_order_of_the_scores() -> None:
    found, rights, _ = sample(400, 1)
    rows, right = features(found), np.array(rights, dtype=float)
    curve = calibration._fit_isotonic(rows, right)
    reference = IsotonicRegression(y_min=1 / 402, y_max=401 / 402, out_of_bounds="clip").fit(rows[:, 0], right)
    unseen = np.linspace(-20, 20, 999)
    said = curve.of_features(np.column_stack([unseen, np.zeros((999, 3))]))
    assert np.abs(said - reference.predict(unseen)).max() <= TILT
    within = (unseen > -13) & (unseen < 13)
    assert (np.diff(said[within]) > 0).all()


def test_the_logistic_curve_is_that_of_scikit_learn_on_features_of_one_scale() -> None:
    found, rights, _ = sample(3000, 2)
    rows, right = features(found), np.array(rights)
    curve = calibration._fit_logistic(rows, right.astype(float))
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    reference = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(scaled, right).predict_proba(scaled)[:, 1]
    assert np.abs(curve.of_features(rows) - reference).max() < 2e-3  # Platt's targets are all that differs


def test_the_curve_with_the_lowest_held_out_loss_is_taken() -> None:
    found, rights, groups = sample(1200, 3)
    chosen = fitted(found, rights, groups)
    rows, right = features(found), np.array(rights, dtype=float)
    fits = {"platt": calibration._fit_platt, "logistic": calibration._fit_logistic, "isotonic": calibration._fit_isotonic}
    held_out = {name: np.zeros(len(right)) for name in fits}
    for learnt, left in GroupKFold(5).split(rows, right, groups):
        for name, fit in fits.items():
            held_out[name][left] = fit(rows[learnt], right[learnt]).of_features(rows[left])
    losses = {name: log_loss(right, said) for name, said in held_out.items()}
    assert dict(chosen.curve.log_losses) == pytest.approx(losses)
    assert chosen.curve.method == min(losses, key=lambda name: losses[name])
    assert chosen.curve.method == "logistic"
    assert chosen.held_out == pytest.approx(held_out["logistic"].tolist())
    assert chosen.curve.of(found) != pytest.approx(held_out["logistic"].tolist(), abs=1e-6)


def test_a_curve_finds_the_true_probabilities() -> None:
    random = np.random.default_rng(4)
    raw = random.uniform(0.02, 0.98, 4000)
    true = 1 / (1 + np.exp(-(0.5 * np.log(raw / (1 - raw)) - 1)))
    curve = fitted(evidence_of(*raw), (random.random(4000) < true).tolist(), list(range(4000))).curve
    assert np.abs(np.array(curve.of(evidence_of(*raw))) - true).mean() < 0.02


@pytest.mark.parametrize("num", [1, 30, 400])
@pytest.mark.parametrize("is_right", [True, False])
def test_where_all_are_right_or_all_wrong_nothing_is_certain(num: int, is_right: bool) -> None:
    found, _, groups = sample(num, 5)
    said = fitted(found, [is_right] * num, groups).curve.of(found)
    assert all(math.isfinite(probability) and CERTAIN <= probability <= 1 - CERTAIN for probability in said)
    assert all((probability > 0.5) == is_right for probability in said)
    if num == 1:
        assert said[0] == pytest.approx(2 / 3 if is_right else 1 / 3, abs=1e-3)  # Laplace's rule


def test_a_model_that_is_surest_where_it_is_wrong_gets_the_mean() -> None:
    probabilities = np.linspace(0.1, 0.9, 100)
    curve = fitted(evidence_of(*probabilities), (probabilities < 0.5).tolist(), list(range(100))).curve
    assert curve.of(evidence_of(0.01, 0.5, 0.99)) == pytest.approx((0.5, 0.5, 0.5), abs=0.01)


def test_without_values_there_is_no_curve() -> None:
    assert fit_curve([], [], [], SETTINGS) is None


curves = st.builds(
    Curve,
    st.sampled_from(["platt", "logistic", "isotonic"]),
    st.integers(1, 9),
    st.integers(0, 9),
    st.tuples(*[st.floats(-5, 5)] * 4),
    st.floats(-9, 9),
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0.01, 0.99)), min_size=2, max_size=4).map(lambda knots: tuple(sorted(knots))),
    st.dictionaries(st.sampled_from(["platt", "isotonic"]), st.floats(0, 2)),
)
logs = st.floats(-60, 0)
evidence = st.builds(Evidence, logs, logs, st.integers(0, 30))


@given(curve=curves, found=st.lists(evidence, min_size=1, max_size=5))
def test_a_calibration_survives_json_bit_for_bit(curve: Curve, found: list[Evidence]) -> None:
    acceptance = find_threshold([0.5, 0.6], [True, False], ["a", "b"], AcceptSettings(threshold=0.55))
    before = Calibration({"name": curve}, curve, acceptance, 7)
    after = calibration_from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after == before
    assert after.record is not None
    said = after.record.of(found)
    assert said == curve.of(found)
    assert said == tuple(curve.of([one])[0] for one in found)
    assert all(0 < probability < 1 for probability in said)


def test_features_are_bounded_whatever_the_model_says() -> None:
    rows = features([Evidence(0.0, 0.0, 0), Evidence(-900.0, -500.0, 30)])
    edge = math.log((1 - LIMIT) / LIMIT)
    assert rows[0] == pytest.approx([edge, edge, edge, 0.0])
    assert rows[1] == pytest.approx([-edge, -edge, -edge, math.log(31)], rel=1e-6)


def test_an_answer_gets_the_confidences_of_its_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    name, none, whole = evidence_of(0.9, 0.8, 0.5)
    found = RecordEvidence(none, {"name": name, "office": none, "note": name}, whole)
    record = {"name": Value("a", confidence=0.9), "office": None, "note": Value("b", confidence=0.9)}
    answer = Answer(records=(record,), confidences=(0.5,), evidence=(found,), ungrounded=1, num_cut=2)
    half = Curve("platt", 9, 5, (1.0, 0.0, 0.0, 0.0), 1.0)
    taught = Calibration({"name": half, "office": half}, half)
    monkeypatch.setitem(sys.modules, "sklearn", None)  # applying needs no scikit-learn
    sure = taught.apply(answer)

    def shifted(probability: float) -> float:
        return 1 / (1 + math.exp(-(math.log(probability / (1 - probability)) + 1)))

    assert sure.confidences == (pytest.approx(shifted(0.5)),)
    assert sure.records[0]["name"] == Value("a", confidence=pytest.approx(shifted(0.9)))  # type: ignore[arg-type]
    assert sure.records[0]["office"] is None
    assert sure.records[0]["note"] == Value("b")  # its field was never seen: nothing is known
    assert (sure.ungrounded, sure.num_cut, sure.evidence) == (1, 2, answer.evidence)
    assert taught.apply(Answer(records=(record,))).records[0]["name"] == Value("a")
    assert Calibration({}, None).apply(answer).confidences == (None,)
    assert not taught.accepts(0.99)


def test_a_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rights, groups = sample(20, 6)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"needs scikit-learn.*whet\[calibrate\]"):
        fit_curve(found, rights, groups, SETTINGS)


def test_held_out_confidences_learn_nothing_from_chance() -> None:
    """Planted: outcomes that hang on nothing. A step curve fitted to them looks better than it is; what is held out does not."""
    random = np.random.default_rng(7)
    gains = []
    for seed in range(6):
        found, _, groups = sample(250, seed)
        rights = random.random(250) < 0.5
        gains.append(math.log(2) - log_loss(rights, np.array(fitted(found, rights.tolist(), groups).held_out)))
        seen = calibration._fit_isotonic(features(found), rights.astype(float)).of(found)
        assert math.log(2) - log_loss(rights, np.array(seen)) > 0
    assert sum(gains) < 0
