"""The page of an extraction: every place right in UTF-16, nothing breaks out, what is left out or has changed is said."""

import base64
import hashlib
import itertools
import json
import os
import re
from pathlib import Path

import pytest
import viewed
from hypothesis import given
from hypothesis import strategies as st
from viewed import Page, marked, unpack

from whet.data.documents.source import Piece
from whet.errors import InputError
from whet.pipeline.view.columns import ShownDocument, embed, page_data
from whet.pipeline.view.rows import ReadRow, Row, gather
from whet.pipeline.view.texts import Passage, read_passages
from whet.pipeline.view.write import ViewSettings, write_view

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
WIDE_TEXT = st.text(st.sampled_from("a程\n<&😀𠀋𪚥\u0301\u202e\ud83d\ude00\ufffe\x00\r"), min_size=1, max_size=60)


def written(folder, texts, rows, **settings):
    out = viewed.write_out(folder, texts, rows)
    return write_view(out, folder / "view.html", ViewSettings(**settings)), Page(folder / "view.html")


def shown(text, spans, start=0):
    """A document that is shown from a code point on, with a record for each span."""
    values = ({"name": {"text": text[a:b], "start": a, "end": b}} for a, b in spans)
    rows = [viewed.row("d", value) for value in values]
    return ShownDocument(
        "d", (Passage(start, text[start:]),), tuple(ReadRow.of(json.dumps(raw).encode(), Row.model_validate(raw)) for raw in rows)
    )


@given(
    st.lists(st.tuples(WIDE_TEXT, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6)), min_size=1, max_size=4)
)
def test_every_code_point_span_is_found_in_utf_16(documents):
    made, want = [], []
    for text, places in documents:
        spans = sorted({(at % len(text), min(len(text), at % len(text) + n)) for at, n in places})
        # JSON would make one character of two lone halves: no row can say that.
        spans = [(start, end) for start, end in spans if json.loads(json.dumps(text[start:end])) == text[start:end]]
        made.append(shown(text, spans))
        want += [text[start:end] for start, end in spans]
    data, faults = page_data(made)
    assert faults == []
    data = json.loads(embed(data))
    # The first of two lone halves that would join in JavaScript is shown as U+FFFD; such a value carries its text beside.
    for (name, _), said, own in zip(marked(data), want, unpack(data["values"][0]["text"], len(want)), strict=True):
        assert name == said if own < 0 else data["texts"][own] == said
        assert len(name.encode("utf-16-le", "surrogatepass")) == len(said.encode("utf-16-le", "surrogatepass"))


@given(
    st.recursive(
        ANY_TEXT | st.none() | st.integers() | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)
    )
)
def test_embedded_json_says_the_same_and_can_not_leave_its_element(value):
    text = embed(value)
    text.encode("utf-8")
    assert not re.search("[<>&\r\n\u2028\u2029\x00]", text)
    back = json.loads(text)
    joined = json.loads(json.dumps(value))  # two escaped halves of one character are one
    assert back == joined


@given(
    WIDE_TEXT,
    st.lists(st.integers(0, 60), max_size=5),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 20)), min_size=1, max_size=5),
)
def test_passages_are_exactly_the_ranges_however_the_text_comes_in_pieces(text, cuts, starts):
    ranges, last = [], -1
    for start, length in sorted(starts):
        if start > last:
            ranges.append((start, start + length))
            last = start + length
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [Piece(text[a:b], a, page=number) for number, (a, b) in enumerate(itertools.pairwise(bounds), 1)]
    passages, goes_on = read_passages(iter(pieces), ranges)
    assert [(p.start, p.text) for p in passages if p.text] == [(a, text[a:b]) for a, b in ranges if text[a:b]]
    assert goes_on == (ranges[-1][1] < len(text))
    for passage in passages:
        for page in passage.pages:
            inside = next(piece for piece in pieces if piece.page == page.number)
            assert inside.start <= page.start <= inside.start + len(inside.text)
            assert passage.start <= page.start <= passage.end


def test_a_document_is_read_no_further_than_it_is_shown():
    def pieces():
        yield Piece("abc", 0)
        yield Piece("def", 3)
        raise AssertionError("read on")

    assert read_passages(pieces(), [(1, 4)]) == ((Passage(1, "bcd"),), True)


