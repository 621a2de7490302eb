"""Gains and losses: those of counting by hand, in every category, and turned round when the sides are."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_results import QUICK, answers, counts, pair, result, rights, with_general

from whet.evaluate import power
from whet.evaluate.gains import tell_gains
from whet.evaluate.gate import Facts
from whet.evaluate.margin import weigh
from whet.evaluate.paired import pair_up
from whet.evaluate.statistics import holm
from whet.records import Counts, Score

outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40)


def sides(rows, categories=("law", "poems")):
    return (
        result("new", {"exam": rights([b for _, b in rows], categories)}),
        result("live", {"exam": rights([a for a, _ in rows], categories)}),
    )


@settings(max_examples=20)
@given(outcomes)
def test_figures_are_counted_by_hand_and_intervals_hold_them(rows):
    found = tell_gains(*sides(rows), QUICK, Facts())
    assert [(row.part, row.category) for row in found.rows] == [("exam", ""), ("exam", "law"), ("exam", "poems")]
    for row, some in zip(found.rows, (rows, rows[::2], rows[1::2]), strict=True):
        live, candidate = np.mean([a for a, _ in some]), np.mean([b for _, b in some])
        assert (row.num, row.num_groups) == (len(some), len(some))
        assert (row.live, row.candidate, row.difference) == pytest.approx((live, candidate, candidate - live))
        assert row.interval.low <= row.difference <= row.interval.high
        assert 0 <= row.p_value <= 1
    assert [row.detectable is None for row in found.rows[1:]] == [True, True]
    (turned,) = found.turned
    assert turned.right_to_wrong == tuple(f"e{at}" for at, (a, b) in enumerate(rows) if a and not b)
    assert turned.wrong_to_right == tuple(f"e{at}" for at, (a, b) in enumerate(rows) if b and not a)
    json.dumps(found.to_json(), allow_nan=False)


@settings(max_examples=20)
@given(outcomes)
def test_the_other_way_round_what_was_gained_is_lost(rows):
    candidate, live = sides(rows)
    there, back = tell_gains(candidate, live, QUICK, Facts()), tell_gains(live, candidate, QUICK, Facts())
    for one, other in zip(there.rows, back.rows, strict=True):
        assert one.difference == -other.difference
        assert one.p_value == pytest.approx(other.p_value)
        assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))
    assert there.turned[0].right_to_wrong == back.turned[0].wrong_to_right


def test_categories_are_corrected_together_and_the_part_is_not():
    rng = np.random.default_rng(0)
    before, now = rng.random(120) < 0.4, rng.random(120) < 0.6
    names = ("a", "b", "c")
    live, new = (rights([bool(r) for r in side], names) for side in (before, now))
    found = tell_gains(result("new", {"exam": new}), result("live", {"exam": live}), QUICK, Facts())
    pairs = pair_up(live, new, ("exact", "accuracy"), place="here")

    def two_sided(some):
        evidence = weigh(some, 0, 999)
        return min(1.0, 2 * min(evidence.p_above(0.0), evidence.p_below(0.0)))

    assert found.rows[0].p_value == two_sided(pairs)
    assert [row.p_value for row in found.rows[1:]] == list(holm([two_sided(pairs.within([name])) for name in names]))
    whole = weigh(pairs, 0, 999)
    assert found.rows[0].detectable == power.detectable(whole, QUICK.alpha_at(1), QUICK.power)


def test_documents_are_counted_and_widen_what_is_said():
    candidate, live = pair(120, 40, 30, 5)
    apart = tell_gains(candidate, live, QUICK, Facts()).rows[0]
    groups = {"exam": {f"e{at}": at // 6 for at in range(120)}}
    together = tell_gains(candidate, live, QUICK, Facts(groups)).rows[0]
    assert (apart.num_groups, together.num_groups, together.num) == (120, 20, 120)
    assert together.interval.low < apart.interval.low <= apart.difference == together.difference
    assert together.detectable > apart.detectable
    assert together.effect.odds_interval[0] < apart.effect.odds_interval[0]


def test_what_is_watched_and_what_was_not_asked_of_both():
    candidate, live = with_general(100)
    found = tell_gains(candidate, live, QUICK, Facts())
    assert [row.part for row in found.rows] == ["exam", "general"]
    assert found.rows[1].difference == pytest.approx(-0.1)
    assert [len(turned.right_to_wrong) for turned in found.turned] == [5, 100]
    lone = result("new", {"exam": candidate.answered["exam"]})
    assert [row.part for row in tell_gains(lone, live, QUICK, Facts()).rows] == ["exam"]


def test_counts_turn_as_whole_examples_and_errors_turn_nothing():
    live, new = counts([(2, 0, 0), (1, 1, 0), (0, 0, 1)]), counts([(1, 0, 1), (2, 0, 0), (1, 0, 0)])
    new[2] = Score("e2", "error")
    found = tell_gains(result("new", {"exam": new}), result("live", {"exam": live}), QUICK, Facts())
    assert (found.turned[0].right_to_wrong, found.turned[0].wrong_to_right) == (("e0",), ("e1",))
    assert found.rows[0].num == 2
    assert found.rows[0].live == pytest.approx((Counts(2, 0, 0) + Counts(1, 1, 0)).f1)
    none = result("new", {"exam": [Score(f"e{at}", "error") for at in range(3)]})
    assert tell_gains(none, result("live", {"exam": live}), QUICK, Facts()).rows == ()
    assert answers(4, 2) == [1, 1, 0, 0]
