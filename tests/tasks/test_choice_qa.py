"""Choice questions: the shuffle is fair and repeatable, reply and read are inverse, nothing unread is scored."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Completion, Example, Message, Score
from whet.tasks.base import Answer, Unread
from whet.tasks.choice_qa import LETTERS, ChoiceQa, ChoiceQaSettings
from whet.text.chat import Chat

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TASK = ChoiceQa(ChoiceQaSettings())


def question(
    text: str = "Which is a prime?", choices: tuple[str, ...] = ("4", "6", "7", "9"), answer: int = 2, category: str = ""
) -> Example:
    return Example(text, text, "f:1", "g", category, choices=choices, answer=answer)


questions = st.builds(
    lambda text, choices, pick: question(text, tuple(choices), pick % len(choices)),
    st.text(max_size=9),
    st.lists(st.text(max_size=4), min_size=2, max_size=len(LETTERS), unique=True),
    st.integers(0, 99),
)


def test_the_prompt_is_golden(chat: Chat) -> None:
    rendered = chat.render([*TASK.ask(question()).messages, Message("assistant", TASK.reply(question()))], is_prompt=False)
    assert rendered == (GOLDEN / "choice_qa.txt").read_text(encoding="utf-8")


def test_a_system_message_is_sent_only_where_it_is_set() -> None:
    asked = ChoiceQa(ChoiceQaSettings(system="One letter.")).ask(question())
    assert asked.messages[0] == Message("system", "One letter.")
    assert [message.role for message in TASK.ask(question()).messages] == ["user"]


@given(example=questions, seed=st.none() | st.integers())
def test_every_choice_stands_in_the_prompt_once(example: Example, seed: int | None) -> None:
    task = ChoiceQa(ChoiceQaSettings(shuffle_seed=seed))
    order = task.order(example)
    assert sorted(order) == list(range(len(example.choices)))
    request = task.ask(example)
    assert request.choices == tuple(LETTERS[: len(order)])
    shown = "\n".join(f"{LETTERS[at]}. {example.choices[number]}" for at, number in enumerate(order))
    assert request.messages[-1].content.endswith(f"{example.text}\n{shown}")
    if seed is None:
        assert order == list(range(len(order)))


@given(example=questions, seed=st.integers())
def test_the_order_knows_only_seed_and_words(example: Example, seed: int) -> None:
    moved = dataclasses.replace(example, id="x", source="other:9", group="h", category="c", answer=0)
    settings = ChoiceQaSettings(shuffle_seed=seed)
    assert ChoiceQa(settings).order(example) == ChoiceQa(settings).order(moved)


def test_the_shuffle_spreads_the_right_answer_over_the_letters() -> None:
    gold = Counter(TASK.reply(question(f"Question {number}?", answer=0)) for number in range(800))
    assert set(gold) == set("ABCD")
    assert min(gold.values()) > 150  # 200 expected, standard deviation 12; the draw is seeded
    assert [TASK.order(question(f"{n}")) for n in range(9)] != [
        ChoiceQa(ChoiceQaSettings(shuffle_seed=1)).order(question(f"{n}")) for n in range(9)
    ]


@given(example=questions)
def test_reading_undoes_replying(example: Example) -> None:
    for text in (TASK.reply(example), f" {TASK.reply(example)}.\n", f"{TASK.reply(example)})"):
        read = TASK.read(example, Completion(text, "stop"))
        assert isinstance(read, Answer)
        assert read.choice == example.answer
        assert TASK.score(example, Completion(text, "stop")).right is True


@pytest.mark.parametrize("text", ["", "E", "AB", "A or B", "a", "7", "Answer: C", "Ａ", "."])
def test_what_is_no_single_letter_is_unread_and_never_scored(text: str) -> None:
    assert isinstance(TASK.read(question(), Completion(text, "stop")), Unread)
    score = TASK.score(question(), Completion(text, "stop"))
    assert (score.status, score.right) == ("unread", None)


def answered(said: str, gold_at: int, category: str = "", finish: str = "stop", number: int = 0) -> Score:
    """The score of a question in file order whose answer stands at `gold_at`."""
    task = ChoiceQa(ChoiceQaSettings(shuffle_seed=None))
    return task.score(question(f"q{number}", answer=gold_at, category=category), Completion(said, finish, error="down"))  # type: ignore[arg-type]


def test_totals_leave_out_what_was_not_read() -> None:
    scores = [
        answered("A", 0, "maths", number=1),
        answered("B", 0, "maths", number=2),
        answered("C", 2, "law", number=3),
        answered("?", 2, "law", number=4),
        answered("A", 0, "law", finish="error", number=5),
        answered("A", 0, "law", finish="error", number=5),
    ]
    total = TASK.total(scores)
    assert total.measures["accuracy"] == {"accuracy": pytest.approx(2 / 3), "right": 2, "num": 3}
    assert (total.num_asked, total.num_scored) == (6, 3)
    assert total.rates == {"unread": 0.25, "error": pytest.approx(1 / 3)}
    assert total.extra["by_category"] == {"law": {"right": 1, "num": 1}, "maths": {"right": 1, "num": 2}}
    assert total.extra["letters"] == {"A": pytest.approx(1 / 3), "B": pytest.approx(1 / 3), "C": pytest.approx(1 / 3)}
    assert total.extra["num_distinct"] == 5


@given(gold=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_best_constant_is_the_best_of_all_letters(gold: list[int]) -> None:
    total = TASK.total([answered("A", at, number=number) for number, at in enumerate(gold)])
    shares = {LETTERS[at]: gold.count(at) / len(gold) for at in range(4)}
    found = total.extra["best_constant"]
    assert found["accuracy"] == pytest.approx(max(shares.values()))
    assert shares[found["letter"]] == pytest.approx(found["accuracy"])
    assert total.measures["accuracy"]["accuracy"] == pytest.approx(shares["A"])


def test_no_answers_give_no_figures() -> None:
    for scores in ([], [answered("A", 0, finish="error")]):
        total = TASK.total(scores)
        assert (total.num_scored, total.measures["accuracy"]["accuracy"], total.extra["by_category"]) == (0, 0.0, {})


def test_rows_that_are_no_questions_are_not_adopted() -> None:
    assert TASK.adopt(question()) == question()
    assert isinstance(TASK.adopt(Example("e", "t", "f:1", "g", records=())), Unread)
    assert isinstance(TASK.adopt(question(choices=("4",), answer=0)), Unread)
    assert isinstance(TASK.adopt(question(choices=tuple(map(str, range(27))))), Unread)


def test_faults_of_the_gold_are_named_by_kind() -> None:
    assert TASK.faults(question()) == ()
    for bad, kind in [
        (question(" "), "empty"),
        (question(answer=4), "choice"),
        (question(answer=-1), "choice"),
        (question(choices=("4", "4", "7")), "choice"),
    ]:
        (fault,) = TASK.faults(bad)
        assert fault.startswith(f"{kind}: ")
