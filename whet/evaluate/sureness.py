"""What is said of a specialist's confidences: fitted on one split, measured on another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from whet.evaluate.acceptance import Acceptance, AcceptSettings
from whet.evaluate.calibration import CalibrateSettings, Calibration, Curve, HeldOut, fit_curve
from whet.evaluate.outcomes import Outcome, judge
from whet.evaluate.reliability import CoveragePoint, Reliability, cover, measure
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import Interval
from whet.records import Completion, Example, Record
from whet.tasks.base import Answer, Evidence, RecordEvidence, Task

NO_LOG_PROBS = "the engine gave no log-probabilities"
NO_RECORDS = "no reply to the valid split held a record"
SAME_SPLIT = "they are calibrated on the split that is evaluated here (evaluate.split), so nothing is left to measure them on"


@dataclass(frozen=True, slots=True)
class Claim:
    """A record that was said of an example: how it was decided, and what became of it."""

    group: str
    """The document of its example."""
    record: Record
    evidence: RecordEvidence
    raw: float
    """Its probability as the model gave it."""
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Claims:
    """All records that a split's replies held."""

    found: tuple[Claim, ...]
    num_read: int
    """Examples whose reply could be read."""
    has_evidence: bool
    """Whether there were log-probabilities for every record."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The confidences of whole records, or of one field's values, before and after calibration."""

    name: str
    method: str
    raw: Reliability
    calibrated: Reliability


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a threshold accepts of the evaluated split."""

    num_records: int
    num_accepted: int
    num_right: int
    interval: Interval
    """Of the share of the accepted that is right, by Wilson."""


@dataclass(frozen=True, slots=True)
class Sureness:
    """What a report says of confidences; what is empty was not measured, and `reason` says why."""

    num_examples: int = 0
    """Examples of the valid split that the curves were fitted to."""
    num_records: int = 0
    measured: tuple[Measured, ...] = ()
    coverage: tuple[CoveragePoint, ...] = ()
    acceptance: Acceptance | None = None
    accepted: Accepted | None = None
    reason: str = ""


def gather(examples: Sequence[Example], completions: Mapping[str, Completion], task: Task, names: Sequence[str]) -> Claims:
    """The records of the completions, by the ids of their examples; what can't be read says no record."""
    found, num_read, has_evidence = [], 0, True
    for example in examples:
        answer = task.read(example, completions[example.id])
        if not isinstance(answer, Answer):
            continue
        num_read += 1
        has_evidence &= len(answer.evidence) == len(answer.records)
        outcomes = judge(example.records or (), answer.records, names)
        for record, evidence, raw, outcome in zip(
            answer.records, answer.evidence, answer.confidences, outcomes, strict=bool(answer.evidence)
        ):
            found.append(Claim(example.group, record, evidence, raw or 0.0, outcome))
    return Claims(tuple(found), num_read, has_evidence)


def calibrate(claims: Claims, names: Sequence[str], settings: CalibrateSettings, accept: AcceptSettings) -> Calibration:
    """The calibration that the valid split's records teach; without records or log-probabilities one that says why not."""
    if not claims.has_evidence or not claims.found:
        reason = NO_RECORDS if claims.has_evidence else NO_LOG_PROBS
        return Calibration({}, None, num_examples=claims.num_read, reason=reason)
    fields = {}
    for name in names:
        fitted = fit_curve(*_values(claims.found, name), settings)
        if fitted is not None:
            fields[name] = fitted.curve
    groups = [claim.group for claim in claims.found]
    rights = [claim.outcome.is_right for claim in claims.found]
    whole = fit_curve([claim.evidence.whole for claim in claims.found], rights, groups, settings)
    assert whole is not None  # there are records
    # A curve that has seen the outcomes would find these records surer than others.
    held_out = tuple(HeldOut(*record) for record in zip(whole.held_out, rights, groups, strict=True))
    return Calibration(fields, whole.curve, num_examples=claims.num_read, held_out=held_out).with_acceptance(accept)


