"""The gate's checks without statistics: each passes exactly up to its limit, and what nobody measured passes nowhere."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_results import ASKED, part, result, rights

from whet.evaluate.checks import check_asked, check_constant, check_limits, check_overlap, check_rates
from whet.evaluate.policy import GatePolicy, LimitPolicy, RatePolicy
from whet.evaluate.results import Latency, Overlap
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import wilson

OTHER = {
    "prompts": "others", "template": "another", "max_tokens": 99, "stop": "a line end", "temperature": 0.7, "constraint": "json",
}  # fmt: skip
keys = st.sets(st.sampled_from(sorted(OTHER)))
shares = st.floats(0, 1)
EXAM = rights([1] * 10)


@settings(max_examples=60)
@given(keys, keys)
def test_only_what_is_allowed_may_be_asked_otherwise(changed, allowed):
    ours = part("exam", EXAM, asked=replace(ASKED, **{key: OTHER[key] for key in changed}))
    found = check_asked("exam", ours, part("exam", EXAM), GatePolicy(allow_changes=tuple(sorted(allowed))))
    assert found.outcome == ("pass" if changed <= allowed else "fail")
    for key in changed - allowed or changed:
        assert key in found.words
    back = check_asked("exam", part("exam", EXAM), ours, GatePolicy(allow_changes=tuple(sorted(allowed))))
    assert back.outcome == found.outcome
    assert asdict(ASKED).keys() == OTHER.keys()  # whatever a part's asking gains must be checked


@settings(max_examples=60)
@given(st.integers(0, 50), st.integers(0, 50), st.floats(0, 0.99))
def test_overlap_is_a_share_of_all_questions(num_exact, num_near, limit):
    num_near = min(num_near, 50 - num_exact)
    ids = tuple(f"e{at}" for at in range(num_exact + num_near))
    met = part("exam", rights([1] * 50), overlap=Overlap(num_exact, num_near, ids, None))
    found = check_overlap("exam", met, limit)
    assert found.figure == pytest.approx(len(ids) / 50)
    assert found.outcome == ("pass" if len(ids) / 50 <= limit else "fail")
    assert check_overlap("exam", part("exam", EXAM, overlap=None), limit).outcome == "can't tell"


@settings(max_examples=60)
@given(shares, shares, st.floats(0, 0.99))
def test_rates_hold_their_limits_and_a_general_part_may_be_as_bad_as_live(ours, theirs, limit):
    policy = GatePolicy(rates=RatePolicy(unread=limit, error=limit))
    rates = [{"error": rate, "unread": rate, "ungrounded": 0.0} for rate in (ours, theirs)]
    for role, allowed in (("task", limit), ("general", min(1.0, limit + theirs))):
        candidate, live = (part("exam", EXAM, rates=rate, role=role) for rate in rates)
        found = {check.name: check.outcome for check in check_rates("exam", candidate, live, policy)}
        assert found["errors of the candidate, exam"] == ("pass" if ours <= limit else "fail")
        assert found["errors of the live system, exam"] == ("pass" if theirs <= limit else "can't tell")
        assert found["unread, exam"] == ("pass" if ours <= allowed else "fail")
        assert "ungrounded, exam" not in found  # nothing stands in a source but extraction's values


@pytest.mark.parametrize("missing", ["error", "unread", "ungrounded"])
def test_a_rate_that_nobody_counted_is_no_pass(missing):
    rates = {name: 0.0 for name in ("error", "unread", "ungrounded") if name != missing}
    candidate, live = part("exam", EXAM, rates=rates, task="extraction"), part("exam", EXAM, task="extraction")
    found = [check for check in check_rates("exam", candidate, live, GatePolicy()) if check.outcome != "pass"]
    assert [check.outcome for check in found] == ["can't tell"]
    name = {"error": "errors of the candidate, exam"}.get(missing, f"{missing}, exam")
    assert found[0].name == name


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60))
def test_a_choice_part_must_be_surely_above_its_best_constant_answer(right, constant):
    extra = {"best_constant": {"letter": "C", "accuracy": constant / 60}}
    choice = part(
        "exam", rights([1] * 60), task="choice_qa", extra=extra, measures={"accuracy": {"right": right}}, num_scored=60
    )  # fmt: skip
    (found,) = check_constant("exam", choice)
    surely = wilson(right, 60).low > constant / 60
    assert found.outcome == ("pass" if surely else "fail" if right <= constant else "can't tell")
    assert list(check_constant("exam", part("exam", EXAM))) == []


def test_a_choice_part_in_documents_is_held_to_its_own_interval():
    outcomes = [True] * 36 + [False] * 24
    own = share_interval(outcomes, groups=[at // 12 for at in range(60)])
    changes = {
        "task": "choice_qa", "headline": ("accuracy", "accuracy"), "num_scored": 60,
        "extra": {"best_constant": {"letter": "A", "accuracy": 0.4}}, "measures": {"accuracy": {"right": 36}},
    }  # fmt: skip
    by_example = part("exam", rights([1] * 60), **changes)
    assert [check.outcome for check in check_constant("exam", by_example)] == ["pass"]
    by_document = replace(by_example, interval=own)
    assert [check.outcome for check in check_constant("exam", by_document)] == ["can't tell"]


@settings(max_examples=60)
@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0.01, 10))
def test_limits_are_held_absolutely_and_against_live(ours, theirs, limit):
    policy = GatePolicy(limits=LimitPolicy(p95_s=limit, p95_ratio=limit, size_mb=limit, size_ratio=limit, memory_mb=limit))

    def side(label, figure):
        made = result(label, {"exam": EXAM}, {"exam": {"latency": Latency(figure, figure, figure, 1.0)}})
        num_bytes = round(figure * 1e6)
        return replace(made, system=replace(made.system, num_bytes=num_bytes), peak_memory_bytes=num_bytes)

    found = {check.name: check for check in check_limits(side("new", ours), side("live", theirs), policy)}
    assert len(found) == 5
    for name, figure in (
        ("p95 latency, exam", ours), ("p95 latency against live, exam", ours / theirs), ("size", round(ours * 1e6) / 1e6),
        ("size against live", round(ours * 1e6) / round(theirs * 1e6)), ("peak memory", round(ours * 1e6) / 1e6),
    ):  # fmt: skip
        assert found[name].figure == pytest.approx(figure)
        assert found[name].outcome == ("pass" if found[name].figure <= limit else "fail")
    assert list(check_limits(side("new", ours), side("live", theirs), GatePolicy())) == []
