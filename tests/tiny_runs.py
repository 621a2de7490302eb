"""Tiny runs on the embedded base, and a watch that remembers what was done."""

from pathlib import Path
from typing import Any

from whet.evaluate.report import Report
from whet.pipeline.ask import Silent
from whet.pipeline.run import run
from whet.recipe import recipe_from

TAGS = {"name": {"tag": "P"}, "office": {"tag": "O"}}
SPLITS = ("train", "valid", "test")


class Log(Silent):
    """A watch that remembers which steps ran and who was asked."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.skipped: list[str] = []
        self.asked: set[str] = set()

    def begin(self, step: str, is_skipped: bool) -> None:
        (self.skipped if is_skipped else self.ran).append(step)

    def count(self, what: str, done: int, total: int | None) -> None:
        if total is not None:
            self.asked.add(what)


def recipe(corpus: Path, *overrides: str) -> Any:
    raw = {
        "name": "tiny",
        "task": {
            "kind": "extraction",
            "prompt": "取官員。",
            "max_tokens": 8,
            "fields": [{"name": "name"}, {"name": "office", "nullable": True}],
        },
        "data": {"sources": [{"reader": "inline", "path": f"{split}.txt", "split": split, "tags": TAGS} for split in SPLITS]},
        "train": {
            "max_steps": 2,
            "examples_per_step": 4,
            "max_length": 256,
            "validate_every": 2,
            "learning_rate": 1e-3,
            "lora": {"rank": 2},
        },
        "evaluate": {"max_examples": 3, "baselines": ["dictionary"], "resamples": 99},
    }
    return recipe_from(raw, list(overrides), "test", corpus)


def step_in(corpus: Path, folder: Path, *overrides: str) -> tuple[Report | None, Log]:
    log = Log()
    return run(recipe(corpus, *overrides), folder, log), log
