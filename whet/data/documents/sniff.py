"""What a file is: by its name where that is known, else by its first bytes; and what can't be read, in words."""

import re
from typing import Literal

from whet.data.documents.encoding import MARKS, is_binary, num_controls
from whet.data.documents.source import DocumentSettings

Form = Literal["pdf", "text", "markdown", "html", "json", "csv", "tsv"]

FORMS: dict[str, Form] = {
    ".pdf": "pdf", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html", ".xhtml": "html",
    ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv",
}  # fmt: skip
_SAVE_AS = "save it as PDF, HTML or plain text"
_KNOWN = (
    (b"PK\x03\x04", f"is a ZIP archive or an office document: {_SAVE_AS}"),
    (b"PK\x05\x06", "is an empty ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f"is an old office document: {_SAVE_AS}"),
    (b"{\\rtf", f"is RTF: {_SAVE_AS}"),
    (b"%!PS", f"is PostScript: {_SAVE_AS}"),
    (b"AT&TFORM", f"is DjVu: {_SAVE_AS}"),
    (b"\x1f\x8b", "is compressed (gzip): unpack it first"),
    (b"BZh", "is compressed (bzip2): unpack it first"),
    (b"\xfd7zXZ\x00", "is compressed (xz): unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd): unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "is a RAR archive: unpack it first"),
    (b"\x89PNG\r\n", "is a picture (PNG): it needs OCR"),
    (b"\xff\xd8\xff", "is a picture (JPEG): it needs OCR"),
    (b"GIF8", "is a picture (GIF): it needs OCR"),
    (b"II*\x00", "is a picture (TIFF): it needs OCR"),
    (b"MM\x00*", "is a picture (TIFF): it needs OCR"),
    (b"SQLite format 3\x00", "is a database (SQLite): export its texts as CSV"),
    (b"PAR1", "is a Parquet file: export its texts as JSONL"),
)
_HTML = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html[\s>])", re.IGNORECASE | re.DOTALL)
_PAGE = b'<meta name="generator" content="whet view">'
# As whet/extract/write.py and state.py write them; their order of keys is what they are known by.
_TEXT, _ID, _COUNT = rb'"(?:[^"\\]|\\.)*"', rb'"[0-9a-f]{32}"', rb"(?:null|\d+)"
_EXTRACTED = re.compile(
    rb'\{"id": %(id)b, "document": %(text)b, "page": %(count)b, "chunk": %(id)b, "values": \{'
    rb"|(?:\xef\xbb\xbf)?id,document,page,chunk,[^\r\n]*,confidence,is_accepted,flags,run,adapter\r?\n"
    rb'|\{"document": %(text)b, "page": %(count)b, "chunk": %(id)b, "start": \d+, "end": \d+, "status": "(?:cut|failed)"'
    rb'|\{"document": %(text)b, "status": "(?:unreadable|refused)", "reason": '
    rb'|\{\s*"documents": \{\s*"in_output": \d' % {b"id": _ID, b"text": _TEXT, b"count": _COUNT}
)
_ROW = re.compile(rb'\s*\{\s*"')
_PDF_HEAD_BYTES = 1024  # a PDF's mark may have something before it


def find_form(name: str, head: bytes, settings: DocumentSettings, is_named: bool) -> tuple[Form | None, str]:
    """What a file that begins with `head` is, or why it can't be read.

    is_named: whether the user named this very file, which is read as text where its name says nothing; in a folder such
    a file is refused.
    """
    base = name.rpartition("/")[2].lstrip(".")
    suffix = "." + base.rpartition(".")[2].lower() if "." in base else ""
    form = settings.kind or FORMS.get(suffix) or ("text" if suffix in settings.text_suffixes else None)
    if head.startswith(b"%PDF-") or (form == "pdf" and b"%PDF-" in head[:_PDF_HEAD_BYTES]):
        return "pdf", ""
    reason = _why_unreadable(head, form)
    if reason:
        return None, reason
    if settings.kind is None and _EXTRACTED.match(head):
        return None, "is what `whet extract` wrote, and no source; to read it all the same, set extract.documents.kind"
    if form is None and is_named:
        form = "html" if _HTML.match(head) else "json" if _is_row(head, settings) else "text"
    unknown = f"is of no known kind ({suffix or 'no suffix'}); name it by itself, or see extract.documents.text_suffixes"
    return form, "" if form else unknown


def _why_unreadable(head: bytes, form: Form | None) -> str:
    """Why a file that begins with `head`, and is no PDF, has no text; empty if it may have one."""
    if not head or any(head == mark for mark, _ in MARKS):
        return "is empty"
    for mark, reason in _KNOWN:
        # A text may begin with the letters of a mark; then it holds no control characters.
        if head.startswith(mark) and (num_controls(head) or not mark.isalnum()):
            return reason
    if _PAGE in head:
        return "is a page that `whet view` wrote, and no source"
    if is_binary(head):
        return "is binary: no text of any known encoding" + (", and no PDF" if form == "pdf" else "")
    return f"is no PDF, whatever its name says: it begins with {head[:20].decode('utf-8', 'replace')!r}" if form == "pdf" else ""


def _is_row(head: bytes, settings: DocumentSettings) -> bool:
    """Whether a nameless text looks like rows of JSON with the column of the text."""
    first = head.partition(b"\n")[0]
    return _ROW.match(head) is not None and f'"{settings.text_column}"'.encode() in first
