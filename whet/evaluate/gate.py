"""The gate: promotes a candidate to the live system's place, refuses it, or says how many examples it would take to tell.

A promotion claims two things: that the candidate is better on the named metric, and that no other part and no category lost more
than its tolerance. Each claim is tested by itself at the same level, and all must hold: an intersection-union test, which needs
no correction for the number of claims, since a promotion is wrong only if some claim is false, and that one passes with
probability alpha at most (Berger 1982, Technometrics 24:295). To refuse for a loss, one of many tests is enough, and many
tests find something by chance: there the p-values are Holm's.
"""

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scipy import special

from whet.errors import InputError
from whet.evaluate import power
from whet.evaluate.checks import check_asked, check_constant, check_limits, check_overlap, check_rates
from whet.evaluate.margin import Evidence, weigh
from whet.evaluate.paired import Pairs, pair_up
from whet.evaluate.policy import GatePolicy
from whet.evaluate.results import PartResult, SuiteResult
from whet.evaluate.statistics import holm
from whet.evaluate.verdict import Check, Verdict, conclude, say_signed

REST = "small categories"
"""What the categories below `pool_below` are called together."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the results themselves do not hold.

    groups: for each part the group (document) of each example id. look: which look at this candidate this is, from 1.
    is_plan_changed: whether it was judged by another plan before (`GatePolicy.plan`).
    """

    groups: Mapping[str, Mapping[str, Hashable]] = field(default_factory=dict)
    look: int = 1
    is_plan_changed: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """That something lost no more than its tolerance."""

    name: str
    pairs: Pairs
    tolerance: float


def judge(candidate: SuiteResult, live: SuiteResult, policy: GatePolicy, facts: Facts | None = None) -> Verdict:
    """Hold a candidate against the live system by a policy.

    InputError where the two did not answer the same questions, or the policy names a part or category that there is not.
    """
    facts = facts or Facts()
    metric = metric_part(candidate, live, policy)
    _refuse_other_questions(candidate, live)
    names = _judged_parts(candidate, live, policy, metric)
    alpha = policy.alpha_at(min(facts.look, policy.looks))
    checks = list(_check_looks(policy, facts))
    paired: dict[str, Pairs] = {}
    for name in names:
        found, pairs = _check_part(name, candidate, live, policy, facts, metric)
        checks += found
        if pairs is not None:
            paired[name] = pairs
    claims = list(_claims(paired, metric, policy))
    # The chance to miss is shared out, so that a good candidate passes all tests together with the power asked for.
    each = 1 - (1 - policy.power) / max(1, len(claims) + (metric in paired))
    if metric in paired:
        title = _improvement_of(candidate.parts[metric], policy)
        checks.append(_check_improvement(title, paired[metric], policy, alpha, each))
    checks += _check_claims(claims, policy, alpha, each)
    checks += check_limits(candidate, live, policy)
    return conclude(checks, facts.look, policy.looks, alpha, _not_asked(policy))


def _check_part(
    name: str, candidate: SuiteResult, live: SuiteResult, policy: GatePolicy, facts: Facts, metric: str
) -> tuple[list[Check], Pairs | None]:
    """What can be said of a part before any test, and its pairs; None where there is nothing to test."""
    for side, result in (("candidate", candidate), ("live system", live)):
        if name not in result.parts:
            return [Check(f"part {name}", "can't tell", None, None, f"the {side} was never asked it")], None
    ours, theirs = candidate.parts[name], live.parts[name]
    checks = [check_asked(name, ours, theirs, policy)]
    if policy.overlap is not None:
        checks.append(check_overlap(name, ours, policy.overlap))
    checks += check_rates(name, ours, theirs, policy)
    pairs = pair_part(candidate, live, name, policy, facts, metric)
    checks.append(_check_left_out(name, pairs, policy))
    if name == metric:
        checks += check_constant(name, ours)
    if len(pairs) and ours.value is not None and theirs.value is not None:
        return checks, pairs
    title = _improvement_of(ours, policy) if name == metric else f"kept, {name}"
    return [*checks, Check(title, "can't tell", None, None, "too many requests failed or were left out for a score")], None


