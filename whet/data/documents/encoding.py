"""Encodings of text files: named by a mark, declared, or told from the bytes; then read as a stream, bad bytes marked."""

import codecs
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Literal

from whet.errors import InputError, MissingExtraError

HEAD_BYTES = 65536  # from which an encoding is told
BLOCK_BYTES = 262144
_BAD = "\ufffd"
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
# What writes these names today means the larger set: GB 2312 holds GBK, Shift JIS holds the vendor's rows, and so on.
_LARGER = {
    "gb2312": "gb18030", "gbk": "gb18030", "hz": "hz", "big5": "big5hkscs", "cp950": "big5hkscs", "shift_jis": "cp932",
    "euc_kr": "cp949", "iso8859-1": "cp1252", "ascii": "utf-8",
}  # fmt: skip
_EAST_ASIAN = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")
_EAST = re.compile("[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7a3\uff00-\uffef]")
_HIGH = re.compile(rb"[\x80-\xff]")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1a\x1b")) + b"\x7f"
_META = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.IGNORECASE)
_SCRIPTS = re.compile(
    "([\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]+)|([\u0370-\u052f]+)|([\u0590-\u06ff]+)|([\u0e00-\u0e7f]+)|([\uac00-\ud7a3]+)"
)
_PLAIN = re.compile("[\t\n\r\f\x20-\x7e\u00a0-\u024f\u2000-\u206f]+")
_PUNCTUATION = re.compile("[\n \u3000\u3001\u3002\uff0c]")