def assess(calibration: Calibration, claims: Claims, names: Sequence[str], level: float, seed: int = 0) -> Sureness:
    """How the calibration does on the records of another split; level: confidence of the intervals."""
    known = unmeasured(calibration, calibration.reason or NO_LOG_PROBS)
    if calibration.record is None or not claims.has_evidence:
        return known
    if not claims.found:
        return replace(known, reason="no reply to the evaluated split held a record")
    rights = [claim.outcome.is_right for claim in claims.found]
    groups = [claim.group for claim in claims.found]
    evidence = [claim.evidence.whole for claim in claims.found]
    measured = [_measure("record", calibration.record, evidence, rights, groups, level, seed)]
    for name in names:
        values = _values(claims.found, name)
        if name in calibration.fields and values[0]:
            measured.append(_measure(name, calibration.fields[name], *values, level, seed))
    sure = calibration.record.of(evidence)
    accepted = [right for confidence, right in zip(sure, rights, strict=True) if calibration.accepts(confidence)]
    of_accepted = [group for confidence, group in zip(sure, groups, strict=True) if calibration.accepts(confidence)]
    interval = share_interval(accepted, level, of_accepted)
    return replace(
        known,
        measured=tuple(measured),
        coverage=cover(sure, rights),
        acceptance=calibration.acceptance,
        accepted=Accepted(len(rights), len(accepted), sum(accepted), interval),
        reason="",
    )


def unmeasured(calibration: Calibration, reason: str) -> Sureness:
    """What a calibration says of itself alone, and why there is no more."""
    num_records = calibration.record.num if calibration.record else 0
    return Sureness(calibration.num_examples, num_records, acceptance=calibration.acceptance, reason=reason)


def say_acceptance(sure: Sureness) -> str:
    """Which records need no review, in a sentence or three."""
    found, on = sure.acceptance, sure.accepted
    if found is None:
        return f"Nothing is known of the confidences: {sure.reason}."
    if found.threshold is None:
        return (
            f"Every record needs review: the {found.num_records:,} records of the valid split show no confidence above which "
            f"{100 * found.precision:g} % are right. {found.num_needed:,} independent ones, all of them right, would just do."
        )
    share = _say(found.num_accepted, found.num_records)
    share = f"{found.num_accepted:,} of {found.num_records:,} records of the valid split ({share})"
    if found.is_given:
        words = f"The threshold is set to a confidence of {found.threshold:.3f}, which accepts {share}; "
    else:
        words = f"At {100 * found.precision:g} % precision {share} need no review: "
        words += f"those of a confidence of {found.threshold:.3f} or more; "
    words += f"with {100 * found.confidence:g} % confidence at least {100 * found.lower:.1f} % of such records are right."
    if on is None:
        return words
    words += (
        f" Of the evaluated split it accepts {on.num_accepted:,} of {on.num_records:,} ({_say(on.num_accepted, on.num_records)})"
    )
    return words + (f"; {_say(on.num_right, on.num_accepted)} of them are right." if on.num_accepted else ".")


def _say(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _measure(
    name: str, curve: Curve, evidence: Sequence[Evidence], rights: Sequence[bool], groups: Sequence[str], level: float, seed: int
) -> Measured:
    raw = [math.exp(min(0.0, found.total)) for found in evidence]
    return Measured(
        name, curve.method, measure(raw, rights, groups, level, seed), measure(curve.of(evidence), rights, groups, level, seed)
    )


def _values(claims: Sequence[Claim], name: str) -> tuple[list[Evidence], list[bool], list[str]]:
    """Evidence, outcome and document of a field's values, nulls left out."""
    said = [claim for claim in claims if claim.record.get(name) is not None]
    return (
        [claim.evidence.fields[name] for claim in said],
        [claim.outcome.fields[name] for claim in said],
        [claim.group for claim in said],
    )
