"""Calibration: from the probability that a model gave its own words to how often such words are right."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from whet.config import Settings
from whet.errors import MissingExtraError
from whet.evaluate.acceptance import Acceptance, AcceptSettings, find_threshold
from whet.tasks.base import Answer, Evidence, RecordEvidence

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
MIN_CHOICE = 200  # values below which Platt's two numbers are all that can be learnt
LIMIT = 1e-6  # a probability nearer to 0 or 1 is taken for this far
CERTAIN = 1e-9  # distance of every calibrated probability from 0 and 1
TILT = 1e-3  # of the score itself in an isotonic curve, so that its steps keep the order of the scores
FEATURES = ("total", "mean", "lowest", "length")

Method = Literal["platt", "logistic", "isotonic"]


class CalibrateSettings(Settings):
    """How confidences are calibrated on the valid split."""

    max_examples: int | None = Field(default=None, ge=1)
    """Most examples that are asked, spread evenly over the split; null asks all."""
    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation that chooses the kind of curve; all records of a document stand in one part."""


@dataclass(frozen=True, slots=True)
class Curve:
    """From evidence to the probability of being right; applied without scikit-learn.

    The score x is a sum: the log-odds of the probabilities of all tokens, of the mean and of the least likely token, and the
    logarithm of their number + 1, each times its weight. platt, logistic: 1 / (1 + exp(-(x + intercept))). isotonic: straight
    lines between knots (x, probability).
    """

    method: Method
    num: int
    """Values that it was fitted to."""
    num_right: int
    weights: tuple[float, ...]
    """Of FEATURES."""
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    log_losses: Mapping[str, float] = field(default_factory=dict)
    """Cross-validated, in nats a value, by method; empty where there was no choice."""

    def of(self, evidence: Sequence[Evidence]) -> tuple[float, ...]:
        """The probability of each."""
        return tuple(self.of_features(features(evidence)).tolist())

    def of_features(self, rows: "np.ndarray") -> "np.ndarray":
        """The probability of each row of `features`."""
        import numpy as np

        # Not a product of matrices: a row's score must not depend on the rows beside it.
        scores = sum((rows[:, at] * weight for at, weight in enumerate(self.weights)), np.zeros(len(rows)))
        if self.method != "isotonic":
            return _sigmoid(scores + self.intercept)
        xs, ys = zip(*self.knots, strict=True)
        steps: np.ndarray = (1 - TILT) * np.interp(scores, xs, ys) + TILT * _sigmoid(scores)
        return steps


@dataclass(frozen=True, slots=True)
class Fitted:
    """A curve, and what it would say of the values that it was fitted to had it not seen them."""

    curve: Curve
    held_out: tuple[float, ...]
    """Of each value, by a curve that was fitted without its fold; by the curve itself where there was no choice."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A record of the valid split: what a curve that had not seen its document says, and whether it was right."""

    confidence: float
    is_right: bool
    group: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a valid split taught about an adapter's confidences."""

    fields: Mapping[str, Curve]
    """For each field whose values there were any of; the others have no confidence."""
    record: Curve | None
    acceptance: Acceptance | None = None
    num_examples: int = 0
    """Examples of the valid split whose replies could be read."""
    reason: str = ""
    """Why there is nothing; empty where there is."""
    held_out: tuple[HeldOut, ...] = ()
    """What a threshold is sought by."""

    def with_acceptance(self, settings: AcceptSettings) -> "Calibration":
        """The same with the threshold that these settings ask for."""
        if self.record is None:
            return self
        found = find_threshold(
            [record.confidence for record in self.held_out],
            [record.is_right for record in self.held_out],
            [record.group for record in self.held_out],
            settings,
        )
        return replace(self, acceptance=found)

    def apply(self, answer: Answer) -> Answer:
        """The answer with calibrated confidences; what has no curve, or no evidence, has none."""
        return replace(
            answer,
            records=tuple(
                {name: value and replace(value, confidence=self._value(name, found)) for name, value in record.items()}
                for record, found in zip_longest(answer.records, answer.evidence)
            ),
            confidences=tuple(_say(self.record, found.whole) for found in answer.evidence),
        )

    def _value(self, name: str, found: RecordEvidence | None) -> float | None:
        return _say(self.fields.get(name), found.fields[name]) if found else None

    def accepts(self, confidence: float | None) -> bool:
        """Whether a record of this calibrated confidence needs no review."""
        return self.acceptance is not None and self.acceptance.accepts(confidence)

    def to_json(self) -> dict[str, Any]:
        """The calibration as plain JSON, but for the held-out records."""
        row = asdict(replace(self, held_out=()))
        del row["held_out"]
        return {"version": VERSION, **row}


