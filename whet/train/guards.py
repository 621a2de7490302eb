"""Guards of the loop: when a step's loss or gradient is no number or leaps, what is done about it, and which rows did it."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from whet.backends.base import StepLimits, StepResult
from whet.config import Settings
from whet.train.encode import Row

FEWEST = 10  # steps that make a median to go by
LOWERED = 0.5  # what the policy `lower` leaves of the learning rate
NAMED = 3  # rows that a message names; guards.jsonl holds NOTED of them
NOTED = 10


class GuardSettings(Settings):
    """What is done about a step whose loss or gradient is no number, or leaps. Such a step is never taken."""

    window: int = Field(default=50, ge=FEWEST)
    """The last n taken steps whose medians the ratios are measured against."""
    max_loss_ratio: float | None = Field(default=5.0, gt=1)
    """Largest mean loss of a step over the median, in the first ten steps over the largest so far; null switches it off."""
    min_loss: float = Field(default=2.0, ge=0)
    """A mean loss up to this many nats a learnt token is no leap: when nearly all is learnt, one hard example is many medians."""
    max_gradient_ratio: float | None = Field(default=100.0, gt=1)
    """Largest gradient norm over the median, from the eleventh step on; null switches it off. A norm that is not clipped is no
    leap."""
    policy: Literal["stop", "skip", "lower"] = "stop"
    """stop ends the run; skip goes on with the next step; lower does so with half the learning rate from then on."""
    max_in_a_row: int = Field(default=3, ge=1)
    """With skip and lower, so many such steps in a row end the run."""

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if "max_in_a_row" in given and self.policy == "stop":
            raise ValueError("max_in_a_row does nothing with policy stop")
        if "min_loss" in given and self.max_loss_ratio is None:
            raise ValueError("min_loss does nothing without max_loss_ratio")
        if "window" in given and self.max_loss_ratio is None and self.max_gradient_ratio is None:
            raise ValueError("window does nothing without max_loss_ratio and max_gradient_ratio")
        return self


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row of a step that was not taken, and its own mean loss in nats a learnt token."""

    row: Row
    loss: float

    def __str__(self) -> str:
        return f"{self.row.source} (loss {self.loss:.3g})"

    def to_json(self) -> dict[str, Any]:
        return {"source": self.row.source, "example": self.row.example_id, "loss": finite_or_none(self.loss)}


class Guard:
    """Judges steps by those before them. Its history is part of a checkpoint, so that a resumed run judges alike."""

    def __init__(self, settings: GuardSettings, max_gradient_norm: float) -> None:
        self.settings, self.clipped_at = settings, max_gradient_norm
        self.losses: deque[float] = deque(maxlen=settings.window)
        self.norms: deque[float] = deque(maxlen=settings.window)
        self.in_a_row = self.num_refused = 0
        self.rate_factor = 1.0

    def limits(self) -> StepLimits:
        """What the next step may reach."""
        settings = self.settings
        is_known = len(self.losses) >= FEWEST
        loss = norm = math.inf
        if settings.max_loss_ratio is not None and self.losses:
            # At first losses fall fast and a median says little: the largest one so far is what nothing should leap over.
            usual = statistics.median(self.losses) if is_known else max(self.losses)
            loss = max(settings.min_loss, settings.max_loss_ratio * usual)
        if settings.max_gradient_ratio is not None and is_known:
            norm = max(self.clipped_at, settings.max_gradient_ratio * statistics.median(self.norms))
        return StepLimits(loss, norm)

    def judge(self, result: StepResult) -> Literal["take", "skip", "lower", "stop"]:
        """Remember a step; gives what follows from it."""
        if result.is_taken:
            self.losses.append(result.loss_sum / result.num_learnt)
            self.norms.append(result.gradient_norm)
            self.in_a_row = 0
            return "take"
        self.in_a_row += 1
        self.num_refused += 1
        if self.settings.policy == "stop" or self.in_a_row >= self.settings.max_in_a_row:
            return "stop"
        if self.settings.policy == "lower":
            self.rate_factor *= LOWERED
        return self.settings.policy

    def to_json(self) -> dict[str, Any]:
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "in_a_row": self.in_a_row,
            "num_refused": self.num_refused,
            "rate_factor": self.rate_factor,
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Put back what `to_json` gave."""
        self.losses = deque(facts["losses"], maxlen=self.settings.window)
        self.norms = deque(facts["norms"], maxlen=self.settings.window)
        self.in_a_row, self.num_refused = facts["in_a_row"], facts["num_refused"]
        self.rate_factor = facts["rate_factor"]


def reason_of(result: StepResult, limits: StepLimits) -> str:
    """Why a step was not taken, with figures."""
    loss = result.loss_sum / result.num_learnt
    if not math.isfinite(loss):
        return "the loss is no number"
    if not math.isfinite(result.gradient_norm):
        return "the gradient is no number"
    if loss > limits.loss:
        return f"the loss leapt to {loss:.4g} nats a token, beyond {limits.loss:.4g}"
    return f"the gradient norm leapt to {result.gradient_norm:.4g}, beyond {limits.gradient_norm:.4g}"


def suspects(rows: Sequence[Row], loss_of: Callable[[Row], float]) -> list[Suspect]:
    """The rows of a step from the worst on; a loss that is no number is worse than any."""
    found = [Suspect(row, loss_of(row)) for row in rows]
    return sorted(found, key=lambda one: (math.isfinite(one.loss), -one.loss if math.isfinite(one.loss) else 0.0, one.row.source))


def words_of(step: int, reason: str, named: Sequence[Suspect], follows: str, rate_factor: float) -> str:
    """The line that tells of a step that was not taken."""
    then = {
        "skip": "it is skipped",
        "lower": f"it is skipped, and the learning rate is {rate_factor:g} of the schedule's from here",
        "stop": "training stops",
    }[follows]
    worst = ", ".join(str(one) for one in named[:NAMED])
    return f"step {step} is not taken: {reason}; worst rows: {worst}; {then}"


def finite_or_none(value: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if value is not None and math.isfinite(value) else None
