"""Each question is asked once, drawn alike whatever the order, and found in training data in any dress."""

import random
from dataclasses import replace

import pytest

from whet.data.split import SplitSettings
from whet.errors import InputError
from whet.evaluate.questions import WithShots, draw_questions, find_overlap, keys_of, sift
from whet.records import Example, Message
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings

TASK = ChoiceQa(ChoiceQaSettings())


def question(number: int, text: str = "", answer: int = 0, category: str = "") -> Example:
    text = text or f"Which of the many kinds of thing is number {number}, and what for?"
    return Example(
        f"q{number}", text, f"f:{number}", f"g{number}", category, choices=(f"one {number}", "two", "three"), answer=answer
    )


def free(text: str) -> Example:
    return Example("t", text, "t:1", "t", messages=(Message("user", text), Message("assistant", "an answer")))


def test_five_questions_repeated_fifty_times_are_five() -> None:
    rows = [question(number % 5) for number in range(250)]
    found = sift("p", rows, TASK, None, 0.0)
    assert len(found.examples) == 5
    assert len(found.duplicates) == 5
    assert all(len(ids) == 50 and len(set(ids)) == 50 for ids in found.duplicates)


def test_a_question_in_another_dress_is_the_same_and_another_gold_is_told() -> None:
    rows = [question(1), question(1, "WHICH of the many kinds of thing is number 1 — and what for"), question(1, answer=1)]
    found = sift("p", rows, TASK, None, 0.0)
    assert len(found.examples) == 1
    assert found.num_conflicting == 1


@pytest.mark.parametrize(("one", "other"), [("Is J << a?", "Is J >> a?"), ("How much is -3 of 4?", "How much is 3 of 4?"),
                                            ("Take sqrt(2) + sqrt(3)", "Take sqrt(2), sqrt(3)")])  # fmt: skip
def test_signs_of_arithmetic_make_two_questions(one: str, other: str) -> None:
    assert len(sift("p", [question(1, one), question(1, other), question(1, one.upper())], TASK, None, 0.0).examples) == 2


def test_rows_that_are_no_questions_are_counted_and_too_many_stop() -> None:
    rows = [
        "f:9: broken",
        replace(question(1), answer=None),
        replace(question(2), choices=("a", "a")),
        *map(question, range(3, 60)),
    ]
    found = sift("p", rows, TASK, None, 0.1)
    assert len(found.left_out) == 3
    with pytest.raises(InputError, match="3 of 60 rows"):
        sift("p", rows, TASK, None, 0.01)
    with pytest.raises(InputError, match="no question"):
        sift("p", [question(1)], TASK, 10, 0.0)


def test_a_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    rows = [question(number) for number in range(200)]
    first = draw_questions(sift("p", rows, TASK, None, 0.0), 20, 0)
    random.Random(0).shuffle(rows)
    again = draw_questions(sift("p", rows, TASK, None, 0.0), 20, 0)
    other = draw_questions(sift("p", rows, TASK, None, 0.0), 20, 1)
    assert keys_of(first.examples) == keys_of(again.examples) != keys_of(other.examples)
    assert len(first.examples) == 20
    apart = draw_questions(sift("p", rows, TASK, None, 0.0), 180, 1, keys_of(first.examples))
    assert not keys_of(apart.examples) & keys_of(first.examples)


def test_overlap_is_found_as_it_is_and_in_other_dresses() -> None:
    asked = [question(number, f"What does the {word} do in the great hall of the old palace at night?") for number, word in
             enumerate(["minister", "gardener", "watchman", "physician"])]  # fmt: skip
    training = [
        replace(asked[0], choices=tuple(reversed(asked[0].choices))),  # the same choices in another order
        free("what does the GARDENER do, in the great hall of the old palace at night"),  # asked freely
        free("What does the watchman do in the great hall of the old palace at nights?"),  # nearly
        free("Something else altogether."),
    ]
    found = find_overlap(asked, training, SplitSettings())
    assert (found.exact, found.near) == (("q0", "q1"), ("q2",))
    assert find_overlap(asked, [], SplitSettings()) == find_overlap(asked, [free("x")], SplitSettings())


def test_overlap_agrees_with_brute_force_on_mmlu(shared_data) -> None:
    from whet.data.clean import normalised, question_of
    from whet.data.formats import ExampleFiles
    from whet.data.near import jaccard, ngrams
    from whet.data.sources import read

    rows = [
        row for row in read(ExampleFiles(reader="examples", path="mmlu/test/*_security_test.csv"), shared_data) if row.choices
    ]
    train = rows[::7]
    asked = rows[:40]
    found = find_overlap(asked, train, SplitSettings())
    known = {normalised(question_of(row)) for row in train}
    assert set(found.exact) == {row.id for row in asked if normalised(question_of(row)) in known}
    near = set()
    for row in asked:
        grams = ngrams(normalised(question_of(row)), 3, 5)
        if row.id not in found.exact and any(jaccard(grams, ngrams(text, 3, 5)) >= 0.8 for text in known):
            near.add(row.id)
    assert set(found.near) == near


def test_shots_stand_before_the_question_and_are_none_of_the_questions() -> None:
    shots = [question(90, category="a"), question(91, category="b"), question(1, category="a")]
    task = WithShots(TASK, shots, 2, same_category=True, without=keys_of([question(1)]))
    assert task.num_held == 2
    asked = task.ask(question(1, category="a"))
    plain = TASK.ask(question(1, category="a"))
    assert asked.messages[-1] == plain.messages[-1]
    assert [message.role for message in asked.messages] == ["user", "assistant", "user"]
    assert asked.messages[1].content == TASK.reply(shots[0])
    assert asked.choices == plain.choices
    assert len(task.ask(question(1, category="c")).messages) == 5  # a category without shots of its own takes any