def calibration_from_json(row: Mapping[str, Any], held_out: Iterable[Mapping[str, Any]] = ()) -> Calibration:
    """The calibration that `to_json` wrote, and its held-out records."""
    return Calibration(
        {name: _curve_from_json(curve) for name, curve in row["fields"].items()},
        _curve_from_json(row["record"]) if row["record"] else None,
        Acceptance(**row["acceptance"]) if row["acceptance"] else None,
        row["num_examples"],
        row["reason"],
        tuple(HeldOut(**record) for record in held_out),
    )


def _curve_from_json(row: Mapping[str, Any]) -> Curve:
    return Curve(**{**row, "weights": tuple(row["weights"]), "knots": tuple((x, y) for x, y in row["knots"])})


def _say(curve: Curve | None, evidence: Evidence) -> float | None:
    return curve.of([evidence])[0] if curve else None


def features(evidence: Sequence[Evidence]) -> "np.ndarray":
    """(n, len(FEATURES)): what a curve goes by."""
    import numpy as np

    logs = np.array([(found.total, found.mean, found.lowest) for found in evidence], dtype=np.float64).reshape(-1, 3)
    probabilities = np.clip(np.exp(logs), LIMIT, 1 - LIMIT)
    length = np.log1p([found.num_tokens for found in evidence]).reshape(-1, 1)
    return np.concatenate([np.log(probabilities) - np.log1p(-probabilities), length], axis=1)


def fit_curve(
    evidence: Sequence[Evidence], rights: Sequence[bool], groups: Sequence[Hashable], settings: CalibrateSettings
) -> Fitted | None:
    """The curve for values, whether each was right, and the document of each; None without any.

    With fewer than MIN_CHOICE values, or fewer documents than folds, Platt's; else the method with the lowest log loss in
    cross-validation over documents. MissingExtraError where scikit-learn is not installed.
    """
    import numpy as np

    if not evidence:
        return None
    rows, right = features(evidence), np.asarray(rights, dtype=np.float64)
    # Threads that wait for each other make these small products 50 times slower on a busy machine.
    with _import("threadpoolctl").threadpool_limits(1):
        if len(right) < MIN_CHOICE or len(set(groups)) < settings.folds:
            curve = _fit_platt(rows, right)
            return Fitted(curve, tuple(curve.of_features(rows).tolist()))
        return _fit_best(rows, right, groups, settings.folds)


def _fit_best(rows: "np.ndarray", right: "np.ndarray", groups: Sequence[Hashable], folds: int) -> Fitted:
    import numpy as np

    fits = {"platt": _fit_platt, "logistic": _fit_logistic, "isotonic": _fit_isotonic}
    held_out = {name: _cross_validate(fit, rows, right, groups, folds) for name, fit in fits.items()}
    losses = {name: -float(np.log(np.where(right > 0, said, 1 - said)).mean()) for name, said in held_out.items()}
    best = min(losses, key=losses.__getitem__)
    return Fitted(replace(fits[best](rows, right), log_losses=losses), tuple(held_out[best].tolist()))


