"""Charts of the report: round ticks, lines inside their box, bars in proportion."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.evaluate.charts import draw_bars, draw_coverage, draw_losses, draw_reliability, round_ticks


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


shares = st.floats(0, 1)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=30), st.none() | shares, st.none() | st.tuples(shares, shares))
def test_the_coverage_chart_stays_in_its_box(points, wanted, accepted):
    chart = draw_coverage(points, wanted, accepted)
    places = [float(number) for pair in chart.line.split() for number in pair.split(",")]
    places += [tick.at for tick in (*chart.x_ticks, *chart.y_ticks)]
    places += [chart.wanted.at] if chart.wanted else []
    places += [chart.accepted.x, chart.accepted.y] if chart.accepted else []
    assert all(-0.01 <= place <= 100.01 for place in places)
    assert len(chart.line.split()) == len(points)
    assert chart.y_ticks[-1].label == "100 %"
    assert (chart.wanted is None, chart.accepted is None) == (wanted is None, accepted is None)


def test_the_reliability_diagram_puts_true_confidences_on_the_diagonal():
    chart = draw_reliability([(0.9, 0.5, 0.4, 0.6, 20)], [(0.25, 0.25, 0.1, 0.5, 40), (0.8, 0.9, 0.7, 1.0, 40)])
    assert [(found.dot.x, found.dot.y) for found in chart.calibrated] == [(25, 75), (80, 10)]
    assert (chart.calibrated[0].low, chart.calibrated[0].high) == (90, 50)
    assert [(dot.x, dot.y) for dot in chart.raw] == [(90, 50)]
    assert "40 said 80 % sure, 90 % of them right" in chart.summary
    assert draw_reliability([], []) is None
    assert draw_coverage([], 0.9, None) is None
