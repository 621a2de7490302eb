"""Looks at stand-off annotations: whether the words that offsets point at are the words that the annotation names."""

from collections.abc import Mapping
from typing import Any

from whet.data.clean import normalised
from whet.doctor.finding import Findings, error, share, warning


def is_standoff(row: Any) -> bool:
    """Whether a row has a text and entities with offsets into it."""
    if not isinstance(row, dict) or not isinstance(row.get("entities"), list):
        return False
    return any(isinstance(row.get(key), str) for key in ("tokens", "text", "sentence"))


def count_offsets(row: Mapping[str, Any]) -> tuple[int, int, int]:
    """Entities with a span, those whose offsets point at other words, and those of them that are off by one."""
    text = next(row[key] for key in ("tokens", "text", "sentence") if isinstance(row.get(key), str))
    total = wrong = shifted = 0
    for entity in row["entities"]:
        start, end, span = (entity.get(key) for key in ("start", "end", "span")) if isinstance(entity, dict) else (None,) * 3
        if type(start) is not int or type(end) is not int or not isinstance(span, str):
            continue
        total += 1
        if not 0 <= start < end <= len(text):
            wrong += 1
        elif normalised(text[start:end]) != normalised(span):
            wrong += 1
            near = [text[start + step : end + step] for step in (-1, 1) if start + step >= 0] + [text[start : end + 1]]
            shifted += any(normalised(piece) == normalised(span) for piece in near)
    return total, wrong, shifted


def look_offsets(place: str, counted: tuple[int, int, int]) -> Findings:
    """A finding where offsets point at other words."""
    total, wrong, shifted = counted
    if wrong:
        words = f"{share(wrong, total)} entities stand at offsets with other words than they name"
        makes = error if 100 * wrong >= total else warning
        yield makes(
            "offsets that point elsewhere",
            place,
            words + (f"; {shifted:,} of them are off by one" if shifted else ""),
            "The model is trained on pieces of names.",
            "Take the offsets or the words, whichever are right, and write both anew",
        )