def _fit_platt(rows: "np.ndarray", right: "np.ndarray") -> Curve:
    """Platt 1999, "Probabilistic outputs for support vector machines": logistic regression on the log-odds of all tokens.

    A curve that falls would say that the model knows least where it is surest; then all get the mean.
    """
    import numpy as np

    weights, intercept = _regress(rows[:, :1], right, np.inf)
    if weights[0] <= 0:
        mean = float(_targets(right).mean())
        weights, intercept = (0.0,), math.log(mean / (1 - mean))
    return Curve("platt", len(right), int(right.sum()), (*weights, 0.0, 0.0, 0.0), intercept)


def _fit_logistic(rows: "np.ndarray", right: "np.ndarray") -> Curve:
    """Logistic regression on all features, brought to one scale and held towards 0 (ridge, C = 1)."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale == 0] = 1.0
    found, intercept = _regress((rows - mean) / scale, right, 1.0)
    weights = [weight / size for weight, size in zip(found, scale.tolist(), strict=True)]
    return Curve("logistic", len(right), int(right.sum()), tuple(weights), intercept - float(mean @ weights))


def _fit_isotonic(rows: "np.ndarray", right: "np.ndarray") -> Curve:
    """Zadrozny and Elkan 2002 (KDD): the curve that never falls and fits best, over the log-odds of all tokens.

    No probability is said to be 0 or 1.
    """
    margin = 1 / (len(right) + 2)
    regression = _import("sklearn.isotonic").IsotonicRegression(y_min=margin, y_max=1 - margin, out_of_bounds="clip")
    fitted = regression.fit(rows[:, 0], right)
    knots = tuple((float(x), float(y)) for x, y in zip(fitted.X_thresholds_, fitted.y_thresholds_, strict=True))
    return Curve("isotonic", len(right), int(right.sum()), (1.0, 0.0, 0.0, 0.0), knots=knots)


def _regress(rows: "np.ndarray", right: "np.ndarray", strength: float) -> tuple[tuple[float, ...], float]:
    """Weights and intercept of scikit-learn's logistic regression on Platt's targets; strength: its C."""
    import numpy as np

    targets = _targets(right)
    regression = _import("sklearn.linear_model").LogisticRegression(C=strength, tol=1e-8, max_iter=1000)
    outcomes = np.repeat([1, 0], len(rows))
    regression.fit(np.concatenate([rows, rows]), outcomes, sample_weight=np.concatenate([targets, 1 - targets]))
    return tuple(regression.coef_[0].tolist()), float(regression.intercept_[0])


def _targets(right: "np.ndarray") -> "np.ndarray":
    """Platt's targets: what is right is no surer than by Laplace's rule, so that there is a finite best curve."""
    import numpy as np

    num_right = float(right.sum())
    return np.where(right > 0, (num_right + 1) / (num_right + 2), 1 / (len(right) - num_right + 2))


def _cross_validate(
    fit: Callable[["np.ndarray", "np.ndarray"], Curve],
    rows: "np.ndarray",
    right: "np.ndarray",
    groups: Sequence[Hashable],
    folds: int,
) -> "np.ndarray":
    """What the curves of each fold's others say of the fold."""
    import numpy as np

    places = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    ids = np.array([places[group] for group in groups])
    said = np.zeros(len(right))
    for learnt, held_out in _import("sklearn.model_selection").GroupKFold(n_splits=folds).split(rows, right, ids):
        said[held_out] = fit(rows[learnt], right[learnt]).of_features(rows[held_out])
    return said


def _sigmoid(scores: "np.ndarray") -> "np.ndarray":
    """1 / (1 + exp(-x)); nobody is said to be quite sure."""
    import numpy as np
    from scipy.special import expit

    found: np.ndarray = np.clip(expit(scores), CERTAIN, 1 - CERTAIN)
    return found


def _import(name: str) -> Any:
    """A module of scikit-learn, or of what it brings with it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError("scikit-learn", "calibrate", "calibrating confidences") from None
