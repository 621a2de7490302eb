"""The gate: what it promotes, refuses and leaves open, and that it can not be talked round."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_results import ASKED, counts, result, rights

from whet.errors import InputError
from whet.evaluate.gate import REST, Facts, group_together, judge
from whet.evaluate.policy import CategoryPolicy, ForgettingPolicy, GatePolicy, ImprovementPolicy, LimitPolicy, RatePolicy
from whet.evaluate.results import Asked, Latency, Overlap
from whet.records import Score

QUICK = GatePolicy(resamples=999)
ABSOLUTE = ImprovementPolicy(at_least=0.05, kind="absolute", effect=0.1)


def answers(num, right, changed=0, turned=0):
    """`right` of `num` right, the last `changed` wrong ones mended, the first `turned` right ones spoilt."""
    found = [1] * right + [0] * (num - right)
    for at in range(changed):
        found[num - 1 - at] = 1
    for at in range(turned):
        found[at] = 0
    return found


def pair(num=400, right=200, changed=60, turned=5, **parts):
    live = result("live", {"exam": rights(answers(num, right))})
    return result("new", {"exam": rights(answers(num, right, changed, turned))}, parts), live


def check(verdict, name):
    return next(check for check in verdict.checks if check.name.startswith(name))


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


def with_general(turned, num=1_000, mended=0):
    candidate, live = pair()
    live = result("live", live.answered | {"general": rights(answers(num, num // 2))})
    return result("new", candidate.answered | {"general": rights(answers(num, num // 2, mended, turned))}), live


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


# A check that never ran is not a pass


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"overlap": None}, "overlap"),
        ({"rates": {"error": 0.0}}, "unread"),
        ({"rates": {"unread": 0.0}}, "errors of the candidate"),
        ({"value": None}, "improvement"),
        ({"asked": replace(ASKED, template=None)}, "asked alike"),
        ({"task": "choice_qa"}, "more than a constant answer"),
        ({"task": "extraction", "rates": {"error": 0.0, "unread": 0.0}}, "ungrounded"),
    ],
)
def test_what_was_not_looked_at_can_not_be_told(changes, name):
    candidate, live = pair(exam=changes)
    if "asked" in changes:
        live = result("live", live.answered, {"exam": changes})
    verdict = judge(candidate, live, QUICK)
    assert (verdict.decision, check(verdict, name).outcome) == ("can't tell", "can't tell")


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"p95_s": 1.0}, "p95 latency, exam"),
        ({"p95_ratio": 2.0}, "p95 latency against live"),
        ({"size_mb": 5.0}, "size"),
        ({"size_ratio": 2.0}, "size against live"),
        ({"memory_mb": 6.0}, "peak memory"),
    ],
)
def test_limits_hold_and_what_was_not_measured_is_no_pass(limits, name):
    candidate, live = pair()
    policy = GatePolicy(resamples=999, limits=LimitPolicy(**limits))
    assert check(judge(candidate, live, policy), name).outcome == "pass"
    heavy = replace(
        candidate, system=replace(candidate.system, num_bytes=10**9), peak_memory_bytes=10**9,
        parts={"exam": replace(candidate.parts["exam"], latency=Latency(1.0, 9.0, 9.0, 1.0))},
    )  # fmt: skip
    assert judge(heavy, live, policy).decision == "refuse"
    unmeasured = replace(
        candidate, system=replace(candidate.system, num_bytes=None), peak_memory_bytes=None,
        parts={"exam": replace(candidate.parts["exam"], latency=Latency(None, None, None, None))},
    )  # fmt: skip
    verdict = judge(unmeasured, live, policy)
    assert (verdict.decision, check(verdict, name).outcome) == ("can't tell", "can't tell")


def test_a_part_that_one_was_never_asked_can_not_be_told():
    candidate, live = with_general(0, 4_000)
    for sides in (
        (replace(candidate, parts={"exam": candidate.parts["exam"]}), live),
        (candidate, replace(live, parts={"exam": live.parts["exam"]})),
    ):
        verdict = judge(*sides, QUICK)
        assert (verdict.decision, check(verdict, "part general").outcome) == ("can't tell", "can't tell")


# The silent failures of evaluations, planted


def test_errors_are_no_answers():
    candidate, live = pair()
    failed = [replace_status(score) if at % 4 == 0 else score for at, score in enumerate(candidate.answered["exam"])]
    verdict = judge(result("new", {"exam": failed}), live, QUICK)
    assert check(verdict, "errors of the candidate").outcome == "fail"
    assert check(verdict, "left out").outcome == "can't tell"
    assert verdict.decision == "refuse"
    assert check(judge(candidate, result("live", {"exam": failed}), QUICK), "errors of the live").outcome == "can't tell"


def replace_status(score):
    return Score(score.example_id, "error", category=score.category)


def test_a_candidate_that_answers_only_what_it_knows_is_not_promoted():
    live = result(
        "live", {"exam": [Score(f"e{at}", "read", right=at % 2 == 0) for at in range(400)]}, {"exam": {"task": "free_qa"}}
    )
    known = [
        Score(f"e{at}", "read", right=True) if at % 2 == 0 or at % 4 == 1 else Score(f"e{at}", "unread") for at in range(400)
    ]
    verdict = judge(result("new", {"exam": known}, {"exam": {"rates": {"error": 0.0, "unread": 0.25}}}), live, QUICK)
    assert verdict.decision == "refuse"
    assert check(verdict, "unread").outcome == "fail"
    assert check(verdict, "left out").outcome == "can't tell"


def test_a_constant_answer_is_no_skill():
    """Live says wrong letters, the candidate always the commonest: a large gain, and no skill."""
    extra = {"task": "choice_qa", "extra": {"best_constant": {"letter": "B", "accuracy": 0.30}}}
    right = {"measures": {"accuracy": {"right": 120, "accuracy": 0.3, "num": 400}}, **extra}
    candidate, live = pair(400, 60, 60, 0, exam=right)
    verdict = judge(candidate, live, QUICK)
    assert verdict.decision == "refuse"
    assert "always answering B scores 0.300" in verdict.words
    skilled = {"measures": {"accuracy": {"right": 220, "accuracy": 0.55, "num": 400}}, **extra}
    assert judge(*pair(400, 60, 160, 0, exam=skilled), QUICK).decision == "promote"


def test_five_questions_repeated_fifty_times_are_five():
    duplicates = tuple(tuple(f"e{at}" for at in range(250) if at % 5 == question) for question in range(5))
    live = result("live", {"exam": rights([at % 5 == 0 for at in range(250)])}, {"exam": {"duplicates": duplicates}})
    new = result("new", {"exam": rights([1] * 250)})
    assert judge(new, live, QUICK).decision == "can't tell"
    assert judge(new, result("live", live.answered), QUICK).decision == "promote"


@pytest.mark.parametrize("field", ["prompts", "template", "max_tokens", "stop", "temperature", "constraint"])
def test_another_way_of_asking_is_refused_unless_allowed(field):
    other = replace(ASKED, **{field: 0.7 if field == "temperature" else 99 if field == "max_tokens" else "other"})
    candidate, live = pair(exam={"asked": other})
    verdict = judge(candidate, live, QUICK)
    assert verdict.decision == "refuse"
    assert field in verdict.words
    allowed = judge(candidate, live, GatePolicy(resamples=999, allow_changes=(field,)))
    assert allowed.decision == "promote"
    assert check(allowed, "asked alike").words == f"changed as allowed: {field}"


def test_servers_templates_are_unknown_unless_that_is_accepted():
    unknown = {"exam": {"asked": Asked("prompts", None, 16, "end of turn")}}
    candidate, live = pair(**unknown)
    live = result("live", live.answered, unknown)
    assert judge(candidate, live, QUICK).decision == "can't tell"
    assert judge(candidate, live, GatePolicy(resamples=999, allow_changes=("template",))).decision == "promote"


def test_questions_learnt_by_heart_refuse_and_decide_nothing():
    learnt = tuple(f"e{at}" for at in range(340, 400))  # just those that the candidate mended
    candidate, live = pair(exam={"overlap": Overlap(60, 0, learnt, None)})
    verdict = judge(candidate, live, QUICK)
    assert verdict.decision == "refuse"
    assert "60 of 400 questions stand in the training data" in verdict.words
    found = check(judge(candidate, live, GatePolicy(resamples=999, overlap=0.5)), "improvement")
    assert (found.num, found.figure < 0) == (340, True)
    assert "overlap with training data" in judge(candidate, live, GatePolicy(resamples=999, overlap=None)).not_asked


def test_format_errors_and_inventions_are_limited():
    for rates in ({"unread": 0.03}, {"ungrounded": 0.03}):
        task = {"task": "extraction"} if "ungrounded" in rates else {}
        candidate, live = pair(exam={"rates": {"error": 0.0, "unread": 0.0, "ungrounded": 0.0} | rates, **task})
        assert judge(candidate, live, QUICK).decision == "refuse"
        assert judge(candidate, live, GatePolicy(resamples=999, rates=RatePolicy(**rates))).decision == "promote"
    candidate, live = with_general(0, 4_000)
    same = {"rates": {"error": 0.0, "unread": 0.2}}
    general = {name: result(name, side.answered, {"general": same}) for name, side in (("new", candidate), ("live", live))}
    assert judge(general["new"], general["live"], QUICK).decision == "promote"


# Looks


def test_looks_are_counted_and_end():
    candidate, live = pair(400, 200, 24, 8)  # p = 0.0035 on one side
    assert judge(candidate, live, GatePolicy(resamples=999, looks=1)).decision == "promote"
    assert judge(candidate, live, GatePolicy(resamples=999, looks=20)).decision == "can't tell"
    assert judge(candidate, live, GatePolicy(resamples=999, looks=4, spending="late")).decision == "can't tell"
    verdict = judge(candidate, live, QUICK, Facts(look=3))
    assert verdict.decision == "refuse"
    assert "look 3, the policy has 2" in verdict.words


def test_a_plan_changed_after_the_first_look_is_not_believed():
    verdict = judge(*pair(), QUICK, Facts(is_plan_changed=True))
    assert (verdict.decision, check(verdict, "same plan").outcome) == ("can't tell", "can't tell")


# What can not be judged


def test_other_questions_are_a_fault_and_no_verdict():
    candidate, live = pair(exam={"questions": "others"})
    with pytest.raises(InputError, match="not the same questions in part exam"):
        judge(candidate, live, QUICK)
    fewer = result("new", {"exam": candidate.answered["exam"][:-1]}, {"exam": {"questions": live.parts["exam"].questions}})
    with pytest.raises(InputError, match=r"not the same questions: 1 .* such as e399"):
        judge(fewer, live, QUICK)
    twice = result(
        "new",
        {"exam": [*live.answered["exam"][:-1], live.answered["exam"][0]]},
        {"exam": {"questions": live.parts["exam"].questions}},
    )
    with pytest.raises(InputError, match="scored twice"):
        judge(twice, live, QUICK)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"improvement": ImprovementPolicy(part="exma")}, "no part is named exma. Did you mean exam?"),
        ({"improvement": ImprovementPolicy(measure="recrod", figure="f1")}, "no measure is named recrod"),
        ({"categories": CategoryPolicy(by_name={"lwa": 0.1})}, "categories.by_name.lwa"),
        ({"forgetting": ForgettingPolicy(by_part={"mmlu": 0.1})}, "forgetting.by_part.mmlu"),
    ],
)
def test_names_that_there_are_not_are_refused(changes, words):
    with pytest.raises(InputError, match=words.replace(".", r"\.").replace("?", r"\?")):
        judge(*pair(), QUICK.model_copy(update=changes))


def test_with_several_task_parts_one_must_be_named():
    scores = {"exam": rights(answers(50, 20)), "other": rights(answers(50, 20))}
    with pytest.raises(InputError, match="2 task parts"):
        judge(result("new", scores), result("live", scores), QUICK)
    named = QUICK.model_copy(update={"improvement": ImprovementPolicy(part="exam")})
    assert judge(result("new", scores), result("live", scores), named).decision == "can't tell"


def test_nothing_left_to_compare_is_told():
    failed = [Score(f"e{at}", "error") for at in range(20)]
    verdict = judge(result("new", {"exam": failed}), result("live", {"exam": rights([1] * 20)}), QUICK)
    assert verdict.decision == "refuse"
    assert check(verdict, "improvement").outcome == "can't tell"


def test_duplicates_join_the_documents_that_they_stand_in():
    groups = {"a": "d1", "b": "d1", "c": "d2", "d": "d3"}
    found = group_together(groups, (("b", "c"), ("x", "y")), ["a", "b", "c", "d"])
    assert found["a"] == found["b"] == found["c"] != found["d"]
    assert group_together({}, (), ["a"]) is None
    assert group_together(groups, (), ["a"]) == groups
