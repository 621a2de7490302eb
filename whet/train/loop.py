"""The one training loop: steps, validation on the whole split, early stop, the best adapter kept, checkpoints, guards."""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from whet.backends.base import Backend, FullSettings, LoraSettings, OptimizerSettings, Pack, StepLimits, StepResult
from whet.data.mix import MixSettings
from whet.errors import InputError, WhetError
from whet.models.adapter import write_card
from whet.models.base_model import BaseModel
from whet.storage import staged_folder, write_jsonl
from whet.train.batches import pack_rows
from whet.train.checkpoint import Checkpoints, CheckpointSettings
from whet.train.course import Course, Ended, Progress, TrainResult
from whet.train.encode import Row
from whet.train.guards import NOTED, Guard, GuardSettings, finite_or_none, reason_of, suspects, words_of
from whet.train.journal import GUARDS, METRICS, Journal
from whet.train.looks import LOOKS, Looker, LookSettings
from whet.train.order import Order, OrderSettings
from whet.train.schedule import ScheduleSettings, learning_rate_at
from whet.train.trackers import TrackerSettings

__all__ = ["Progress", "TrainResult", "TrainSettings", "Training", "valid_loss"]


class TrainSettings(ScheduleSettings):
    """How the adapter is trained."""

    method: Literal["lora", "full"] = "lora"
    """lora trains an adapter on the frozen base; full trains the base's own weights."""
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
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations on the whole valid split; null takes a quarter of an epoch."""
    choose_by: Literal["valid_loss", "score", "suite"] = "valid_loss"
    """Which adapter is best, and what the patience looks at: the lowest validation loss, the highest score of the task, or the
    highest mean over the suite's parts of the role task, which `looks` names; then there is a validation with each look."""
    score_examples: int = Field(default=100, ge=1)
    """Most examples of the valid split that the score is measured on, spread evenly; with choose_by score."""
    patience: int | None = Field(default=4, ge=1)
    """Validations without improvement after which training stops; null never stops early."""
    min_improvement: float = Field(default=1e-3, ge=0)
    """By how much the validation loss (nats a learnt token) must fall, or the score rise, to count for the patience."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the adapter's start and of the order of examples."""
    lora: LoraSettings = LoraSettings()
    """The adapter, with method lora."""
    full: FullSettings = FullSettings()
    """What is trained with method full."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """The optimiser."""
    order: OrderSettings = OrderSettings()
    """The order of examples."""
    mix: MixSettings | None = None
    """How much of an epoch comes from each source; null takes every example once."""
    guards: GuardSettings = GuardSettings()
    """What is done about a loss or gradient that leaps or is no number."""
    looks: LookSettings | None = None
    """A suite that is asked while the run trains, so that one that forgets is stopped; null asks none."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """How often the run can be taken up again."""
    trackers: TrackerSettings = TrackerSettings()
    """Where the metrics go besides metrics.jsonl."""

    @property
    def adapter(self) -> LoraSettings | FullSettings:
        """What is put on the base."""
        return self.lora if self.method == "lora" else self.full

    @model_validator(mode="after")
    def _refuse_the_other_method(self) -> Self:
        if self.method == "lora" and self.full != FullSettings():
            raise ValueError("full does nothing with method lora")
        if self.method == "full" and self.lora != LoraSettings():
            raise ValueError("lora does nothing with method full")
        if self.choose_by != "score" and self.score_examples != TrainSettings.model_fields["score_examples"].default:
            raise ValueError(f"score_examples does nothing with choose_by {self.choose_by}")
        if self.choose_by == "suite" and self.looks is None:
            raise ValueError("choose_by suite needs looks, which name the suite")
        if self.choose_by == "suite" and self.validate_every is not None:
            raise ValueError("validate_every does nothing with choose_by suite; looks.every says it")
        if self.patience is None and self.min_improvement != TrainSettings.model_fields["min_improvement"].default:
            raise ValueError("min_improvement does nothing without patience")
        if self.method == "full" and self.optimizer.b_ratio != 1:
            raise ValueError("optimizer.b_ratio does nothing with method full, which has no adapter")
        return self


def valid_loss(backend: Backend, packs: Sequence[Pack]) -> float:
    """Mean loss a learnt token over all packs."""
    total, count = backend.loss(packs)
    return total / count


LONG_VALIDATION = 50_000  # tokens from which on a first validation is announced


class Training:
    """One run of the loop: its rows, its backend with the adapter attached, where it writes.

    key: what the run depends on; checkpoints of another key are not taken up. card: more that the adapter's card shall say.
    order: of the rows; shuffled if not given.
    score: the task's score with the adapter that is attached, higher is better.
    look: asks that adapter the suite's small edition. say: is told one line about what matters.
    """

    def __init__(
        self,
        backend: Backend,
        base: BaseModel,
        train_rows: Sequence[Row],
        valid_rows: Sequence[Row],
        settings: TrainSettings,
        out: Path,
        *,
        key: str = "",
        card: Mapping[str, Any] | None = None,
        order: Order | None = None,
        score: Callable[[], float] | None = None,
        look: Looker | None = None,
        say: Callable[[str], None] = lambda words: None,
    ) -> None:
        if settings.choose_by == "score" and score is None:
            raise InputError("train.choose_by", "is score, but this task measures none while it trains", "Set it to valid_loss")
        self.backend, self.base, self.settings, self.out = backend, base, settings, out
        self.key, self.rows, self.card = key, train_rows, dict(card or {})
        assert (look is None) == (settings.looks is None), "looks that the settings ask for"
        self.look = look
        self.score = {"valid_loss": None, "score": score, "suite": self._look_for_score}[settings.choose_by]
        self.is_writer = backend.rank == 0
        self.say = say if self.is_writer else lambda words: None
        self.valid_packs = pack_rows(valid_rows, settings.tokens_per_batch, backend.row_layout)
        assert order is not None or (settings.mix is None and settings.order.curriculum == "none"), (
            "an order that the settings ask for"
        )
        self.order = order or Order(len(train_rows), settings.examples_per_step, settings.seed)
        per_epoch = self.order.steps_per_epoch
        self.num_steps = min(max(1, round(settings.epochs * per_epoch)), settings.max_steps or 10**12)
        self.validate_every = settings.validate_every or max(1, per_epoch // 4)
        if settings.looks is not None and settings.choose_by == "suite":
            self.validate_every = settings.looks.every
        self.save_every = settings.checkpoints.every or self.validate_every
        self.checkpoints = Checkpoints(out / "checkpoints", key, settings.checkpoints, self.say)
        self.journal = Journal(out, self.is_writer)
        self.course = Course()
        self.guard = Guard(settings.guards, settings.optimizer.max_gradient_norm)
        self.is_begun = False
        self.fault = ""
        """Why the run can't go on."""

    @property
    def adapter_folder(self) -> Path:
        return self.out / "adapter"

    def run(self, watch: Callable[[Progress], None], is_stopped: Callable[[], bool] = lambda: False) -> TrainResult:
        """Train to the end, a plateau, an interruption or divergence; the best adapter is on disk afterwards.

        Begins at the newest whole checkpoint of this key, if there is one, and ends as if it had never been stopped.
        """
        if not self.is_begun:
            self.take_up()
        self.began, self.at_start = time.monotonic(), replace(self.course)
        course = self.course
        self._write_looks()
        with self.journal.opened(course.step):
            if not course.valid_curve:
                if (num := sum(pack.num_tokens for pack in self.valid_packs)) > LONG_VALIDATION:
                    self.say(f"validating before the first step: {num:,} tokens")
                self._look()
                self._validate()
            ended = self._ending()
            while ended is None:
                progress = self._advance()
                if progress is not None:
                    watch(progress)
                ended = self._ending() or ("interrupted" if is_stopped() else None)
                is_due = course.step % self.save_every == 0 or course.step == self.num_steps
                if not self.fault and (is_due or ended == "interrupted"):
                    self._save_checkpoint()
            # After the checkpoint: a run that is taken up again must not know of this validation.
            if not course.is_validated:
                self._validate()
        if course.best_step == 0:
            why = self.fault or course.forgotten or "no step was taken"
            raise WhetError("train", f"{why}; no adapter was kept", "Lower train.learning_rate")
        course.seconds = self._seconds()
        return course.result(ended, self.num_steps, self.guard.num_refused)

    def take_up(self) -> bool:
        """Stand where the newest checkpoint of this run stands; False where there is none. `run` does it unless it was done."""
        self.is_begun = True
        found = self.checkpoints.newest(is_writer=self.is_writer)
        if found is None:
            if self.is_writer:
                shutil.rmtree(self.adapter_folder, ignore_errors=True)
            return False
        self.checkpoints.restore(found, self.backend, self.adapter_folder)
        self.course = Course.from_json(found.facts["course"])
        self.guard.restore(found.facts["guard"])
        self.say(f"goes on at step {found.step} of {self.num_steps} ({found.folder})")
        return True

    def _ending(self) -> Ended | None:
        """How the run ends where it stands; None if it goes on."""
        if self.fault:
            return "diverged"
        if self.course.forgotten and self.settings.looks is not None and self.settings.looks.on_forgetting == "stop":
            return "forgot"
        if self.settings.patience and self.course.without_improvement >= self.settings.patience:
            return "plateau"
        return "finished" if self.course.step >= self.num_steps else None

    def _advance(self) -> Progress | None:
        """One step, and what is due after it; None if the run can't go on."""
        course, guard = self.course, self.guard
        rate = learning_rate_at(self.settings, course.step, self.num_steps) * guard.rate_factor
        rows = [self.rows[number] for number in self.order.rows(course.step)]
        packs = pack_rows(rows, self.settings.tokens_per_batch, self.backend.row_layout)
        limits = guard.limits()
        result = self.backend.update(packs, rate, limits)
        course.step += 1
        course.num_examples += len(rows)
        course.num_tokens += sum(row.num_tokens for row in rows)
        course.num_computed += result.num_computed
        course.num_learnt += result.num_learnt
        if result.is_taken:
            guard.judge(result)
            course.train_curve.append((course.step, result.loss_sum / result.num_learnt))
        else:
            self._refuse(rows, result, limits)
        looks = self.settings.looks
        if not self.fault and looks is not None and (course.step % looks.every == 0 or course.step == self.num_steps):
            self._look()
        checked = None
        is_due = course.step % self.validate_every == 0 or course.step == self.num_steps
        if not self.fault and is_due and not course.is_validated:
            checked = self._validate()
        if self.fault:
            return None
        progress = self._progress(result, rate, checked)
        numbers = {name: finite_or_none(value) for name, value in asdict(progress).items()}
        self.journal.write(METRICS, numbers)
        return progress

    def _refuse(self, rows: Sequence[Row], result: StepResult, limits: StepLimits) -> None:
        """Deal with a step that was not taken: name its rows, write it down, stop where the policy says so."""

        def loss_of(row: Row) -> float:
            return valid_loss(self.backend, pack_rows([row], self.settings.tokens_per_batch, self.backend.row_layout))

        step, reason, follows = self.course.step, reason_of(result, limits), self.guard.judge(result)
        named = suspects(rows, loss_of)
        note = {
            "step": step,
            "reason": reason,
            "follows": follows,
            "loss": finite_or_none(result.loss_sum / result.num_learnt),
            "gradient_norm": finite_or_none(result.gradient_norm),
            "rate_factor": self.guard.rate_factor,
            "rows": [one.to_json() for one in named[:NOTED]],
        }
        self.journal.write(GUARDS, note)
        words = words_of(step, reason, named, follows, self.guard.rate_factor)
        self.say(words)
        if follows == "stop":
            self.fault = words

    def _look(self) -> None:
        """Ask the suite's small edition, unless these weights were asked already."""
        if self.look is None or self.course.is_looked:
            return
        found = self.look(self.course.first_outcomes)
        self.course.note_look(found)
        self._write_looks()
        figures = ", ".join(f"{name} {value:.3f}" for name, value in found.figures.items())
        self.say(f"look at step {self.course.step}: {figures}")
        if found.forgotten:
            self.say(found.forgotten)

    def _write_looks(self) -> None:
        """All looks so far: few lines, written anew, so that a resumed run leaves none of what it does not know."""
        if self.is_writer and self.look is not None:
            write_jsonl(self.out / LOOKS, self.course.looks)

    def _look_for_score(self) -> float:
        """The mean of the suite's task parts, with the adapter as it is."""
        self._look()
        score = self.course.looks[-1]["score"]
        return math.nan if score is None else float(score)

    def _validate(self) -> float | None:
        """Loss of the whole valid split, and the score where it is chosen by that; the best adapter is written at once."""
        course = self.course
        loss = valid_loss(self.backend, self.valid_packs)
        score = self.score() if self.score else None
        if not math.isfinite(loss) or (score is not None and not math.isfinite(score)):
            self.fault = f"the validation {'loss' if not math.isfinite(loss) else 'score'} is no number at step {course.step}"
            return None
        # A step that was not taken changed nothing: the weights are those of the last one that was.
        if course.note_validation(course.last_taken, loss, score, self.settings.min_improvement):
            self._save_best()
        return loss

    def _save_best(self) -> None:
        course = self.course
        facts = {"step": course.best_step, "valid_loss": course.best_loss, "train_key": self.key, **self.card}
        if not self.is_writer:
            self.backend.save_adapter(self.adapter_folder)
            return
        with staged_folder(self.adapter_folder) as folder:
            self.backend.save_adapter(folder)
            write_card(folder, self.base, facts)

    def _save_checkpoint(self) -> None:
        course = self.course
        course.seconds = self._seconds()
        self.journal.sync()
        facts = {"seed": self.settings.seed, "course": course.to_json(), "guard": self.guard.to_json()}
        self.checkpoints.save(self.backend, course.step, facts, self.adapter_folder, course.best_step)

    def _seconds(self) -> float:
        return self.at_start.seconds + time.monotonic() - self.began

    def _progress(self, result: StepResult, rate: float, checked: float | None) -> Progress:
        course, before = self.course, self.at_start
        here = max(time.monotonic() - self.began, 1e-9)
        return Progress(
            step=course.step,
            num_steps=self.num_steps,
            loss=result.loss_sum / result.num_learnt,
            valid_loss=checked,
            best_loss=course.best_loss,
            learning_rate=rate,
            gradient_norm=result.gradient_norm,
            examples_per_s=(course.num_examples - before.num_examples) / here,
            tokens_per_s=(course.num_tokens - before.num_tokens) / here,
            learnt_per_s=(course.num_learnt - before.num_learnt) / here,
            num_tokens=course.num_tokens,
            num_computed=course.num_computed,
            peak_memory=self.backend.peak_memory(),
            seconds=before.seconds + here,
            seconds_left=here / (course.step - before.step) * (self.num_steps - course.step),
        )
