"""Numbers are read exactly from running text, whatever stands around them."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Completion, Example, Message
from whet.tasks.base import Unread
from whet.tasks.free_qa import FreeQa, FreeQaSettings
from whet.tasks.numbers import gold_number, number_of, say_number

NUMERIC = FreeQa(FreeQaSettings(metric="numeric"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"), ("The answer is $1,234.50.", "1234.5"), ("16 - 3 - 4 = 9", "9"), ("1½ cups", "3/2"), ("3/4", "3/4"),
        ("x = -5", "-5"), ("10-3", "3"), ("50%", "50"), ("２０ 元", "20"), ("2 1/2 miles", "5/2"), ("5.", "5"), ("18.00", "18"),
        ("−7", "-7"), ("共18元", "18"), ("-$3", "-3"), ("1e3", "1000"), ("18 dollars per day.", "18"), ("0.1", "1/10"),
        ("1,000,000", "1000000"), ("first 2, then 6/3", "2"),
    ],
)  # fmt: skip
def test_the_last_number_is_read_exactly(text: str, number: str) -> None:
    assert number_of(text) == Fraction(number)


@pytest.mark.parametrize("text", ["", "none", "H2O", "1/0", "the x1 axis", "9" * 500])
def test_a_text_without_a_number_has_none(text: str) -> None:
    assert number_of(text) is None


def test_a_marker_must_stand_before_the_number() -> None:
    assert number_of("2 and 3 #### 5 and 6", "####") == 5
    assert number_of("2 and 3", "####") is None
    assert gold_number("a <<16-3-4=9>>9 day\n#### 1,018") == 1018


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "It is {}.", "is ${}!", "={}", "so **{}** eggs"]))
def test_whole_numbers_come_back_with_and_without_separators(number: int, frame: str) -> None:
    assert number_of(frame.format(number)) == number
    assert number_of(frame.format(f"{number:,}")) == number


@given(st.fractions(max_denominator=10**6))
def test_a_number_as_text_is_that_number(number: Fraction) -> None:
    assert number_of(say_number(number)) == number


@given(st.text(max_size=60))
def test_any_text_is_read(text: str) -> None:
    number_of(text)


def sum_of(gold: str) -> Example:
    return Example("e", "How many?", "f:1", "g", messages=(Message("user", "How many?"), Message("assistant", gold)))


def test_a_reply_without_a_number_is_unread_and_in_no_accuracy() -> None:
    example = sum_of("2 + 2 = 4\n#### 4")
    said = ["It is 4.0", "five", "5", ""]
    scores = [NUMERIC.score(example, Completion(text, "stop")) for text in said]
    scores.append(NUMERIC.score(example, Completion("4", "error", error="no line")))
    assert [score.status for score in scores] == ["read", "unread", "read", "unread", "error"]
    assert [score.right for score in scores] == [True, None, False, None, None]
    total = NUMERIC.total(scores)
    assert total.headline == ("numeric", "accuracy")
    assert total.measures["numeric"] == {"accuracy": 0.5, "right": 1, "num": 2}
    assert total.extra["of_all"]["accuracy"] == 0.25
    assert total.rates == {"unread": 0.5, "truncated": 0.0, "error": 0.2}


def test_a_gold_without_a_number_is_a_fault() -> None:
    assert NUMERIC.faults(sum_of("many"))
    assert not NUMERIC.faults(sum_of("4"))


def test_a_marker_asks_for_numbers() -> None:
    with pytest.raises(ValueError, match="numeric"):
        FreeQaSettings(marker="####")
    marked = FreeQa(FreeQaSettings(metric="numeric", marker="####"))
    assert isinstance(marked.read(sum_of("4"), Completion("4", "stop")), Unread)


def test_every_gold_of_gsm8k_is_a_number_as_it_is_written(shared_data) -> None:
    import json

    lines = (shared_data / "gsm8k/test.jsonl").read_text("utf-8").splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    assert [str(gold_number(gold)) for gold in golds] == [gold.rpartition("#### ")[2].replace(",", "") for gold in golds]
