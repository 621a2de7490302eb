"""Free answers: a conversation whose last turn is the gold; scored by exact match, token F1, or as a number."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from whet.config import Settings
from whet.records import Completion, Counts, Example, Message, Request, Score
from whet.tasks.base import Answer, Total, Unread
from whet.tasks.numbers import gold_number, number_of, say_number


class FreeQaSettings(Settings):
    """How conversations are trained and asked."""

    kind: Literal["free_qa"] = "free_qa"
    """The task's name."""
    system: str | None = None
    """A system message for rows that bring none; null sends none."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of a reply; a longer one counts as truncated."""
    metric: Literal["exact", "f1", "numeric"] = "exact"
    """What the headline is. exact: the same words. f1: words in common. numeric: the same number, the last one of the reply; a
    reply without one is unread, counted, and in no accuracy."""
    marker: str | None = None
    """With numeric: text that must stand before the number of a reply, such as ####; null takes the reply's last number."""

    @model_validator(mode="after")
    def _marks_numbers_only(self) -> Self:
        if self.marker is not None and (self.metric != "numeric" or not self.marker):
            raise ValueError("marker is a text before a number, and does nothing without metric numeric")
        return self


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
        if not example.messages[-1].content.strip():
            return ("empty: the reply is empty",)
        if self.settings.metric == "numeric" and gold_number(self.reply(example)) is None:
            return ("empty: the gold holds no number",)
        return ()

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
        if not said:
            return Unread("the reply is empty")
        if self.settings.metric == "numeric":
            number = number_of(said, self.settings.marker)
            if number is None:
                marked = f" after {self.settings.marker!r}" if self.settings.marker else ""
                return Unread(f"the reply holds no number{marked}")
            return Answer(text=say_number(number))
        return Answer(text=said)

    def score(self, example: Example, completion: Completion) -> Score:
        if completion.finish == "error":
            return Score(example.id, "error", flags={"error": 1}, category=example.category, detail={"error": completion.error})
        flags = {"truncated": int(completion.finish == "length")}
        read = self.read(example, completion)
        if self.settings.metric == "numeric":
            return self._score_number(example, read, flags)
        gold = Counter(words(self.reply(example)))
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

    def _score_number(self, example: Example, read: Answer | Unread, flags: dict[str, int]) -> Score:
        """Right or wrong by the number alone; a reply without one is not scored."""
        gold = gold_number(self.reply(example))
        detail = {"gold": say_number(gold) if gold is not None else ""}
        if isinstance(read, Unread):
            return Score(
                example.id, "unread", flags=flags | {"unread": 1}, category=example.category,
                detail=detail | {"reason": read.reason},
            )  # fmt: skip
        right = gold is not None and read.text == detail["gold"]
        return Score(example.id, "read", right=right, flags=flags, category=example.category, detail=detail | {"text": read.text})

    def total(self, scores: Sequence[Score]) -> Total:
        scored = [score for score in scores if score.status != "error"]
        if self.settings.metric == "numeric":
            return _total_numbers(scores, scored)
        counts = sum((score.counts["token"] for score in scored), Counts())
        num_right = sum(bool(score.right) for score in scored)
        num = len(scored)
        return Total(
            ("exact", "accuracy") if self.settings.metric == "exact" else ("token", "f1"),
            len(scores),
            num,
            {
                "exact": {"accuracy": num_right / num if num else 0.0, "right": num_right, "num": num},
                "token": counts.figures(),
            },
            _rates(scores, scored),
        )


def _total_numbers(scores: Sequence[Score], scored: Sequence[Score]) -> Total:
    """Accuracy among the replies that hold a number; beside it that among all, where one without a number is wrong."""
    read = [score for score in scored if score.status == "read"]
    num_right = sum(bool(score.right) for score in read)
    measures = {"numeric": {"accuracy": num_right / len(read) if read else 0.0, "right": num_right, "num": len(read)}}
    of_all = {"accuracy": num_right / len(scored) if scored else 0.0, "right": num_right, "num": len(scored)}
    return Total(("numeric", "accuracy"), len(scores), len(read), measures, _rates(scores, scored), {"of_all": of_all})


def _rates(scores: Sequence[Score], scored: Sequence[Score]) -> dict[str, float]:
    num = len(scored)
    return {
        "unread": sum(score.status == "unread" for score in scored) / num if num else 0.0,
        "truncated": sum(score.flags.get("truncated", 0) for score in scored) / num if num else 0.0,
        "error": (len(scores) - num) / len(scores) if scores else 0.0,
    }


def words(text: str) -> list[str]:
    """Words without case and punctuation, an ideograph a word by itself, after SQuAD's normalisation (Rajpurkar et al. 2016)."""
    text = unicodedata.normalize("NFKC", text).casefold()
    found = re.findall(r"[\u3400-\u9fff\U00020000-\U0003ffff]|[^\W\u3400-\u9fff\U00020000-\U0003ffff]+", text)
    return [word for word in found if word not in ("a", "an", "the")]
