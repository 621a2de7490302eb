"""HTML as text: blocks on lines, entities, what is left out; and that neither size nor nesting is too much."""

import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.documents import encoding as encoding_file
from whet.data.documents import html as html_file
from whet.data.documents.encoding import Encoding
from whet.data.documents.html import read_html, read_markdown
from whet.errors import InputError

UTF8 = Encoding("utf-8", "detected")


def read(tmp_path, page: str | bytes, encoding: Encoding = UTF8, reader=read_html) -> str:
    path = tmp_path / "p.html"
    path.write_bytes(page if isinstance(page, bytes) else page.encode())
    pieces = list(reader(path, "p.html", encoding))
    at = 0
    for piece in pieces:
        assert piece.start == at
        assert piece.page is None
        at += len(piece.text)
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>永樂二年，<b>少師</b>蹇義卒。</p><p>上輟朝。</p>", "永樂二年，少師蹇義卒。\n上輟朝。"),
        ("<title>明史</title><body><h1>卷一</h1>本紀", "明史\n卷一\n本紀"),
        ("一<br>二<br/><br>三<hr>四", "一\n二\n三\n四"),
        ("a&amp;b&lt;c&#x6c38;&#27138;&hellip;&nbsp;d&#xd83d;", "a&b<c永樂…\xa0d\ufffd"),
        ("<script>if (a<b) '</p>'</script>一<style>p{}</style>二<template>x</template><noscript>y</noscript>三", "一二三"),
        ("<!-- 無 -->一<!-- <p> -->二", "一二"),
        ("<table><tr><th>名</th><th>官</th></tr><tr><td>蹇義</td><td>少師</td></tr></table>後", "名\t官\n蹇義\t少師\n後"),
        ("<ul><li>一</li><li>二</ul>", "一\n二"),
        ("  <p>\n  Many   words\n on  lines </p>", "Many words on lines"),
        ("<p>行在監\n察御史\n<b>程富</b> 升</p>", "行在監察御史程富 升"),
        ("<pre>一  二\n  三</pre>四", "一  二\n  三\n四"),
        ("<p>一<p>二<div>三", "一\n二\n三"),
        ("words <b>bold</b>, <i>more</i> end", "words bold, more end"),
        ("x\0y", "x\ufffdy"),
        ("no tags at all", "no tags at all"),
        ("<textarea><b>x</b></textarea>", "<b>x</b>"),
    ],
)
def test_a_page_as_text(tmp_path, monkeypatch, page, text):
    assert read(tmp_path, page) == text
    monkeypatch.setattr(encoding_file, "BLOCK_BYTES", 1)
    assert read(tmp_path, page) == text


PARTS = ("永樂", " a ", "\n", "<p>", "</p>", "<div>", "</div>", "<b>", "</b>", "<ul><li>", "</li>", "</ul>", "<!-- </p> -->", "<br>", "<script></p></script>",
         "<i title='</p>'>", "</i>", "<table><tr><td>", "</td></tr>", "</table>", "<pre>", "</pre>", "<title>", "</title>", "<textarea></p>", "</textarea>", "&amp;")  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=25))
def test_a_page_is_the_same_when_new_parsers_take_over(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("renewed")
    whole = read(folder, "".join(parts))
    with mock.patch.object(html_file, "RENEW_BYTES", 0), mock.patch.object(encoding_file, "BLOCK_BYTES", 40):
        assert read(folder, "".join(parts)) == whole


def test_parsers_do_take_over(tmp_path, monkeypatch):
    made = []
    real = html_file._Parser._new
    monkeypatch.setattr(html_file._Parser, "_new", lambda self: (made.append(1), real(self))[1])
    monkeypatch.setattr(html_file, "RENEW_BYTES", 100)
    monkeypatch.setattr(encoding_file, "BLOCK_BYTES", 100)
    text = read(tmp_path, "<div><ul>" + "<li>永樂二年，少師蹇義卒。</li>" * 100 + "</ul>末</div>尾")
    assert text == "永樂二年，少師蹇義卒。\n" * 100 + "末\n尾"
    assert len(made) > 10


def test_the_page_s_own_word_on_its_encoding_is_not_heard_twice(tmp_path):
    page = '<meta charset="gb2312"><p>永樂二年</p>'
    assert read(tmp_path, page) == "永樂二年"
    assert read(tmp_path, page.encode("gb18030"), Encoding("gb18030", "mark")) == "永樂二年"


@pytest.mark.parametrize("page", ["", "<script>x</script>", "   ", "<p></p>", "<!-- x"])
def test_a_page_without_text_says_so(tmp_path, page):
    (tmp_path / "p.html").write_text(page)
    pieces = list(read_html(tmp_path / "p.html", "p.html", UTF8))
    assert [(piece.text, piece.problem) for piece in pieces] == [("", "the page holds no text")]


@pytest.mark.parametrize(
    "page",
    ["<div>" * 100_000 + "深處" + "</div>" * 100_000, "<b><i>" * 50_000 + "深處", "<table>" * 20_000 + "深處", "<!--" + "x" * 10**6 + "-->深處",
     "<p " + "a=b " * 10**5 + ">深處", "&" * 1000 + "<p>深處", "</div>" * 10**5 + "深處", "<svg><math>" * 10**4 + "深處"],
)  # fmt: skip
def test_hostile_pages_are_read_to_their_end(tmp_path, page):
    assert read(tmp_path, page).endswith("深處")


@given(st.text(st.sampled_from("<>/!-&;#\"'= \n\0abp永div"), max_size=60))
def test_any_text_is_a_page(tmp_path_factory, page):
    read(tmp_path_factory.mktemp("html"), page)


def test_memory_does_not_grow_with_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding_file, "BLOCK_BYTES", 16384)
    path = tmp_path / "p.html"
    path.write_text("<p>永樂二年，<b>少師</b>蹇義卒。</p>\n" * 12_000)
    tracemalloc.start()
    length = sum(len(piece.text) for piece in read_html(path, "p.html", UTF8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert length == 12_000 * 12 - 1
    assert peak < 500_000 < path.stat().st_size


def test_markdown_without_its_marks(tmp_path):
    text = "# 明史\n\n永樂二年，**少師**[蹇義](http://x)卒。\n上輟朝。\n\n- 一\n- 二\n\n| 名 | 官 |\n|--|--|\n| 蹇義 | 少師 |\n\n```\na  b\n```\n"
    wanted = "明史\n永樂二年，少師蹇義卒。上輟朝。\n一\n二\n名\t官\n蹇義\t少師\na  b\n"
    assert read(tmp_path, text, reader=read_markdown) == wanted


def test_markdown_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(html_file, "MAX_MARKDOWN_BYTES", 10)
    with pytest.raises(InputError, match=r"p.html: is Markdown of more than 16 MB"):
        read(tmp_path, "永樂二年少師蹇義卒。上輟朝。", reader=read_markdown)


@pytest.mark.parametrize("text", [">" * 5000 + "x", "[" * 5000, "- " * 3000 + "x", "*" * 5000, "`" * 5001, "<" * 3000])
def test_hostile_markdown_is_read_or_refused(tmp_path, text):
    try:
        read(tmp_path, text, reader=read_markdown)
    except InputError as error:
        assert "nested too deeply" in error.what
