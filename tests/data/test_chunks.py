"""Chunks: exact pieces of the text that cover it, cut at sentence ends, the same however the text comes."""

import itertools
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from whet.data.chunks import Chunk, ChunkSettings, Cut, cut_chunks
from whet.data.documents.source import Piece
from whet.errors import InputError

# What is seen as one character each, and stays so whatever stands beside it.
VISIBLE = ("少", "師", "。", "」", "！", " ", "\n", "\r\n", "a", ".", "e\u0301", "👩\u200d👩\u200d👧", "👍🏽", "🇨🇳", "각", "\u1100\u1161\u11a8",
           "葛\U000e0100", "𠮷", "שׁ", "❤️", "0️⃣", "\u3000", "︒", "\0")  # fmt: skip
TEXTS = st.lists(st.sampled_from(VISIBLE), max_size=120)
SETTINGS = st.integers(8, 40).flatmap(lambda size: st.builds(Cut, size=st.just(size), overlap=st.integers(0, size // 2)))


def pieces(text: str, *cuts: int) -> list[Piece]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [Piece(text[low:high], low) for low, high in itertools.pairwise(bounds)]


def cut(text: str, settings: Cut | None = None, count=None, **options) -> list[Chunk]:
    return list(cut_chunks("d", pieces(text), settings or Cut(**options), count))


def words(text: str) -> int:
    """Tokens of a plain tokenizer: a run of letters, or any other character."""
    return len(re.findall(r"[a-z]+|[^a-z]", text))


@given(TEXTS, SETTINGS)
def test_chunks_are_exact_cover_all_and_are_no_larger_than_said(parts, settings):
    text = "".join(parts)
    chunks = cut(text, settings)
    assert all(chunk.text == text[chunk.start : chunk.end] for chunk in chunks)
    assert all(0 < chunk.end - chunk.start <= settings.size for chunk in chunks)
    assert [chunk.start for chunk in chunks[:1]] == [0] * bool(text)
    assert [chunk.end for chunk in chunks[-1:]] == [len(text)] * bool(text)
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start <= before.end < after.end
        assert before.end - after.start <= settings.overlap
    assert len({chunk.id for chunk in chunks}) == len(chunks)


@given(TEXTS, SETTINGS, st.lists(st.integers(0, 200), max_size=12))
def test_chunks_do_not_depend_on_how_the_text_comes(parts, settings, cuts):
    text = "".join(parts)
    assert list(cut_chunks("d", pieces(text, *cuts), settings)) == cut(text, settings)


@given(TEXTS, TEXTS, SETTINGS)
def test_all_but_the_last_chunk_stay_when_a_document_grows(parts, more, settings):
    text = "".join(parts)
    before, after = cut(text, settings), cut(text + "".join(more), settings)
    assert before[:-1] == after[: max(0, len(before) - 1)]


@given(TEXTS, SETTINGS)
def test_no_visible_character_is_cut(parts, settings):
    whole, at = {0}, 0
    for part in parts:
        at += len(part)
        whole.add(at)
    text = "".join(parts)
    for chunk in cut(text, settings):
        assert chunk.start in whole
        assert chunk.end in whole


@given(st.lists(st.integers(2, 30), min_size=1, max_size=60), SETTINGS)
def test_a_chunk_ends_with_the_last_sentence_that_ends_in_its_second_half(lengths, settings):
    text = "".join("少" * (length - 1) + "。" for length in lengths)
    chunks = cut(text, settings)
    for chunk in chunks[:-1]:
        reach = text[chunk.start : chunk.start + settings.size]
        last = reach.rfind("。") + 1
        assert len(chunk.text) == (last if last > settings.size // 2 else settings.size)
    for before, after in itertools.pairwise(chunks):
        begin = before.end - min(settings.overlap, len(before.text) // 2)
        starts = [at for at in range(begin, before.end) if at and text[at - 1] == "。"]
        assert after.start == (starts[0] if starts and begin < before.end else begin)


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("少師蹇義頓首曰：「可。」", "上從之，遂罷兵歸"),
        ("少師蹇義頓首再拜曰可！？）」", "上從之，遂罷兵歸"),
        ("少師蹇義卒於位︒", "上輟朝一日遣官致祭焉嗚呼哀哉"),
        ("少師蹇義卒於位。  \u3000", "上輟朝一日遣官致祭焉"),
        ("少師蹇義卒於位上輟朝\r\n", "遣官致祭焉嗚呼哀哉"),
        ("第一章 總論之一二三\n \n", "上輟朝一日遣官致祭焉"),
        ("He was sent. ", "Then he went home again"),
        ("He was “sent.” ", "Then he went home again"),
        ("Pi is about ", "3.1415926535897932384626433"),
        ("عاد السلطان؟ ", "ثم جاء بعده الوزير"),
        ("مات الوزير ", "فيتلكالسنةثمجاءبعدهوزير"),
        ("永樂二年春正月己巳少師蹇義卒於", "位上輟朝一日遣官致祭"),
        ("永樂二年春正月己巳少師蹇義卒於"[:14], "葛\U000e0100位上輟朝一日遣官致祭"),
    ],
)
def test_where_a_chunk_of_fifteen_characters_ends(head, rest):
    assert cut(head + rest, size=15, overlap=0)[0].text == head


def test_a_sentence_end_is_cut_before_white_space_that_does_not_fit():
    assert cut("少師蹇義卒於位。" + " " * 30, size=9, overlap=0)[0].text == "少師蹇義卒於位。 "
    assert cut("少師蹇義卒於位。\r\n上輟朝", size=9, overlap=0)[0].text == "少師蹇義卒於位。"


def test_marks_without_end_are_cut_all_the_same():
    text = "少" + "\u0301" * 1000
    chunks = cut(text, size=100, overlap=20)
    assert max(len(chunk.text) for chunk in chunks) <= 100
    assert len(chunks) < 40


def test_an_id_speaks_of_document_start_and_text():
    text = "少師蹇義卒。" * 400
    chunks = cut(text)
    assert all(re.fullmatch("[0-9a-f]{32}", chunk.id) for chunk in chunks)
    assert [chunk.id for chunk in chunks] == [chunk.id for chunk in cut(text)]
    other = list(cut_chunks("e", pieces(text), Cut()))
    assert not {chunk.id for chunk in chunks} & {chunk.id for chunk in other}
    assert chunks[0].text == chunks[1].text
    assert chunks[0].id != chunks[1].id


def test_chunks_know_their_pages():
    said = [
        Piece("第一頁。" * 3, 0, 1),
        Piece("", 12, 2, "page 2 holds an image"),
        Piece("第三頁。" * 5, 12, 3),
        Piece("四。", 32, 4),
    ]
    chunks = list(cut_chunks("d", said, Cut(size=16, overlap=4)))
    assert [(chunk.start, chunk.end, chunk.page, chunk.pages) for chunk in chunks] == [
        (0, 16, 1, ((1, 0), (3, 12))), (12, 28, 3, ((3, 12),)), (24, 34, 3, ((3, 12), (4, 32)))
    ]  # fmt: skip


@given(TEXTS, SETTINGS)
def test_the_page_of_every_character_can_be_told(parts, settings):
    said, at = [], 0
    for number, part in enumerate(parts, 1):
        said.append(Piece(part, at, number))
        at += len(part)
    for chunk in cut_chunks("d", said, settings):
        for offset in range(chunk.start, chunk.end):
            page = [page for page, start in chunk.pages if start <= offset][-1]
            assert said[page - 1].start <= offset < said[page - 1].start + len(said[page - 1].text)
        assert chunk.page == chunk.pages[0][0]


@given(TEXTS, st.integers(8, 20))
def test_chunks_of_tokens_are_no_larger_than_said(parts, size):
    text = "".join(parts)
    chunks = cut(text, Cut(size=size, overlap=size // 4, unit="tokens"), words)
    assert all(words(chunk.text) <= size for chunk in chunks)
    assert [chunk.text for chunk in chunks] == [text[chunk.start : chunk.end] for chunk in chunks]
    reached = 0
    for chunk in chunks:
        assert chunk.start <= reached < chunk.end
        reached = chunk.end
    assert reached == len(text)


def test_tokens_are_counted_a_few_times_a_chunk():
    text = "The minister was sent to the province. " * 200 + "少師蹇義卒於位。" * 500
    calls = []

    def count(part: str) -> int:
        calls.append(len(part))
        return words(part)

    chunks = cut(text, Cut(size=200, overlap=20, unit="tokens"), count)
    sizes = [words(chunk.text) for chunk in chunks[:-1]]
    assert min(sizes) > 150
    assert len(calls) < 8 * len(chunks)


def test_a_tokenizer_that_makes_more_tokens_of_less_is_held_to_the_size():
    def count(text: str) -> int:
        return len(text) // 8 if len(text) % 8 == 0 else len(text)

    chunks = cut("少師蹇義卒於位。" * 40 + "少師", Cut(size=16, overlap=4, unit="tokens"), count)
    assert all(count(chunk.text) <= 16 for chunk in chunks)


def test_memory_does_not_grow_with_the_document():
    def stream():
        for number in range(60):
            yield Piece("少師蹇義卒於位，上輟朝一日。" * 1000, 14_000 * number)

    tracemalloc.start()
    num_chunks = sum(1 for _ in cut_chunks("d", stream(), Cut()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_chunks > 900
    assert peak < 500_000


@pytest.mark.parametrize(
    ("said", "longest", "cut"),
    [
        ({}, None, Cut(900, 120)),
        ({}, 76, Cut(76, 10)),
        ({}, 3, Cut(8, 1)),
        ({}, 5_000, Cut(900, 120)),
        ({"overlap": 60}, 76, Cut(76, 38)),
        ({"size": 600}, 76, Cut(600, 80)),
        ({"size": 600, "overlap": 0}, None, Cut(600, 0)),
        ({"unit": "tokens"}, 76, Cut(900, 120, "tokens")),
    ],
)
def test_chunks_are_as_long_as_the_texts_of_the_training_unless_said_otherwise(said, longest, cut):
    assert ChunkSettings(**said).cut_to(longest) == cut


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValidationError, match="overlap 500 is more than half of size 900"):
        ChunkSettings(overlap=500)
    with pytest.raises(InputError, match=r"counts tokens, and there is no tokenizer"):
        cut("少", unit="tokens")
    assert cut("") == []
