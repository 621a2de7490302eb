"""The shapes of example rows: their keys, which of them a row has, and which is nearest to a row that has none."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

FormatName = Literal[
    "messages", "prompt_completion", "alpaca", "sharegpt", "erniekit", "choices", "lettered_choices",
    "question_answer", "chat_log", "text", "arc",
]  # fmt: skip


class RowFault(Exception):
    """What is wrong with a row, and what to do; it becomes a Reject."""

    def __init__(self, seen: str, remedy: str, nearest: str = "", stops: bool = False) -> None:
        self.seen, self.remedy, self.nearest, self.stops = seen, remedy, nearest, stops
        super().__init__(seen)


@dataclass(frozen=True, slots=True)
class Shape:
    """The keys that a row of a format must have and those that it may have."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def show(self, name: str) -> str:
        return f"{name}: {', '.join([*self.required, *(f'{key}?' for key in self.optional)])}"


SHAPES: Mapping[FormatName, Shape] = {
    "messages": Shape(("messages",), ("tools",)),
    "prompt_completion": Shape(("prompt", "completion")),
    "alpaca": Shape(("instruction", "output"), ("input", "system", "history")),
    "sharegpt": Shape(("conversations",), ("system", "tools")),
    "erniekit": Shape(("src", "tgt"), ("system", "label")),
    "choices": Shape(("question", "choices", "answer")),
    "lettered_choices": Shape(("question", "answers", "solution")),
    "question_answer": Shape(("question", "answer")),
    "chat_log": Shape(("previous_messages", "message")),
    "text": Shape(("text",)),
    "arc": Shape(("question", "answerKey"), ("choices",)),
}


def detect(row: Mapping[str, Any]) -> FormatName | None:
    """The format whose required keys a row has; of several the one with the most keys."""
    fitting = [name for name, shape in SHAPES.items() if all(key in row for key in shape.required)]
    return max(fitting, key=lambda name: len(SHAPES[name].required), default=None)


def refuse(row: Mapping[str, Any], name: FormatName | None, known_keys: Collection[str]) -> None:
    """RowFault for a row that must not be read as what its keys look like, or of which a part would be lost."""
    filled = {key for key, value in row.items() if value not in (None, "", [], {})}
    if {"chosen", "rejected"} <= row.keys():
        raise RowFault("a preference row (chosen and rejected)", "Take `chosen` as the answer if it is right; pairs "
                       "of answers are not learnt from here", "preference")  # fmt: skip
    if filled & {"image", "images", "videos", "audios"}:
        raise RowFault("a row that needs images", "Only text is read here; keep this row for a model that sees", "images")
    if {"text", "completion"} <= row.keys() and "prompt" not in row:
        raise RowFault(
            "a row with the keys text and completion, which a popular trainer reads as plain text, so that "
            "the completion is never trained",
            "Rename text to prompt", SHAPES["prompt_completion"].show("prompt_completion"), stops=True,
        )  # fmt: skip
    if name is None:
        raise _unknown(row)
    shape = SHAPES[name]
    ignored = sorted(filled.difference(shape.required, shape.optional, known_keys))
    if ignored:
        raise RowFault(f"a row of format {name} with {_keys(ignored)} that would be ignored",
                       "Take them out, or name them in ignore_keys", shape.show(name))  # fmt: skip


def _keys(names: Collection[str]) -> str:
    return f"the key{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _unknown(row: Mapping[str, Any]) -> RowFault:
    """The fault of a row of no known format, with the nearest one by its keys and how to get there."""
    name = max(SHAPES, key=lambda name: _nearness(row, SHAPES[name]))
    shape = SHAPES[name]
    missing = [key for key in shape.required if key not in row]
    steps, lacking = [], []
    for key in missing:
        near = difflib.get_close_matches(key, [other for other in row if other not in shape.required], n=1, cutoff=0.75)
        if near:
            steps.append(f"rename {near[0]} to {key}")
        else:
            lacking.append(key)
    steps += [f"add {', '.join(lacking)}"] if lacking else []
    seen = f"a row with {_keys(list(row)[:10])}" if row else "a row without keys"
    words = " and ".join(steps)
    return RowFault(f"{seen}, of no known format", f"{words[:1].upper()}{words[1:]}", shape.show(name))


def _nearness(row: Mapping[str, Any], shape: Shape) -> float:
    """Share of keys in common (Jaccard index over the required keys and those optional ones that the row has)."""
    keys = {*shape.required, *(key for key in shape.optional if key in row)}
    close = sum(1 for key in keys if key in row or difflib.get_close_matches(key, row, n=1, cutoff=0.75))
    return close / (len(keys) + len(row) - close) if row else 0.0
