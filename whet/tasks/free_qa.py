"""Free answers: a conversation whose last turn is the gold; scored by exact match and token F1."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from whet.config import Settings
from whet.records import Completion, Counts, Example, Message, Request, Score
from whet.tasks.base import Answer, Total, Unread


class FreeQaSettings(Settings):
    """How conversations are trained and asked."""

    kind: Literal["free_qa"] = "free_qa"
    """The task's name."""
    system: str | None = None
    """A system message for rows that bring none; null sends none."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of a reply; a longer one counts as truncated."""


class FreeQa:
    """The free-answer task of one recipe."""

    name = "free_qa"

    def __init__(self, settings: FreeQaSettings) -> None:
        self.settings = settings

    def adopt(self, example: Example) -> Example | Unread:
        if len(example.messages) < 2 or example.messages[-1].role != "assistant":
            return Unread("it has no conversation that ends with an assistant's reply")
        return example

    def faults(self, example: Example) -> tuple[str, ...]:
        return ("empty: the reply is empty",) if not example.messages[-1].content.strip() else ()

    def ask(self, example: Example) -> Request:
        turns = example.messages[:-1]
        if self.settings.system is not None and not any(turn.role == "system" for turn in turns):
            turns = (Message("system", self.settings.system), *turns)
        return Request(turns, self.settings.max_tokens)

    def reply(self, example: Example) -> str:
        # Templates strip the reply's edges; the same text is trained, asked for and compared.
        return example.messages[-1].content.strip()

    def read(self, example: Example, completion: Completion) -> Answer | Unread:
        if completion.finish == "error":
            return Unread(f"the engine failed ({completion.error})")
        said = completion.text.strip()
        return Answer(text=said) if said else Unread("the reply is empty")

    def score(self, example: Example, completion: Completion) -> Score:
        if completion.finish == "error":
            return Score(example.id, "error", flags={"error": 1}, category=example.category, detail={"error": completion.error})
        gold = Counter(words(self.reply(example)))
        flags = {"truncated": int(completion.finish == "length")}
        read = self.read(example, completion)
        if isinstance(read, Unread):
            return Score(
                example.id,
                "unread",
                {"token": Counts(fn=gold.total())},
                right=False,
                flags=flags | {"unread": 1},
                category=example.category,
                detail={"reason": read.reason},
            )
        said = Counter(words(read.text))
        tp = (gold & said).total()
        return Score(
            example.id,
            "read",
            {"token": Counts(tp, said.total() - tp, gold.total() - tp)},
            right=words(read.text) == words(self.reply(example)),
            flags=flags,
            category=example.category,
            detail={"text": read.text},
        )

    def total(self, scores: Sequence[Score]) -> Total:
        scored = [score for score in scores if score.status != "error"]
        counts = sum((score.counts["token"] for score in scored), Counts())
        num_right = sum(bool(score.right) for score in scored)
        num = len(scored)
        return Total(
            ("exact", "accuracy"),
            len(scores),
            num,
            {
                "exact": {"accuracy": num_right / num if num else 0.0, "right": num_right, "num": num},
                "token": counts.figures(),
            },
            {
                "unread": sum(score.status == "unread" for score in scored) / num if num else 0.0,
                "truncated": sum(score.flags.get("truncated", 0) for score in scored) / num if num else 0.0,
                "error": (len(scores) - num) / len(scores) if scores else 0.0,
            },
        )


def words(text: str) -> list[str]:
    """Words without case and punctuation, an ideograph a word by itself, after SQuAD's normalisation (Rajpurkar et al. 2016)."""
    text = unicodedata.normalize("NFKC", text).casefold()
    found = re.findall(r"[\u3400-\u9fff\U00020000-\U0003ffff]|[^\W\u3400-\u9fff\U00020000-\U0003ffff]+", text)
    return [word for word in found if word not in ("a", "an", "the")]
