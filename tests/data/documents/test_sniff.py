"""What a file is, by its name and first bytes, and why it is nothing that can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.data.documents.sniff import find_form
from whet.data.documents.source import DocumentSettings

PLAIN = DocumentSettings()


@pytest.mark.parametrize(
    ("name", "head", "form"),
    [("a.txt", "永樂".encode(), "text"), ("a.TXT", b"x", "text"), ("a.md", b"# x", "markdown"), ("a.b/c.htm", b"x", "html"),
     ("a.jsonl", b"{}", "json"), ("a.json", b"[]", "json"), ("a.csv", b"a", "csv"), ("a.tsv", b"a", "tsv"), ("a.pdf", b"%PDF-1.7", "pdf"),
     ("a.pdf", b"junk\n%PDF-1.7", "pdf"), ("a.txt", b"%PDF-1.7", "pdf"), ("a.txt", b"PARIS, 1 May", "text"), ("a.txt", b"BZhou", "text"),
     ("a.log", b"x", "text"), ("a.txt", "永樂".encode("utf-16"), "text"), ("a.txt", b"GIF89 is a format", "text")],
)  # fmt: skip
def test_a_known_name_says_what_a_file_is(name, head, form):
    assert find_form(name, head, PLAIN, is_named=False) == (form, "")


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [("a.txt", b"", "is empty"), ("a.txt", b"\xef\xbb\xbf", "is empty"), ("a.txt", b"\xff\xfe", "is empty"),
     ("a.docx", b"PK\x03\x04\x14\0", "is a ZIP archive or an office document: save it as PDF, HTML or plain text"),
     ("a.txt", b"\x89PNG\r\n\x1a\n", "is a picture (PNG): it needs OCR"), ("a.gz", b"\x1f\x8b\x08", "is compressed (gzip): unpack it first"),
     ("a.rtf", b"{\\rtf1\\ansi", "is RTF: save it as PDF, HTML or plain text"), ("a.gif", b"GIF89a\x01\0", "is a picture (GIF): it needs OCR"),
     ("a.txt", bytes(range(200)), "is binary: no text of any known encoding"), ("a.xyz", b"text", "is of no known kind (.xyz); name it"),
     ("a.html", b'<!DOCTYPE html>\n<meta name="generator" content="whet view">', "is a page that `whet view` wrote"),
     ("a", b"text", "is of no known kind (no suffix)"), (".txt", b"text", "is of no known kind (.txt)"[:20]),
     ("a.pdf", b"<html>not found", "is no PDF, whatever its name says: it begins with '<html>not found'"),
     ("a.pdf", bytes(50), "is binary: no text of any known encoding, and no PDF")],
)  # fmt: skip
def test_what_can_t_be_read_is_named(name, head, reason):
    form, found = find_form(name, head, PLAIN, is_named=False)
    assert form is None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("head", "form"),
    [(b"plain", "text"), (b"\n<!DOCTYPE html><p>", "html"), (b"<!-- x --><html lang='zh'>", "html"), (b'{"id": 1, "text": "x"}\n', "json"),
     (b'{"id": 1}\n', "text"), (b"<htmlish>", "text")],
)  # fmt: skip
def test_a_file_that_the_user_named_is_read_by_its_content(head, form):
    assert find_form("a.xyz", head, PLAIN, is_named=True) == (form, "")


def test_settings_say_what_a_file_is():
    assert find_form("a.xyz", b"x", DocumentSettings(kind="csv"), is_named=False) == ("csv", "")
    assert find_form("a.tex", b"x", DocumentSettings(text_suffixes=(".tex",)), is_named=False) == ("text", "")


@given(st.binary(max_size=100), st.sampled_from(["a.txt", "a.pdf", "a", "a.json"]), st.booleans())
def test_any_bytes_are_something_or_refused(head, name, is_named):
    form, reason = find_form(name, head, PLAIN, is_named)
    assert (form is None) == bool(reason)
