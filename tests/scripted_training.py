"""A backend in plain Python whose losses are read from scripts, and runs of the loop over it."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from whet.backends.base import Ask, FullSettings, Generated, LoraSettings, Pack, StepLimits, StepResult
from whet.models.base_model import BaseModel
from whet.train.batches import num_computed
from whet.train.encode import Row
from whet.train.loop import Progress, Training, TrainResult, TrainSettings


class ScriptedBackend:
    """A backend in plain Python: its weight is the number of steps taken, its losses are read from scripts."""

    row_layout: Literal["packed", "padded"] = "packed"
    layout_reason = ""
    rank, num_ranks = 0, 1

    def __init__(
        self,
        valid: Callable[[int], float],
        train: Callable[[int], float] = lambda step: 1.0,
        norm: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        self.valid, self.train, self.norm = valid, train, norm
        self.weight = self.num_updates = 0
        self.rates: list[float] = []
        self.limits: list[StepLimits] = []
        self.seen: list[list[tuple[int, ...]]] = []

    def attach(self, adapter: LoraSettings | FullSettings | Path | None, seed: int = 0) -> None:
        self.weight = self.num_updates = 0

    def save_adapter(self, folder: Path) -> None:
        if self.rank == 0:
            (folder / "adapter.txt").write_text(str(self.weight))

    def check_layout(self, packs: Sequence[Pack]) -> str:
        return ""

    def update(self, packs: Sequence[Pack], learning_rate: float, limits: StepLimits = StepLimits()) -> StepResult:  # noqa: B008
        self.rates.append(learning_rate)
        self.limits.append(limits)
        self.seen.append(sorted(pack.row(leaf) for pack in packs for leaf in pack.leaves))
        self.num_updates += 1
        num_learnt = sum(pack.num_learnt for pack in packs)
        loss, norm = self.train(self.num_updates), self.norm(self.num_updates)
        is_taken = math.isfinite(loss + norm) and loss <= limits.loss and norm <= limits.gradient_norm
        self.weight += is_taken
        return StepResult(loss * num_learnt, num_learnt, norm, num_computed(packs), is_taken)

    def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
        num_learnt = sum(pack.num_learnt for pack in packs)
        return self.valid(self.weight) * num_learnt, num_learnt

    def hold(self, adapters: Mapping[str, Path]) -> None:
        raise NotImplementedError

    def generate(self, asks: Iterable[Ask], end_ids: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        raise NotImplementedError

    def log_likelihoods(self, pack: Pack, adapter: str | None = None) -> list[float]:
        raise NotImplementedError

    def digests(self) -> dict[str, str]:
        return {"weight": str(self.weight)}

    def save_state(self, folder: Path) -> None:
        if self.rank == 0:
            (folder / "state.json").write_text(json.dumps([self.weight, self.num_updates]))

    def load_state(self, folder: Path) -> None:
        self.weight, self.num_updates = json.loads((folder / "state.json").read_text())

    def peak_memory(self) -> int:
        return 7


PROMPT = tuple(range(100, 120))  # long enough to be shared
ROWS = [Row(f"e{n}", f"f:{n}", (*PROMPT, n), (n, 9), False) for n in range(10)]


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**({"epochs": 4, "examples_per_step": 5, "validate_every": 1, "patience": None} | changes))


class Run:
    """One run of the loop in a folder, and all that it left."""

    def __init__(
        self,
        out: Path,
        base: BaseModel,
        backend: ScriptedBackend,
        stop_at: int = 0,
        score: Any = None,
        look: Any = None,
        **changes: Any,
    ) -> None:
        self.backend, self.told, self.said = backend, list[Progress](), list[str]()
        self.training = Training(
            backend, base, ROWS, ROWS[:3], settings(**changes), out, score=score, look=look, say=self.said.append
        )
        self.result: TrainResult = self.training.run(self.told.append, lambda: len(self.told) == stop_at)
        self.saved = int((out / "adapter" / "adapter.txt").read_text())
        self.card = json.loads((out / "adapter" / "whet.json").read_text())
        self.log = lines(out / "metrics.jsonl")
        self.guarded = lines(out / "guards.jsonl")


def lines(path: Path) -> list[Any]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
