"""Pairs: every example that both answered stands in them once, with its own outcome, category and group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import InputError
from whet.evaluate.compare import is_right
from whet.evaluate.paired import Pairs, pair_up
from whet.records import Counts, Score

ACCURACY, RECORD_F1 = ("accuracy", "accuracy"), ("record", "f1")
counted = st.builds(Counts, *[st.integers(0, 3)] * 3)
statuses = st.sampled_from(["read", "unread", "error"])


@st.composite
def answered(draw):
    """Two systems' scores of the same examples, each in an order of its own, with categories and groups."""
    num = draw(st.integers(1, 25))
    categories = [draw(st.sampled_from("xyz")) for _ in range(num)]

    def side():
        found = []
        for at in range(num):
            status = draw(statuses)
            counts = {} if status == "error" else {"record": draw(counted)}
            found.append(Score(f"e{at}", status, counts, category=categories[at]))
        return draw(st.permutations(found))

    groups = {f"e{at}": draw(st.integers(0, 6)) for at in range(num)}
    leaked = draw(st.sets(st.sampled_from([f"e{at}" for at in range(num)])))
    return side(), side(), groups, leaked


@settings(max_examples=30)
@given(answered())
def test_each_example_that_both_answered_is_paired_once(drawn):
    live, candidate, groups, leaked = drawn
    pairs = pair_up(live, candidate, RECORD_F1, place="here", groups=groups, leaked=leaked)
    by_id = [{score.example_id: score for score in side} for side in (live, candidate)]
    expected = [
        score.example_id for score in live
        if score.example_id not in leaked and all(side[score.example_id].status != "error" for side in by_id)
    ]  # fmt: skip
    assert list(pairs.ids) == expected  # in the live system's order
    for rows, side in ((pairs.live, by_id[0]), (pairs.candidate, by_id[1])):
        assert rows.tolist() == [[c.tp, c.fp, c.fn] for c in (side[id_].counts["record"] for id_ in expected)]
    assert pairs.categories.tolist() == [by_id[0][id_].category for id_ in expected]
    assert (len(pairs) + pairs.num_left_out + pairs.num_leaked, pairs.num_leaked) == (len(live), len(leaked))
    same = [[groups[one] == groups[other] for other in expected] for one in expected]
    if pairs.groups is None:
        assert len({groups[id_] for id_ in expected}) == len(expected)
    else:
        assert (pairs.groups[:, None] == pairs.groups[None, :]).tolist() == same
        assert set(pairs.groups.tolist()) == set(range(pairs.groups.max() + 1))


@settings(max_examples=30)
@given(answered())
def test_categories_divide_the_pairs(drawn):
    live, candidate, groups, _ = drawn
    pairs = pair_up(live, candidate, RECORD_F1, place="here", groups=groups)
    sizes = pairs.sizes()
    assert sum(sizes.values()) == len(pairs)
    parts = [pairs.within([name]) for name in sizes]
    assert [len(part) for part in parts] == list(sizes.values())
    assert sorted(id_ for part in parts for id_ in part.ids) == sorted(pairs.ids)
    for part in parts:
        at = [pairs.ids.index(id_) for id_ in part.ids]
        assert np.array_equal(part.live, pairs.live[at]) and np.array_equal(part.candidate, pairs.candidate[at])
        if part.groups is not None:
            assert pairs.groups is not None
            same = pairs.groups[at][:, None] == pairs.groups[at][None, :]
            assert np.array_equal(part.groups[:, None] == part.groups[None, :], same)
            assert part.groups.max() + 1 < len(part)
        elif pairs.groups is not None:
            assert len(set(pairs.groups[at].tolist())) == len(at)
    assert pairs.within(sizes).ids == pairs.ids


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([True, False, None]), st.sampled_from([True, False, None])), min_size=1, max_size=20))
def test_right_and_wrong_are_the_outcomes_and_unread_choices_have_none(rows):
    live, candidate = (
        [Score(f"e{at}", "unread" if row[side] is None else "read", right=row[side]) for at, row in enumerate(rows)]
        for side in (0, 1)
    )
    pairs = pair_up(live, candidate, ACCURACY, place="here")
    kept = [(a, b) for a, b in zip(live, candidate, strict=True) if a.right is not None and b.right is not None]
    assert pairs.live.tolist() == [int(is_right(a, "accuracy")) for a, _ in kept]
    assert pairs.candidate.tolist() == [int(is_right(b, "accuracy")) for _, b in kept]
    assert (pairs.groups, pairs.num_left_out) == (None, len(rows) - len(kept))


def test_groups_that_are_not_known_of_all_are_not_believed_of_some():
    scores = [Score(f"e{at}", "read", right=True) for at in range(3)]
    assert pair_up(scores, scores, ACCURACY, place="here", groups={"e0": "d", "e1": "d"}).groups is None
    assert pair_up(scores, scores, ACCURACY, place="here", groups={"e0": "d", "e1": "d", "e2": "x"}).groups.tolist() == [0, 0, 1]


def test_what_can_not_be_paired_is_named():
    one, two = Score("e0", "read", right=True), Score("e1", "read", right=True)
    for live, candidate in (([one, two], [one]), ([one], [one, two])):
        with pytest.raises(InputError, match="here: not the same questions: 1 were put to one of the two only, such as e1"):
            pair_up(live, candidate, ACCURACY, place="here")
    with pytest.raises(InputError, match="scored twice"):
        pair_up([one, one], [one], ACCURACY, place="here")
    counted_one = Score("e0", "read", {"record": Counts(1, 0, 0)})
    with pytest.raises(InputError, match=r"no measure is named recrod\. Did you mean record\?"):
        pair_up([counted_one], [counted_one], ("recrod", "f1"), place="here")
    with pytest.raises(InputError, match="right or wrong alone"):
        pair_up([one], [one], RECORD_F1, place="here")
    assert len(Pairs("accuracy", (), np.zeros(0, int), np.zeros(0, int), np.zeros(0, str), None)) == 0
