"""Where a run of the loop stands, as the loop knows it, as a watcher is told it, and as it ended."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from whet.train.looks import Look

Curve = list[tuple[int, float]]
Ended = Literal["finished", "plateau", "interrupted", "diverged", "forgot"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after a step; the fields of one line of metrics.jsonl."""

    step: int
    num_steps: int
    loss: float
    """Mean over the step's learnt tokens, in nats."""
    valid_loss: float | None
    """Set on steps that validated."""
    best_loss: float
    """Validation loss of the best adapter so far; infinite before there is one."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    examples_per_s: float
    """Rates are means over all steps since this process began."""
    tokens_per_s: float
    """Tokens of examples (prompts and answers, unpacked) that went through training in a second."""
    learnt_per_s: float
    num_tokens: int
    """Tokens of the examples seen so far, unpacked."""
    num_computed: int
    """Tokens that the device computed for them so far: fewer where prefixes are shared, more where rows are padded."""
    peak_memory: int
    """Most bytes that the device held."""
    seconds: float
    """Since the run began, without the time between an interruption and the resume."""
    seconds_left: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    ended: Ended
    steps: int
    """Steps done, those that were not taken included."""
    num_steps: int
    best_step: int
    best_valid_loss: float
    """Validation loss of the best adapter, by whatever it was chosen."""
    first_valid_loss: float
    seconds: float
    num_tokens: int
    """Tokens of the examples seen, unpacked."""
    num_computed: int
    """Tokens that the device computed: fewer where prefixes are shared, more where rows are padded."""
    num_learnt: int
    train_curve: tuple[tuple[int, float], ...]
    """Mean loss of each step that was taken."""
    valid_curve: tuple[tuple[int, float], ...]
    best_score: float | None = None
    score_curve: tuple[tuple[int, float], ...] = ()
    num_refused: int = 0
    """Steps that were not taken; train/guards.jsonl tells why."""
    looks: tuple[Mapping[str, Any], ...] = ()
    """What the suite's small edition gave: step, figures by part, score."""
    forgotten: str = ""
    """What was forgotten beyond its tolerance at the last look, in words."""


@dataclass(slots=True)
class Course:
    """What the loop knows beside the backend's state and the guard's history; a checkpoint holds all of it."""

    step: int = 0
    """Steps done, those that were not taken included."""
    best_step: int = 0
    """0: there is no best adapter yet. The start is never one: an adapter that changes nothing is no result."""
    best_loss: float = math.inf
    """Validation loss of the best adapter."""
    best_score: float | None = None
    plateau: float = -math.inf
    """What the patience measures from: the score, or minus the validation loss."""
    without_improvement: int = 0
    train_curve: Curve = field(default_factory=list)
    """Mean loss of each step that was taken."""
    valid_curve: Curve = field(default_factory=list)
    score_curve: Curve = field(default_factory=list)
    num_examples: int = 0
    num_tokens: int = 0
    num_computed: int = 0
    num_learnt: int = 0
    seconds: float = 0.0
    looks: list[dict[str, Any]] = field(default_factory=list)
    first_outcomes: Any = None
    """What the first look saw, question by question."""
    forgotten: str = ""

    @property
    def last_taken(self) -> int:
        """The last step that changed the weights."""
        return self.train_curve[-1][0] if self.train_curve else 0

    @property
    def is_validated(self) -> bool:
        """Whether the weights as they are now were validated."""
        return bool(self.valid_curve) and self.valid_curve[-1][0] >= self.last_taken

    def note_validation(self, step: int, loss: float, score: float | None, min_improvement: float) -> bool:
        """Put a validation on the curves; gives whether it is the best so far: by the score where there is one, then the loss.

        What has forgotten too much is never the best.
        """
        self.valid_curve.append((step, loss))
        if score is not None:
            self.score_curve.append((step, score))
        measure = -loss if score is None else score
        if measure > self.plateau + min_improvement:
            self.plateau, self.without_improvement = measure, 0
        else:
            self.without_improvement += 1
        best = -math.inf if self.best_score is None else self.best_score
        is_best = (
            step > 0
            and not self.forgotten
            and (loss < self.best_loss if score is None else (score, -loss) > (best, -self.best_loss))
        )
        if is_best:
            self.best_step, self.best_loss, self.best_score = step, loss, score
        return is_best

    def note_look(self, look: Look) -> None:
        """Keep what a look saw."""
        if self.first_outcomes is None:
            self.first_outcomes = look.outcomes
        self.forgotten = look.forgotten
        self.looks.append({"step": self.step, "figures": dict(look.figures), "score": look.score, "forgotten": look.forgotten})

    @property
    def is_looked(self) -> bool:
        """Whether the weights as they are now were looked at."""
        return bool(self.looks) and self.looks[-1]["step"] == self.step

    def result(self, ended: Ended, num_steps: int, num_refused: int) -> TrainResult:
        """What is reported at the end."""
        return TrainResult(
            ended=ended,
            steps=self.step,
            num_steps=num_steps,
            best_step=self.best_step,
            best_valid_loss=self.best_loss,
            first_valid_loss=self.valid_curve[0][1],
            seconds=self.seconds,
            num_tokens=self.num_tokens,
            num_computed=self.num_computed,
            num_learnt=self.num_learnt,
            train_curve=tuple(self.train_curve),
            valid_curve=tuple(self.valid_curve),
            best_score=self.best_score,
            score_curve=tuple(self.score_curve),
            num_refused=num_refused,
            looks=tuple(self.looks),
            forgotten=self.forgotten,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; JSON has no infinity, which stands for "none yet" here."""
        return {name: value if not _is_infinite(value) else None for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Course":
        """What `to_json` gave, to the last bit."""
        course = cls(**facts)
        course.best_loss = math.inf if course.best_loss is None else course.best_loss
        course.plateau = -math.inf if course.plateau is None else course.plateau
        for name in ("train_curve", "valid_curve", "score_curve"):
            setattr(course, name, [(step, value) for step, value in facts[name]])
        return course


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
