"""JSON in all its layouts, with the line of each row."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from whet.data.rows import Reject
from whet.data.sources import Source, read
from whet.errors import InputError

SOURCE = TypeAdapter(Source)


def read_all(path, **options):
    source = SOURCE.validate_json(json.dumps({"reader": "examples", "path": path.name, **options}), strict=True)
    return list(read(source, path.parent))


def texts(path, **options):
    return [(example.source.split(":")[1], example.text) for example in read_all(path, **options)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, max_size=5),
    st.sampled_from(["lines", "list", "spread", "inside", "inside spread"]),
)
def test_every_layout_gives_the_same_texts(tmp_path_factory, wanted, layout):
    rows = [{"text": text} for text in wanted]
    whole = {"version": 1, "more": {"x": [1]}, "data": rows} if "inside" in layout else rows
    body = json.dumps(whole, indent=1 if "spread" in layout else None, ensure_ascii=False)
    if layout == "lines":
        body = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = tmp_path_factory.mktemp("layout") / "a.json"
    path.write_text(body, encoding="utf-8", newline="")
    assert [text for _, text in texts(path)] == wanted


def test_rows_of_a_list_know_their_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\n[\n  {"text": "a"}, {"text": "b"},\n\n  {\n "text": "c"}\n]\n')
    assert texts(path) == [("3", "a"), ("3 row 2", "b"), ("5", "c")]


def test_rows_that_share_a_line_know_their_numbers(tmp_path):
    path = tmp_path / "a.json"
    rows = [{"text": str(number)} for number in range(1, 40)]
    path.write_text(json.dumps(rows))
    assert texts(path) == [(f"1 row {number}", str(number)) for number in range(1, 40)]
    path.write_text(json.dumps({"version": "1", "data": rows}))
    assert texts(path) == [(f"1 row {number}", str(number)) for number in range(1, 40)]


def test_rows_inside_an_object_know_their_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n "n": {"questions": 1},\n "questions": [\n  {"text": "a"},\n  {"text": "b"}\n ], "z": "]"\n}')
    assert texts(path) == [("4", "a"), ("5", "b")]


def test_one_row_alone_is_a_row(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n "messages": [\n {"role": "user", "content": "q"},\n {"role": "assistant", "content": "a"}]}')
    assert texts(path) == [("1", "q")]
    path.write_text('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}')
    assert texts(path) == [("1", "q")]


def test_a_broken_line_is_rejected_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "a"',
        '{"text": "b"} x',
        '{"text": "a", "text": "b"}',
        "[1]",
        "word",
        '{"text": 1e}',
        "[" * 99999,
    ]
    path.write_text("\n".join([*lines, '{"text": "good"}']))
    rows = read_all(path)
    assert [row.place for row in rows[:-1]] == [f"a.jsonl:{n}" for n in range(1, 8)]
    assert all(isinstance(row, Reject) for row in rows[:-1])
    assert "column 13" in rows[0].seen
    assert "column 15" in rows[1].seen
    assert "text is given twice" in rows[2].seen
    assert "a list" in rows[3].seen
    assert "nested too deeply" in rows[6].seen
    assert rows[-1].text == "good"


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ('[{"text": "a"},\n {"text": "b"', "a.json:2", "cut off"),
        ('[{"text": "a"},\n', "a.json:2", "cut off"),
        ('[{"text": "a"}\n {"text": "b"}]', "a.json:2", "comma"),
        ('[{"text": "a"}]\n{"text": "b"}', "a.json:2", "follows"),
        ('{"data": [{"text": "a"},\n {"te', "a.json:2", "cut off"),
    ],
)
def test_a_broken_list_is_refused_with_its_place(tmp_path, body, place, words):
    path = tmp_path / "a.json"
    path.write_text(body)
    with pytest.raises(InputError) as caught:
        read_all(path)
    assert caught.value.place == place
    assert words in caught.value.what


def test_a_long_row_of_a_list_is_rejected(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": "b" * 500}, {"text": "c"}]))
    rows = read_all(path, max_line_bytes=100)
    assert [type(row) is Reject for row in rows] == [False, True, False]
