"""How the learning rate rises and falls over the steps of a run."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from whet.config import Settings

WSD_DECAY = 0.2  # share of the steps that wsd falls over; 10 to 20 % are enough (Hägele et al. 2024, arXiv 2405.18392)


class ScheduleSettings(Settings):
    """The learning rate over the steps."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Largest learning rate."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """How the learning rate goes on after the warm-up: constant stays; linear and cosine fall over all steps that are left; wsd
    (warm-up, stable, decay) stays and falls over the last ones only, as 1 - sqrt (Hägele et al. 2024, arXiv 2405.18392)."""
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    warm_up_steps: int | None = Field(default=None, ge=0)
    """Steps over which it rises; null leaves it to `warm_up`."""
    warm_up_from_zero: bool = False
    """Begin the warm-up at a rate of 0, as the schedulers of transformers and mlx-lm do; the first step then changes nothing."""
    decay_steps: int | None = Field(default=None, ge=1)
    """Steps over which linear and cosine fall; later ones keep the last rate. Null takes all steps that are left."""
    decay: float | None = Field(default=None, gt=0, le=1)
    """With wsd, share of the steps over which the learning rate falls at the end; null takes 0.2."""
    min_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the largest learning rate that the schedule ends at."""

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        if self.decay is not None and self.schedule != "wsd":
            raise ValueError("decay is for schedule wsd only")
        if self.min_rate and self.schedule == "constant":
            raise ValueError("min_rate does nothing with schedule constant")
        if self.decay_steps is not None and self.schedule not in ("linear", "cosine"):
            raise ValueError("decay_steps is for the schedules linear and cosine only")
        if self.warm_up_from_zero and not (self.warm_up if self.warm_up_steps is None else self.warm_up_steps):
            raise ValueError("warm_up_from_zero does nothing without a warm-up")
        if self.warm_up_steps is not None and self.warm_up != ScheduleSettings.model_fields["warm_up"].default:
            raise ValueError("warm_up does nothing beside warm_up_steps")
        return self


def learning_rate_at(settings: ScheduleSettings, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 0). The first step of a warm-up of n takes the (n + 1)-th part, so that no step is idle;
    with warm_up_from_zero step k takes k / n.
    """
    warm_up = round(settings.warm_up * num_steps) if settings.warm_up_steps is None else settings.warm_up_steps
    if step < warm_up and settings.warm_up_from_zero:
        return settings.learning_rate * step / warm_up
    if step < warm_up:
        return settings.learning_rate * (step + 1) / (warm_up + 1)
    left = settings.min_rate + (1 - settings.min_rate) * _share(settings, step, warm_up, num_steps)
    return settings.learning_rate * left


def _share(settings: ScheduleSettings, step: int, warm_up: int, num_steps: int) -> float:
    """What is left, from 1 to 0, of the part of the learning rate that falls."""
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "wsd":
        falling = max(1, round((settings.decay or WSD_DECAY) * num_steps))
        begin = max(warm_up, num_steps - falling)
        return 1.0 if step < begin else 1 - math.sqrt((step - begin) / max(1, num_steps - begin))
    done = min(1.0, (step - warm_up) / (settings.decay_steps or max(1, num_steps - warm_up)))
    return 1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
