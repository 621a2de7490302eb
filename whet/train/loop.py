"""The one training loop: steps, validation on the whole split, early stop, the best adapter kept."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from whet.backends.base import Backend, LoraSettings, OptimizerSettings, Pack
from whet.config import Settings
from whet.errors import WhetError
from whet.models.adapter import write_card
from whet.models.base_model import BaseModel
from whet.storage import staged_folder
from whet.train.batches import pack_rows, rows_of_step, steps_per_epoch
from whet.train.encode import Row


class TrainSettings(Settings):
    """How the adapter is trained."""

    epochs: float = Field(default=3.0, gt=0)
    """Times that every example is seen."""
    max_steps: int | None = Field(default=None, ge=1)
    """Most optimiser steps; null leaves it to the epochs."""
    examples_per_step: int = Field(default=16, ge=1)
    """Examples of one optimiser step, however many micro-batches they take."""
    tokens_per_batch: int = Field(default=1024, ge=64)
    """Most tokens that one micro-batch computes; lower it where memory is short."""
    max_length: int = Field(default=1024, ge=16)
    """Most tokens of a row, prompt and answer together. Longer rows are refused or dropped, never cut."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Largest learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from zero."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations on the whole valid split; null takes a quarter of an epoch."""
    patience: int | None = Field(default=4, ge=1)
    """Validations without improvement after which training stops; null never stops early."""
    min_improvement: float = Field(default=1e-3, ge=0)
    """By how much, in nats a learnt token, the validation loss must fall to count as improvement for the patience."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the adapter's start and of the order of examples."""
    lora: LoraSettings = LoraSettings()
    """The adapter."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimiser."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    num_steps: int
    loss: float
    """Mean over the step's learnt tokens, in nats."""
    valid_loss: float | None
    """Set on steps that validated."""
    best_loss: float
    tokens_per_s: float
    """Tokens of examples (prompts and answers, unpacked) that went through training in a second."""
    seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    ended: Literal["finished", "plateau", "interrupted", "diverged"]
    steps: int
    num_steps: int
    best_step: int
    best_valid_loss: float
    first_valid_loss: float
    seconds: float
    num_tokens: int
    """Tokens of the examples seen, unpacked."""
    num_computed: int
    """Tokens that the device computed: fewer where prefixes are shared, more where rows are padded."""
    num_learnt: int
    train_curve: tuple[tuple[int, float], ...]
    valid_curve: tuple[tuple[int, float], ...]


