"""A recipe that is being said in another trainer's words: what was taken of it, and what can't be said there."""

from dataclasses import dataclass
from typing import Any, Literal

from whet.backends.base import LoraSettings, OptimizerSettings
from whet.config import explain
from whet.data.formats import ExampleFiles
from whet.errors import InputError
from whet.recipe import Recipe
from whet.tasks.free_qa import FreeQaSettings
from whet.train.loop import TrainSettings
from whet.train.order import steps_per_epoch

# Settings of whet alone: they say how it proves, compares, extracts and watches, not what is learnt.
OWN = ("name", "engine.", "evaluate.", "calibrate.", "extract.", "train.trackers.", "train.checkpoints.", "data.root",
       "device.logits_mb", "train.tokens_per_batch", "device.kind", "data.max_bad_share", "calibrate", "extract", "data.sources.",
       "task.kind", "train.method", "device.frozen_cache")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unsaid:
    """A setting that the other tool has no word for, or nearly none."""

    setting: str
    value: Any
    why: str
    kind: Literal["lost", "nearly"] = "lost"


class Said:
    """The settings of a recipe, each marked when a tool's writer takes it."""

    def __init__(self, recipe: Recipe, tool: str, num_rows: int | None = None) -> None:
        if recipe.train is None:
            raise InputError("train", "is null in this recipe", "Give it a train section; there is nothing to export")
        self.recipe, self.tool, self.num_rows = recipe, tool, num_rows
        self.train: TrainSettings = recipe.train
        self.lora: LoraSettings | None = recipe.train.lora if recipe.train.method == "lora" else None
        self.optimizer: OptimizerSettings = recipe.train.optimizer
        self.unsaid: list[Unsaid] = []
        self._taken: set[str] = set()

    def take(self, *names: str) -> Any:
        """The value of the first of these settings; all of them count as said."""
        self._taken.update(names)
        return self._value(names[0])

    def _value(self, name: str) -> Any:
        at: Any = self.recipe
        for part in name.split("."):
            at = at[int(part)] if part.isdecimal() else getattr(at, part)
        return at

    def cannot(self, name: str, why: str, *, is_nearly: bool = False) -> None:
        """List a setting as not said, or as said nearly."""
        self._taken.add(name)
        self.unsaid.append(Unsaid(name, self._value(name), why, "nearly" if is_nearly else "lost"))

    def sources(self) -> list[tuple[str, str]]:
        """Path and split of each source of example files; other sources are listed as not said."""
        found: list[tuple[str, str]] = []
        for number, source in enumerate(self.recipe.data.sources):
            name = f"data.sources.{number}.reader"
            if isinstance(source, ExampleFiles):
                path = source.path if self.recipe.data.root is None else self.recipe.data.root / source.path
                found.append((path.as_posix(), source.split or "train"))
            elif name not in self._taken:
                self.cannot(name, f"{self.tool} reads no such corpus: build the data with whet, and give it data/train.jsonl")
        return found

    def steps(self, word: str) -> int:
        """Optimiser steps of the run. InputError where they hang on a number of rows that was not given."""
        if self.train.max_steps is not None and self.train.epochs >= self.train.max_steps:
            self.take("train.max_steps", "train.epochs")
            return self.train.max_steps
        if self.num_rows is None:
            raise InputError(
                "train.epochs", f"{self.tool} counts {word}, not epochs", "Give the number of train rows with --rows"
            )
        per_epoch = steps_per_epoch(self.num_rows, self.train.examples_per_step)
        self.take("train.max_steps", "train.epochs")
        return min(max(1, round(self.train.epochs * per_epoch)), self.train.max_steps or 10**12)

    def warm_up_steps(self, num_steps: int) -> int:
        """Steps of the warm-up; both ways to say it count as said."""
        self.take("train.warm_up", "train.warm_up_steps", "train.warm_up_from_zero")
        given = self.train.warm_up_steps
        return round(self.train.warm_up * num_steps) if given is None else given

    def finish(self) -> None:
        """List every setting that was not taken and is not at its default, and what whet does by itself."""
        train = self.train
        if not isinstance(self.recipe.task, FreeQaSettings):
            self.unsaid.append(Unsaid("task.kind", self.recipe.task.kind, f"{self.tool} knows no tasks: give it the rows that "
                                      "whet renders, as prompt and completion, and constrain nothing"))  # fmt: skip
        elif self.recipe.task.system is not None and "task.system" not in self._taken:
            self.cannot("task.system", f"{self.tool} adds no system message: put it into the rows")
        if train.patience is not None and "train.patience" not in self._taken:
            self.cannot("train.patience", "training goes on to the end there")
        self.unsaid.append(Unsaid("train.guards", "", "a step whose loss leaps is taken there; whet does not take it", "nearly"))
        for name, value, is_default, _ in explain(self.recipe):
            if is_default or name in self._taken or name.startswith(OWN) or _is_idle(self, name):
                continue
            self.unsaid.append(Unsaid(name, value, f"{self.tool} has no such setting"))


def _is_idle(said: Said, name: str) -> bool:
    """Whether a setting only says how to treat rows as the other tool does anyway, or what the method leaves out."""
    if name.startswith(("train.lora.",)) and said.lora is None:
        return True
    if name.startswith("train.full.") and said.lora is not None:
        return True
    keeps = {"data.clean.duplicates": "keep", "data.clean.conflicting": "keep"}
    return name in keeps and said.take(name) == keeps[name]
