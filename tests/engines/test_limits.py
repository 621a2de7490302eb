"""The pace: never more than the minutes allow, and never slower than it must be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.engines.limits import Pace

GAPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 50)), min_size=1, max_size=40)


def starts(pace: Pace, asked: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """(start, amount) of pieces that are asked for after gaps."""
    now, found = 0.0, []
    for gap, amount in asked:
        now += gap
        start = pace.soonest(now)
        assert start >= now
        pace.take(start, amount)
        found.append((start, amount))
    return found


@given(GAPS, st.floats(1, 6000))
def test_no_window_holds_more_than_it_may(asked: list[tuple[float, float]], per_minute: float) -> None:
    found = starts(Pace(per_minute), asked)
    for at, (begin, _) in enumerate(found):
        for last in range(at, len(found)):
            # The last piece of the window may start at its end.
            inside = sum(amount for _, amount in found[at:last])
            assert inside <= (found[last][0] - begin) * per_minute / 60 + 1e-6


@given(GAPS, st.floats(1, 6000))
def test_nothing_waits_longer_than_what_went_before_takes(asked: list[tuple[float, float]], per_minute: float) -> None:
    free_at, now = 0.0, 0.0
    for (gap, amount), (start, _) in zip(asked, starts(Pace(per_minute), asked), strict=True):
        now += gap
        assert start == pytest.approx(max(now, free_at))
        free_at = max(now, free_at) + amount * 60 / per_minute


def test_without_a_limit_nothing_waits() -> None:
    assert [start for start, _ in starts(Pace(None), [(0.0, 1e9)] * 3)] == [0.0, 0.0, 0.0]


def test_what_was_taken_too_large_is_given_back() -> None:
    pace = Pace(60)
    pace.take(0.0, 100)
    pace.correct(-90)
    assert pace.soonest(0.0) == pytest.approx(10)
    pace.correct(20)
    assert pace.soonest(0.0) == pytest.approx(30)
