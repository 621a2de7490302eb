"""The blind page: it holds both answers and neither name, nothing that tells the sides, and escapes what it shows."""

import json
import re

from outline import Outline

from whet.evaluate.blind import render
from whet.evaluate.votes import FORMAT, Pair, draw_pairs, draw_sides, fingerprint

PAIRS = [Pair("law", f"q{at}", f"Question {at} </script><b>", f"one {at}", f"two {at} \x00</script>") for at in range(30)]


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL).group(1))


def test_the_page_holds_the_drawn_pairs_with_sides_by_seed():
    data = data_of(render(PAIRS, 12, 7, ("law",)))
    shown = draw_pairs(PAIRS, 12, 7)
    swapped = draw_sides(shown, 7)
    assert data["ballot"] == {"format": FORMAT, "ballot": fingerprint(PAIRS, 7), "seed": 7, "num_pairs": 12, "parts": ["law"]}
    assert [card["key"] for card in data["pairs"]] == [pair.key for pair in shown]
    for card, pair in zip(data["pairs"], shown, strict=True):
        left, right = (pair.b, pair.a) if pair.key in swapped else (pair.a, pair.b)
        assert (card["left"], card["right"]) == (left.replace("\x00", "�"), right.replace("\x00", "�"))
        assert card.keys() == {"key", "text", "left", "right"}
    assert sum(card["left"].startswith("one") for card in data["pairs"]) == 6


def test_no_text_ends_the_script_and_the_page_lets_nothing_in():
    page = render(PAIRS, 30, 0)
    outline = Outline(page)
    assert [tag for tag, _ in outline.tags if tag == "script"] == ["script", "script"]
    assert not any("src" in attrs or "href" in attrs for _, attrs in outline.tags)
    policy = next(attrs["content"] for _, attrs in outline.tags if attrs.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
