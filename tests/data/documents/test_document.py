"""Documents: their stamps, encodings and pieces, and what happens when their file changes."""

import os

import pytest
from pydantic import ValidationError
from written_pdfs import Run, write_pdf

from whet.config import load
from whet.data.chunks import Cut, cut_chunks
from whet.data.documents.document import Document
from whet.data.documents.encoding import Encoding
from whet.data.documents.find import find_documents
from whet.data.documents.source import DocumentSettings
from whet.errors import InputError, SettingsError


def only(path, **options) -> Document:
    (found,) = find_documents([str(path)], DocumentSettings(**options))
    assert isinstance(found, Document)
    return found


def test_a_stamp_changes_with_the_file_and_with_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("永樂")
    before = only(path).stamp
    assert only(path).stamp == before
    path.write_text("永樂二年")
    grown = only(path).stamp
    path.write_text("永樂三年")
    os.utime(path, ns=(1, 1))
    assert len({before, grown, only(path).stamp}) == 3


def test_a_row_s_stamp_is_of_its_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "一"}\n{"text": "二"}\n{"text": "一", "note": "x"}\n')
    first, second, third = find_documents([str(path)], DocumentSettings())
    assert first.stamp == third.stamp != second.stamp
    assert first.path == path


def test_a_file_that_changed_since_it_was_found_is_not_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("永樂")
    document = only(path)
    path.write_text("永樂二年")
    with pytest.raises(InputError, match="has changed since it was found"):
        list(document.pieces())
    path.unlink()
    with pytest.raises(InputError, match="can't be read"):
        list(document.pieces())


def test_the_encoding_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("永樂二年春正月".encode("big5"))
    assert only(path).encoding == Encoding("big5hkscs", "detected")
    assert only(path, encoding="big5").encoding == Encoding("big5", "declared")
    with pytest.raises(ValidationError, match="no known encoding; try utf-8"):
        DocumentSettings(encoding="klingon")
    with pytest.raises(SettingsError, match="no known encoding"):
        load(DocumentSettings, {"encoding": "base64"}, {}, "r.yaml")


def test_markdown_is_kept_or_made_plain(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("# 明史\n")
    assert [piece.text for piece in only(path).pieces()] == ["# 明史\n"]
    assert [piece.text for piece in only(path, markdown="plain").pieces()] == ["明史"]


def test_chunks_of_a_pdf_lead_back_to_their_place_on_the_page(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(write_pdf([[Run(50, 800, "永樂二年。少師蹇義卒。")], [Run(50, 700, "上輟朝。遣官致祭。")]]))
    document = only(path)
    chunks = list(cut_chunks(document.name, document.pieces(), Cut(size=12, overlap=0)))
    chunk = next(chunk for chunk in chunks if "遣官" in chunk.text)
    start = chunk.start + chunk.text.index("遣官")
    (box,) = document.boxes(start, start + 2, chunk.pages[-1])
    assert document.boxes(start, start + 2) == [box]
    assert box.page == 2
    assert (box.x0, box.x1) == (90, 110)
    assert box.y0 <= 700 <= box.y1


def test_a_text_has_no_places(tmp_path):
    (tmp_path / "a.txt").write_text("永樂")
    assert only(tmp_path / "a.txt").boxes(0, 1) == []
