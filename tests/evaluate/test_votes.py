"""Blind votes: sides drawn by seed, the sign test against scipy, ties, leaning, and ballots that are none."""

import itertools
import json

import pytest
from scipy.stats import binomtest

from whet.errors import InputError
from whet.evaluate.side_page import say_votes
from whet.evaluate.votes import FORMAT, Ballot, Pair, count_votes, draw_pairs, draw_sides, fingerprint, read_votes

PAIRS = [Pair("p", f"q{at}", "", "a", "b") for at in range(400)]
KEYS = [pair.key for pair in PAIRS]
SWAPPED = draw_sides(PAIRS, 3)


def ballot(votes, num=60):
    return Ballot("b", 3, num, (), votes)


def choose(keys, wants_b):
    """The votes of a reader who wants B (or A) wherever it stands."""
    return {key: "left" if (key in SWAPPED) == wants_b else "right" for key in keys}


def test_half_of_the_sides_are_swapped_by_seed_whatever_the_order():
    assert len(SWAPPED) == 200
    assert draw_sides(PAIRS[::-1], 3) == SWAPPED
    other = draw_sides(PAIRS, 4)
    assert binomtest(len(SWAPPED & other), 200).pvalue > 0.001
    runs = sum((x in SWAPPED) != (y in SWAPPED) for x, y in itertools.pairwise(pair.key for pair in draw_pairs(PAIRS, None, 3)))
    assert binomtest(runs, 399).pvalue > 0.001  # neither alternating nor in blocks


def test_pairs_are_drawn_by_seed_whatever_their_order():
    drawn = draw_pairs(PAIRS, 10, 3)
    assert drawn == draw_pairs(PAIRS[::-1], 10, 3) == draw_pairs(PAIRS, 20, 3)[:10]
    assert drawn != draw_pairs(PAIRS, 10, 4)


def test_the_sign_test_is_exact_and_leaves_ties_out():
    votes = choose(KEYS[:30], True) | choose(KEYS[30:40], False) | dict.fromkeys(KEYS[40:55], "tie")
    found = count_votes(ballot(votes), SWAPPED, ("A", "B"))
    assert (found.num_for_b, found.num_for_a, found.num_ties, found.num_pairs) == (30, 10, 15, 60)
    exact = binomtest(30, 40)
    assert found.p_value == exact.pvalue
    assert (found.share, found.interval.low) == (0.75, exact.proportion_ci(method="exact").low)
    assert found.left_share == sum(vote == "left" for vote in votes.values()) / 40
    said = " ".join(say_votes(found))
    assert "55 of 60 pairs" in said
    assert "B is preferred: 75.0 %" in said


def test_a_reader_who_always_takes_the_left_prefers_nobody_and_is_told():
    found = count_votes(ballot(dict.fromkeys(KEYS, "left"), 400), SWAPPED, ("A", "B"))
    assert (found.share, found.p_value) == (0.5, 1.0)
    said = " ".join(say_votes(found))
    assert "The reader leaned to a side: 100.0 %" in said
    assert "No preference shown" in said


def test_ties_alone_show_nothing():
    found = count_votes(ballot(dict.fromkeys(KEYS[:2], "tie"), 2), SWAPPED, ("A", "B"))
    assert (found.share, found.p_value, found.left_share) == (None, None, None)
    assert "nothing is shown" in say_votes(found)[1]


def test_a_ballot_is_known_by_its_answers_and_seed():
    pairs = [Pair("p", "1", "t", "x", "y"), Pair("p", "2", "t", "x", "z")]
    assert fingerprint(pairs, 0) == fingerprint(pairs[::-1], 0)
    swapped = [Pair("p", "1", "t", "y", "x"), pairs[1]]
    assert len({fingerprint(pairs, 0), fingerprint(pairs, 1), fingerprint(swapped, 0)}) == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "holds no votes"),
        ({"format": "other"}, "holds no votes"),
        ({"format": FORMAT}, "lacks"),
        ({"format": FORMAT, "ballot": "b", "seed": True, "num_pairs": 1, "parts": [], "votes": {}}, "lacks"),
        (
            {"format": FORMAT, "ballot": "b", "seed": 1, "num_pairs": 1, "parts": [], "votes": {"k": "A"}},
            "'A', which is none of left",
        ),
    ],
)
def test_what_is_no_ballot_is_named(tmp_path, value, words):
    (tmp_path / "v.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=words):
        read_votes(tmp_path / "v.json")
