"""The gate's checks that need no statistics: asked alike, nothing learnt by heart, replies that are answers, time and size."""

from collections.abc import Iterator
from dataclasses import asdict

from whet.evaluate.policy import GatePolicy
from whet.evaluate.results import PartResult, SuiteResult
from whet.evaluate.statistics import wilson
from whet.evaluate.verdict import Check, Outcome

MB = 1_000_000


def check_asked(name: str, candidate: PartResult, live: PartResult, policy: GatePolicy) -> Check:
    """Whether both were put the same questions in the same way: another prompt or template makes two tasks of one."""
    ours, theirs = asdict(candidate.asked), asdict(live.asked)
    changed = [key for key in ours if ours[key] != theirs[key] and key not in policy.allow_changes]
    title = f"asked alike, {name}"
    if changed:
        said = [key if key in ("prompts", "template") else f"{key} {ours[key]} against {theirs[key]}" for key in changed]
        words = f"the candidate was asked otherwise than the live system: {', '.join(said)} (allow_changes names what may differ)"
        return Check(title, "fail", float(len(changed)), 0.0, words)
    if (ours["template"] is None or theirs["template"] is None) and "template" not in policy.allow_changes:
        words = "a server keeps its own chat template, so nobody knows whether it is the same (allow_changes: [template])"
        return Check(title, "can't tell", None, 0.0, words)
    allowed = [key for key in ours if ours[key] != theirs[key]]
    return Check(title, "pass", float(len(allowed)), 0.0, f"changed as allowed: {', '.join(allowed)}" if allowed else "no change")


def check_overlap(name: str, part: PartResult, limit: float) -> Check:
    """How many questions stand in what the candidate was trained on."""
    title = f"overlap with training data, {name}"
    if part.overlap is None:
        return Check(title, "can't tell", None, limit, "nobody compared the questions with the candidate's training data")
    num = max(len(part.overlap.ids), part.overlap.num_exact + part.overlap.num_near)
    share = num / part.num_asked if part.num_asked else 0.0
    words = f"{num} of {part.num_asked} questions stand in the training data ({part.overlap.num_exact} word for word)"
    return Check(
        title, "pass" if share <= limit else "fail", share, limit, words if num else "no question does", num=part.num_asked
    )


def check_rates(name: str, candidate: PartResult, live: PartResult, policy: GatePolicy) -> Iterator[Check]:
    """Requests that failed, replies that can't be read, values that are not in the source."""
    asked = {"unread": policy.rates.unread, "ungrounded": policy.rates.ungrounded}
    for side, part in (("candidate", candidate), ("live system", live)):
        rate = part.rates.get("error")
        title = f"errors of the {side}, {name}"
        if rate is None:
            yield Check(title, "can't tell", None, policy.rates.error, "nobody counted them")
            continue
        # A live system that fails says nothing against the candidate; it says nothing at all.
        over: Outcome = "fail" if side == "candidate" else "can't tell"
        words = f"{rate:.1%} of its requests failed, {policy.rates.error:.1%} may"
        yield Check(title, over if rate > policy.rates.error else "pass", rate, policy.rates.error, words)
    for kind, limit in asked.items():
        if limit is None or (kind == "ungrounded" and candidate.task != "extraction"):
            continue
        rate = candidate.rates.get(kind)
        allowed = min(1.0, limit + live.rates.get(kind, 0.0)) if candidate.role == "general" else limit
        if rate is None:
            yield Check(f"{kind}, {name}", "can't tell", None, allowed, "nobody counted them")
            continue
        words = f"{rate:.1%} {kind}, {allowed:.1%} may be"
        yield Check(f"{kind}, {name}", "pass" if rate <= allowed else "fail", rate, allowed, words)


def check_constant(name: str, part: PartResult) -> Iterator[Check]:
    """Whether a choice part's figure is more than what one letter for every question would score."""
    if part.task != "choice_qa":
        return
    title = f"more than a constant answer, {name}"
    best = part.extra.get("best_constant")
    right = part.measures.get("accuracy", {}).get("right")
    if not isinstance(best, dict) or "accuracy" not in best or right is None:
        yield Check(title, "can't tell", None, None, "nobody scored the best constant answer")
        return
    # The part's own interval counts examples of one document by the document.
    is_own = part.interval is not None and part.headline == ("accuracy", "accuracy")
    around = part.interval if part.interval is not None and is_own else wilson(int(right), part.num_scored)
    limit = float(best["accuracy"])
    value = right / part.num_scored if part.num_scored else 0.0
    outcome: Outcome = "pass" if around.low > limit else "fail" if value <= limit else "can't tell"
    words = f"accuracy {value:.3f} (from {around.low:.3f}); always answering {best.get('letter', 'the same')} scores {limit:.3f}"
    yield Check(title, outcome, value, limit, words, around, part.num_scored)


def check_limits(candidate: SuiteResult, live: SuiteResult, policy: GatePolicy) -> Iterator[Check]:
    """Time and size, as far as the policy sets limits."""
    limits = policy.limits
    for name, part in candidate.parts.items():
        p95, other = part.latency.p95_s, live.parts[name].latency.p95_s if name in live.parts else None
        if limits.p95_s is not None:
            yield _below(f"p95 latency, {name}", p95, limits.p95_s, "s")
        if limits.p95_ratio is not None:
            yield _below(f"p95 latency against live, {name}", _ratio(p95, other), limits.p95_ratio, "times")
    size, other_size = candidate.system.num_bytes, live.system.num_bytes
    if limits.size_mb is not None:
        yield _below("size", None if size is None else size / MB, limits.size_mb, "MB")
    if limits.size_ratio is not None:
        yield _below("size against live", _ratio(size, other_size), limits.size_ratio, "times")
    if limits.memory_mb is not None:
        peak = candidate.peak_memory_bytes
        yield _below("peak memory", None if peak is None else peak / MB, limits.memory_mb, "MB")


def _below(name: str, figure: float | None, limit: float, unit: str) -> Check:
    if figure is None:
        return Check(name, "can't tell", None, limit, "was not measured")
    return Check(name, "pass" if figure <= limit else "fail", figure, limit, f"{figure:.3g} {unit}, {limit:.3g} {unit} at most")


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs
