"""Free answers: the conversation as it is, one system message, token counts held against brute force."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Completion, Counts, Example, Message
from whet.tasks.base import Answer, Unread
from whet.tasks.free_qa import FreeQa, FreeQaSettings, words
from whet.text.chat import Chat

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TASK = FreeQa(FreeQaSettings(system="You are brief."))


def talk(*contents: str, system: str = "") -> Example:
    """A conversation whose turns take turns."""
    turns = tuple(Message("assistant" if at % 2 else "user", content) for at, content in enumerate(contents))
    head = (Message("system", system),) if system else ()
    return Example("e", contents[-2] if len(contents) > 1 else "", "f:1", "g", messages=(*head, *turns))


EXAMPLE = talk("Who was 蹇義?", "An official.", "When did he die?", "In 1435.")


def test_the_prompt_is_golden(chat: Chat) -> None:
    rendered = chat.render([*TASK.ask(EXAMPLE).messages, Message("assistant", TASK.reply(EXAMPLE))], is_prompt=False)
    assert rendered == (GOLDEN / "free_qa.txt").read_text(encoding="utf-8")


def test_the_system_message_of_the_row_comes_before_that_of_the_recipe() -> None:
    assert [m.content for m in TASK.ask(talk("a", "b", system="own")).messages] == ["own", "a"]
    assert [m.content for m in TASK.ask(talk("a", "b")).messages] == ["You are brief.", "a"]
    assert [m.content for m in FreeQa(FreeQaSettings()).ask(talk("a", "b")).messages] == ["a"]


def test_the_request_does_not_hold_the_gold() -> None:
    assert TASK.ask(talk("a", "one")) == TASK.ask(talk("a", "two"))


@pytest.mark.parametrize(
    ("gold", "said", "counts", "is_right"),
    [
        ("In 1435.", "in 1435", (2, 0, 0), True),
        ("In 1435.", "It was in 1435", (2, 2, 0), False),
        ("the cat", "A cat!", (1, 0, 0), True),
        ("少師蹇義", "蹇義", (2, 0, 2), False),
        ("ab ab", "ab", (1, 0, 1), False),
        ("ab", "ab ab", (1, 1, 0), False),
        ("ＡＢ１", "ab1", (1, 0, 0), True),
        ("one two", "two one", (2, 0, 0), False),
    ],
)
def test_counts_are_of_words(gold: str, said: str, counts: tuple[int, int, int], is_right: bool) -> None:
    score = TASK.score(talk("q", gold), Completion(said, "stop"))
    assert (score.counts["token"], score.right) == (Counts(*counts), is_right)


@given(
    gold=st.lists(st.sampled_from(["x", "yy", "蹇"]), min_size=1, max_size=6),
    said=st.lists(st.sampled_from(["x", "yy", "蹇"]), max_size=6),
)
def test_token_counts_are_those_of_multisets(gold: list[str], said: list[str]) -> None:
    counts = TASK.score(talk("q", " ".join(gold)), Completion(" ".join(said), "stop")).counts["token"]
    left, tp = list(gold), 0
    for word in said:
        if word in left:
            left.remove(word)
            tp += 1
    assert counts == Counts(tp, len(said) - tp, len(left))


@given(text=st.text(max_size=20))
def test_reading_undoes_replying_and_the_gold_is_right(text: str) -> None:
    example = talk("q", text)
    read = TASK.read(example, Completion(TASK.reply(example), "stop"))
    if not text.strip():
        assert isinstance(read, Unread)
        assert TASK.faults(example)
        return
    assert isinstance(read, Answer)
    assert read.text == text.strip()
    assert TASK.score(example, Completion(text, "stop")).right is True
    assert TASK.faults(example) == ()


def test_words_are_split_at_ideographs() -> None:
    assert words("The 少師 won't, 𠀀x_y") == ["少", "師", "won", "t", "𠀀", "x_y"]


def test_totals_count_unread_as_wrong_and_errors_apart() -> None:
    said = [Completion("b", "stop"), Completion(" ", "stop"), Completion("c", "length"), Completion("b", "error", error="down")]
    scores = [TASK.score(talk("a", "b"), completion) for completion in said]
    assert [score.status for score in scores] == ["read", "unread", "read", "error"]
    assert scores[3].right is None
    assert dict(scores[3].counts) == {}
    total = TASK.total(scores)
    assert total.measures["exact"] == {"accuracy": pytest.approx(1 / 3), "right": 1, "num": 3}
    assert (total.measures["token"]["tp"], total.measures["token"]["fp"], total.measures["token"]["fn"]) == (1, 1, 2)
    assert total.rates == {"unread": pytest.approx(1 / 3), "truncated": pytest.approx(1 / 3), "error": 0.25}
    assert TASK.total([]).measures["exact"]["accuracy"] == 0.0


def test_rows_without_a_reply_are_not_adopted() -> None:
    assert TASK.adopt(EXAMPLE) is EXAMPLE
    for bad in (talk("a"), talk("a", "b", "c"), Example("e", "t", "f:1", "g", records=())):
        assert isinstance(TASK.adopt(bad), Unread)
