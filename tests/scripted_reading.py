"""Doubles for extraction: an engine that reads marked names perfectly, out of order and on demand wrongly, and a task for it."""

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

from whet.pipeline.answering import Answering
from whet.records import Completion, Example, Request, Span, Value
from whet.tasks.base import Answer, Unread
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings

NAME = re.compile(r"([A-Z][a-z]{2,4}\d*)?<([A-Za-z0-9\u3400-\u9fff𠮷\u0301]+)>")
"""A name stands in angle brackets, its office, if any, before it."""


class MarkedNames(Extraction):
    """Places each value at its own mark, where the task itself has to choose among equal texts."""

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        answer = super().read(example, completion)
        if isinstance(answer, Unread):
            return answer
        records, marks = [], list(NAME.finditer(example.text))
        for record in answer.records:
            texts = tuple(value.text if (value := record[name]) else None for name in ("office", "name"))
            at = next((at for at, mark in enumerate(marks) if mark.groups() == texts), None)
            if at is None:
                records.append(record)
                continue
            mark = marks[at]
            del marks[: at + 1]
            spans = {"name": mark.span(2), "office": mark.span(1)}
            records.append({name: value and Value(value.text, Span(*spans[name])) for name, value in record.items()})
        return replace(answer, records=tuple(records))


def task(**settings: object) -> Extraction:
    fields = (FieldSettings(name="name"), FieldSettings(name="office", nullable=True))
    return MarkedNames(ExtractionSettings(fields=fields, **settings))


def read(text: str) -> list[dict[str, str | None]]:
    """The names of a text that are whole, with the offices that are."""
    return [{"name": found[2], "office": found[1]} for found in NAME.finditer(text)]


def source_of(request: Request) -> str:
    """The text that a request asks about."""
    return request.messages[-1].content.partition("\n\n")[2]


def reply(request: Request) -> Completion:
    rows = read(source_of(request))
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return Completion(text, "stop", num_tokens=len(text))


class Reader:
    """Holds up to `room` requests at a time and answers them in an order of its own."""

    def __init__(self, say: Callable[[Request], Completion] = reply, room: int = 8, seed: int = 0, wait_s: float = 0.0) -> None:
        self.name = "reader"
        self.asked: list[str] = []
        """The texts that were asked, in the order in which they were taken."""
        self._say, self._room, self._random, self._wait_s = say, room, random.Random(seed), wait_s

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._say(request) for request in requests]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        held: list[tuple[int, Request]] = []
        for number, request in enumerate(requests):
            self.asked.append(source_of(request))
            held.append((number, request))
            if len(held) >= self._room:
                yield self._answer_one(held)
        while held:
            yield self._answer_one(held)

    def rank(self, request: Request) -> list[float]:
        raise NotImplementedError

    def _answer_one(self, held: list[tuple[int, Request]]) -> tuple[int, Completion]:
        time.sleep(self._wait_s)
        number, request = held.pop(self._random.randrange(len(held)))
        return number, self._say(request)


def answering(engine: Reader) -> Answering:
    """The engine in place of a run's own."""
    return Answering({"server": engine.name}, lambda: nullcontext(engine))
