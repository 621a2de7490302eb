"""Agreement: equal answers, Cohen's kappa against scikit-learn, and what is not compared."""

import random

import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from whet.evaluate.agreement import agree, cohen_kappa, kappa_interval
from whet.records import Counts, Score


def lettered(id_, letter, gold="A", status="read"):
    return Score(id_, status, right=letter == gold if status == "read" else None, detail={"letter": letter, "gold": gold})


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    lot = random.Random(seed)
    left = [lot.choice("ABCD") for _ in range(60)]
    right = [said if lot.random() < 0.4 else lot.choice("ABC") for said in left]
    assert cohen_kappa(list(zip(left, right, strict=True))) == pytest.approx(metrics.cohen_kappa_score(left, right))


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_kappa_is_that_of_statsmodels(seed):
    lot = random.Random(seed)
    left = [lot.choice("ABCD") for _ in range(60)]
    right = [said if lot.random() < 0.5 else lot.choice("ABCD") for said in left]
    pairs = list(zip(left, right, strict=True))
    table = [[sum(pair == (x, y) for pair in pairs) for y in "ABCD"] for x in "ABCD"]
    known = cohens_kappa(table)
    found = kappa_interval(pairs)
    assert (found.low, found.high) == pytest.approx((known.kappa_low, known.kappa_upp))


def test_pairs_of_one_document_tell_as_much_of_kappa_as_one():
    lot = random.Random(1)
    pairs = [(said, said if lot.random() < 0.5 else lot.choice("ABC")) for said in lot.choices("ABC", k=200)]
    alone = kappa_interval(pairs)
    thrice = kappa_interval(pairs * 3, groups=list(range(200)) * 3)
    assert (thrice.low, thrice.high) == pytest.approx((alone.low, alone.high), abs=0.005)  # Student's quantile is a little wider
    assert kappa_interval(pairs, groups=["one document"] * 200) is None
    # Two documents that say the same: their influences cancel, which is no certainty.
    twice = kappa_interval(pairs[:7] * 2, groups=["a"] * 7 + ["b"] * 7)
    flat = kappa_interval(pairs[:7] * 2)
    assert twice.low <= flat.low
    assert twice.high >= flat.high
    assert kappa_interval([("A", "A"), ("B", "B")]) is None


def test_kappa_is_nothing_where_chance_agrees_always():
    assert cohen_kappa([]) is None
    assert cohen_kappa([("A", "A")] * 3) is None
    assert cohen_kappa([("A", "B"), ("B", "A")]) == -1.0


def test_letters_are_compared_and_unread_replies_are_not():
    a = [lettered("1", "A"), lettered("2", "B"), lettered("3", "C"), lettered("4", "D", status="unread"), lettered("5", "A")]
    b = [lettered("5", "A"), lettered("1", "A"), lettered("2", "C"), lettered("3", "C"), lettered("4", "D", status="unread")]
    found = agree("p", ("x", "y"), a, b, "accuracy")
    assert (found.num, found.num_equal, found.kappa_of, found.share) == (4, 3, "letters", 0.75)
    assert found.interval.low < 0.75 < found.interval.high


def test_letters_of_choices_in_another_order_are_not_compared():
    a = [lettered("1", "A", "A"), lettered("2", "B", "A")]
    b = [lettered("1", "C", "C"), lettered("2", "B", "C")]
    found = agree("p", ("x", "y"), a, b, "accuracy")
    assert (found.num_equal, found.kappa_of, found.kappa) == (2, "right or wrong", 1.0)


def test_records_are_compared_in_any_order_and_texts_by_their_words():
    rows = [{"name": "a"}, {"name": "b"}]
    one = Score("1", "read", {"record": Counts(2)}, detail={"records": rows})
    other = Score("1", "read", {"record": Counts(2)}, detail={"records": rows[::-1]})
    assert agree("p", ("x", "y"), [one], [other], "record").num_equal == 1
    said = [Score("1", "read", right=False, detail={"text": text}) for text in ("The cat.", "cat", "dog")]
    assert agree("p", ("x", "y"), said[:1], said[1:2], "exact").num_equal == 1
    assert agree("p", ("x", "y"), said[:1], said[2:], "exact").num_equal == 0


def test_nothing_in_common_is_no_agreement():
    found = agree("p", ("x", "y"), [lettered("1", "A", status="error")], [lettered("1", "A")], "accuracy")
    assert (found.num, found.share, found.kappa) == (0, 0.0, None)
