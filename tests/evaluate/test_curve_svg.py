"""The curve as SVG: well-formed, self-contained, every line inside the plot, units on the axes."""

import math
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.evaluate.curve import BOTTOM, LEFT, RIGHT, TOP, draw_curve

SVG = "{http://www.w3.org/2000/svg}"


def course(train, valid=(), best_step=0):
    return SimpleNamespace(train_curve=train, valid_curve=valid, best_step=best_step)


def lines(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The places of each polyline, by its class."""
    return {
        line.get("class"): [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in ET.fromstring(svg).iter(f"{SVG}polyline")
    }


@settings(max_examples=15)
@given(
    st.lists(st.floats(0, 1e5) | st.just(math.nan), min_size=1, max_size=60),
    st.lists(st.floats(1e-3, 1e3), max_size=5),
    st.lists(st.floats(0, 1), max_size=60),
)
def test_every_line_stays_in_the_plot(train, valid, rates) -> None:
    svg = draw_curve(
        course(list(enumerate(train, 1)), [(number, loss) for number, loss in enumerate(valid)]), list(enumerate(rates, 1))
    )
    for places in lines(svg).values():
        assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in places)


def test_losses_and_learning_rate_stand_where_their_axes_say() -> None:
    train = [(step, 4.0 - 0.02 * step) for step in range(1, 101)]
    svg = draw_curve(
        course(train, [(0, 4.0), (50, 3.0), (100, 2.0)], 100), [(step, 1e-3 * (1 - step / 100)) for step in range(1, 101)]
    )
    found = lines(svg)
    assert found["valid"] == [(LEFT, TOP), ((LEFT + RIGHT) / 2, TOP + (BOTTOM - TOP) / 4), (RIGHT, (TOP + BOTTOM) / 2)]
    assert found["rate"][-1] == (RIGHT, BOTTOM)
    texts = ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {"loss, nats a learnt token", "step", "learning rate", "training", "validation", "best: 2 at step 100"} <= set(texts)


def test_the_file_loads_nothing_and_knows_the_dark() -> None:
    svg = draw_curve(course([(1, 2.0), (2, 1.0)]), [(1, 1e-3), (2, 5e-4)])
    assert "prefers-color-scheme:dark" in svg
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<script|href|@import|url\(", svg)


def test_without_a_rate_or_a_loss_the_rest_is_drawn() -> None:
    assert "learning rate" not in draw_curve(course([(1, 2.0), (2, 1.0)]))
    assert "no loss was a number" in draw_curve(course([(1, math.nan)]))
