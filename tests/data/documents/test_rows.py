"""Rows as documents: their text and name, and every row that has none under its place."""

import json

import pytest

from whet.data.documents.encoding import Encoding
from whet.data.documents.rows import Text, read_rows
from whet.data.documents.source import DocumentSettings, Refused

UTF8 = Encoding("utf-8", "detected")


def read(tmp_path, content: str | bytes, name: str, encoding: Encoding = UTF8, **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    form = {"jsonl": "json"}.get(path.suffix[1:], path.suffix[1:])
    return list(read_rows(path, name, form, encoding, DocumentSettings(**options)))


def test_rows_of_json_and_what_is_no_row(tmp_path):
    rows = ['{"text": "永樂二年", "id": 1}', "", "{broken", '{"title": "x", "body": "y"}', '{"text": null}', '{"text": ""}', "[1]",
            '{"text": "\\ud83d"}', '{"text": "一", "text": "二"}', '{"text": "a\\u0000\\r\\nb"}']  # fmt: skip
    found = read(tmp_path, "\n".join(rows), "a.jsonl")
    assert [row for row in found if isinstance(row, Text)] == [Text("a.jsonl:1", "永樂二年"), Text("a.jsonl:10", "a\0\r\nb")]
    assert [(row.name, row.reason) for row in found if isinstance(row, Refused)] == [
        ("a.jsonl:3", "not JSON at column 2: Expecting property name enclosed in double quotes. Mend this line"),
        ("a.jsonl:4", "has no key text; it has 'title', 'body'"),
        ("a.jsonl:5", "text is null, not text"),
        ("a.jsonl:6", "text is empty"),
        ("a.jsonl:7", "is a list, not an object with the key text"),
        ("a.jsonl:8", "half of a surrogate pair: a character was cut in two where this row was written"),
        ("a.jsonl:9", "the key text is given twice in one object. Keep one of them"),
    ]


def test_rows_of_csv_and_what_is_no_row(tmp_path):
    found = read(tmp_path, 'no,body\n1,"永樂,\n""二年"""\n2\n3,x\n', "a.csv", text_column="body")
    assert found == [
        Text("a.csv:2", '永樂,\n"二年"'),
        Refused("a.csv:4", "has 1 cell where the first line names 2 columns"),
        Text("a.csv:5", "x"),
    ]
    assert read(tmp_path, "text\tb\n一,二\tx\n", "a.tsv") == [Text("a.tsv:2", "一,二")]


def test_a_list_of_json_holds_rows_too(tmp_path):
    assert read(tmp_path, '[{"text": "一"},\n {"text": "二"}]', "a.json") == [
        Text("a.json:1 row 1", "一"),
        Text("a.json:2", "二"),
    ]
    cut = read(tmp_path, '[{"text": "一"},\n {"text": "二', "a.json")
    assert cut[0] == Text("a.json:1 row 1", "一")
    assert cut[1].reason.endswith("a bad line alone is lost")
    assert "it was cut off" in cut[1].reason


def test_a_row_keeps_its_own_name_when_rows_come_before_it(tmp_path):
    rows = '{"text": "一", "id": "x"}\n{"text": "二", "id": 7}\n{"text": "三", "id": "x"}\n{"text": "四"}\n{"text": "五", "id": ""}\n{"text": "六", "id": "\\ud83d"}'
    assert read(tmp_path, rows, "a.jsonl", id_column="id") == [
        Text("a.jsonl#x", "一"),
        Text("a.jsonl#7", "二"),
        Refused("a.jsonl:3", "id is 'x', as in a row before it: names must differ"),
        Refused("a.jsonl:4", "id is null, not a name"),
        Refused("a.jsonl:5", "id is empty, not a name"),
        Refused("a.jsonl:6", "id holds half of a surrogate pair"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a,b\n1,2\n", "has no column text; its columns are 'a', 'b': nothing is read from there on. Set extract.documents.text_column"),
     ("text,text\n1,2\n", "has two columns of one name")],
)  # fmt: skip
def test_a_table_without_the_column_is_refused_once(tmp_path, content, reason):
    (found,) = read(tmp_path, content, "a.csv")
    assert isinstance(found, Refused)
    assert reason in found.reason


def test_a_file_whose_rows_all_lack_the_column_is_given_up(tmp_path):
    found = read(tmp_path, '{"body": "x"}\n' * 5000, "a.jsonl")
    assert len(found) == 101
    assert found[-1].name == "a.jsonl"
    assert "none of its first 100 rows can be read; the last of them: has no key text; it has 'body'" in found[-1].reason


def test_a_line_over_the_limit_is_refused_alone(tmp_path):
    rows = [json.dumps({"text": "x" * size}) for size in (5, 500, 5)]
    found = read(tmp_path, "\n".join(rows), "a.jsonl", max_row_bytes=100)
    assert [type(row) for row in found] == [Text, Refused, Text]
    assert found[1].reason.startswith(
        "a line of 513 bytes; the limit is 100. Split the row, or raise extract.documents.max_row_bytes"
    )


@pytest.mark.parametrize("codec", ["gb18030", "big5", "utf-16", "utf-16-le", "utf-8-sig", "utf-32-be"])
def test_rows_of_any_encoding(tmp_path, codec):
    encoding = Encoding(codec, "mark" if codec in ("utf-16", "utf-8-sig") else "detected")
    assert read(tmp_path, "text,b\n永樂二年,x\n".encode(codec), "a.csv", encoding) == [Text("a.csv:2", "永樂二年")]


def test_a_line_with_bad_bytes_is_refused_alone(tmp_path):
    rows = '{"text": "永樂"}\n{"text": "二年'.encode() + b'\xff"}\n' + '{"text": "正月"}'.encode()
    found = read(tmp_path, rows, "a.jsonl")
    assert [row.text for row in found if isinstance(row, Text)] == ["永樂", "正月"]
    assert found[1].name == "a.jsonl:2"
    assert "(0xff) is not utf-8" in found[1].reason
    table = read(tmp_path, "text\n永樂\n".encode() + b"\xff\n" + "正月\n".encode(), "a.csv")
    assert [row.text for row in table if isinstance(row, Text)] == ["永樂", "正月"]
    wide = read(tmp_path, "text\n永樂\n".encode("utf-16-le") + b"\x00\xdc", "a.csv", Encoding("utf-16-le", "detected"))
    assert "is not utf-16-le" in wide[0].reason
