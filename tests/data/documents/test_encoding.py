"""Encodings: told from marks and bytes, on real texts; bad bytes marked with their place; other encodings refused in words."""

import io
import random
from unittest import mock

import opencc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.documents import encoding as encoding_file
from whet.data.documents.encoding import HEAD_BYTES, MARKS, Encoding, find_encoding, is_binary, read_text
from whet.errors import InputError

CHINESE = "永樂二年春正月己巳，少師蹇義卒於位，上輟朝一日，遣官致祭。"
WESTERN = "Les élèves ont été reçus à l'hôtel de ville où l'évêque prononça un discours très applaudi. "
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
RUSSIAN = "В начале года царь назначил его воеводой в Казань. "


def told(raw: bytes, declared: str | None = None, is_html: bool = False) -> Encoding:
    file = io.BytesIO(raw)
    return find_encoding(file, file.read(HEAD_BYTES), declared, is_html)


def read(raw: bytes, encoding: Encoding) -> tuple[str, list[str]]:
    blocks = list(read_text(io.BytesIO(raw), "f.txt", encoding))
    return "".join(text for text, _ in blocks), [problem for _, problem in blocks if problem]


@pytest.mark.parametrize(
    ("codec", "is_traditional", "name"),
    [("gb18030", False, "gb18030"), ("gb18030", True, "gb18030"), ("big5", True, "big5hkscs"), ("utf-16-le", False, "utf-16-le"),
     ("utf-16-be", True, "utf-16-be"), ("utf-32-le", False, "utf-32-le"), ("utf-8", False, "utf-8")],
)  # fmt: skip
@pytest.mark.parametrize("length", [100, 2000])
def test_real_chinese_texts_are_told_apart(shared_data, codec, is_traditional, name, length):
    draw = random.Random(length)
    paths = sorted((shared_data / "histories").glob("*.txt"))
    convert = opencc.OpenCC("s2t").convert if is_traditional else str
    with draw.choice(paths).open("rb") as file:
        file.seek(draw.randrange(400_000))
        text = file.read(30 * 3 * length).decode("utf-8", "ignore")
    excerpts = [convert(text[at : at + length]) for at in range(0, len(text) - length, length)]
    raw = [excerpt.encode(codec, "ignore") for excerpt in excerpts]
    assert len(raw) >= 20
    assert [told(part) for part in raw] == [Encoding(name, "detected")] * len(raw)
    assert not any(is_binary(part) for part in raw)


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [(WESTERN, "cp1252", "cp1252"), (JAPANESE, "shift_jis", "cp932"), (JAPANESE, "euc_jp", "euc_jp"), (RUSSIAN, "cp1251", "cp1251"),
     (JAPANESE, "iso2022_jp", "iso2022_jp"), ("세종대왕은 조선의 제4대 국왕이다.", "euc_kr", "cp949"), (RUSSIAN, "utf-16-be", "utf-16-be"),
     ("The minister was sent.", "utf-16-le", "utf-16-le"), ("The minister was sent.", "ascii", "utf-8"), ("", "ascii", "utf-8"),
     ("bush hid the facts", "ascii", "utf-8"), ("a\0b", "ascii", "utf-8"), ("a few NULs\0 in a text\0 of ASCII", "ascii", "utf-8")],
)  # fmt: skip
def test_other_scripts_are_told_too(text, codec, name):
    found = told(text.encode(codec))
    assert found == Encoding(name, "detected")
    assert read(text.encode(codec), found) == (text, [])


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_outranks_what_was_declared_and_is_no_text(codec):
    raw = CHINESE.encode(codec)
    assert told(raw, "big5") == Encoding(codec, "mark")
    assert read(raw, told(raw)) == (CHINESE, [])


def test_what_was_declared_outranks_what_the_bytes_tell():
    assert told(CHINESE.encode(), "latin-1") == Encoding("latin-1", "declared")
    assert read(b"\xe9t\xe9", Encoding("latin-1", "declared")) == ("été", [])


@pytest.mark.parametrize("codec", ["gb18030", "big5", "utf-8", "cp932"])
def test_one_bad_byte_does_not_change_what_is_told(codec):
    text = (JAPANESE if codec == "cp932" else CHINESE) * 40
    raw = text.encode(codec)
    at = raw.index("，".encode(codec) if codec != "cp932" else "。".encode(codec))
    assert told(raw[:at] + b"\xff" + raw[at:]).name == {"big5": "big5hkscs"}.get(codec, codec)


