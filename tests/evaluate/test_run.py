"""Evaluation: every answer is kept, an error is never scored, and too many of them give no score."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import official
from hypothesis import given
from hypothesis import strategies as st

from whet.engines.scripted import ScriptedEngine
from whet.errors import InputError
from whet.evaluate.run import Evaluation, ask_engine, evaluate, pick, predict_all, read_scores
from whet.records import Completion, Counts, Example, Request
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings
from whet.tasks.extraction import Extraction

EXAMPLES = [official(f"第{n}日，少師蹇義卒。", "蹇義", "少師", "Death", n) for n in range(10)]


def completions(*finishes: str, task: Extraction) -> Iterator[Completion]:
    for finish, example in zip(finishes, EXAMPLES, strict=False):
        text = task.reply(example) if finish == "stop" else ""
        yield Completion(text, "error" if finish == "error" else "stop", error="down" if finish == "error" else "")


def evaluated(out: Path, task: Extraction, *finishes: str, max_error_rate: float = 0.5) -> Evaluation:
    return evaluate("x", completions(*finishes, task=task), task, EXAMPLES[: len(finishes)], out, max_error_rate)


def test_errors_are_counted_and_never_scored(tmp_path: Path, officials: Extraction) -> None:
    found = evaluated(tmp_path, officials, "stop", "error", "stop", "error")
    assert found.total.measures["record"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "tp": 2, "fp": 0, "fn": 0}
    assert (found.total.num_asked, found.total.num_scored, found.total.rates["error"]) == (4, 2, 0.5)
    assert [dict(score.counts) for score in found.scores if score.status == "error"] == [{}, {}]


def test_too_many_errors_give_no_score_and_keep_the_answers(tmp_path: Path, officials: Extraction) -> None:
    with pytest.raises(InputError, match=r"50% of the requests to x failed.*no score; the first: down.*max_error_rate"):
        evaluated(tmp_path, officials, "stop", "error", "stop", "error", max_error_rate=0.49)
    assert len(read_scores(tmp_path)) == 4
    with pytest.raises(InputError, match="100%"):
        evaluated(tmp_path, officials, "error", "error", max_error_rate=0.99)
    with pytest.raises(InputError, match="10%"):
        evaluated(tmp_path, officials, "error", *["stop"] * 9, max_error_rate=0.0)


def test_every_answer_is_kept_as_it_came(tmp_path: Path, officials: Extraction) -> None:
    found = evaluated(tmp_path, officials, "stop", "unread", "error")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["source"], row["finish"], row["error"]) for row in rows] == [
        ("e0", "corpus.txt:1", "stop", ""),
        ("e1", "corpus.txt:2", "stop", ""),
        ("e2", "corpus.txt:3", "error", "down"),
    ]
    assert rows[0]["text"] == officials.reply(EXAMPLES[0])
    assert [row["score"]["status"] for row in rows] == ["read", "unread", "error"]
    assert tuple(read_scores(tmp_path)) == found.scores
    assert read_scores(tmp_path)[1].counts["record"] == Counts(fn=1)


@pytest.mark.parametrize("num", [2, 4])
def test_an_engine_that_gives_another_number_of_answers_is_caught(num: int, tmp_path: Path, officials: Extraction) -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluate("x", completions(*["stop"] * num, task=officials), officials, EXAMPLES[:3], tmp_path, 0.5)
    assert list(tmp_path.iterdir()) == []  # a broken evaluation leaves nothing that looks whole


def test_the_watch_is_told_of_every_answer(tmp_path: Path, officials: Extraction) -> None:
    told: list[Any] = []
    evaluate(
        "x", completions("stop", "stop", task=officials), officials, EXAMPLES[:2], tmp_path, 0.5, lambda *at: told.append(at)
    )
    assert told == [(1, 2), (2, 2)]


@given(num=st.integers(0, 60), most=st.integers(1, 60))
def test_a_pick_is_spread_evenly(num: int, most: int) -> None:
    found = pick([dataclasses.replace(EXAMPLES[0], id=str(n)) for n in range(num)], most)
    places = [int(example.id) for example in found]
    assert len(places) == min(num, most)
    assert places == sorted(set(places))
    if num > most:
        gaps = [b - a for a, b in zip(places, [*places[1:], num + places[0]], strict=True)]
        assert max(gaps) - min(gaps) <= 1
    assert len(pick(found, None)) == len(found)


def test_many_requests_are_answered_in_their_order(officials: Extraction) -> None:
    examples = [dataclasses.replace(EXAMPLES[0], id=str(n), text=f"{n}") for n in range(150)]
    sizes: list[int] = []

    class Counting(ScriptedEngine):
        def answer(self, requests: Any) -> list[Completion]:
            sizes.append(len(requests))
            return super().answer(requests)

    engine = Counting("x", lambda request: request.messages[-1].content.rpartition("\n")[2])
    assert [completion.text for completion in ask_engine(engine, officials, examples)] == [str(n) for n in range(150)]
    assert sum(sizes) == 150
    assert max(sizes) < 150  # answers are kept as they come, not all at the end


class Ranking:
    """An engine that ranks by a table."""

    name = "ranking"

    def __init__(self, ranks: list[float]) -> None:
        self.ranks = ranks

    def answer(self, requests: Any) -> list[Completion]:
        raise AssertionError("choices are ranked, not answered")

    def rank(self, request: Request) -> list[float]:
        if "bad" in request.messages[-1].content:
            raise InputError("", "too long")
        return self.ranks


QUESTIONS = [Example(f"q{n}", f"Question {n}?", f"f:{n}", "g", choices=("w", "x", "y"), answer=1) for n in range(4)]
IN_ORDER = ChoiceQa(ChoiceQaSettings(shuffle_seed=None))


@pytest.mark.parametrize(
    ("ranks", "letter"),
    [
        ([-3.0, -1.0, -2.0], "B"),
        ([-1.0, -1.0, -1.0], "A"),
        ([-2.0, -1.0, -1.0], "B"),
        ([float("-inf"), float("-inf"), -9.0], "C"),
    ],
)
def test_the_likeliest_choice_is_the_answer_and_a_tie_goes_to_the_first_letter(ranks: list[float], letter: str) -> None:
    assert {completion.text for completion in ask_engine(Ranking(ranks), IN_ORDER, QUESTIONS)} == {letter}


def test_a_question_that_can_not_be_ranked_is_an_error_and_loses_no_other() -> None:
    questions = [QUESTIONS[0], dataclasses.replace(QUESTIONS[1], text="bad"), QUESTIONS[2]]
    said = list(ask_engine(Ranking([0.0, 1.0, 0.0]), IN_ORDER, questions))
    assert [completion.finish for completion in said] == ["stop", "error", "stop"]
    assert "too long" in said[1].error
    assert [IN_ORDER.score(*pair).status for pair in zip(questions, said, strict=True)] == ["read", "error", "read"]


def test_a_likelihood_that_is_no_number_is_an_error() -> None:
    for ranks in ([float("nan"), -1.0, -2.0], [-1.0, float("nan"), -2.0]):
        assert {completion.finish for completion in ask_engine(Ranking(ranks), IN_ORDER, QUESTIONS)} == {"error"}


def test_a_baselines_records_are_written_as_the_task_writes_them(officials: Extraction) -> None:
    gold = {example.text: example.records or () for example in EXAMPLES}
    said = predict_all(lambda text: gold[text], officials, EXAMPLES)
    assert all(
        officials.score(example, completion).counts["record"] == Counts(tp=1)
        for example, completion in zip(EXAMPLES, said, strict=True)
    )
