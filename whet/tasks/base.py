"""What a task must say: how it asks, what the gold reply is, how a reply is read and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from whet.records import Completion, Example, Record, Request, Score


@dataclass(frozen=True, slots=True)
class Evidence:
    """Log-probabilities, in nats, of the tokens in which a part of a reply was decided; those without a choice have 0."""

    total: float
    """Their sum: the log-probability of all of them."""
    lowest: float
    num_tokens: int
    """Of those that had a choice."""

    @property
    def mean(self) -> float:
        """A token that had a choice; 0 where none had."""
        return self.total / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True, slots=True)
class RecordEvidence:
    """How a record was decided. A token that decides two things at once counts for both, and once for the whole."""

    begin: Evidence
    """That there is a record here, and not the end of the list."""
    fields: Mapping[str, Evidence]
    """Each value, that it is null too."""
    whole: Evidence


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that could be read: records, or a choice, or plain text."""

    records: tuple[Record, ...] = ()
    choice: int | None = None
    text: str = ""
    ungrounded: int = 0
    """Span values that do not stand in the source."""
    num_cut: int = 0
    """Records that the model had not finished when its budget was used up; they are in nothing else here."""
    confidences: tuple[float | None, ...] = ()
    """How likely each record is right as a whole, 0 to 1; empty where nothing says so."""
    evidence: tuple[RecordEvidence, ...] = ()
    """For each record; empty where the engine gave no log-probabilities."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A reply, or a row, that this task can't read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Total:
    """Scores of many examples in one place.

    measures: per measure its figures, such as {"record": {"precision": .., "recall": .., "f1": .., "tp": ..}} or
    {"accuracy": {"accuracy": ..}}. headline: the measure and figure that a comparison speaks of. rates: shares of all
    that were asked, such as "unread", "truncated", "ungrounded", "error". extra: what only this task reports.
    """

    headline: tuple[str, str]
    num_asked: int
    num_scored: int
    measures: Mapping[str, Mapping[str, float]]
    rates: Mapping[str, float]
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """A task is pure: no engine, no disk. Training and answering render with the same `ask`."""

    name: str

    def adopt(self, example: Example) -> Example | Unread:
        """The example as this task needs it, if it was read from a file of another shape (a chat row, say)."""
        ...

    def faults(self, example: Example) -> tuple[str, ...]:
        """What is wrong with the gold, each as `kind: words`; kinds are "ungrounded", "choice", "empty"."""
        ...

    def ask(self, example: Example) -> Request:
        """The request whose answer is scored; it never depends on the gold."""
        ...

    def reply(self, example: Example) -> str:
        """The gold reply: what the assistant's turn says, exactly."""
        ...

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        """What a reply says; an engine's error is unread."""
        ...

    def score(self, example: Example, completion: Completion) -> Score:
        """One example's score; an engine's error has none."""
        ...

    def total(self, scores: Sequence[Score]) -> Total:
        """Many examples' scores together; errors are counted apart."""
        ...
