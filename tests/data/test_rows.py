"""Lines within limits, encodings, rejects, the files of a source."""

import hashlib
import json
import tracemalloc

import pytest
from pydantic import TypeAdapter, ValidationError

from whet.data.rows import Reject, Tally, finish
from whet.data.sources import Source, read
from whet.errors import InputError
from whet.records import Example

SOURCE = TypeAdapter(Source)


def read_all(root, tally=None, **settings):
    source = SOURCE.validate_json(json.dumps({"reader": "examples", **settings}), strict=True)
    return list(read(source, root, tally))


def row(text):
    return json.dumps({"prompt": text, "completion": "yes"}, ensure_ascii=False).encode() + b"\n"


def test_a_line_over_the_limit_is_rejected_unread(tmp_path):
    """The line is 40 MB; what is held stays far below."""
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(row("one") + b'{"prompt": "')
        for _ in range(40):
            file.write(b"x" * 2**20)
        file.write(b'", "completion": "b"}\n' + row("three"))
    tracemalloc.start()
    rows = read_all(tmp_path, path="rows.jsonl", max_line_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(found) for found in rows] == [Example, Reject, Example]
    assert rows[1].place == "rows.jsonl:2"
    size = path.stat().st_size - len(row("one") + row("three"))
    assert f"{size:,} bytes" in rows[1].seen
    assert "max_line_bytes" in rows[1].remedy
    assert len(rows[1].raw) == 500
    assert rows[2].source == "rows.jsonl:3"
    assert peak < 8 * 2**20


@pytest.mark.parametrize(("size", "kind"), [(0, Example), (1, Reject)])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_the_limit_is_exact(tmp_path, size, kind, end):
    line = row("abc").rstrip(b"\n")
    (tmp_path / "a.jsonl").write_bytes(line + end)
    found = read_all(tmp_path, path="a.jsonl", max_line_bytes=len(line) - size)
    assert [type(one) for one in found] == [kind]


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("café crème déjà vu à côté".encode("latin-1"), "latin-1"),
        ("“quoted” café".encode("cp1252"), "cp1252"),
        ("宣德九年，少師蹇義卒。".encode("gb18030"), "gb18030"),
        ("宣德九年，少師蹇義卒。".encode("big5"), "big5"),
    ],
)
def test_foreign_bytes_name_their_place_and_the_remedy(tmp_path, raw, encoding):
    good = row("宣德")
    bad = b'{"prompt": "' + raw + b'", "completion": "yes"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + bad)
    first = next(at for at, byte in enumerate(bad) if byte >= 0x80)
    with pytest.raises(InputError) as caught:
        read_all(tmp_path, path="a.jsonl")
    assert caught.value.place == "a.jsonl:2"
    assert f"byte {len(good) + first} " in caught.value.what
    assert f"encoding: {encoding}" in caught.value.remedy
    (tmp_path / "b.jsonl").write_bytes(bad)
    [example] = read_all(tmp_path, path="b.jsonl", encoding=encoding)
    assert example.text == raw.decode(encoding)


def test_foreign_bytes_in_a_json_list_name_their_line(tmp_path):
    body = b'[\n {"text": "a"},\n {"text": "caf\xe9"}\n]'
    (tmp_path / "a.json").write_bytes(body)
    with pytest.raises(InputError) as caught:
        read_all(tmp_path, path="a.json")
    assert caught.value.place == "a.json:3"
    assert f"byte {body.index(0xE9)} (0xe9)" in caught.value.what


def test_bytes_are_counted_over_a_line_that_was_left_out(tmp_path):
    body = b"x" * 999 + b"\n" + row("a") + b"\xe9\n"
    (tmp_path / "a.jsonl").write_bytes(body)
    with pytest.raises(InputError, match=rf"a\.jsonl:3: byte {body.index(0xE9)} "):
        read_all(tmp_path, path="a.jsonl", max_line_bytes=100)


def test_utf16_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(row("少師").decode().encode("utf-16"))
    with pytest.raises(InputError, match=r"likely utf-16\. Convert the file to UTF-8"):
        read_all(tmp_path, path="a.jsonl")


def test_a_byte_order_mark_nul_and_blank_lines_are_no_fault(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\r\n" + row("a\\u0000b").replace(b"\n", b"\r\n") + b"\n\n" + row("c"))
    texts = [(found.source, found.text) for found in read_all(tmp_path, path="a.jsonl")]
    assert texts == [("a.jsonl:2", "a\\u0000b"), ("a.jsonl:5", "c")]
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a\\u0000b"}\n')
    assert read_all(tmp_path, path="b.jsonl")[0].text == "a\0b"


def test_half_a_surrogate_pair_is_rejected_and_can_be_saved(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}\n', encoding="utf-8")
    bad, good = read_all(tmp_path, path="a.jsonl")
    assert isinstance(bad, Reject)
    assert "U+D800" in bad.seen
    assert good.text == "😀"
    reject = Reject("p", "\ud800", "", "", "\ud800" * 600)
    json.dumps(reject.to_json(), ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.jsonl", b"\n \n"), ("a.json", b"[]"), ("a.json", b" [ ] "), ("a.csv", b"question,answer\n")],
)
def test_a_file_without_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="is empty" if not content else "holds no rows"):
        read_all(tmp_path, path=name)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_all(tmp_path, path="a.jsonl")
    with pytest.raises(InputError, match="no file to read"):
        read_all(tmp_path, path="*.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="no file to read"):
        read_all(tmp_path, path="folder")


def test_folders_and_globs_give_their_files_in_order(tmp_path):
    for name in ("b.jsonl", "sub/a.jsonl", "a.jsonl", "LICENSE", ".hidden.jsonl"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(row(name))
    tally = Tally()
    found = [example.source for example in read_all(tmp_path, tally, path="data")]
    assert found == ["data/a.jsonl:1", "data/b.jsonl:1", "data/sub/a.jsonl:1"]
    assert tally["files of another kind left out"] == 1
    assert tally["rows"] == 3
    assert [example.source for example in read_all(tmp_path, path="data/*.jsonl")] == found[:2]
    assert [example.source for example in read_all(tmp_path / "x", path=str(tmp_path / "data" / "[ab].jsonl"))] == [
        f"{(tmp_path / 'data').as_posix()}/{name}:1" for name in ("a.jsonl", "b.jsonl")
    ]


def test_ids_say_text_and_gold_not_place():
    one = finish(Example("", "t", "a:1", "g", answer=0, choices=("x", "y")), "")
    assert one.id == finish(Example("", "t", "b:7", "h", "c", answer=0, choices=("x", "y")), "").id
    assert one.id != finish(Example("", "t", "a:1", "g", answer=1, choices=("x", "y")), "").id
    assert one.id == hashlib.sha256(b'{"answer":0,"choices":["x","y"],"text":"t"}').hexdigest()[:16]


@pytest.mark.parametrize(
    "settings",
    [{"encoding": "utf-16"}, {"encoding": "klingon"}, {"as_published": True}, {"max_line_bytes": 0}, {"typo": 1}],
)
def test_settings_that_can_not_be_are_refused(settings):
    with pytest.raises(ValidationError):
        SOURCE.validate_json(json.dumps({"reader": "examples", "path": "a", **settings}), strict=True)
