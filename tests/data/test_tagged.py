"""Inline tags: what the walker reads, what it refuses, and how tags are joined to records."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from whet.data.rows import Reject, Tally
from whet.data.sources import Source, read
from whet.data.tagged import Misread, walk_tags
from whet.records import Span, Value

SOURCE = TypeAdapter(Source)
TAGS = {"name": {"tag": "P"}, "office": {"tag": "O"}, "event": {"tag": "P", "attribute": "event"}}


def make(**options):
    return SOURCE.validate_json(json.dumps({"reader": "inline", "path": "a.txt", "tags": TAGS, **options}), strict=True)


def read_all(tmp_path, text, tally=None, **options):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    return list(read(make(**options), tmp_path, tally))


def names(example):
    return [tuple(value and value.text for value in record.values()) for record in example.records]


PLAIN = st.text(st.sampled_from("少師蹇義，<>&\"' 1;x"), max_size=5)
PARTS = st.lists(st.tuples(PLAIN, st.sampled_from("PO"), PLAIN.filter(bool), PLAIN), min_size=1, max_size=4)


PARTS_OF_TAGS = ["<", ">", "/", "P", "O", " ", "=", '"', "&lt;", "&", "少", "<P>", "</P>", "<O>", "</O>"]


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@settings(max_examples=150, deadline=None)
@given(PARTS)
def test_what_was_tagged_is_read(parts):
    tagged = plain = ""
    wanted = []
    for before, tag, inner, value in parts:
        shown = value.replace('"', "").replace("&", "").replace("<", "")
        tagged += f'{escaped(before)}<{tag} a="{shown}" b=1>{escaped(inner)}</{tag}>'
        start = len(plain) + len(before)
        plain += before + inner
        wanted.append((tag, Span(start, start + len(inner)), {"a": shown, "b": "1"}))
    text, tags = walk_tags(tagged, ("P", "O"))
    assert text == plain
    assert [(tag.name, tag.span, tag.attributes) for tag in tags] == wanted


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(PARTS_OF_TAGS)).map("".join))
def test_any_text_is_read_or_refused(text):
    read_ = walk_tags(text, ("P", "O"))
    if isinstance(read_, Misread):
        assert text[read_.at] == "<"
        assert read_.remedy
    else:
        for tag in read_[1]:
            assert 0 <= tag.span.start < tag.span.end <= len(read_[0])


@pytest.mark.parametrize(
    ("text", "seen", "nearest"),
    [
        ("<P>蹇義", "<P> is never closed", ""),
        ("蹇義</P>", "</P> closes nothing", "<P>"),
        ("<P>蹇<O>義</O></P>", "<O> inside <P>", ""),
        ("<P>蹇<P>義</P></P>", "<P> inside <P>", ""),
        ("<P>蹇義</O>", "</O> closes <P>", "</P>"),
        ("<Per>蹇義</Per>", "unknown tag <Per>", "<P>"),
        ("<P></P>", "<P></P> holds no text", "<P>"),
        ("<P/>", "<P/> holds no text", "<P>"),
        ("蹇義<P id=1", "a tag without its >", ""),
    ],
)
def test_faulty_tags_are_rejected_with_place(tmp_path, text, seen, nearest):
    bad, good = read_all(tmp_path, f"{text}\n<P>楊榮</P>卒\n")
    assert isinstance(bad, Reject)
    assert bad.place == "a.txt:1"
    assert bad.seen.startswith(seen)
    assert bad.nearest == nearest
    assert f"column {text.index('<') + 1}" in bad.seen or len(re.findall("<", text)) > 1
    assert bad.raw == text
    assert names(good) == [("楊榮", None, None)]


def test_plain_angles_and_escapes_are_text(tmp_path):
    [example] = read_all(tmp_path, "1 < 2 &lt;P&gt; <P>R&amp;D</P> a > b &copy; <- x")
    assert example.text == "1 < 2 <P> R&D a > b &copy; <- x"
    assert names(example) == [("R&D", None, None)]


def test_tags_are_joined_by_the_gap(tmp_path):
    text = "<O>少師</O>1234<P event='卒 &amp; 葬'>蹇義</P>，<P>楊榮</P>，<O>尚書</O>12345<P>夏原吉</P>"
    tally = Tally()
    [example] = read_all(tmp_path, text, tally)
    assert names(example) == [("蹇義", "少師", "卒 & 葬"), ("楊榮", None, None), ("夏原吉", None, None)]
    assert tally["tags joined to no record"] == 1
    record = example.records[0]
    assert record["office"] == Value("少師", Span(0, 2))
    assert record["name"] == Value("蹇義", Span(6, 8))
    assert record["event"].span is None
    assert names(read_all(tmp_path, text, max_gap=6)[0])[2] == ("夏原吉", "尚書", None)
    assert names(read_all(tmp_path, text, max_gap=0)[0])[0] == ("蹇義", None, "卒 & 葬")


def test_the_nearest_of_several_is_taken_and_once(tmp_path):
    tally = Tally()
    [example] = read_all(tmp_path, "<O>太子</O><O>少師</O><P>蹇義</P><P>楊榮</P><O>尚書</O>", tally)
    assert names(example) == [("蹇義", "少師", None), ("楊榮", None, None)]
    assert tally["tags joined to no record"] == 2


def test_an_attribute_of_a_joined_tag(tmp_path):
    fields = {"name": {"tag": "P"}, "degree": {"tag": "O", "attribute": "n"}}
    [example] = read_all(tmp_path, '<O n="從一品">少師</O><P>蹇義</P><P>楊榮</P>', tags=fields)
    assert names(example) == [("蹇義", "從一品"), ("楊榮", None)]


def test_a_text_without_tags_is_a_negative(tmp_path):
    [example] = read_all(tmp_path, "上御奉天門\n\n")
    assert example.records == ()


def test_ignored_tags_leave_their_text(tmp_path):
    [example] = read_all(tmp_path, "<i><P>蹇<b>義</b></P></i>卒", ignore_tags=["i", "b"])
    assert (example.text, names(example)) == ("蹇義卒", [("蹇義", None, None)])


def test_paragraphs_know_their_first_line_and_the_line_of_a_fault(tmp_path):
    rows = read_all(tmp_path, "\r\n<P>蹇義</P>\r\n卒\r\n\r\n \r\n上\r\n<Q>\r\n\r\n末", unit="paragraph")
    assert [row.place if isinstance(row, Reject) else row.source for row in rows] == ["a.txt:2", "a.txt:7", "a.txt:9"]
    assert rows[0].text == "蹇義\n卒"
    assert "column 1" in rows[1].seen


def test_equal_texts_are_one_group(tmp_path):
    one, two, three = read_all(tmp_path, "<P>蹇義</P>卒\n蹇義卒\n上")
    assert one.group == two.group != three.group
    assert one.id != two.id


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"a": {"tag": "P"}, "b": {"tag": "P"}},
        {"a": {"tag": "P", "attribute": "x"}},
        {"a": {"tag": "P"}, "b": {"tag": "P", "attribute": "x"}, "c": {"tag": "P", "attribute": "x"}},
    ],
)
def test_fields_that_can_not_be_told_apart_are_refused(tags):
    with pytest.raises(ValidationError):
        make(tags=tags)