def metric_part(candidate: SuiteResult, live: SuiteResult, policy: GatePolicy) -> str:
    """The part that decides: the one the policy names, or the only task part."""
    known = {**live.parts, **candidate.parts}
    name = policy.improvement.part
    if name is not None:
        if name not in known:
            raise InputError("improvement.part", f"no part is named {name}", _nearest(name, known))
        return name
    tasks = [name for name, part in known.items() if part.role == "task"]
    if len(tasks) != 1:
        raise InputError(
            str(candidate.folder),
            f"has {len(tasks)} task parts",
            f"Name the one that decides with improvement.part: {', '.join(known)}",
        )
    return tasks[0]


def headline_of(part: PartResult, name: str, metric: str, policy: GatePolicy) -> tuple[str, str]:
    """Measure and figure by which a part is judged."""
    wanted = policy.improvement
    if name != metric:
        return part.headline
    return wanted.measure or part.headline[0], wanted.figure or part.headline[1]


def pair_part(candidate: SuiteResult, live: SuiteResult, name: str, policy: GatePolicy, facts: Facts, metric: str) -> Pairs:
    """Both systems' outcomes on one part, without the questions that stand in either's training data."""
    ours, theirs = candidate.parts[name], live.parts[name]
    leaked = {id_ for part in (ours, theirs) if part.overlap for id_ in part.overlap.ids}
    scores = live.scores(name)
    groups = group_together(facts.groups.get(name, {}), theirs.duplicates, [score.example_id for score in scores])
    return pair_up(
        scores,
        candidate.scores(name),
        headline_of(ours, name, metric, policy),
        place=f"{candidate.folder} against {live.folder}, part {name}",
        groups=groups,
        leaked=leaked,
    )


def group_together(
    groups: Mapping[str, Hashable], duplicates: Sequence[Sequence[str]], ids: Sequence[str]
) -> Mapping[str, Hashable] | None:
    """Each example's group; questions that are the same belong to one, so that repeating them proves nothing more.

    None where every example stands alone.
    """
    if not duplicates:
        return groups or None
    found: dict[str, Hashable] = {id_: groups.get(id_, ("alone", id_)) for id_ in ids}
    into: dict[Hashable, Hashable] = {}

    def root(group: Hashable) -> Hashable:
        while group in into:
            group = into[group]
        return group

    for same in duplicates:
        known = [root(found[id_]) for id_ in same if id_ in found]
        for other in known[1:]:
            if root(other) != root(known[0]):
                into[root(other)] = root(known[0])
    return {id_: root(group) for id_, group in found.items()}


def _refuse_other_questions(candidate: SuiteResult, live: SuiteResult) -> None:
    for name in candidate.parts.keys() & live.parts.keys():
        if candidate.parts[name].questions != live.parts[name].questions:
            raise InputError(
                f"{candidate.folder} against {live.folder}",
                f"not the same questions in part {name}",
                "Evaluate both on the same suite; after it has grown, the live system too",
            )


def _judged_parts(candidate: SuiteResult, live: SuiteResult, policy: GatePolicy, metric: str) -> list[str]:
    """The metric's part first, and all others where the policy asks what they lost."""
    others = [name for name in {**live.parts, **candidate.parts} if name != metric]
    if policy.forgetting is None:
        return [metric]
    for name in policy.forgetting.by_part:
        if name not in (metric, *others):
            raise InputError(f"forgetting.by_part.{name}", "no part has this name", _nearest(name, others))
    return [metric, *others]


