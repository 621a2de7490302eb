"""Charts of the report: round ticks, lines inside their box, bars in proportion."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.evaluate.charts import draw_bars, draw_losses, round_ticks


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e4), st.integers(2, 6))
def test_ticks_are_few_round_and_reach_around(low, width, num):
    ticks = round_ticks(low, low + width, num)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * width
    assert ticks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(ticks) <= num + 3
    digit = float(f"{step:.3e}".split("e")[0])
    assert digit in (1, 2, 5)


def test_the_loss_chart_stays_in_its_box_and_skips_what_is_no_number():
    train = [(step, 9.0 / step) for step in range(1, 1000)] + [(1000, math.nan)]
    chart = draw_losses(train, [(0, 9.0), (500, 0.02), (1000, 0.03)], 500)
    assert chart.is_log
    assert (chart.num_left_out, chart.steps_a_point) == (1, 4)
    places = [tuple(map(float, pair.split(","))) for pair in (chart.train_line + " " + chart.valid_line).split()]
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in places)
    assert all(0 <= tick.at <= 100 for tick in chart.x_ticks + chart.y_ticks)
    assert chart.best.label == "best: 0.02 at step 500"
    assert draw_losses([], [], None) is None
    assert draw_losses([(1, math.inf)], [], None) is None
    flat = draw_losses([(0, 0.0), (0, 0.0)], [], None)
    assert not flat.is_log


def test_bars_are_in_proportion():
    assert [bar.width for bar in draw_bars([("a", 200, ""), ("b", 50, ""), ("c", 0, "")])] == [100, 25, 0]
    assert [bar.width for bar in draw_bars([("a", 0, "")])] == [0]
