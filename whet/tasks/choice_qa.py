"""Choice questions: shuffled choices, one letter as the reply, ranked by likelihood, scored by category."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from whet.config import Settings
from whet.records import Completion, Example, Message, Request, Score
from whet.tasks.base import Answer, Total, Unread

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER = re.compile(r"\(?([A-Z])(?:[.):,]|$)")  # "B", "(B)", "B. because": a word that begins with a capital is no letter


class ChoiceQaSettings(Settings):
    """How choice questions are asked."""

    kind: Literal["choice_qa"] = "choice_qa"
    """The task's name."""
    prompt: str = "Answer the question with the letter of the right choice."
    """The instruction that stands before each question."""
    system: str | None = None
    """A system message; null sends none."""
    shuffle_seed: int | None = 0
    """Seed of the order of choices, drawn for each question by itself; null keeps the order of the file."""
    answer_by: Literal["likelihood", "text"] = "likelihood"
    """likelihood: the likeliest letter is the answer, whatever the model would write. text: the letter that it writes; servers
    that give no log-probabilities know this alone."""
    max_tokens: int = Field(default=4, ge=1)
    """Most tokens of a reply, with answer_by text."""


class ChoiceQa:
    """The choice task of one recipe."""

    name = "choice_qa"

    def __init__(self, settings: ChoiceQaSettings) -> None:
        self.settings = settings

    def adopt(self, example: Example) -> Example | Unread:
        if example.answer is None or len(example.choices) < 2:
            return Unread("it has no choices with a right one among them")
        if len(example.choices) > len(LETTERS):
            return Unread(f"it has {len(example.choices)} choices; {len(LETTERS)} at most have a letter")
        return example

    def faults(self, example: Example) -> tuple[str, ...]:
        faults = [] if example.text.strip() else ["empty: the question is empty"]
        if example.answer is not None and not 0 <= example.answer < len(example.choices):
            faults.append(f"choice: the answer is number {example.answer}, there are {len(example.choices)} choices")
        if len(set(example.choices)) != len(example.choices):
            faults.append("choice: two choices are the same")
        return tuple(faults)

    def order(self, example: Example) -> list[int]:
        """The choices' order in the prompt: a function of the seed and the question's words, not of its place in a file."""
        order = list(range(len(example.choices)))
        if self.settings.shuffle_seed is not None:
            words = "\0".join([str(self.settings.shuffle_seed), example.text, *sorted(example.choices)])
            random.Random(hashlib.sha256(words.encode("utf-8", "surrogatepass")).digest()).shuffle(order)
        return order

    def ask(self, example: Example) -> Request:
        order = self.order(example)
        lines = [f"{LETTERS[at]}. {example.choices[number]}" for at, number in enumerate(order)]
        user = Message("user", "\n".join([self.settings.prompt, "", example.text, *lines]))
        system = [Message("system", self.settings.system)] if self.settings.system is not None else []
        choices = tuple(LETTERS[: len(order)]) if self.settings.answer_by == "likelihood" else ()
        return Request((*system, user), self.settings.max_tokens, choices=choices)

    def reply(self, example: Example) -> str:
        if example.answer is None:
            raise ValueError("an example without a gold answer has no gold reply")
        return LETTERS[self.order(example).index(example.answer)]

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        if completion.finish == "error":
            return Unread(f"the engine failed ({completion.error})")
        found = _LETTER.match(completion.text.strip())
        letter = found.group(1) if found else ""
        if letter not in tuple(LETTERS[: len(example.choices)]):
            return Unread(f"{completion.text[:20]!r} is none of the letters")
        return Answer(choice=self.order(example)[LETTERS.index(letter)], text=letter)

    def score(self, example: Example, completion: Completion) -> Score:
        category = example.category
        if completion.finish == "error":
            return Score(example.id, "error", category=category, flags={"error": 1}, detail={"error": completion.error})
        gold = self.reply(example)
        read = self.read(example, completion)
        if isinstance(read, Unread):
            # Not scored: an unreadable reply is counted apart, never as a wrong or right letter.
            return Score(example.id, "unread", category=category, flags={"unread": 1}, detail={"gold": gold})
        return Score(
            example.id, "read", right=read.choice == example.answer, category=category, detail={"letter": read.text, "gold": gold}
        )

    def total(self, scores: Sequence[Score]) -> Total:
        read = [score for score in scores if score.status == "read"]
        answered = [score for score in scores if score.status != "error"]
        by_category: dict[str, list[bool]] = defaultdict(list)
        for score in read:
            by_category[score.category or "all"].append(bool(score.right))
        num_right = sum(bool(score.right) for score in read)
        by_position: dict[str, list[bool]] = defaultdict(list)
        for score in read:
            by_position[score.detail["gold"]].append(bool(score.right))
        said = Counter(score.detail["letter"] for score in read)
        gold = Counter(score.detail["gold"] for score in answered)
        constant, constant_right = max(gold.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        measures = {"accuracy": {"accuracy": num_right / len(read) if read else 0.0, "right": num_right, "num": len(read)}}
        return Total(
            ("accuracy", "accuracy"),
            len(scores),
            len(read),
            measures,
            {
                "unread": (len(answered) - len(read)) / len(answered) if answered else 0.0,
                "error": (len(scores) - len(answered)) / len(scores) if scores else 0.0,
            },
            {
                "by_category": {name: {"right": sum(rights), "num": len(rights)} for name, rights in sorted(by_category.items())},
                "letters": {letter: count / len(read) for letter, count in sorted(said.items())},
                "by_position": {gold: {"right": sum(rights), "num": len(rights)} for gold, rights in sorted(by_position.items())},
                "gold_letters": {letter: count / len(answered) for letter, count in sorted(gold.items())},
                "best_constant": {"letter": constant, "accuracy": constant_right / len(answered) if answered else 0.0},
                "num_distinct": len({score.example_id for score in scores}),
            },
        )
