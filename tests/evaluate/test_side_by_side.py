"""Systems side by side: tests corrected together, differences refused or shown, flips, effect sizes, what is refused."""

import json
from dataclasses import replace

import pytest
from sample_results import ASKED, choice_part, choice_questions, free_part, free_questions, write_suite
from scipy.stats import binomtest

from whet.errors import InputError
from whet.evaluate.compare import compare
from whet.evaluate.side_by_side import Question, Side, put_side_by_side
from whet.evaluate.statistics import holm

QUESTIONS = choice_questions(80)
GENERAL = choice_questions(60, ("art", "music", "sport"), "g")


def side(tmp_path, label, *parts, kind="base", **more):
    result = write_suite(tmp_path / label, label, parts, kind, **more)
    return Side(label, result, {name: result.scores(name) for name in result.parts})


@pytest.fixture
def three(tmp_path):
    return [
        side(tmp_path, label, choice_part(tmp_path / label, "law", QUESTIONS, skill, 10 + at),
             choice_part(tmp_path / label, "general", GENERAL, general, 20 + at, role="general"))
        for at, (label, skill, general) in enumerate((("base", 0.3, 0.6), ("tuned", 0.7, 0.2), ("other", 0.32, 0.6)))
    ]  # fmt: skip


def test_each_is_held_against_the_first_and_all_tests_are_corrected_together(three):
    found = put_side_by_side(three)
    assert [(held.label, held.part) for held in found.held] == [
        ("tuned", "law"), ("other", "law"), ("tuned", "general"), ("other", "general"),
    ]  # fmt: skip
    raw = [
        compare(three[0].scores[held.part], next(s for s in three if s.label == held.label).scores[held.part],
                ("accuracy", "accuracy"), names=("base", held.label)) for held in found.held
    ]  # fmt: skip
    assert [held.comparison for held in found.held] == raw
    assert [held.adjusted_p for held in found.held] == list(holm([one.paired.p_value for one in raw]))
    assert found.held[0].verdict == "better"
    assert found.held[2].verdict == "worse"
    ps = [category.paired.p_value for one in raw for category in one.categories]
    assert len(ps) == 2 * (2 + 3)
    assert [category.adjusted_p for held in found.held for category in held.categories] == list(holm(ps))


def test_verdicts_go_by_the_corrected_p_value(tmp_path):
    first = side(tmp_path, "a", choice_part(tmp_path / "a", "law", QUESTIONS, 0.0, 1))
    others = []
    for at in range(6):
        known = {example.id for example in QUESTIONS[at : at + 6]}
        part = choice_part(tmp_path / f"b{at}", "law", QUESTIONS, 0.0, 1)
        other = side(tmp_path, f"b{at}", part)
        scores = [replace(score, right=score.right or score.example_id in known) for score in other.scores["law"]]
        others.append(replace(other, scores={"law": scores}))
    alone = put_side_by_side([first, others[0]]).held[0]
    together = put_side_by_side([first, *others]).held[0]
    assert alone.comparison == together.comparison
    assert (alone.verdict, together.verdict) == ("better", "no difference shown")


def test_flips_and_effect_sizes_are_those_of_the_examples(three):
    found = put_side_by_side(three, questions={"law": {"q1": Question("text of one", "gold of one")}})
    held = found.held[0]
    base, tuned = ({score.example_id: score.right for score in s.scores["law"]} for s in three[:2])
    lost = [id_ for id_ in base if base[id_] and not tuned[id_]]
    gained = [id_ for id_ in base if tuned[id_] and not base[id_]]
    assert [flip.example_id for flip in held.flips] == lost + gained
    assert (held.turned.num, held.turned.num_right) == (len(lost) + len(gained), len(gained))
    assert held.turned.interval.low == binomtest(len(gained), held.turned.num).proportion_ci(method="exact").low
    assert held.comparison.cohen_h.interval.low > 0.5
    shown = {flip.example_id: flip for flip in held.flips}
    assert set(shown) - {"q1"} == {id_ for id_ in shown if not shown[id_].text}
    if "q1" in shown:
        assert (shown["q1"].text, shown["q1"].gold) == ("text of one", "gold of one")


def test_f1_is_resampled_by_group_and_has_no_h(tmp_path):
    examples = free_questions(40)
    sides = [
        side(tmp_path, label, free_part(tmp_path / label, "say", examples, share, 5)) for label, share in (("a", 0.3), ("b", 0.9))
    ]
    questions = {"say": {example.id: Question("", "", example.group) for example in examples}}
    held = put_side_by_side(sides, questions=questions, num_resamples=499).held[0]
    assert held.comparison.paired.num_groups == 20
    assert "over 20 groups" in held.comparison.paired.method
    assert (held.verdict, held.comparison.cohen_h) == ("better", None)
    assert "over examples" in put_side_by_side(sides, num_resamples=499).held[0].comparison.paired.method