def test_a_page_of_a_pdf_keeps_its_number_and_what_is_wrong_with_it():
    pieces = [Piece("one", 0, 1), Piece("", 3, 2, "an image without text"), Piece("three", 3, 3)]
    passages, _ = read_passages(pieces, [(0, 100)])
    assert [(page.start, page.number, page.problem) for page in passages[0].pages] == [
        (0, 1, ""),
        (3, 2, "an image without text"),
        (3, 3, ""),
    ]


def test_rows_come_back_whole_from_the_page_and_in_the_order_of_the_text(tmp_path):
    texts, rows = viewed.many(3000, 300)
    report, page = written(tmp_path, texts, rows)
    assert (report.num_documents, report.num_records, report.num_changed, report.notes) == (3, 300, 0, ())
    data, by_id = page.data, {made["id"]: made for made in rows}
    assert sorted(data["records"]["id"]) == sorted(by_id)
    firsts, documents = [], unpack(data["records"]["document"], 300)
    for number, (name, office, event, quote) in enumerate(marked(data)):
        made = by_id[data["records"]["id"][number]]
        assert (name, quote, event) == (made["values"]["name"]["text"], made["quote"]["text"], None)
        assert office == (made["values"]["office"] and made["values"]["office"]["text"])
        assert Path(data["documents"][documents[number]]["name"]).name == made["document"]
        firsts.append((documents[number], made["values"]["name"]["start"]))
    assert firsts == sorted(firsts)


def test_each_text_stands_once_on_the_page(tmp_path):
    texts, rows = viewed.many(3000, 300)
    written(tmp_path, texts, rows)
    page = (tmp_path / "view.html").read_text(encoding="utf-8")
    for made in rows[::10]:
        in_sources = sum(
            text.count(made["quote"]["text"].replace("\n", "\\n")) for text in (t.replace("\n", "\\n") for t in texts.values())
        )
        assert page.count(made["quote"]["text"].replace("\n", "\\n")) == in_sources


