"""The nouns that travel through whet: messages, examples, requests, completions, scores."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text, counted in code points."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Value:
    """A field's value: its text, and where it stands in the source if it is a span of it."""

    text: str
    span: Span | None = None
    confidence: float | None = None
    """How likely the value is right, 0 to 1; None where nothing says so."""
    is_ambiguous: bool = False
    """Whether the text stands several times in the source, and the span is the likeliest of those places."""


Record = Mapping[str, Value | None]
"""One extracted record: field name to value, in the order that the task declares; None is 'not said'."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled thing, whatever its task: what is asked about, and the gold answer.

    Exactly one of the three golds is set: `records` (extraction; an empty tuple is a true negative), `answer` with
    `choices` (choice questions), or `messages` (free answers: a conversation whose last turn is the gold).
    """

    id: str
    text: str
    """Extraction: the source text. Choice: the question. Free answer: the last user turn."""
    source: str
    """`file:line` of the row that it came from."""
    group: str
    """What must stay in one split: a document or source text."""
    category: str = ""
    records: tuple[Record, ...] | None = None
    choices: tuple[str, ...] = ()
    answer: int | None = None
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What one field of a constrained reply may hold."""

    name: str
    kind: Literal["span", "choice", "free"]
    """span: characters of the source, word for word. choice: one of `choices`. free: any text that is not empty."""
    choices: tuple[str, ...] = ()
    is_nullable: bool = False
    min_chars: int = 1
    """Fewest characters (code points) of a span or a free text."""
    max_chars: int | None = None
    """Most characters; None sets no limit."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a reply may be: a JSON list of records with these fields, keys in this order, no white space (as it was trained)."""

    fields: tuple[FieldRule, ...]
    source: str | None = None
    """The text whose pieces span fields may hold; None leaves them any text, so that only the JSON is sure."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an engine is asked: messages, a budget, and the choices where it shall rank them."""

    messages: tuple[Message, ...]
    max_tokens: int
    """Most new tokens, the end-of-turn token included."""
    choices: tuple[str, ...] = ()
    adapter: str | None = None
    """Name of the LoRA adapter that shall answer; None is what the engine has attached, or the base itself."""
    constraint: Constraint | None = None
    """What the reply may be; None lets the model write freely."""
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    seed: int = 0
    """Of the samples, where the temperature is above 0."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a reply: characters of the reply's text that are whole after it, and its log-probability in nats.

    The probability is that under the constraint (renormalised over the tokens that it allowed) and the temperature of 1.
    A token that the constraint left no choice about has 0.0.
    """

    end: int
    log_prob: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answered. An error is never an answer: `finish` says which it is."""

    text: str
    finish: Finish
    """length: the budget was used up; the text is whole JSON all the same where `cut_at` is set."""
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    error: str = ""
    steps: tuple[Step, ...] = ()
    """Each token, where the engine gives log-probabilities."""
    cut_at: int | None = None
    """Characters of the text that the model wrote before the budget forced the rest, which only closes the JSON."""
    violation: str = ""
    """How a reply breaks a constraint that its engine was asked to keep and did not; empty where it was kept or none was set."""


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives of one example or of many."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn); 0 where nothing was there and nothing was said."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 0.0

    def figures(self) -> dict[str, float]:
        """The shares and the counts behind them, by name."""
        shares = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return shares | {"tp": self.tp, "fp": self.fp, "fn": self.fn}


@dataclass(frozen=True, slots=True)
class Score:
    """How one example was answered.

    `status`: "read" (the reply could be read), "unread" (it could not: a format error) or "error" (the engine failed;
    such an example has no score at all). `counts`: per measure, such as "record" or a field's name, for
    extraction; `right`: for tasks that are right or wrong. `flags`: things counted beside the score, such as
    "truncated" or "ungrounded".
    """

    example_id: str
    status: Literal["read", "unread", "error"]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    right: bool | None = None
    flags: Mapping[str, int] = field(default_factory=dict)
    category: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What a report shows: for extraction the records that were read; for choices the letter."""


def example_to_json(example: Example) -> dict[str, Any]:
    """An example as plain JSON, golds that are not set left out."""
    row: dict[str, Any] = {"id": example.id, "text": example.text, "source": example.source, "group": example.group}
    if example.category:
        row["category"] = example.category
    if example.records is not None:
        row["records"] = [{name: value_to_json(value) for name, value in record.items()} for record in example.records]
    if example.answer is not None:
        row |= {"choices": list(example.choices), "answer": example.answer}
    if example.messages:
        row["messages"] = [asdict(message) for message in example.messages]
    return row


def value_to_json(value: Value | None) -> Any:
    """A field's value as plain JSON: null, or its text with what else is known of it."""
    if value is None:
        return None
    row: dict[str, Any] = {"text": value.text}
    if value.span:
        row |= {"start": value.span.start, "end": value.span.end}
    if value.confidence is not None:
        row["confidence"] = value.confidence
    return row | ({"ambiguous": True} if value.is_ambiguous else {})


def example_from_json(row: Mapping[str, Any]) -> Example:
    """The example that `example_to_json` wrote."""
    records = row.get("records")
    return Example(
        id=row["id"],
        text=row["text"],
        source=row["source"],
        group=row["group"],
        category=row.get("category", ""),
        records=None
        if records is None
        else tuple({name: value_from_json(value) for name, value in record.items()} for record in records),
        choices=tuple(row.get("choices", ())),
        answer=row.get("answer"),
        messages=tuple(Message(**message) for message in row.get("messages", ())),
    )


def value_from_json(value: Mapping[str, Any] | None) -> Value | None:
    """The value that `value_to_json` wrote."""
    if value is None:
        return None
    span = Span(value["start"], value["end"]) if "start" in value else None
    return Value(value["text"], span, value.get("confidence"), value.get("ambiguous", False))


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """A completion as plain JSON, each step as [end, log_prob]."""
    row = {field.name: getattr(completion, field.name) for field in fields(completion)}
    return row | {"steps": [[step.end, step.log_prob] for step in completion.steps]}


def completion_from_json(row: Mapping[str, Any]) -> Completion:
    """The completion that `completion_to_json` wrote, other keys beside it or not."""
    known = {field.name: row[field.name] for field in fields(Completion) if field.name in row}
    return Completion(**known | {"steps": tuple(Step(end, log_prob) for end, log_prob in row.get("steps", ()))})
