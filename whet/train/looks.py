"""Looks at what a run gains and forgets while it trains: how often a suite's small edition is asked, and what follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from whet.config import Settings

LOOKS = "looks.jsonl"
"""In the train folder: a line a look, with its step."""


class LookSettings(Settings):
    """A suite whose small edition is asked before the first step and again and again."""

    suite: Path
    """The suite, a YAML file with a `small` section; a relative path starts from the recipe's folder."""
    every: int = Field(default=500, ge=1)
    """Steps between looks; there is one before the first step and one after the last."""
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """By how much the figure of a general part may fall below that of the start, in points (0.05 is five of a hundred)."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """How sure the fall must be to be more than chance: its paired interval of this confidence lies below zero."""
    on_forgetting: Literal["stop", "tell"] = "stop"
    """What a fall beyond the tolerance does: stop the training, or tell it and go on."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw."""

    figures: Mapping[str, float]
    """The headline of each part."""
    score: float | None
    """The mean over the parts of the role task; None where there is none."""
    outcomes: Any
    """Every question's outcome in the general parts, as plain JSON: what later looks are held against."""
    forgotten: str = ""
    """Which general part fell beyond its tolerance, in words; empty where none did."""


Looker = Callable[[Any | None], Look]
"""Asks the adapter as it is attached; given the outcomes of the first look, or None for that look itself."""
