"""Halves overlap, lose nothing, and never cut a visible character; sentences around a place are whole."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from whet.extract.halves import MIN_CHARS, halve
from whet.extract.sentences import MOST, sentences_around
from whet.extract.state import Part
from whet.records import Span

TEXTS = st.lists(
    st.sampled_from(["大雨。", "蹇義", "，", "e\u0301", "👨\u200d👩\u200d👧", "𠮷", "葛\U000e0100", "\n", "a. b"]), max_size=80
).map("".join)


def part(text: str, start: int = 100, pages: tuple[tuple[int, int], ...] = ()) -> Part:
    return Part("id", 7, 2, start, start + len(text), text, pages, tries=1)


@given(TEXTS, st.integers(0, 40))
def test_halves_cover_the_text_and_overlap_between_characters(text: str, overlap: int) -> None:
    whole = part(text)
    halves = halve(whole, "a", overlap)
    if len(text) < 2 * MIN_CHARS:
        assert halves == []
        return
    first, second = halves
    assert (first.start, second.end) == (whole.start, whole.end)
    assert first.start < second.start <= first.end < whole.end
    assert first.end - second.start <= len(text) // 2
    ends = {0, *(found.end() for found in regex.finditer(r"\X", text))}
    for half in halves:
        assert half.text == text[half.start - 100 : half.end - 100]
        assert {half.start - 100, half.end - 100} <= ends
        assert (half.root, half.document, half.version, half.was, half.tries) == ("id", 7, 2, "waiting", 1)
    assert first.id != second.id


def test_a_half_ends_with_a_sentence_near_the_middle_and_knows_its_pages() -> None:
    text = "大雨雹傷禾稼，詔免今年租。" * 5
    first, second = halve(part(text, 100, ((90, 3), (130, 4), (160, 5))), "a", 10)
    assert first.text.endswith("。")
    assert text[: second.start - 100].endswith("。")
    assert first.pages == ((100, 3), (130, 4))
    assert second.pages == ((second.start, 3), (130, 4), (160, 5))


@pytest.mark.parametrize(
    ("text", "inside", "sentence"),
    [
        ("大雨。是日蹇義卒。大雪。", "蹇義", "是日蹇義卒。"),
        ("上曰：「蹇義卒。」大雪。", "蹇義", "上曰：「蹇義卒。」"),
        ("  a b. Yang Rong died at 3.5 li. c", "Rong", "Yang Rong died at 3.5 li."),
        ("卒。大雨！", "卒。大雨", "卒。大雨！"),
        ("無標點之文", "標點", "無標點之文"),
        ("一行\n 二行\n三行", "二", "二行"),
    ],
)
def test_the_sentences_around_a_place_are_whole(text: str, inside: str, sentence: str) -> None:
    start = text.index(inside)
    found = sentences_around(text, Span(start, start + len(inside)))
    assert text[found.start : found.end] == sentence


@given(TEXTS.filter(bool), st.data())
def test_the_sentences_around_a_place_hold_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    found = sentences_around(text, Span(start, end))
    assert 0 <= found.start <= start < end <= found.end <= len(text)


@given(
    st.lists(st.sampled_from(["大", "蹇義", "，", "e\u0301", "👨\u200d👩\u200d👧", "𠮷"]), min_size=250, max_size=400), st.data()
)
def test_of_a_text_without_ends_so_much_is_quoted_and_no_half_character(pieces: list[str], data: st.DataObject) -> None:
    text = "".join(pieces)
    ends = [0, *(found.end() for found in regex.finditer(r"\X", text))]
    first, last = sorted(data.draw(st.tuples(*[st.sampled_from(ends)] * 2).filter(lambda pair: pair[0] != pair[1])))
    found = sentences_around(text, Span(first, last))
    assert found.start <= first < last <= found.end
    assert {found.start, found.end} <= {*ends}
    assert found.end - found.start <= max(MOST, last - first)
    assert found.end - found.start > min(MOST, len(text)) - 2 * 5  # a family has five code points