def test_a_source_can_not_break_out_of_the_page(tmp_path):
    text = viewed.HOSTILE
    values = {"</script>": viewed.value(text, "</script><script>"), "office": viewed.value(text, "<img src=x onerror=alert(2)>")}
    odd = viewed.row(
        "evil<b>.txt", values, flags=["</script><b>"], run="<!--<script>", adapter="\u2028]]>", note={"<i>": "</script>"}
    )
    _, page = written(tmp_path, {"evil<b>.txt": text}, [odd])
    assert [attrs for tag, attrs in page.starts if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert {tag for tag, _ in page.starts} & {"img", "b", "i", "link", "iframe"} == set()
    assert page.data["passages"][0]["text"] == text
    assert page.data["records"]["more"] == {"0": {"note": {"<i>": "</script>"}}}


def test_the_page_runs_nothing_but_its_own_script_and_loads_nothing(tmp_path):
    texts, rows = viewed.many(300, 3)
    _, page = written(tmp_path, texts, rows)
    policy = next(attrs["content"] for _, attrs in page.starts if attrs.get("http-equiv") == "Content-Security-Policy")
    for kind, text in (("script", page.texts["script"][1]), ("style", page.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [attrs for _, attrs in page.starts if attrs.keys() & {"src", "href", "style", "onclick", "onload"}]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", page.texts["script"][1])
    assert not re.search(r"url\(|@import", page.texts["style"][0])


def test_the_same_output_gives_the_same_page(tmp_path):
    texts, rows = viewed.many(300, 30)
    written(tmp_path, texts, rows)
    first = (tmp_path / "view.html").read_bytes()
    written(tmp_path, texts, rows)
    assert (tmp_path / "view.html").read_bytes() == first


def test_a_source_that_has_changed_is_named_with_its_offsets_and_no_page_is_written(tmp_path):
    text = "程富陞大理寺少卿。"
    out = viewed.write_out(tmp_path, {"a.txt": text}, [viewed.row("a.txt", {"name": viewed.value(text, "大理寺少卿")})])
    (tmp_path / "a.txt").write_text("陳瑄陞大理寺少卿。"[1:], encoding="utf-8")
    with pytest.raises(
        InputError, match=r"a\.txt: name '大理寺少卿' at 3 to 8, where '理寺少卿。' stands. Extract it again. --allow-changed"
    ) as caught:
        write_view(out, tmp_path / "view.html", ViewSettings())
    assert caught.value.exit_code == 2
    assert not (tmp_path / "view.html").exists()


def test_a_source_that_became_shorter_has_changed_too(tmp_path):
    text = "程富陞大理寺少卿。"
    out = viewed.write_out(tmp_path, {"a.txt": text}, [viewed.row("a.txt", {"name": viewed.value(text, "少卿")})])
    (tmp_path / "a.txt").write_text(text[:6], encoding="utf-8")
    with pytest.raises(InputError, match="name '少卿' at 6 to 8, where '' stands"):
        write_view(out, tmp_path / "view.html", ViewSettings())


def test_changed_values_are_marked_where_they_are_allowed(tmp_path):
    text = "程富陞大理寺少卿。"
    rows = [viewed.row("a.txt", {"name": viewed.value(text, "程富"), "office": viewed.value(text, "少卿", page=7)})]
    out = viewed.write_out(tmp_path, {"a.txt": text}, rows)
    (tmp_path / "a.txt").write_text("程富陞大理寺正卿。", encoding="utf-8")
    report = write_view(out, tmp_path / "view.html", ViewSettings(allow_changed=True))
    assert report.num_changed == 1
    assert "1 value no longer stands" in report.notes[0]
    data = Page(tmp_path / "view.html").data
    assert marked(data) == [("程富", None, None)]
    office = data["values"][1]
    assert (office["changed"], office["more"], data["texts"][office["text"]["all"]]) == (
        [0],
        {"0": {"start": 6, "end": 8}},
        "少卿",
    )


def test_a_document_that_is_gone_is_named_and_can_be_shown_without_its_text(tmp_path):
    texts, rows = viewed.many(300, 9)
    out = viewed.write_out(tmp_path, texts, rows)
    (tmp_path / "annals-1.txt").unlink()
    with pytest.raises(InputError, match=r"annals-1\.txt: this document can't be read any more"):
        write_view(out, tmp_path / "view.html", ViewSettings())
    report = write_view(out, tmp_path / "view.html", ViewSettings(allow_changed=True))
    assert (report.num_documents, report.num_records) == (3, 9)
    assert len(Page(tmp_path / "view.html").data["passages"]) == 2


def test_a_page_that_is_full_shows_the_first_text_and_says_what_it_left_out(tmp_path):
    texts, rows = viewed.many(3000, 90)
    length = len(texts["annals-0.txt"])
    report, page = written(tmp_path, texts, rows, max_chars=length + 400)
    data = page.data
    assert [len(passage["text"]) for passage in data["passages"]] == [length, 400]
    assert [document["goes_on"] for document in data["documents"]] == [False, True]
    inside = [
        made
        for made in rows
        if made["document"] == "annals-1.txt"
        and max(v["end"] for v in [*filter(None, made["values"].values()), made["quote"]] if "end" in v) <= 400
    ]
    assert report.num_records == 30 + len(inside)
    assert re.search(rf"^{90 - report.num_records} of 90 records are left out: the page holds 2 of 3 documents", report.notes[0])


def test_records_beyond_the_most_are_counted_not_read_into_memory(tmp_path):
    texts, rows = viewed.many(3000, 90)
    out = viewed.write_out(tmp_path, texts, rows)
    found = gather(out, (), 40)
    assert [len(rows) for rows in found.rows.values()] == [30, 10]
    assert sum(found.num_rows.values()) == 90
    report = write_view(out, tmp_path / "view.html", ViewSettings(max_records=40))
    assert report.num_records == 40
    assert "50 of 90 records are left out" in report.notes[0]


def test_only_the_documents_asked_for_are_shown(tmp_path):
    texts, rows = viewed.many(300, 9)
    out = viewed.write_out(tmp_path, texts, rows)
    wanted = str(tmp_path / "annals-2.txt")
    assert write_view(out, tmp_path / "view.html", ViewSettings(documents=(wanted,))).notes == ()
    assert [document["name"] for document in Page(tmp_path / "view.html").data["documents"]] == [wanted]
    with pytest.raises(InputError, match=r"no records of a document .*annals-3\.txt.*The nearest is .*annals-"):
        write_view(out, tmp_path / "view.html", ViewSettings(documents=(str(tmp_path / "annals-3.txt"),)))


def test_only_the_text_around_records_is_shown(tmp_path):
    text = viewed.LONG_LINE
    near, far = viewed.value(text, "沒有", nth=10), viewed.value(text, "標點", nth=3000)
    rows = [viewed.row("a.txt", {"name": near}), viewed.row("a.txt", {"name": far})]
    _, page = written(tmp_path, {"a.txt": text}, rows, around=20)
    passages = page.data["passages"]
    assert [(p["start"], p["text"]) for p in passages] == [
        (v["start"] - 20, text[v["start"] - 20 : v["end"] + 20]) for v in (near, far)
    ]
    assert [name for name, _ in marked(page.data)] == ["沒有", "標點"]
    report, page = written(tmp_path, {"a.txt": text}, rows, around=20, max_chars=60)
    assert [name for name, _ in marked(page.data)] == ["沒有"]
    assert "1 of 2 records are left out" in report.notes[0]
    _, page = written(
        tmp_path, {"a.txt": "e\u0301X"}, [viewed.row("a.txt", {"name": viewed.value("e\u0301X", "\u0301")})], around=0
    )
    assert [name for name, _ in marked(page.data)] == ["\u0301"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON list, not a record"),
        ('{"id": "a"}', "has no document"),
        ('{"id": "a", "document": "d"}', "values: Field required"),
        ('{"id": "a", "document": "d", "values": {"n": {"text": "ab", "start": 1}}}', "start and end belong together"),
        (
            '{"id": "a", "document": "d", "values": {"n": {"text": "ab", "start": 1, "end": 4}}}',
            "don't fit a text of 2 characters",
        ),
        ('{"id": "a", "document": "d", "values": {"n": {"text": "ab", "start": -1, "end": 1}}}', "greater than or equal to 0"),
        ('{"id": "a", "document": "d", "values": {}, "confidence": 1.5}', "confidence: Input should be less than or equal to 1"),
        ('{"id": "a", "document": "d", "values": {}, "note": NaN}', "NaN is no JSON number"),
        ('{"id": "a", "document": "d", "values": {}, "is_accepted": "yes"}', "is_accepted: Input should be a valid boolean"),
        ("\udc80", "not JSON"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(tmp_path, line, fault):
    good = json.dumps(viewed.row("d", {}))
    (tmp_path / "out.jsonl").write_bytes(f"{good}\n\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=rf"out\.jsonl:3: .*{re.escape(fault)}"):
        gather(tmp_path / "out.jsonl", (), 100)


def test_what_is_no_jsonl_or_holds_no_records_is_refused(tmp_path):
    (tmp_path / "out.csv").write_text("id\n")
    (tmp_path / "out.jsonl").write_text("")
    with pytest.raises(InputError, match="is no JSONL"):
        write_view(tmp_path / "out.csv", tmp_path / "view.html", ViewSettings())
    with pytest.raises(InputError, match="holds no records"):
        write_view(tmp_path / "out.jsonl", tmp_path / "view.html", ViewSettings())
    with pytest.raises(InputError, match="no such file"):
        write_view(tmp_path / "none.jsonl", tmp_path / "view.html", ViewSettings())


def test_two_records_of_one_id_are_said(tmp_path):
    made = viewed.row("a.txt", {"name": viewed.value("程富", "程富")})
    report, _ = written(tmp_path, {"a.txt": "程富"}, [made, made])
    assert report.notes == ("1 record has the id of an earlier one; a link leads to the first.",)


@pytest.mark.skipif(os.name == "nt", reason="names of files there hold no such character")
def test_a_document_may_have_any_name(tmp_path):
    name = 'a b\'s "😀" \u202e.txt'
    _, page = written(tmp_path, {name: "程富"}, [viewed.row(name, {"name": viewed.value("程富", "程富")})])
    assert page.data["documents"][0]["name"] == str(tmp_path / name)
