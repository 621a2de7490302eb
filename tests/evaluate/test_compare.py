"""Comparisons: pairing, left-out errors, verdicts, flips, categories."""

import json

import pytest

from whet.errors import InputError
from whet.evaluate.compare import compare, is_right
from whet.evaluate.shares import mcnemar
from whet.evaluate.statistics import paired_f1
from whet.records import Counts, Score

RECORD_F1 = ("record", "f1")
ACCURACY = ("accuracy", "accuracy")


def extracted(id_, tp, fp, fn, status="read"):
    return Score(id_, status, {"record": Counts(tp, fp, fn)} if status != "error" else {})


def chosen(id_, right, category="", status="read"):
    return Score(id_, status, right=right, category=category)


def test_extraction_is_paired_by_id_whatever_the_order():
    a = [extracted(f"e{i}", 0, 1, 2) for i in range(20)]
    b = [extracted(f"e{i}", 2, i % 2, 0) for i in range(20)]
    found = compare(a, b[::-1], RECORD_F1, names=("base", "specialist"), seed=3)
    assert found.paired == paired_f1([s.counts["record"] for s in a], [s.counts["record"] for s in b], 3)
    assert (found.verdict, found.num_pairs, found.num_left_out) == ("better", 20, 0)
    assert (found.a, found.b) == (0.0, pytest.approx(80 / 90))
    assert found.words.startswith("specialist is better than base: record F1 0.889 against 0.000, difference +0.889 (95 % ")
    assert found.words.endswith("p < 0.001, 20 paired examples.")
    assert found.flips.wrong_to_right == tuple(f"e{i}" for i in range(0, 20, 2))
    assert found.flips.right_to_wrong == ()


def test_the_other_way_round_is_worse():
    a = [extracted(f"e{i}", 2, 0, 0) for i in range(20)]
    b = [extracted(f"e{i}", 1, 0, 1) for i in range(20)]
    assert compare(a, b, RECORD_F1).verdict == "worse"
    assert compare(b, a, RECORD_F1).verdict == "better"
    assert "B is worse than A" in compare(a, b, RECORD_F1).words


def test_same_answers_show_no_difference():
    a = [extracted(f"e{i}", 1, i % 3, 0) for i in range(30)]
    found = compare(a, a, RECORD_F1)
    assert (found.verdict, found.paired.p_value, found.paired.difference) == ("no difference shown", 1.0, 0.0)
    assert found.words.startswith("No difference shown between B and A")


def test_examples_on_which_an_engine_failed_are_left_out_and_counted():
    a = [extracted("e0", 0, 0, 0, "error")] + [extracted(f"e{i}", 1, 0, 1) for i in range(1, 12)]
    b = [extracted(f"e{i}", 2, 0, 0) for i in range(11)] + [extracted("e11", 0, 0, 0, "error")]
    found = compare(a, b, RECORD_F1)
    assert (found.num_pairs, found.num_left_out) == (10, 2)
    assert found.b == 1.0
    assert "e0" not in found.flips.wrong_to_right
    assert found.words.endswith("2 more left out, for which one of the two gave no answer that can be scored.")


@pytest.mark.parametrize(
    ("ids_a", "ids_b", "words"),
    [
        (["x", "y"], ["x", "z"], "1 only in A, 1 only in B, such as y"),
        (["x"], ["x", "y", "z"], "0 only in A, 2 only in B, such as y"),
        (["x", "x"], ["x"], "A scores 1 examples twice"),
    ],
)
def test_other_examples_are_refused(ids_a, ids_b, words):
    with pytest.raises(InputError, match=words):
        compare([extracted(i, 1, 0, 0) for i in ids_a], [extracted(i, 1, 0, 0) for i in ids_b], RECORD_F1)


def test_nothing_in_common_is_refused():
    with pytest.raises(InputError, match=r"no example was answered by both \(of 1\)"):
        compare([extracted("x", 0, 0, 0, "error")], [extracted("x", 1, 0, 0)], RECORD_F1)


def test_right_and_wrong_take_mcnemar_and_categories_are_corrected_together():
    a, b = [], []
    for place in range(40):
        a.append(chosen(f"h{place}", place % 8 == 0, "history"))
        b.append(chosen(f"h{place}", place % 8 != 1, "history"))
        a.append(chosen(f"l{place}", place < 6, "law"))
        b.append(chosen(f"l{place}", place < 13, "law"))
    found = compare(a, b, ACCURACY)
    rights = ([s.right for s in a], [s.right for s in b])
    assert found.paired == mcnemar(*rights)
    history, law = found.categories
    assert (history.name, history.num_pairs, history.verdict) == ("history", 40, "better")
    assert law.paired.p_value == pytest.approx(2 / 2**7)
    assert (law.adjusted_p, law.verdict) == (law.paired.p_value, "better")
    assert history.adjusted_p == pytest.approx(2 * history.paired.p_value)
    assert (law.a, law.b) == (6 / 40, 13 / 40)
    assert found.words.startswith("B is better than A: accuracy 0.600 against 0.138")


def test_a_category_alone_below_alpha_may_not_survive_the_correction():
    a = [chosen(f"{c}{i}", False, c) for c in "xyz" for i in range(12)]
    b = [chosen(f"{c}{i}", c == "x" and i < 6, c) for c in "xyz" for i in range(12)]
    x, y, _ = compare(a, b, ACCURACY).categories
    assert x.paired.p_value < 0.05 < x.adjusted_p
    assert (x.verdict, y.verdict) == ("no difference shown", "no difference shown")


def test_one_category_is_no_family():
    scores = [chosen(f"q{i}", True, "only") for i in range(3)]
    assert compare(scores, scores, ACCURACY).categories == ()


def test_groups_are_handed_on():
    a = [extracted(f"e{i}", 1, 0, 1) for i in range(40)]
    b = [extracted(f"e{i}", 2, 0, 0) for i in range(40)]
    assert compare(a, b, RECORD_F1).verdict == "better"
    grouped = compare(a, b, RECORD_F1, groups={f"e{i}": i // 10 for i in range(40)})
    assert grouped.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (extracted("x", 2, 0, 0), True),
        (extracted("x", 0, 0, 0), True),
        (extracted("x", 2, 1, 0), False),
        (extracted("x", 2, 0, 1), False),
        (extracted("x", 0, 0, 0, "unread"), False),
        (chosen("x", True), True),
        (chosen("x", False), False),
        (chosen("x", None, status="unread"), False),
    ],
)
def test_a_whole_example_is_right_only_when_all_of_it_is(score, expected):
    assert is_right(score, "record") is expected


def test_json_holds_plain_values_only():
    a = [chosen(f"q{i}", i % 2 == 0, "xy"[i % 2]) for i in range(10)]
    found = compare(a, a, ACCURACY).to_json()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["paired"]["p_value"] == 1.0
    assert [category["name"] for category in again["categories"]] == ["x", "y"]
