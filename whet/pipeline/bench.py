"""What the steps of a run share: the recipe, its folder, and the base, opened when first needed."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import whet.errors
from whet.backends.base import Backend
from whet.backends.processes import Alone, Company
from whet.config import load
from whet.engines.base import Engine
from whet.engines.open import open_engine
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base
from whet.recipe import Recipe
from whet.records import Example, example_from_json
from whet.storage import canonical, hash_file, hash_text, read_json, read_jsonl, write_json
from whet.tasks.base import Task
from whet.tasks.table import open_task
from whet.text.chat import Chat
from whet.train.course import Progress, TrainResult


class Watch(Protocol):
    """Who is told how a run goes on."""

    def begin(self, step: str, is_skipped: bool) -> None:
        """A step begins, or is skipped since its inputs are unchanged."""
        ...

    def say(self, words: str) -> None:
        """One line about the step."""
        ...

    def count(self, what: str, done: int, total: int | None) -> None:
        """Something countable goes on."""
        ...

    def trained(self, progress: Progress) -> None:
        """A training step is done."""
        ...

    def ended(self, result: TrainResult) -> None:
        """Training is over; its whole course can be shown."""
        ...

    def show(self, pieces: list[tuple[str, bool]]) -> None:
        """One training row: pieces of text, each with whether it is learnt."""
        ...


class Silent:
    """A watch that tells nobody."""

    def begin(self, step: str, is_skipped: bool) -> None:
        pass

    def say(self, words: str) -> None:
        pass

    def count(self, what: str, done: int, total: int | None) -> None:
        pass

    def trained(self, progress: Any) -> None:
        pass

    def ended(self, result: Any) -> None:
        pass

    def show(self, pieces: list[tuple[str, bool]]) -> None:
        pass


@dataclass(frozen=True)
class Folder:
    """A run folder and what lies where in it."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def train(self) -> Path:
        return self.path / "train"

    @property
    def adapter(self) -> Path:
        return self.path / "train" / "adapter"

    def answers(self, system: str) -> Path:
        """The folder of one system's answers."""
        return self.path / "evaluate" / system

    @property
    def calibration(self) -> Path:
        """The folder of what the valid split taught about confidences."""
        return self.path / "calibrate"

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split, one at a time."""
        return (example_from_json(row) for row in read_jsonl(self.data / f"{split}.jsonl"))

    def is_done(self, step: str, key: str) -> bool:
        """Whether a step was finished with exactly these inputs."""
        mark = self.path / "marks" / f"{step}.json"
        return mark.is_file() and read_json(mark).get("key") == key

    def mark(self, step: str, key: str, **facts: Any) -> None:
        """Write that a step is finished; the last thing that it does."""
        write_json(self.path / "marks" / f"{step}.json", {"key": key, **facts})

    def unmark(self, step: str) -> None:
        """A step is about to write: until it is finished, it is not."""
        (self.path / "marks" / f"{step}.json").unlink(missing_ok=True)
        # The report speaks of what is about to change.
        for name in ("report.html", "metrics.json"):
            (self.path / name).unlink(missing_ok=True)


@functools.cache
def hash_code(room: str) -> str:
    """A hash of the code in a file or folder of the package."""
    place = Path(whet.errors.__file__).parent / room
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return hash_text(canonical([[file.name, hash_file(file)] for file in files]))


class Bench:
    """A recipe at work in a folder. Base, chat and backend are opened when first asked for, and once.

    company: the processes that train together; all work in the same folder, and the first alone writes.
    """

    def __init__(self, recipe: Recipe, folder: Path, watch: Watch, company: Company | None = None) -> None:
        self.recipe, self.folder, self.watch = recipe, Folder(folder), watch
        self.company: Company = company or Alone()
        self.task: Task = open_task(recipe.task)

    @functools.cached_property
    def base(self) -> BaseModel:
        return open_base(self.recipe.base)

    @functools.cached_property
    def chat(self) -> Chat:
        return Chat(self.base.folder)

    @functools.cached_property
    def backend(self) -> Backend:
        from whet.backends.open import open_backend

        return open_backend(self.base, self.recipe.train.optimizer if self.recipe.train else None, self.recipe.device)

    @property
    def token_limit(self) -> int:
        """Most tokens of a row: what the recipe says, never more than the base was made for."""
        limit = self.recipe.train.max_length if self.recipe.train else self.base.max_length
        if limit > self.base.max_length:
            raise InputError("train.max_length", f"is {limit}; the base was made for {self.base.max_length} tokens", "Lower it")
        return limit

    @property
    def has_base(self) -> bool:
        """Whether the base has a part in this: not where a server answers and nothing is trained."""
        return self.recipe.engine.kind == "local" or self.recipe.train is not None

    def engine(self, adapter: Path | None) -> Engine:
        """The engine that the recipe names: a server, or the base on this machine, with an adapter or bare."""
        return open_engine(self.recipe.engine, lambda: self.local_engine(adapter))

    def local_engine(self, adapter: Path | None) -> Engine:
        """The local engine over the bare base, or over the base with an adapter."""
        self.backend.attach(adapter)
        return self.attached_engine("specialist" if adapter else "base")

    def attached_engine(self, name: str = "specialist") -> Engine:
        """The local engine over what the backend has attached now."""
        from whet.engines.local import LocalEngine

        return LocalEngine(name, self.backend, self.chat, self.base.max_length)

    def key(self, rooms: tuple[str, ...], *parts: Any) -> str:
        """A hash of what a step reads: other inputs or settings, or other code in these rooms of whet, give another key."""
        plain = [part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in parts]
        return hash_text(canonical([[hash_code(room) for room in rooms], *plain]))


def saved_recipe(folder: Path) -> Recipe:
    """The recipe that a run folder was made with."""
    path = folder / "recipe.json"
    if not path.is_file():
        raise InputError(str(folder), "is no run folder (no recipe.json)", "Give a folder that `whet run` or `whet demo` wrote")
    return load(Recipe, read_json(path), {}, str(path))
