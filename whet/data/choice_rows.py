"""Multiple-choice rows: choices as a list, by letters, or in CSV columns; the answer as a number or a letter."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.chat_rows import text_of
from whet.data.rows import describe
from whet.data.shapes import RowFault

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOICE_COLUMN = re.compile(r"choice_?\d+|[A-Ja-j]")
_SPLIT_NAME = re.compile(r"_(test|dev|val|valid|validation|train)$")


@dataclass(frozen=True, slots=True)
class Choice:
    """A question, its choices, and the number (from 0) of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int


def from_choices(row: Mapping[str, Any]) -> Choice:
    return _choice(row, row["choices"], row["answer"])


def from_letters(row: Mapping[str, Any]) -> Choice:
    """CyberMetric: answers under the letters A, B, C ... and the right letter as solution."""
    answers = row["answers"]
    if not isinstance(answers, dict) or "".join(answers) != _LETTERS[: len(answers)]:
        raise RowFault("answers that are not under the letters A, B, C ...", "Write {A: ..., B: ...}")
    solution = row["solution"]
    if not isinstance(solution, str):
        raise RowFault(f"solution that is {describe(solution)}, not a letter", "Give the right letter")
    return _choice(row, list(answers.values()), solution)


def from_arc(row: Mapping[str, Any]) -> Choice:
    """ARC (arXiv 1803.05457): labels of their own, inside the question as AI2 ships it or beside it as the Hub does."""
    question, choices, key = row["question"], row.get("choices"), row["answerKey"]
    if isinstance(question, dict):
        choices, question = question.get("choices"), question.get("stem")
    if isinstance(choices, dict):
        labels, texts = choices.get("label"), choices.get("text")
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        labels, texts = [choice.get("label") for choice in choices], [choice.get("text") for choice in choices]
    else:
        labels = texts = None
    if (
        not isinstance(labels, list)
        or not isinstance(texts, list)
        or len(labels) != len(texts)
        or len(set(map(str, labels))) < len(labels)
    ):
        raise RowFault("choices that are no texts with labels", "Write {text: [...], label: [...]}")
    if key not in labels:
        raise RowFault(f"the answerKey {key!r}, which labels no choice", "Give the label of the right choice")
    return _choice({"question": question}, texts, labels.index(key))


def _choice(row: Mapping[str, Any], choices: Any, answer: Any) -> Choice:
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(choice, str) for choice in choices):
        raise RowFault("choices that are no list of two or more texts", "Write them as a list of texts")
    question = text_of(row, "question")
    if not question.strip():
        raise RowFault("an empty question", "Fill it, or take the row out")
    return Choice(question, tuple(choices), _index(answer, choices))


def _index(answer: Any, choices: Sequence[str]) -> int:
    """The answer's number: a number from 0, or a letter, which must not be a choice's text elsewhere."""
    index = -1
    if isinstance(answer, int) and not isinstance(answer, bool):
        index = answer
    elif isinstance(answer, str):
        mark = answer.strip()
        if mark.isascii() and mark.isdigit():
            index = int(mark[:4])
        elif len(mark) == 1 and mark.upper() in _LETTERS:
            index = _LETTERS.index(mark.upper())
        if mark in choices and (index < 0 or (index < len(choices) and choices[index] != mark and not mark.isdigit())):
            raise RowFault(f"the answer {answer!r}, which is the text of a choice", "Give its number from 0, or its letter")
    if not 0 <= index < len(choices):
        raise RowFault(f"the answer {answer!r} to {len(choices)} choices", "Give its number from 0, or its letter")
    return index


def fold_columns(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """A CSV row by its column names; choice0, choice1 ... (or A, B ...) one list, less the empty ones at its end."""
    row: dict[str, Any] = {}
    choices: list[str] = []
    for name, cell in zip(names, cells, strict=True):
        if _CHOICE_COLUMN.fullmatch(name):
            choices.append(cell)
        else:
            row[name] = cell
    while len(choices) > 2 and not choices[-1]:
        choices.pop()
    return row | ({"choices": choices} if choices else {})


def headerless_names(cells: Sequence[str]) -> list[str] | None:
    """Column names for a first row that is itself a question, its choices and the answer; None if it isn't."""
    num_choices = len(cells) - 2
    if num_choices < 2 or num_choices > 10:
        return None
    mark = cells[-1].strip().upper()
    allowed = {*_LETTERS[:num_choices], *map(str, range(num_choices))}
    return ["question", *(f"choice{n}" for n in range(num_choices)), "answer"] if mark in allowed else None


def category_of(path: Path) -> str:
    """The category that a benchmark's file name says: anatomy_test.csv is anatomy."""
    return _SPLIT_NAME.sub("", path.stem)
