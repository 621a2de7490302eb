"""Retries: which failures pass, how long a wait is, and what Retry-After says."""

import datetime
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.engines.retries import LONGEST_BACKOFF_S, asked_wait, backoff, is_passing

NOW = datetime.datetime(2026, 11, 21, 10, 0, 0, tzinfo=datetime.UTC)


def test_only_what_may_be_otherwise_later_is_tried_again() -> None:
    again = {status for status in range(100, 600) if is_passing(status)}
    assert again == {408, 425, 429} | set(range(500, 600)) - {501, 505}


@given(st.integers(1, 10_000), st.floats(0, 100), st.integers(0, 99))
def test_a_wait_is_drawn_below_a_bound_that_doubles(attempt: int, base_s: float, seed: int) -> None:
    wait = backoff(attempt, base_s, random.Random(seed))
    assert 0 <= wait <= min(LONGEST_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 60))


def test_waits_are_spread_over_the_whole_range() -> None:
    draw = random.Random(0)
    waits = [backoff(3, 1.0, draw) for _ in range(2000)]
    assert min(waits) < 0.1
    assert max(waits) > 3.9
    assert sum(waits) / len(waits) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 10:00:30", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Sat, 99 Nov 2026", None),
    ],
)
def test_what_a_server_asks_for(header: str | None, wait: float | None) -> None:
    assert asked_wait(header, NOW) == wait


@given(st.text())
def test_any_header_is_a_time_or_none(header: str) -> None:
    wait = asked_wait(header, NOW)
    assert wait is None or 0 <= wait < float("inf")