def test_same_answers_show_nothing(tmp_path):
    sides = [side(tmp_path, label, choice_part(tmp_path / label, "law", QUESTIONS, 0.5, 1)) for label in "ab"]
    found = put_side_by_side(sides)
    assert (found.held[0].verdict, found.held[0].flips, found.held[0].turned.share) == ("no difference shown", (), None)
    agreement = found.agreements[0]
    assert (agreement.share, agreement.kappa, agreement.kappa_interval) == (1.0, 1.0, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": "q" * 64}, "differ in their prompts on law: qqqqqqqq… against pppppppp…"),
        ({"template": None}, "chat template on law: the server's own against tttttttt…"),
        ({"max_tokens": 9}, "budget of new tokens on law: 9 against 4"),
        ({"stop": "a line end"}, "stop rule on law: a line end against end of turn"),
        ({"constraint": "none"}, "constraint on law: none against letters"),
        ({"temperature": 0.7}, "temperature on law: 0.7 against 0.0"),
    ],
)
def test_systems_that_were_not_asked_alike_are_refused_or_it_is_shown(tmp_path, change, words):
    sides = [
        side(tmp_path, label, choice_part(tmp_path / label, "law", QUESTIONS, 0.5, at, asked=asked))
        for at, (label, asked) in enumerate((("a", ASKED), ("b", replace(ASKED, **change))))
    ]
    with pytest.raises(InputError, match="not asked in the same way") as refused:
        put_side_by_side(sides)
    assert words in str(refused.value)
    assert "--show-differences" in refused.value.remedy
    found = put_side_by_side(sides, shows_differences=True)
    assert [words in difference.say("a") for difference in found.differences] == [True]


def test_a_baseline_is_not_prompted(tmp_path):
    asked = replace(ASKED, prompts="")
    parts = [choice_part(tmp_path / label, "law", QUESTIONS, 0.5, 1, asked=a) for label, a in (("a", ASKED), ("b", asked))]
    sides = [side(tmp_path, "a", parts[0]), side(tmp_path, "b", parts[1], kind="baseline")]
    assert put_side_by_side(sides).differences == ()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (choice_questions(70), "not the same questions in law: 10 only in a, 0 only in b, 70 in both; one is q"),
        ([replace(example, answer=(example.answer + 1) % 4) for example in QUESTIONS], "all 80 ids are the same"),
    ],
)
def test_other_questions_are_refused_with_their_numbers(tmp_path, other, words):
    sides = [
        side(tmp_path, label, choice_part(tmp_path / label, "law", asked, 0.5, 1))
        for label, asked in (("a", QUESTIONS), ("b", other))
    ]
    with pytest.raises(InputError, match=words):
        put_side_by_side(sides, shows_differences=True)


def test_other_parts_are_refused(three, tmp_path):
    lone = side(tmp_path, "lone", choice_part(tmp_path / "lone", "law", QUESTIONS, 0.5, 1))
    with pytest.raises(InputError, match="not the same parts: general only in base"):
        put_side_by_side([three[0], lone])
    renamed = side(tmp_path, "free", free_part(tmp_path / "free", "law", free_questions(9), 0.5, 1))
    with pytest.raises(InputError, match="law is a choice_qa part by accuracy/accuracy in one, a free_qa part"):
        put_side_by_side([lone, renamed])


def test_a_part_without_a_score_is_not_tested_and_is_named(tmp_path):
    failed = choice_part(tmp_path / "b", "law", QUESTIONS, 0.5, 1, errors={example.id for example in QUESTIONS[:40]})
    sides = [
        side(tmp_path, "a", choice_part(tmp_path / "a", "law", QUESTIONS, 0.5, 2)),
        side(tmp_path, "b", replace(failed, value=None, interval=None)),
    ]
    found = put_side_by_side(sides)
    assert (found.held, found.unscored) == ((), (("b", "law"),))


def test_json_holds_plain_values_only(three):
    plain = json.loads(json.dumps(put_side_by_side(three).to_json(), allow_nan=False))
    assert [system["label"] for system in plain["systems"]] == ["base", "tuned", "other"]
    assert plain["systems"][0]["parts"]["law"]["asked"]["max_tokens"] == 4
    assert plain["held"][0]["comparison"]["paired"]["p_value"] < 0.01
    assert plain["votes"] is None