def _check_looks(policy: GatePolicy, facts: Facts) -> Iterator[Check]:
    if facts.look <= policy.looks:
        words = f"look {facts.look} of {policy.looks}, each test at a level of {policy.alpha_at(facts.look):.3g}"
        yield Check("looks", "pass", facts.look, policy.looks, words)
    else:
        words = f"this would be look {facts.look}, the policy has {policy.looks}: whoever looks often enough finds something"
        yield Check("looks", "fail", facts.look, policy.looks, words)
    if facts.is_plan_changed:
        words = "this candidate was judged before by another plan; what is asked for is settled before the first look"
        yield Check("same plan", "can't tell", None, None, words)


def _check_left_out(name: str, pairs: Pairs, policy: GatePolicy) -> Check:
    num = len(pairs) + pairs.num_left_out
    share = pairs.num_left_out / num if num else 1.0
    limit = policy.rates.left_out
    words = f"{pairs.num_left_out} of {num} examples have no score from one of the two, {limit:.1%} may"
    return Check(f"left out, {name}", "pass" if share <= limit else "can't tell", share, limit, words, num=num)


def _improvement_of(part: PartResult, policy: GatePolicy) -> str:
    measure, figure = headline_of(part, part.name, part.name, policy)
    return f"improvement of {part.name} " + (
        figure if measure in (figure, "exact") else f"{measure} {figure.replace('f1', 'F1')}"
    )


def _check_improvement(title: str, pairs: Pairs, policy: GatePolicy, alpha: float, each: float) -> Check:
    """Both conditions: large enough as seen, and above zero beyond doubt; refused where so large a one is excluded."""
    evidence = weigh(pairs, policy.seed, policy.resamples)
    wanted, effect = wanted_of(evidence, policy)
    bounds, p_value, seen = evidence.bounds(alpha), evidence.p_better(), evidence.difference
    kind, share = policy.improvement.kind, policy.improvement.at_least
    asked = f"{100 * share:g} % relative" if kind == "relative" else kind
    words = (
        f"{evidence.candidate:.3f} against {evidence.live:.3f}, {say_signed(seen)} (bounds {say_signed(bounds.low)} and "
        f"{say_signed(bounds.high)}, p = {p_value:.2g}); asked for at least {say_signed(wanted)} ({asked}) and a lower bound "
        "above 0"
    )
    if wanted >= 1 - evidence.live:
        words += f"; only {say_signed(1 - evidence.live)} is left to gain, so ask for less"
        return Check(title, "fail", seen, wanted, words, bounds, evidence.num)
    if seen >= wanted and bounds.low > 0 and p_value <= alpha:
        return Check(title, "pass", seen, wanted, words, bounds, evidence.num)
    if bounds.high < wanted or bounds.high <= 0:
        return Check(title, "fail", seen, wanted, f"{words}; so large a one is excluded", bounds, evidence.num)
    needed = power.plan_better(evidence, min(effect, 1 - evidence.live), alpha, each, wanted)
    if needed <= evidence.num:
        # The plan was kept, and what was seen lies between: decide about that.
        target = 0.0 if seen >= wanted else wanted
        needed = _to_tell(evidence, seen - target, (bounds.high - bounds.low) / 2, alpha, each)
    words += f"; {evidence.num} examples, about {needed} are needed"
    return Check(title, "can't tell", seen, wanted, words, bounds, evidence.num, needed)


def wanted_of(evidence: Evidence, policy: GatePolicy) -> tuple[float, float]:
    """The smallest improvement asked for and the one planned with, as differences of the figure.

    With nothing but 0 on the live side a relative improvement says nothing; then the same numbers are taken as they are.
    """
    scale = evidence.live if policy.improvement.kind == "relative" and evidence.live > 0 else 1.0
    return policy.improvement.at_least * scale, policy.improvement.planned * scale


