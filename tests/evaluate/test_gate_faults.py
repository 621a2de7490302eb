"""What the gate must not believe: checks that never ran, and the silent failures of evaluations, planted."""

from dataclasses import replace

import pytest
from judged_results import ASKED, QUICK, answers, check, pair, result, rights, with_general

from whet.errors import InputError
from whet.evaluate.gate import Facts, group_together, judge
from whet.evaluate.policy import CategoryPolicy, ForgettingPolicy, GatePolicy, ImprovementPolicy, LimitPolicy, RatePolicy
from whet.evaluate.results import Asked, Latency, Overlap
from whet.records import Score

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
