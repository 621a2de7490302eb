"""The questions of a part: each asked once, drawn by seed, and held against what a system was trained on."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whet.data.clean import gold_of, normalised, question_of
from whet.data.near import NearTexts, ngrams
from whet.data.split import SplitSettings
from whet.errors import InputError
from whet.records import Completion, Example, Message, Request, Score, example_to_json
from whet.storage import canonical, hash_text
from whet.tasks.base import Answer, Task, Total, Unread

NAMED = 5  # bad rows named in a message
_SIGNS = re.compile(
    r"[+<>=|~±×÷−∓≤≥≠≈^*/]|(?<![\w)])-(?=[\d.])"
)  # a hyphen before a number that nothing stands before is a minus


@dataclass(frozen=True, slots=True)
class Questions:
    """What a part asks, and what became of the rows that it does not ask."""

    examples: tuple[Example, ...]
    """Distinct after normalisation, in the order of their sources."""
    duplicates: tuple[tuple[str, ...], ...] = ()
    """Ids of rows that are one question; the first is asked."""
    num_conflicting: int = 0
    """Repeated questions whose gold is another than that of the one asked."""
    left_out: tuple[str, ...] = ()
    """Rows that are no use as questions, each as `place: why`."""
    num_long: int = 0
    """Questions longer than the part allows."""
    num_there: int = 0
    """Distinct questions before any were drawn."""

    @property
    def fingerprint(self) -> str:
        """Hash of the ids and golds, in order."""
        return hash_text(canonical([[example.id, gold_of(example)] for example in self.examples]))


def sift(name: str, rows: Iterable[Example | str], task: Task, max_chars: int | None, max_bad_share: float) -> Questions:
    """The distinct questions among rows; a row may be a sentence that tells why it could not be read.

    InputError where more than `max_bad_share` of them are no use, or none is left.
    """
    kept: dict[str, Example] = {}
    members: dict[str, list[str]] = defaultdict(list)
    left_out: list[str] = []
    num_rows = num_long = num_conflicting = 0
    for row in rows:
        num_rows += 1
        example = _usable(row, task)
        if isinstance(example, str):
            left_out.append(example)
            continue
        if max_chars is not None and len(question_of(example)) > max_chars:
            num_long += 1
            continue
        key = key_of(example)
        members[key].append(example.id)
        if key not in kept:
            kept[key] = example
        elif gold_of(kept[key]) != gold_of(example):
            num_conflicting += 1
    if len(left_out) > max_bad_share * num_rows:
        raise InputError(
            f"part {name}",
            f"{len(left_out)} of {num_rows} rows are no use as questions",
            "Mend them, or raise max_bad_share. The first:\n  " + "\n  ".join(left_out[:NAMED]),
        )
    if not kept:
        raise InputError(f"part {name}", "has no question" + (f" of at most {max_chars} characters" if num_long else ""))
    repeated = tuple(tuple(_own(ids)) for ids in members.values() if len(ids) > 1)
    examples = tuple(_with_own_ids(kept.values()))
    return Questions(examples, repeated, num_conflicting, tuple(left_out), num_long, len(examples))


def _usable(row: Example | str, task: Task) -> Example | str:
    """The row as the task needs it, or why it is no use."""
    if isinstance(row, str):
        return row
    adopted = task.adopt(row)
    if isinstance(adopted, Unread):
        return f"{row.source}: {adopted.reason}"
    faults = task.faults(adopted)
    return f"{row.source}: {'; '.join(faults)}" if faults else adopted


def _own(ids: Sequence[str]) -> list[str]:
    """Ids that may be the same (equal rows have equal ids), told apart by their number."""
    return [name if ids.index(name) == at else f"{name}#{ids[: at + 1].count(name)}" for at, name in enumerate(ids)]


def _with_own_ids(examples: Iterable[Example]) -> Iterable[Example]:
    """Other questions under one id (an id may be given by the file) are told apart."""
    seen: dict[str, int] = {}
    for example in examples:
        seen[example.id] = number = seen.get(example.id, 0) + 1
        yield example if number == 1 else replace(example, id=f"{example.id}#{number}")


def draw_questions(questions: Questions, num: int | None, seed: int, without: Iterable[str] = ()) -> Questions:
    """At most `num` of the questions, a random sample by seed that does not depend on their order; those in `without` never."""
    kept_away = frozenset(without)
    there = [example for example in questions.examples if key_of(example) not in kept_away]
    if num is not None and num < len(there):
        chosen = {example.id for example in sorted(there, key=lambda example: _lot(example, seed))[:num]}
        there = [example for example in there if example.id in chosen]
    return replace(questions, examples=tuple(there))


def _lot(example: Example, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{key_of(example)}".encode("utf-8", "surrogatepass")).digest()


def keys_of(examples: Iterable[Example]) -> frozenset[str]:
    """What the questions are told apart by."""
    return frozenset(key_of(example) for example in examples)


def key_of(example: Example) -> str:
    """What makes two questions one: the normalised text, and the signs of arithmetic that it drops (J < a is not J > a)."""
    question = unicodedata.normalize("NFKC", question_of(example))
    return f"{normalised(question)}\0{''.join(_SIGNS.findall(question))}"


@dataclass(frozen=True, slots=True)
class Found:
    """Questions that stand in training data, by their ids: the same after normalisation, or nearly the same."""

    exact: tuple[str, ...]
    near: tuple[str, ...]


def find_overlap(examples: Sequence[Example], training: Iterable[Example], settings: SplitSettings) -> Found:
    """Which questions a system met in training.

    A choice question is compared with its choices, and without them too where the training example has none (the same
    question asked freely). Near: Jaccard similarity of character n-grams as in a data build.
    """
    whole = [normalised(question_of(example)) for example in examples]
    bare = [normalised(example.text) if example.choices else "" for example in examples]
    trained_whole, trained_bare = set[str](), set[str]()
    for example in training:
        (trained_whole if example.choices else trained_bare).add(normalised(question_of(example)))
    trained_whole.discard("")
    trained_bare.discard("")
    is_exact = [
        text in trained_whole or text in trained_bare or other in trained_bare for text, other in zip(whole, bare, strict=True)
    ]
    near = _near(whole, trained_whole | trained_bare, settings) | _near(bare, trained_bare, settings)
    exact = tuple(example.id for example, found in zip(examples, is_exact, strict=True) if found)
    close = tuple(example.id for at, example in enumerate(examples) if at in near and not is_exact[at])
    return Found(exact, close)


def _near(texts: Sequence[str], trained: set[str], settings: SplitSettings) -> set[int]:
    """Numbers of the texts that are near to one of `trained`."""
    if not any(texts) or not trained:
        return set()
    asked = [at for at, text in enumerate(texts) if text]
    pool = [texts[at] for at in asked] + sorted(trained)
    num = len(asked)

    def grams_of(at: int) -> Any:
        return ngrams(pool[at], settings.ngram, settings.ngram_alphabetic)

    found = NearTexts(len(pool), grams_of, settings.near_threshold).pairs(lambda i, j: (i < num) != (j < num))
    return {asked[min(left, right)] for left, right, _ in found}


class WithShots:
    """A task whose questions stand after a few that are answered already; everything else is the task's own."""

    def __init__(self, task: Task, shots: Sequence[Example], num: int, *, same_category: bool, without: frozenset[str]) -> None:
        self.task, self.name, self.num = task, task.name, num
        self._same_category = same_category
        self._shots = [shot for shot in shots if key_of(shot) not in without]
        self._by_category: dict[str, list[Example]] = defaultdict(list)
        for shot in self._shots:
            self._by_category[shot.category].append(shot)

    @property
    def num_held(self) -> int:
        """How many examples there are to show."""
        return len(self._shots)

    def adopt(self, example: Example) -> Example | Unread:
        return self.task.adopt(example)

    def faults(self, example: Example) -> tuple[str, ...]:
        return self.task.faults(example)

    def reply(self, example: Example) -> str:
        return self.task.reply(example)

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        return self.task.read(example, completion)

    def score(self, example: Example, completion: Completion) -> Score:
        return self.task.score(example, completion)

    def total(self, scores: Sequence[Score]) -> Total:
        return self.task.total(scores)

    def ask(self, example: Example) -> Request:
        """The task's own request, with the shots before its last turn."""
        own = self._by_category.get(example.category) if self._same_category else None
        request = self.task.ask(example)
        turns: list[Message] = []
        for shot in (own or self._shots)[: self.num]:
            asked = [message for message in self.task.ask(shot).messages if message.role != "system"]
            turns += [*asked, Message("assistant", self.task.reply(shot))]
        head = [message for message in request.messages if message.role == "system"]
        rest = [message for message in request.messages if message.role != "system"]
        return replace(request, messages=(*head, *turns, *rest))


def shots_fingerprint(shots: Sequence[Example]) -> str:
    """Hash of what is shown."""
    return hash_text(canonical([example_to_json(shot) for shot in shots]))