def _claims(paired: Mapping[str, Pairs], metric: str, policy: GatePolicy) -> Iterator[Claim]:
    """What must not have been lost: each other part as a whole, and each category of every part."""
    if policy.forgetting is not None:
        for name, pairs in paired.items():
            if name != metric:
                yield Claim(f"kept, {name}", pairs, policy.forgetting.by_part.get(name, policy.forgetting.tolerance))
    if policy.categories is None:
        return
    known = {category for pairs in paired.values() for category in pairs.sizes()}
    for category in policy.categories.by_name:
        if category not in known and paired:
            raise InputError(f"categories.by_name.{category}", "no category has this name", _nearest(category, known))
    for name, pairs in paired.items():
        sizes = pairs.sizes()
        if len(sizes) < 2:
            continue
        own = policy.categories.by_name
        small = [category for category, num in sizes.items() if num < policy.categories.pool_below and category not in own]
        for category in sizes:
            if category not in small:
                tolerance = own.get(category, policy.categories.tolerance)
                yield Claim(f"kept, {name}, {category or 'no category'}", pairs.within([category]), tolerance)
        if small:
            yield Claim(f"kept, {name}, {REST}", pairs.within(small), policy.categories.tolerance)


def _check_claims(claims: Sequence[Claim], policy: GatePolicy, alpha: float, each: float) -> Iterator[Check]:
    """Non-inferiority of each: kept where a loss beyond the tolerance is excluded, lost where it is shown."""
    weighed = [weigh(claim.pairs, policy.seed, policy.resamples) for claim in claims]
    lost = holm([evidence.p_below(-claim.tolerance) for claim, evidence in zip(claims, weighed, strict=True)])
    for claim, evidence, p_value in zip(claims, weighed, lost, strict=True):
        bounds, seen = evidence.bounds(alpha), evidence.difference
        words = (
            f"{evidence.candidate:.3f} against {evidence.live:.3f}, {say_signed(seen)} (bounds {say_signed(bounds.low)} and "
            f"{say_signed(bounds.high)}); a loss of more than {claim.tolerance:.3f} "
        )
        if bounds.low > -claim.tolerance:
            yield Check(claim.name, "pass", seen, -claim.tolerance, words + "is excluded", bounds, evidence.num)
        elif p_value <= alpha and bounds.high < -claim.tolerance:
            yield Check(claim.name, "fail", seen, -claim.tolerance, words + "is shown", bounds, evidence.num)
        else:
            needed = power.plan_margin(evidence, claim.tolerance, alpha, each)
            if needed <= evidence.num:
                needed = _to_tell(evidence, seen + claim.tolerance, (bounds.high - bounds.low) / 2, alpha, each)
            words += f"is not excluded; {evidence.num} examples, about {needed} are needed"
            yield Check(claim.name, "can't tell", seen, -claim.tolerance, words, bounds, evidence.num, needed)


def _to_tell(evidence: Evidence, distance: float, reach: float, alpha: float, each: float) -> int:
    """Examples to tell a difference from a limit, if what was seen is the truth: the reach of the bounds shrinks with the root.

    At most a hundred times those there are; more is no advice.
    """
    quantile = float(special.ndtri(1 - alpha))
    needed_reach = abs(distance) * quantile / (quantile + float(special.ndtri(each)))
    factor = (reach / needed_reach) ** 2 if needed_reach > reach / 10 else 100.0
    return max(evidence.num + 1, int(evidence.num * factor) + 1)


def _not_asked(policy: GatePolicy) -> list[str]:
    """What the policy leaves out, so that nobody takes it for checked."""
    asked = {
        "categories": policy.categories,
        "forgetting": policy.forgetting,
        "overlap with training data": policy.overlap,
        "unread": policy.rates.unread,
        "ungrounded": policy.rates.ungrounded,
        "latency": policy.limits.p95_s or policy.limits.p95_ratio,
        "size": policy.limits.size_mb or policy.limits.size_ratio,
        "memory": policy.limits.memory_mb,
    }
    return [name for name, setting in asked.items() if setting is None]


def _nearest(name: str, known: Iterator[str] | Mapping[str, object] | Sequence[str] | set[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(names)}"
