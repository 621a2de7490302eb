"""Extraction: asks for records out of running text as JSON, reads them, grounds every span in the source, scores strictly."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from whet.config import Settings
from whet.records import Completion, Constraint, Counts, Example, FieldRule, Message, Record, Request, Score, Value
from whet.tasks.base import Answer, Total, Unread
from whet.tasks.reading import read_reply

DEFAULT_PROMPT = "从下文中提取记录，输出 JSON List，没有则输出 []。"


class FieldSettings(Settings):
    """One field of a record."""

    name: str
    """Key in the JSON that the model writes."""
    kind: Literal["span", "choice", "free"] = "span"
    """span: a piece of the source, word for word. choice: one of `choices`. free: any text."""
    choices: tuple[str, ...] = ()
    """The closed set of a choice field."""
    nullable: bool = False
    """Whether the field may be null."""
    about: str = ""
    """What the field means; it is put into the prompt."""
    min_chars: int = Field(default=1, ge=1)
    """Fewest characters of a span or a free text; a constrained reply keeps to it."""
    max_chars: int | None = Field(default=None, ge=1)
    """Most characters of a span or a free text; null sets no limit."""

    @model_validator(mode="after")
    def _choices_fit_kind(self) -> "FieldSettings":
        if (self.kind == "choice") != bool(self.choices):
            raise ValueError(f"field {self.name!r}: choices belong to a field of kind choice, and it needs them")
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"field {self.name!r}: a choice is named twice")
        return self


class ExtractionSettings(Settings):
    """What to extract and how to ask for it."""

    kind: Literal["extraction"] = "extraction"
    """The task's name."""
    fields: Annotated[tuple[FieldSettings, ...], Field(min_length=1)]
    """The fields of a record, in the order in which they are written."""
    prompt: str = DEFAULT_PROMPT
    """The instruction; the fields and then the text follow it."""
    system: str | None = None
    """A system message; null sends none."""
    max_tokens: int = Field(default=256, ge=8)
    """Most tokens of a reply; a longer one counts as truncated, and under a constraint its whole records are kept."""
    constraint: Literal["grounded", "json", "free"] = "grounded"
    """What a reply may be while it is written. grounded: JSON of the fields, spans only from the text. json: JSON of the fields.
    free: anything. It does not change the prompt."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ExtractionSettings":
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError("two fields have the same name")
        return self


class Extraction:
    """The extraction task of one recipe."""

    name = "extraction"

    def __init__(self, settings: ExtractionSettings) -> None:
        self.settings = settings
        self.fields = settings.fields
        self.rules = tuple(
            FieldRule(field.name, field.kind, field.choices, field.nullable, field.min_chars, field.max_chars)
            for field in settings.fields
        )

    def adopt(self, example: Example) -> Example | Unread:
        if example.records is not None:
            names = [field.name for field in self.fields]
            lacking = next((record for record in example.records if not set(names) <= record.keys()), None)
            if lacking is not None:
                return Unread(f"its records have the fields {', '.join(lacking)}; the task wants {', '.join(names)}")
            return example
        if not example.messages:
            return Unread("it has neither records nor a reply that could hold them")
        read = self.read(example, Completion(example.messages[-1].content, "stop"))
        if isinstance(read, Unread):
            return Unread(f"its reply holds no records: {read.reason}")
        return replace(example, records=read.records, messages=())

    def faults(self, example: Example) -> tuple[str, ...]:
        faults = [] if example.text.strip() else ["empty: the text is empty"]
        for record in example.records or ():
            for field in self.fields:
                value = record.get(field.name)
                if value is None:
                    if not field.nullable:
                        faults.append(f"empty: {field.name} has no value")
                elif field.kind == "free" and not value.text:
                    faults.append(f"empty: {field.name} is an empty text, which no reply may hold")
                elif field.kind == "choice" and value.text not in field.choices:
                    faults.append(f"choice: {field.name} is {value.text!r}, not one of {', '.join(field.choices)}")
                elif field.kind == "span" and not is_grounded(value, example.text):
                    where = "as said"
                    if value.span:
                        stands = example.text[value.span.start : value.span.end]
                        where = f"at {value.span.start} to {value.span.end}, where {stands!r} stands"
                    faults.append(f"ungrounded: {field.name} {value.text!r} does not stand in the text {where}")
        return tuple(faults)

    def ask(self, example: Example) -> Request:
        lines = [self.settings.prompt]
        for field in self.fields:
            about = [field.about] if field.about else []
            if field.choices:
                about.append("|".join(field.choices))
            if field.nullable:
                about.append("null")
            lines.append(f"{field.name}" + (f"：{'；'.join(about)}" if about else ""))
        user = Message("user", "\n".join([*lines, "", example.text]))
        system = [Message("system", self.settings.system)] if self.settings.system is not None else []
        return Request((*system, user), self.settings.max_tokens, constraint=self._constraint(example.text))

    def _constraint(self, text: str) -> Constraint | None:
        if self.settings.constraint == "free":
            return None
        return Constraint(self.rules, text if self.settings.constraint == "grounded" else None)

    def reply(self, example: Example) -> str:
        rows = [
            {field.name: value.text if (value := record.get(field.name)) else None for field in self.fields}
            for record in example.records or ()
        ]
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        return read_reply(self.rules, example.text, completion)

    def score(self, example: Example, completion: Completion) -> Score:
        if completion.finish == "error":
            return Score(example.id, "error", flags={"error": 1}, category=example.category, detail={"error": completion.error})
        read = self.read(example, completion)
        flags = {"truncated": int(completion.finish == "length"), "violated": int(bool(completion.violation))}
        if isinstance(read, Unread):
            counts = self._counts(example.records or (), ())
            return Score(
                example.id,
                "unread",
                counts,
                flags=flags | {"unread": 1},
                category=example.category,
                detail={"reason": read.reason},
            )
        values = sum(1 for r in read.records for f in self.fields if f.kind == "span" and r[f.name])
        flags |= {"ungrounded": read.ungrounded, "span_values": values, "cut_records": read.num_cut}
        return Score(
            example.id,
            "read",
            self._counts(example.records or (), read.records),
            flags=flags,
            category=example.category,
            detail={"records": [_texts(record, self.fields) for record in read.records]},
        )

    def _counts(self, gold: Sequence[Record], said: Sequence[Record]) -> dict[str, Counts]:
        """Strict counts: whole records, and each field's values, both as multisets of texts."""
        measures: dict[str, tuple[list[Any], list[Any]]] = {
            "record": ([_texts(r, self.fields) for r in gold], [_texts(r, self.fields) for r in said])
        }
        for field in self.fields:
            measures[field.name] = (
                [value.text for r in gold if (value := r.get(field.name))],
                [value.text for r in said if (value := r.get(field.name))],
            )
        return {name: match(*pair) for name, pair in measures.items()}

    def total(self, scores: Sequence[Score]) -> Total:
        scored = [score for score in scores if score.status != "error"]
        measures = {}
        for name in ("record", *(field.name for field in self.fields)):
            counts = sum((score.counts[name] for score in scored), Counts())
            measures[name] = counts.figures()
        values = sum(score.flags.get("span_values", 0) for score in scored)
        rates = {
            "unread": _share(sum(score.status == "unread" for score in scored), len(scored)),
            "violated": _share(sum(score.flags.get("violated", 0) for score in scored), len(scored)),
            "truncated": _share(sum(score.flags.get("truncated", 0) for score in scored), len(scored)),
            "ungrounded": _share(sum(score.flags.get("ungrounded", 0) for score in scored), values),
            "error": _share(len(scores) - len(scored), len(scores)),
        }
        return Total(("record", "f1"), len(scores), len(scored), measures, rates)


def is_grounded(value: Value, text: str) -> bool:
    """Whether a value is exactly the characters of its span."""
    return value.span is not None and value.text != "" and text[value.span.start : value.span.end] == value.text


def match(gold: Sequence[Any], said: Sequence[Any]) -> Counts:
    """Counts of two multisets: each gold entry can be matched once."""
    left = list(gold)
    tp = 0
    for entry in said:
        if entry in left:
            left.remove(entry)
            tp += 1
    return Counts(tp, len(said) - tp, len(left))


def _texts(record: Record, fields: Sequence[FieldSettings]) -> dict[str, str | None]:
    return {field.name: value.text if (value := record.get(field.name)) else None for field in fields}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
