"""The loss curve in a terminal: every line fits, losses stand at their heights, plain characters where braille can't be shown."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.cli.curve import HEIGHT, MIN_WIDTH, can_show, draw_losses_as_text, smooth

FALLING = [(step, 4.0 - 3.0 * step / 100) for step in range(1, 101)]


def plot(lines: list[str]) -> list[str]:
    """The lines of the plot, without title, axis and legend."""
    return lines[1 : 1 + HEIGHT]


def dots(lines: list[str]) -> dict[int, list[int]]:
    """Rows of braille dots, from the top, by column of dots: decoded from Unicode's own numbering of the eight dots."""
    found: dict[int, list[int]] = {}
    for row, line in enumerate(plot(lines)):
        for column, letter in enumerate(line.partition("┤")[2]):
            for bit, (x, y) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]):
                if 0x2800 <= ord(letter) <= 0x28FF and ord(letter) - 0x2800 & 1 << bit:
                    found.setdefault(2 * column + x, []).append(4 * row + y)
    return found


@settings(max_examples=40)
@given(
    st.lists(st.floats(0, 1e4) | st.just(math.nan), max_size=60),
    st.lists(st.floats(1e-4, 1e3), max_size=6),
    st.integers(1, 150),
    st.booleans(),
)
def test_every_line_fits_and_plain_ones_are_ascii(train, valid, width, is_unicode) -> None:
    points = list(enumerate(train, 1))
    checks = [(10 * number, loss) for number, loss in enumerate(valid)]
    lines = draw_losses_as_text(points, checks, 10, width, is_unicode)
    assert all(len(line) <= width for line in lines)
    assert is_unicode or "".join(lines).isascii()
    assert bool(lines) == (width >= MIN_WIDTH and bool(checks or any(math.isfinite(loss) for loss in train)))
    if lines:
        assert len(lines) == HEIGHT + 3


def test_a_falling_line_is_joined_and_falls_to_its_place() -> None:
    found = dots(draw_losses_as_text(FALLING, [], 0, 80))
    heights = [sum(rows) / len(rows) for _, rows in sorted(found.items())]
    assert sorted(found) == list(range(min(found), max(found) + 1))
    assert heights == sorted(heights)
    # Losses from 4 to 1 on an axis from 0 to 4: the end stands at three quarters of the way down.
    assert heights[0] < 2
    assert abs(heights[-1] - 0.75 * (4 * HEIGHT - 1)) <= 1.5


@pytest.mark.parametrize(("is_unicode", "point", "best"), [(True, "●", "◆"), (False, "o", "*")])
def test_validations_are_points_and_the_best_is_marked(is_unicode: bool, point: str, best: str) -> None:
    lines = draw_losses_as_text(FALLING, [(0, 4.0), (50, 2.0), (100, 3.0)], 50, 80, is_unicode)
    drawn = plot(lines)
    assert sum(line.count(point) for line in drawn) == 2
    (row,) = [line for line in drawn if best in line]
    assert re.match(r"\s*2 ", row)  # its height is that of the axis label 2
    assert f"{best} best: 2 at step 50" in lines[-1]
    assert "nats a learnt token" in lines[0]


def test_steps_stand_below_their_places() -> None:
    lines = draw_losses_as_text(FALLING, [(100, 1.0)], 100, 80)
    axis = lines[1 + HEIGHT]
    best = max(line.find("◆") for line in plot(lines))
    assert axis.split() == ["0", "50", "100"] or axis.split()[-1] == "100"
    assert axis.rindex("100") <= best <= axis.rindex("100") + 2


def test_smoothing_keeps_a_constant_and_quiets_noise() -> None:
    flat = [(step, 2.0) for step in range(200)]
    assert smooth(flat) == flat
    noisy = [(step, 2.0 + (-1) ** step) for step in range(400)]
    assert max(abs(loss - 2.0) for _, loss in smooth(noisy)) < 0.1
    assert smooth([(1, math.nan), (2, 1.0)]) == [(2, 1.0)]


def test_encodings_without_braille_are_known() -> None:
    assert can_show("utf-8")
    assert not can_show("ascii")
    assert not can_show("latin-1")
    assert not can_show("no-such-encoding")