Origin = Literal["declared", "mark", "detected"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """A codec's name, and who says so: the settings, a mark in the file, or its bytes."""

    name: str
    origin: Origin


def num_controls(head: bytes) -> int:
    """Bytes of control characters that no text holds."""
    return len(head) - len(head.translate(None, _CONTROLS))


def is_binary(head: bytes) -> bool:
    """Whether the beginning of a file is no text of any encoding. A few NULs in a long text do not make it so."""
    if any(head.startswith(mark) for mark, _ in MARKS) or _wide(head):
        return False
    found = num_controls(head)
    return found > max(2, len(head) // 100) or found == len(head) > 0


def find_encoding(file: IO[bytes], head: bytes, declared: str | None, is_html: bool = False) -> Encoding:
    """The encoding of a file that begins with `head` (its first HEAD_BYTES bytes, just read).

    A mark goes before what was declared, that before what the bytes tell. Where the head is plain ASCII, the bytes are
    looked at from the first one that is not.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, "mark")
    if declared is not None:
        return Encoding(declared, "declared")
    is_whole = len(head) < HEAD_BYTES
    if is_html and (said := _said_by_html(head)):
        return Encoding(said, "mark")
    while not is_whole and head.isascii() and not num_controls(head):
        block = file.read(BLOCK_BYTES)
        if not block:
            break
        if (high := _HIGH.search(block)) or num_controls(block):
            at = max(0, high.start() - 64) if high else 0
            head, is_whole = block[at : at + HEAD_BYTES], False
    return Encoding(_detect(head, is_whole), "detected")


def _detect(head: bytes, is_whole: bool) -> str:
    """The likeliest encoding of these bytes: UTF-8 if they are, UTF-16 or 32 if they are, else what a detector says."""
    damage = _utf8_damage(head, is_whole)
    if damage == 0 and b"\x1b$" in head and (name := _guess(head, is_whole)).startswith("iso2022"):
        return name
    if damage == 0 and num_controls(head) * 4 <= len(head):
        return "utf-8"
    if wide := _wide(head):
        return wide
    if damage is not None:
        return "utf-8"
    name = _guess(head, is_whole)
    if name in _EAST_ASIAN and decodes(head, name):
        return name
    return _in_spite_of_damage(head) or name


def _in_spite_of_damage(head: bytes) -> str:
    """The East Asian encoding as which most of the bytes read, in the opinion of the detector too; else nothing.

    One bad byte turns a detector away from the right answer, so it is asked about the stretches between bad ones.
    """
    best = (len(_HIGH.findall(head)) // 2, "")
    for candidate in _EAST_ASIAN:
        text = head.decode(candidate, "replace")
        if 0 < text.count(_BAD) * 16 < len(_EAST.findall(text)):
            runs = [part.encode(candidate, "ignore") for part in text.split(_BAD)]
            best = max(best, (sum(len(run) for run in runs if not run.isascii() and _guess(run, True) == candidate), candidate))
    return best[1]


def _utf8_damage(head: bytes, is_whole: bool) -> int | None:
    """How many places are bad in bytes that are UTF-8 all the same; None if they are not."""
    try:
        codecs.utf_8_decode(head, "strict", is_whole)
        return 0
    except UnicodeDecodeError:
        text, _ = codecs.utf_8_decode(head, "replace", is_whole)
    num_bad = text.count(_BAD)
    num_good = sum(len(part) for part in re.findall("[^\x00-\x7f\ufffd]+", text))
    return num_bad if num_good >= 8 * num_bad else None


def decodes(head: bytes, name: str) -> bool:
    """Whether bytes that may end within a character are of an encoding."""
    try:
        codecs.getincrementaldecoder(name)("strict").decode(head)
    except (UnicodeDecodeError, LookupError):
        return False
    return True


def _guess(head: bytes, is_whole: bool) -> str:
    """What the detector of Firefox says, as a codec of Python that holds all of it."""
    try:
        from chardetng_py import EncodingDetector
    except ImportError:
        raise MissingExtraError("chardetng-py", "documents", "telling the encoding of a text that is not UTF-8") from None
    detector = EncodingDetector()
    detector.feed(head, last=is_whole)
    return larger(detector.guess(tld=None, allow_utf8=False))


def larger(name: str) -> str:
    """The codec that reads everything that is written under a name; LookupError if there is none."""
    codec = codecs.lookup(name).name
    return _LARGER.get(codec, codec)


def _wide(head: bytes) -> str:
    """The name of UTF-16 or UTF-32 without a mark, if the bytes read as a text in it; else nothing.

    Text of another encoding holds no control bytes, of which UTF-16 is full; text of ASCII, read as UTF-16, would pass
    for Chinese.
    """
    if not num_controls(head) or len(head) < 4:
        return ""
    if len(head) - len(head.translate(None, bytes(range(32, 127)))) > 0.85 * len(head):
        return ""
    for name, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        whole = head[: len(head) // width * width]
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(whole)
        except UnicodeDecodeError:
            continue
        if _reads_as_text(text):
            return name
    return ""


def _reads_as_text(text: str) -> bool:
    """Whether nearly all characters are of one script, ASCII and punctuation, as in no text that is read wrongly."""
    sizes = [0] * _SCRIPTS.groups
    for match in _SCRIPTS.finditer(text):
        sizes[(match.lastindex or 1) - 1] += match.end() - match.start()
    known = max(sizes) + sum(map(len, _PLAIN.findall(text)))
    return known >= 0.95 * len(text) > 0 and (len(text) < 50 or _PUNCTUATION.search(text) is not None)


def _said_by_html(head: bytes) -> str:
    """The encoding that a page names itself, unless its bytes are UTF-8 with more than ASCII in them, or none of its own."""
    match = _META.search(head[: HEAD_BYTES // 8])
    if match is None or (not head.isascii() and _utf8_damage(head, False) == 0):
        return ""
    try:
        name = larger(match[1].decode("ascii"))
        "".encode(name)
    except (LookupError, ValueError):
        return ""
    return name if decodes(head, name) and not name.startswith(("utf-16", "utf-32")) else ""


_faults: ContextVar[list[tuple[int, int]]] = ContextVar("faults")


def _mark_fault(error: UnicodeError) -> tuple[str, int]:
    """Put U+FFFD for bytes that are none of the encoding, and note them, counted from the end of what is decoded."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _faults.get().append((len(error.object) - error.start, error.object[error.start]))
    return _BAD, error.end


codecs.register_error("whet-mark", _mark_fault)


def read_text(file: IO[bytes], name: str, encoding: Encoding) -> Iterator[tuple[str, str]]:
    """The text of a file in blocks, each with what is wrong in it; a mark at its beginning is left out.

    Bad bytes become U+FFFD and are told, with their place in the file. Where they are many, the file is of another
    encoding from there on: reading ends with a problem, or with InputError if that is at its beginning.
    """
    decoder = codecs.getincrementaldecoder(encoding.name)("whet-mark")
    done, is_first = 0, True
    while True:
        block = file.read(BLOCK_BYTES)
        done += len(block)
        faults: list[tuple[int, int]] = []
        token = _faults.set(faults)
        try:
            text = decoder.decode(block, not block)
        finally:
            _faults.reset(token)
        if is_first and encoding.origin == "mark":
            text = text.removeprefix("\ufeff")
        problem = ""
        if faults:
            at, byte = done - faults[0][0], faults[0][1]
            seen = f"byte {at:,} (0x{byte:02x}) is not {shown(encoding)}"
            if len(faults) > max(8, len(_HIGH.findall(block)) // 50):
                if is_first:
                    raise InputError(name, seen, _remedy(block, encoding))
                yield text[: text.find(_BAD)], f"{seen}, nor are many after it: the rest is not read. {_remedy(block, encoding)}"
                return
            more = f" and {len(faults) - 1} more places" if len(faults) > 1 else ""
            problem = f"{seen}{more}: read as U+FFFD. {_remedy(block, encoding) if is_first else 'Mend the file there'}"
        if text or problem:
            yield text, problem
        if not block:
            return
        is_first = False


def shown(encoding: Encoding) -> str:
    """The name of an encoding as people write it."""
    return encoding.name.removesuffix("-sig")


def _remedy(block: bytes, encoding: Encoding) -> str:
    if encoding.origin == "detected":
        return "The encoding was told from the file's bytes; set extract.documents.encoding if it is another, or mend the file"
    likely = _detect(block[:HEAD_BYTES], False)
    if likely == encoding.name.removesuffix("-sig"):
        return "Mend the file there"
    return f"It is likely {likely}: set extract.documents.encoding to it, or to null to have it told file by file"
