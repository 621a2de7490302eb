"""What counts as the same text, and what is taken out by policy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.clean import (
    CleanSettings,
    drop_duplicates,
    drop_near,
    drop_negatives,
    gold_of,
    judge,
    normalised,
    question_of,
)
from whet.data.spool import STATES, UNDECIDED, Spool
from whet.records import Example, Message, Span, Value


def example(text, *names, id="", group="", **more):
    records = tuple({"name": Value(name)} for name in names)
    return Example(id=id or text, text=text, source="f:1", group=group or text, records=records, **more)


def columns(tmp_path, examples, given=UNDECIDED, published=False):
    spool = Spool(tmp_path)
    for each in examples:
        question = question_of(each)
        numbers = {"given": given, "published": published, "source": 0, "num_tokens": 0}
        spool.add(each, question, normalised(question), gold_of(each), **numbers)
    rows = spool.close_writing()
    spool.remove()
    return rows


def reasons(rows):
    return [STATES[state] for state in rows.state]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("宣德九年，少師蹇義卒。", "宣德九年少師蹇義卒"),
        ("宣德九年，少師蹇義卒。", "宣德九年，少师蹇义卒。"),
        ("Ｆｕｌｌ　Width１", "full width 1"),
        ("e\u0301tude", "étude"),
        ("zero\u200bwidth", "zerowidth"),
    ],
)
def test_same_text_in_other_clothes(left, right):
    assert normalised(left) == normalised(right)


@pytest.mark.parametrize(("left", "right"), [("少師", "少傅"), ("1 + 1", "1 + 2"), ("！", "？"), ("किताब", "कताब")])
def test_other_texts_stay_apart(left, right):
    assert normalised(left) != normalised(right)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30))
def test_spaces_and_punctuation_never_matter(text):
    if any(char.isalnum() for char in text):
        assert normalised(text) == normalised(f" 「{text}」。\n")


def test_question_of_each_kind():
    choice = Example("1", "Which?", "f:1", "g", choices=("b", "a"), answer=0)
    other = Example("2", "Which?", "f:2", "g", choices=("a", "b"), answer=1)
    assert question_of(choice) == question_of(other)
    assert gold_of(choice) == gold_of(other) == "b"
    turns = tuple(Message(role, text) for role, text in [("system", "s"), ("user", "u"), ("assistant", "gold")])
    assert question_of(Example("3", "u", "f:3", "g", messages=turns)) == "u"
    assert gold_of(Example("3", "u", "f:3", "g", messages=turns)) == "gold"


def test_gold_ignores_offsets_and_the_order_of_records():
    one = Example("1", "甲乙", "f:1", "g", records=({"name": Value("甲", Span(0, 1))}, {"name": Value("乙")}))
    two = Example("2", "甲乙", "f:1", "g", records=({"name": Value("乙", Span(1, 2))}, {"name": Value("甲")}))
    assert gold_of(one) == gold_of(two) != gold_of(example("甲乙", "甲"))


def test_judge_takes_the_strictest_policy():
    settings = CleanSettings(empty="drop", ungrounded="keep", choice="stop")
    assert judge(["ungrounded: x", "empty: y"], settings) == ("empty", "drop")
    assert judge(["empty: y", "choice: z"], settings) == ("choice", "stop")
    assert judge(["ungrounded: x"], settings) == ("ungrounded", "keep")


def test_duplicates_and_conflicts_are_told_apart(tmp_path):
    repeated = [example("甲，乙", "甲", id="1"), example("甲乙", "甲", id="2"), example("甲乙。", "乙", id="3")]
    rows = columns(tmp_path, repeated)
    assert drop_duplicates(rows, rows.given, CleanSettings()) == {"exact_duplicate": 1, "conflicting": 1}
    assert reasons(rows) == ["kept", "exact_duplicate", "conflicting"]
    assert rows.partner.tolist() == [-1, 0, 0]


def test_kept_conflicts_still_lose_their_own_duplicates(tmp_path):
    rows = columns(tmp_path, [example("甲乙", gold, id=str(at)) for at, gold in enumerate("甲乙乙甲")])
    found = drop_duplicates(rows, rows.given, CleanSettings(conflicting="keep"))
    assert found == {"exact_duplicate": 2, "conflicting": 1}
    assert reasons(rows) == ["kept", "kept", "exact_duplicate", "exact_duplicate"]


def test_duplicates_in_two_pools_or_published_are_left_alone(tmp_path):
    twice = [example("甲乙", "甲", id="1"), example("甲乙", "甲", id="2")]
    rows = columns(tmp_path, twice)
    assert drop_duplicates(rows, np.array([0, 1], np.int8), CleanSettings())["exact_duplicate"] == 0
    rows = columns(tmp_path, twice, given=2, published=True)
    assert drop_duplicates(rows, rows.given, CleanSettings())["exact_duplicate"] == 0


def test_of_a_near_cluster_the_first_of_a_pool_is_kept(tmp_path):
    rows = columns(tmp_path, [example(text) for text in ("一", "二", "三", "四")])
    clusters = np.zeros(rows.num_keys, np.int64)
    clusters[rows.key[3]] = 7
    assert drop_near(rows, np.array([0, 1, 0, 0], np.int8), clusters) == 1
    assert reasons(rows) == ["kept", "kept", "near_duplicate", "kept"]


@pytest.mark.parametrize(("share", "left"), [(0.0, 0), (0.2, 2), (0.5, 8), (0.9, 40), (1.0, 40)])
def test_negatives_are_at_most_their_share(tmp_path, share, left):
    texts = [example(f"正{at}", "正") for at in range(8)] + [example(f"負{at}") for at in range(40)]
    rows = columns(tmp_path, texts)
    assert drop_negatives(rows, rows.given, share, seed=1) == 40 - left
    kept = rows.negative & rows.alive
    assert kept.sum() == left
    assert kept.sum() <= share * rows.alive.sum() + 1e-9


def test_which_negatives_are_kept_depends_on_the_seed_not_the_order(tmp_path):
    texts = [example(f"正{at}", "正") for at in range(8)] + [example(f"負{at}") for at in range(40)]

    def kept(examples, seed):
        rows = columns(tmp_path, examples)
        drop_negatives(rows, rows.given, 0.5, seed)
        return {each.text for each, alive in zip(examples, rows.alive, strict=True) if alive}

    assert kept(texts, 1) == kept(texts[::-1], 1) != kept(texts, 2)