def learning_rate_at(settings: TrainSettings, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 0): linear warm-up, then cosine, linear or no decay to zero."""
    warm_up = round(settings.warm_up * num_steps)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(1, num_steps - warm_up)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return settings.learning_rate * ((1 - done) if settings.schedule == "linear" else 1.0)


def valid_loss(backend: Backend, packs: Sequence[Pack]) -> float:
    """Mean loss a learnt token over all packs."""
    sums = [backend.loss(pack) for pack in packs]
    return sum(loss for loss, _ in sums) / sum(count for _, count in sums)


class Training:
    """One run of the loop: its rows, its backend with the adapter attached, where it writes."""

    def __init__(
        self,
        backend: Backend,
        base: BaseModel,
        train_rows: Sequence[Row],
        valid_rows: Sequence[Row],
        settings: TrainSettings,
        out: Path,
        card: dict[str, Any] | None = None,
    ) -> None:
        self.backend, self.base, self.settings, self.out = backend, base, settings, out
        self.card = card or {}
        self.rows = train_rows
        self.valid_packs = pack_rows(valid_rows, settings.tokens_per_batch, backend.row_layout)
        per_epoch = steps_per_epoch(len(train_rows), settings.examples_per_step)
        self.num_steps = min(max(1, round(settings.epochs * per_epoch)), settings.max_steps or 10**12)
        self.validate_every = settings.validate_every or max(1, per_epoch // 4)
        self.best_loss, self.best_step, self.best_state = math.inf, 0, backend.state()
        self.plateau_loss, self.without_improvement = math.inf, 0
        self.train_curve: list[tuple[int, float]] = []
        self.valid_curve: list[tuple[int, float]] = []
        self.num_tokens = self.num_computed = self.num_learnt = 0

    def run(self, watch: Callable[[Progress], None], is_stopped: Callable[[], bool] = lambda: False) -> TrainResult:
        """Train to the end, a plateau, an interruption or a loss that is no number; the best adapter is on disk afterwards."""
        self.out.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        ended: Literal["finished", "plateau", "interrupted", "diverged"] = "finished"
        step = 0
        with (self.out / "metrics.jsonl").open("w", encoding="utf-8") as log:
            self._validate(0)
            for step in range(1, self.num_steps + 1):
                loss = self._step(step - 1)
                checked = None
                if not math.isfinite(loss):
                    ended = "diverged"
                    break
                if step % self.validate_every == 0 or step == self.num_steps:
                    checked = self._validate(step)
                seconds = time.monotonic() - began
                progress = Progress(
                    step,
                    self.num_steps,
                    loss,
                    checked,
                    self.best_loss,
                    self.num_tokens / seconds,
                    seconds,
                    seconds / step * (self.num_steps - step),
                )
                # JSON has no infinity, which is the best loss before the first validation.
                row = {name: value if value is None or math.isfinite(value) else None for name, value in asdict(progress).items()}
                log.write(json.dumps(row) + "\n")
                log.flush()
                watch(progress)
                if self.settings.patience and self.without_improvement >= self.settings.patience:
                    ended = "plateau"
                    break
                if is_stopped():
                    ended = "interrupted"
                    if checked is None:
                        self._validate(step)
                    break
        self.backend.restore(self.best_state)
        if self.best_step == 0:
            raise WhetError("train", f"the loss was no number at step {step}; no adapter was kept", "Lower train.learning_rate")
        return TrainResult(
            ended,
            step,
            self.num_steps,
            self.best_step,
            self.best_loss,
            self.valid_curve[0][1],
            time.monotonic() - began,
            self.num_tokens,
            self.num_computed,
            self.num_learnt,
            tuple(self.train_curve),
            tuple(self.valid_curve),
        )

    def _step(self, step: int) -> float:
        settings = self.settings
        picked = [self.rows[n] for n in rows_of_step(len(self.rows), settings.examples_per_step, settings.seed, step)]
        is_packed = self.backend.row_layout == "packed"
        packs = pack_rows(picked, settings.tokens_per_batch, self.backend.row_layout)
        result = self.backend.update(packs, learning_rate_at(settings, step, self.num_steps))
        self.num_tokens += sum(row.num_tokens for row in picked)
        self.num_computed += sum(pack.num_tokens if is_packed else pack.num_padded for pack in packs)
        self.num_learnt += result.num_learnt
        loss = result.loss_sum / result.num_learnt
        if not math.isfinite(loss) or not math.isfinite(result.gradient_norm):
            return math.nan
        self.train_curve.append((step + 1, loss))
        return loss

    def _validate(self, step: int) -> float:
        loss = valid_loss(self.backend, self.valid_packs)
        self.valid_curve.append((step, loss))
        # The start is never "best": an adapter that changes nothing is no result.
        if step and loss < self.best_loss:
            self.best_loss, self.best_step, self.best_state = loss, step, self.backend.state()
            self._save()
        if loss < self.plateau_loss - self.settings.min_improvement:
            self.plateau_loss, self.without_improvement = loss, 0
        else:
            self.without_improvement += 1
        return loss

    def _save(self) -> None:
        facts: dict[str, Any] = {"step": self.best_step, "valid_loss": self.best_loss, **self.card}
        with staged_folder(self.out / "adapter") as folder:
            self.backend.save_adapter(folder)
            write_card(folder, self.base, facts)
