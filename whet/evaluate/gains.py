"""What a candidate gained and lost, part by part and category by category, and which answers turned wrong."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whet.evaluate import power
from whet.evaluate.compare import is_right
from whet.evaluate.effect import EffectSize, measure_effect
from whet.evaluate.gate import Facts, headline_of, metric_part, pair_part
from whet.evaluate.margin import Evidence, weigh
from whet.evaluate.paired import Pairs
from whet.evaluate.policy import GatePolicy
from whet.evaluate.results import SuiteResult
from whet.evaluate.statistics import CONFIDENCE, Interval, holm


@dataclass(frozen=True, slots=True)
class Gain:
    """One part (category "") or one category of it.

    interval: two-sided, 95 %. p_value: two-sided, of a categories' family Holm's. detectable: smallest improvement that as many
    examples show with the policy's power.
    """

    part: str
    category: str
    num: int
    num_groups: int
    live: float
    candidate: float
    difference: float
    interval: Interval
    p_value: float
    effect: EffectSize
    method: str
    detectable: float | None = None


@dataclass(frozen=True, slots=True)
class Turned:
    """Ids of a part's examples, taken whole, whose outcome changed from the live system to the candidate."""

    part: str
    right_to_wrong: tuple[str, ...]
    wrong_to_right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gains:
    """All parts that both answered."""

    rows: tuple[Gain, ...]
    turned: tuple[Turned, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def tell_gains(candidate: SuiteResult, live: SuiteResult, policy: GatePolicy, facts: Facts) -> Gains:
    """The differences behind a verdict, each with its interval; what the verdict does not hang on included."""
    metric = metric_part(candidate, live, policy)
    rows: list[Gain] = []
    turned: list[Turned] = []
    for name in [metric, *(part for part in live.parts if part != metric)]:
        if name not in candidate.parts or name not in live.parts:
            continue
        pairs = pair_part(candidate, live, name, policy, facts, metric)
        if len(pairs):
            rows += _rows(name, pairs, policy)
        turned.append(_turned(name, candidate, live, headline_of(candidate.parts[name], name, metric, policy)[0]))
    return Gains(tuple(rows), tuple(turned))


def _rows(part: str, pairs: Pairs, policy: GatePolicy) -> list[Gain]:
    def weighed(some: Pairs) -> Evidence:
        return weigh(some, policy.seed, policy.resamples)

    whole = weighed(pairs)
    level = policy.alpha_at(1)
    rows = [_row(part, "", whole, _two_sided(whole), power.detectable(whole, level, policy.power))]
    names = sorted(pairs.sizes())
    if len(names) > 1:
        found = [weighed(pairs.within([name])) for name in names]
        p_values = holm([_two_sided(evidence) for evidence in found])
        rows += [_row(part, name, evidence, p, None) for name, evidence, p in zip(names, found, p_values, strict=True)]
    return rows


def _row(part: str, category: str, evidence: Evidence, p_value: float, detectable: float | None) -> Gain:
    return Gain(
        part, category, evidence.num, evidence.num_units, evidence.live, evidence.candidate, evidence.difference,
        evidence.bounds((1 - CONFIDENCE) / 2), p_value, measure_effect(evidence), evidence.method, detectable,
    )  # fmt: skip


def _two_sided(evidence: Evidence) -> float:
    return min(1.0, 2 * min(evidence.p_above(0.0), evidence.p_below(0.0)))


def _turned(part: str, candidate: SuiteResult, live: SuiteResult, measure: str) -> Turned:
    before = {score.example_id: is_right(score, measure) for score in live.scores(part) if score.status != "error"}
    now = {score.example_id: is_right(score, measure) for score in candidate.scores(part) if score.status != "error"}
    both: Sequence[str] = [id_ for id_ in before if id_ in now]
    return Turned(
        part,
        tuple(id_ for id_ in both if before[id_] and not now[id_]),
        tuple(id_ for id_ in both if now[id_] and not before[id_]),
    )