def test_the_first_letters_that_are_not_ascii_are_looked_for_far_behind():
    raw = b"The minister was sent.\n" * 100_000 + (CHINESE * 9).encode("gb18030")
    assert len(raw) > 30 * HEAD_BYTES
    assert told(raw) == Encoding("gb18030", "detected")
    assert told(raw[: 20 * HEAD_BYTES]) == Encoding("utf-8", "detected")


def test_a_head_may_end_within_a_character():
    for codec in ("utf-8", "gb18030"):
        raw = ("a" + CHINESE * 4000).encode(codec)
        assert told(raw).name == codec


def test_a_page_may_name_its_encoding_itself():
    page = '<html><head><meta charset="gb2312"><title>永乐</title>'.encode("gb18030")
    assert told(page, is_html=True) == Encoding("gb18030", "mark")
    assert told(page.replace(b"gb2312", b"nonsense"), is_html=True).origin == "detected"
    assert told(page.replace(b"gb2312", b"utf-8"), is_html=True) == Encoding("gb18030", "detected")
    assert told('<meta charset="gb2312">永乐二年'.encode(), is_html=True) == Encoding("utf-8", "detected")


CODECS = ("utf-8", "gb18030", "big5hkscs", "cp932", "utf-16-le", "utf-16-be", "utf-32-le", "euc_jp")
BAD = {"utf-8": b"\xff", "gb18030": b"\xff", "big5hkscs": b"\xff\n", "cp932": b"\x81\n", "utf-16-le": b"\x00\xdc", "utf-16-be": b"\xdc\x00",
       "utf-32-le": b"\x00\x00\x11\x00", "euc_jp": b"\xff"}  # fmt: skip


@given(
    st.sampled_from(CODECS),
    st.lists(st.text(st.sampled_from("少年aé。\n師の"), max_size=30), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_bad_bytes_are_marked_at_their_place_however_the_file_is_read(codec, parts, size):
    parts = [part.encode(codec, "ignore").decode(codec) for part in parts]
    raw = BAD[codec].join(part.encode(codec) for part in parts)
    with mock.patch.object(encoding_file, "BLOCK_BYTES", size):
        text, problems = read(raw, Encoding(codec, "declared"))
    mark = "\ufffd" + BAD[codec][1:].decode() if codec in ("big5hkscs", "cp932") else "\ufffd"
    assert text == mark.join(parts)
    places = [int(problem.split()[1].replace(",", "")) for problem in problems]
    first = len(parts[0].encode(codec))
    assert places[:1] == [first] * (len(parts) > 1)


def test_a_file_of_another_encoding_than_declared_is_refused_with_the_likely_one():
    with pytest.raises(
        InputError, match=r"f.txt: byte 0 \(0xd3\) is not utf-8. It is likely gb18030: set extract.documents.encoding"
    ):
        read((CHINESE * 9).encode("gb18030"), Encoding("utf-8", "declared"))


def test_a_file_that_changes_its_encoding_is_read_up_to_there(monkeypatch):
    monkeypatch.setattr(encoding_file, "BLOCK_BYTES", 4096)
    good = CHINESE * 200
    text, problems = read(good.encode() + (CHINESE * 200).encode("gb18030"), Encoding("utf-8", "detected"))
    assert text == good
    assert len(problems) == 1
    assert problems[0].startswith(f"byte {len(good.encode()):,} (0xd3) is not utf-8, nor are many after it: the rest is not read")


def test_a_character_that_the_end_of_the_file_cuts_is_told():
    raw = CHINESE.encode()[:-1]
    text, problems = read(raw, told(raw))
    assert text == CHINESE[:-1] + "\ufffd"
    assert problems == [f"byte {len(raw) - 2:,} (0xe3) is not utf-8: read as U+FFFD. Mend the file there"]


@pytest.mark.parametrize(
    "raw", [b"\x7fELF\x02\x01\x01\0\0\0\0\0", bytes(range(256)) * 9, b"\0" * 5, random.Random(3).randbytes(3000)]
)
def test_binary_files_are_no_text(raw):
    assert is_binary(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"a\0b", CHINESE.encode("utf-16-le"), CHINESE.encode("utf-16"), CHINESE.encode("gb18030"), b"\x0c\n"]
)
def test_texts_are_not_binary(raw):
    assert not is_binary(raw)


@given(st.binary(max_size=300))
def test_any_bytes_have_some_encoding_that_can_be_read_or_is_refused(raw):
    found = told(raw)
    try:
        text, problems = read(raw, found)
    except InputError:
        return
    assert problems or text or raw in (b"", *(mark for mark, _ in MARKS))
