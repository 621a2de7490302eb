"""The page on which a reader compares two answers without knowing whose they are; it loads nothing and needs no server."""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from whet.evaluate.report import UNPRINTABLE, read_beside, read_style
from whet.evaluate.votes import FORMAT, Pair, draw_pairs, draw_sides, fingerprint


def render(pairs: Sequence[Pair], num: int | None, seed: int, parts: Sequence[str] = ()) -> str:
    """The page's HTML. pairs: every question of these parts on which the two systems differ; at most `num` are shown.

    The page holds the two answers of each question as left and right, and neither the systems' names nor what tells which
    is whose: that is worked out from the seed when the votes are counted.
    """
    import jinja2

    shown = draw_pairs(pairs, num, seed)
    swapped = draw_sides(shown, seed)
    cards = [_card(pair, pair.key in swapped) for pair in shown]
    ballot = {"format": FORMAT, "ballot": fingerprint(pairs, seed), "seed": seed, "num_pairs": len(cards), "parts": list(parts)}
    script = read_beside("blind.js")
    style = str(read_style()) + read_beside("blind.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(read_beside("blind.html.j2")).render(
        policy=f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'",
        script=script, style=style, data=_embed({"ballot": ballot, "pairs": cards}), num=len(cards),
    )  # fmt: skip


def _card(pair: Pair, is_swapped: bool) -> dict[str, str]:
    left, right = (pair.b, pair.a) if is_swapped else (pair.a, pair.b)
    texts = {"text": pair.text, "left": left, "right": right}
    return {"key": pair.key} | {name: UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text) for name, text in texts.items()}


def _embed(data: Any) -> str:
    """JSON that can stand inside a script element: no `<` of a text can end it."""
    return json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")


def _hash(text: str) -> str:
    """What a content security policy calls an inline style or script by, so that no other one is run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
