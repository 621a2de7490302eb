"""Plain text: the characters of the file as they are, in stretches of bounded length."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.documents.encoding import Encoding
from whet.data.documents.plain import read_plain
from whet.errors import InputError

TEXTS = st.text(st.sampled_from("少師。a \r\n\f\0︒é👩\u200d\u0301שלום𠮷"), max_size=60)


@given(TEXTS, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "gb18030", "utf-32-be"]))
def test_every_character_comes_as_it_is_with_its_place(tmp_path_factory, text, codec):
    path = tmp_path_factory.mktemp("plain") / "a.txt"
    path.write_bytes(text.encode(codec))
    pieces = list(read_plain(path, "a.txt", Encoding(codec, "mark")))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.start for piece in pieces] == [sum(len(p.text) for p in pieces[:n]) for n in range(len(pieces))]
    assert {piece.page for piece in pieces} <= {None}


def test_one_long_line_comes_in_stretches_and_memory_does_not_grow(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("少師蹇義卒" * 1_000_000)
    tracemalloc.start()
    lengths = [len(piece.text) for piece in read_plain(path, "a.txt", Encoding("utf-8", "detected"))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(lengths) == 5_000_000
    assert max(lengths) < 300_000
    assert peak < 2_000_000


def test_a_file_that_is_gone_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_plain(tmp_path / "a.txt", "a.txt", Encoding("utf-8", "detected")))
