"""Text preparation: what comes out, and that every place can be found again."""

import unicodedata

import opencc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.records import Example, Message, Span, Value
from whet.text.prepare import Alignment, Prepared, PrepareSettings, convert_aligned, prepare, prepare_example

PIECES = [
    "e\u0301", "é", "ﬁ", "①", "Ａ", "７", "ｶﾞ", "가", "\u1100\u1161\u11a8", "\u0301", "후", "a\u0323\u0307", "㍿",
    "\u0958", "ﷺ", "万历", "后宫", "發", "少師蹇義", "乾隆", "，", "。", "\ud800", "\udc00", "😀", "\0", " ", "x", "ﾞ",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(), max_size=12).map("".join)
SETTINGS = st.builds(
    PrepareSettings,
    unicode=st.sampled_from(["keep", "NFC", "NFKC"]),
    width=st.sampled_from(["keep", "half", "full"]),
    script=st.sampled_from(["keep", "simplified", "traditional"]),
)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(["NFC", "NFKC"]))
def test_normal_form_is_unicodedatas(text, form):
    assert prepare(text, PrepareSettings(unicode=form)).text == unicodedata.normalize(form, text)


@settings(max_examples=150, deadline=None)
@given(TEXTS, SETTINGS, st.data())
def test_every_span_can_be_found_again(text, chosen, data):
    prepared = prepare(text, chosen)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    new = prepared.to_new(Span(start, end))
    if start == end:
        assert new is None
        return
    assert new is not None
    assert 0 <= new.start < new.end <= len(prepared.text)
    back = prepared.to_original(new)
    assert back.start <= start
    assert back.end >= end
    # the widened span is whole clusters, so it is stable
    assert prepared.to_new(back) == new


@settings(max_examples=120, deadline=None)
@given(TEXTS, st.sampled_from(["NFC", "NFKC"]), st.data())
def test_a_span_covers_exactly_its_characters(text, form, data):
    """Independent of the clusters: the widened piece by itself normalises to what the new span holds."""
    prepared = prepare(text, PrepareSettings(unicode=form))
    if not text:
        return
    start = data.draw(st.integers(0, len(text) - 1))
    new = prepared.to_new(Span(start, data.draw(st.integers(start + 1, len(text)))))
    back = prepared.to_original(new)
    assert unicodedata.normalize(form, text[back.start : back.end]) == prepared.text[new.start : new.end]
    assert unicodedata.normalize(form, text[: back.start]) == prepared.text[: new.start]


def test_composing_moves_later_offsets():
    text = "cafe\u0301 少師"
    prepared = prepare(text, PrepareSettings(unicode="NFC"))
    at = text.index("少")
    assert prepared.text == "café 少師"
    assert prepared.to_new(Span(at, at + 2)) == Span(5, 7)
    assert prepared.to_new(Span(3, 4)) == Span(3, 4)  # the bare e takes its accent with it
    assert prepared.to_original(Span(3, 4)) == Span(3, 5)


def test_expanding_moves_later_offsets():
    prepared = prepare("㍿ﬁ名", PrepareSettings(unicode="NFKC"))
    assert prepared.text == "株式会社fi名"
    assert prepared.to_new(Span(2, 3)) == Span(6, 7)
    assert prepared.to_original(Span(1, 2)) == Span(0, 1)


def test_width_leaves_punctuation():
    assert prepare("Ａ１，ｚ。！", PrepareSettings(width="half")).text == "A1，z。！"
    assert prepare("A1,z", PrepareSettings(width="full")).text == "Ａ１,ｚ"


def test_script_is_opencc():
    text = "宣德九年，少師蹇義卒。皇后在後，乾隆乾淨"
    assert prepare(text, PrepareSettings(script="simplified")).text == opencc.OpenCC("t2s").convert(text)
    back = "万历后宫，皇后，头发，发展，干部，乾隆"
    assert prepare(back, PrepareSettings(script="traditional")).text == opencc.OpenCC("s2t").convert(back)


def test_a_phrase_that_changes_length_keeps_the_places():
    convert = opencc.OpenCC("s2twp").convert
    text = "他把U盘和软件交给干部，\ud800又把U盘拿走。" * 30
    new, blocks = convert_aligned(text, convert)
    assert len(new) == len(text) + 60  # U盘 becomes 隨身碟, twice in each sentence
    assert len(blocks) == 60
    prepared = Prepared(new, len(text), (Alignment(blocks),))
    for word, wanted in (("干部", "幹部"), ("U盘", "隨身碟"), ("拿走", "拿走")):
        at = text.rindex(word)
        span = prepared.to_new(Span(at, at + len(word)))
        assert new[span.start : span.end] == wanted
        assert prepared.to_original(span) == Span(at, at + len(word))


def test_a_stretch_that_can_not_be_cut_is_one_cluster():
    def convert(text):
        return text.replace("abc", "z")

    new, blocks = convert_aligned("xxabcyy", convert)
    assert (new, blocks) == ("xxzyy", [(2, 5, 2, 3)])
    prepared = Prepared(new, 7, (Alignment(blocks),))
    assert prepared.to_new(Span(3, 4)) == Span(2, 3)
    assert prepared.to_original(Span(2, 3)) == Span(2, 5)


def test_deleted_characters_have_no_place():
    prepared = Prepared("ab", 3, (Alignment([(1, 2, 1, 1)]),))
    assert prepared.to_new(Span(1, 2)) is None
    assert prepared.to_original(prepared.to_new(Span(0, 2))) == Span(0, 2)
    assert prepared.to_new(Span(2, 3)) == Span(1, 2)


@pytest.mark.parametrize("span", [Span(-1, 2), Span(0, 9), Span(2, 1)])
def test_a_span_outside_the_text_has_no_place(span):
    assert prepare("少師", PrepareSettings(script="simplified")).to_new(span) is None


def test_an_example_is_prepared_whole():
    text = "cafe\u0301：少師蹇義卒"
    record = {
        "name": Value("蹇義", Span(8, 10)),
        "office": Value("少師", Span(6, 8)),
        "event": Value("逝於任上"),
        "x": None,
    }
    example = Example("1", text, "f:1", "g", records=(record,), choices=("發",), answer=0, messages=(Message("user", "萬"),))
    new = prepare_example(example, PrepareSettings(unicode="NFC", script="simplified"))
    assert new.text == "café：少师蹇义卒"
    assert new.records == (
        {"name": Value("蹇义", Span(7, 9)), "office": Value("少师", Span(5, 7)), "event": Value("逝于任上"), "x": None},
    )
    assert new.choices == ("发",)
    assert new.messages == (Message("user", "万"),)
    assert (new.id, new.source, new.group) == ("1", "f:1", "g")
    assert prepare_example(example, PrepareSettings()) is example


def test_a_gold_that_stands_elsewhere_stays_ungrounded():
    example = Example("1", "少師蹇義", "f:1", "g", records=({"name": Value("楊榮", Span(2, 4))},))
    value = prepare_example(example, PrepareSettings(script="simplified")).records[0]["name"]
    assert value == Value("杨荣", Span(2, 4))
    outside = Example("1", "少師", "f:1", "g", records=({"name": Value("蹇義", Span(2, 4))},))
    assert prepare_example(outside, PrepareSettings(script="simplified")).records[0]["name"] == Value("蹇义")
