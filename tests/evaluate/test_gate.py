"""The gate: what it promotes, refuses and leaves open, and that it can not be talked round."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_results import QUICK, answers, check, counts, pair, result, with_general

from whet.evaluate.gate import REST, Facts, judge
from whet.evaluate.policy import CategoryPolicy, ForgettingPolicy, GatePolicy, ImprovementPolicy
from whet.records import Score

ABSOLUTE = ImprovementPolicy(at_least=0.05, kind="absolute", effect=0.1)


def test_a_clear_gain_is_promoted():
    verdict = judge(*pair(), QUICK)
    assert (verdict.decision, verdict.exit_code) == ("promote", 0)
    assert verdict.words.startswith("promote: 0.637 against 0.500, +0.138 (bounds ")
    assert verdict.words.endswith(f"all {len(verdict.checks)} checks pass")
    assert "5 % relative" in verdict.words
    assert {check.outcome for check in verdict.checks} == {"pass"}
    assert verdict.not_asked == ("latency", "size", "memory")


def test_the_sides_swapped_are_refused():
    candidate, live = pair()
    verdict = judge(live, candidate, QUICK)
    assert (verdict.decision, verdict.exit_code) == ("refuse", 1)
    assert "is excluded" in verdict.words


def test_a_system_against_its_equal_is_refused_where_the_suite_is_large():
    large, small = pair(4_000, 2_000, 40, 40), pair(40, 20, 4, 4)
    assert judge(*large, QUICK).decision == "refuse"
    verdict = judge(*small, QUICK)
    found = check(verdict, "improvement")
    assert (verdict.decision, verdict.exit_code) == ("can't tell", 2)
    assert found.needed > found.num == 40
    assert f"40 examples, about {found.needed} are needed" in verdict.words


def test_a_gain_smaller_than_asked_for_is_not_promoted_however_sure():
    found = check(judge(*pair(4_000, 2_000, 60, 0), QUICK), "improvement")
    assert found.bounds.low > 0
    assert found.outcome == "fail"
    between = check(judge(*pair(3_000, 1_500, 74, 14), QUICK), "improvement")
    assert between.bounds.low > 0
    assert between.figure < between.limit < between.bounds.high
    assert between.outcome == "can't tell"
    assert between.needed > 3_000


def test_a_large_gain_that_may_be_luck_is_not_promoted():
    found = check(judge(*pair(20, 10, 4, 0), QUICK), "improvement")
    assert found.figure > found.limit
    assert found.outcome == "can't tell"


def test_absolute_and_relative_are_told_apart():
    candidate, live = pair(4_000, 1_000, 120, 0)  # 0.25 to 0.28: 12 % relative, 0.03 absolute
    assert judge(candidate, live, QUICK).decision == "promote"
    verdict = judge(candidate, live, QUICK.model_copy(update={"improvement": ABSOLUTE}))
    assert verdict.decision == "refuse"
    assert "(absolute)" in verdict.words


def test_what_no_system_could_reach_is_said():
    verdict = judge(*pair(200, 196, 4, 0), QUICK)
    assert verdict.decision == "refuse"
    assert "only +0.020 is left to gain" in verdict.words


def test_f1_goes_by_its_counts_and_documents_count_as_one():
    rng = np.random.default_rng(0)
    gold = rng.poisson(1.5, 300)
    before, now = rng.binomial(gold, 0.5), rng.binomial(gold, 0.7)
    live = result("live", {"exam": counts([(int(t), 1, int(g - t)) for t, g in zip(before, gold, strict=True)])})
    new = result("new", {"exam": counts([(int(t), 0, int(g - t)) for t, g in zip(now, gold, strict=True)])})
    verdict = judge(new, live, QUICK)
    assert verdict.decision == "promote"
    assert "record F1" in check(verdict, "improvement").name
    one = Facts({"exam": dict.fromkeys((f"e{at}" for at in range(300)), "one document")})
    assert judge(new, live, QUICK, one).decision == "can't tell"
    assert judge(new, live, QUICK.model_copy(update={"improvement": ImprovementPolicy(figure="recall")})).decision == "promote"


# Properties


@settings(max_examples=12, deadline=None)
@given(st.integers(20, 300), st.data())
def test_a_better_candidate_is_never_refused_where_a_worse_one_is_promoted(num, data):
    right = data.draw(st.integers(1, num - 1))
    changed, turned = data.draw(st.integers(0, num - right)), data.draw(st.integers(0, right))
    order = ["refuse", "can't tell", "promote"]
    worse = judge(*pair(num, right, changed, turned), QUICK).decision
    if changed < num - right:
        assert order.index(judge(*pair(num, right, changed + 1, turned), QUICK).decision) >= order.index(worse)
    if turned:
        assert order.index(judge(*pair(num, right, changed, turned - 1), QUICK).decision) >= order.index(worse)


@settings(max_examples=12, deadline=None)
@given(st.integers(20, 400), st.data())
def test_both_sides_are_never_promoted_and_what_is_promoted_is_refused_when_swapped(num, data):
    right = data.draw(st.integers(1, num - 1))
    candidate, live = pair(num, right, data.draw(st.integers(0, num - right)), data.draw(st.integers(0, right)))
    decisions = judge(candidate, live, QUICK).decision, judge(live, candidate, QUICK).decision
    if "promote" in decisions:
        assert set(decisions) == {"promote", "refuse"}


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(*[st.tuples(*[st.integers(0, 3)] * 3)] * 2), min_size=2, max_size=40))
def test_any_counts_give_a_verdict_that_can_be_written(rows):
    live, new = result("live", {"exam": counts([a for a, _ in rows])}), result("new", {"exam": counts([b for _, b in rows])})
    first, second = judge(new, live, QUICK), judge(new, live, QUICK)
    assert first == second
    again = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert again["decision"] in ("promote", "refuse", "can't tell")
    assert all(check["outcome"] in ("pass", "fail", "can't tell") for check in again["checks"])
    if first.decision == "promote":
        assert judge(live, new, QUICK).decision == "refuse"


# Forgetting, categories


def test_a_gain_paid_for_by_forgetting_is_refused():
    verdict = judge(*with_general(100), QUICK)
    assert verdict.decision == "refuse"
    assert "kept, general: 0.400 against 0.500, −0.100" in verdict.words
    assert "a loss of more than 0.030 is shown" in verdict.words
    assert check(verdict, "improvement").outcome == "pass"


def test_no_significant_loss_is_not_kept_enough():
    few = judge(*with_general(4, 60, 4), QUICK)
    found = check(few, "kept, general")
    assert (few.decision, found.outcome) == ("can't tell", "can't tell")
    assert found.needed > 60
    assert judge(*with_general(4, 4_000, 4), QUICK).decision == "promote"
    wide = GatePolicy(resamples=999, forgetting=ForgettingPolicy(tolerance=0.3))
    assert judge(*with_general(4, 60, 4), wide).decision == "promote"
    by_part = GatePolicy(resamples=999, forgetting=ForgettingPolicy(by_part={"general": 0.3}))
    assert judge(*with_general(4, 60, 4), by_part).decision == "promote"


def test_forgetting_that_is_not_asked_for_is_named():
    verdict = judge(*with_general(100), GatePolicy(resamples=999, forgetting=None))
    assert verdict.decision == "promote"
    assert "forgetting" in verdict.not_asked


def in_categories(sizes, turned):
    """Large gains in every category, but for `turned` answers spoilt in the first."""
    live, new = [], []
    for at, (name, num) in enumerate(sizes.items()):
        before = answers(num, num // 2)
        now = answers(num, num // 2, 0 if at == 0 else num // 4, turned if at == 0 else 0)
        live += [Score(f"{name}{n}", "read", right=bool(r), category=name) for n, r in enumerate(before)]
        new += [Score(f"{name}{n}", "read", right=bool(r), category=name) for n, r in enumerate(now)]
    return result("new", {"exam": new}), result("live", {"exam": live})


def test_a_category_that_lost_is_not_hidden_by_the_others():
    sizes = {"law": 200, "history": 400, "poems": 400}
    assert judge(*in_categories(sizes, 0), QUICK).decision == "promote"
    verdict = judge(*in_categories(sizes, 60), QUICK)
    assert verdict.decision == "refuse"
    assert "kept, exam, law" in verdict.words
    allowed = GatePolicy(resamples=999, categories=CategoryPolicy(by_name={"law": 0.5}))
    assert judge(*in_categories(sizes, 60), allowed).decision == "promote"


def test_small_categories_are_judged_together_where_asked():
    sizes = {"law": 15, "history": 400, "poems": 15}
    alone, together = QUICK, GatePolicy(resamples=999, categories=CategoryPolicy(pool_below=20, tolerance=0.15))
    assert check(judge(*in_categories(sizes, 0), alone), "kept, exam, law").outcome == "can't tell"
    verdict = judge(*in_categories(sizes, 0), together)
    assert check(verdict, f"kept, exam, {REST}").num == 30
    assert not [check for check in verdict.checks if check.name == "kept, exam, law"]


def test_one_unlucky_category_of_many_is_not_taken_for_a_loss():
    rng = np.random.default_rng(3)
    names = [f"c{at}" for at in range(40)]
    before, now = rng.random(4_000) < 0.5, rng.random(4_000) < 0.5
    live = [Score(f"e{at}", "read", right=bool(r), category=names[at % 40]) for at, r in enumerate(before)]
    new = [Score(f"e{at}", "read", right=bool(r), category=names[at % 40]) for at, r in enumerate(now)]
    verdict = judge(result("new", {"exam": new}), result("live", {"exam": live}), QUICK)
    assert min(check.figure for check in verdict.checks if check.name.startswith("kept")) < -0.1
    assert not [check for check in verdict.checks if check.name.startswith("kept") and check.outcome == "fail"]
