"""What every reader shares: common settings, rejects, the files of a source, and lines read within limits."""

import codecs
import glob
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from whet.config import Settings
from whet.errors import InputError, open_to_read
from whet.records import Example, example_to_json
from whet.storage import canonical, hash_text

RAW_CHARACTERS = 500
NEWLINE = b"\n"
_GROUP_DIGITS = 16
_GUESS_BYTES = 4096  # bytes around a fault from which its encoding is guessed
_CJK = re.compile("[\u4e00-\u9fff\u3000-\u303f\uff00-\uffef]")

Tally = Counter[str]
"""What a reader counted by the way: "rows", and what it left out and why."""


class SourceSettings(Settings):
    """What every source says."""

    rejects_bad_lines: ClassVar[bool] = False
    """Whether a line that is not in the encoding is rejected alone; else it is an InputError, since its data is for training."""

    path: Path
    """File, folder or glob; a relative one is taken from the recipe's folder. A folder gives all its fitting files."""
    split: Literal["train", "valid", "test"] | None = None
    """The split that this source is; null lets whet split it."""
    as_published: bool = False
    """This split is a published one and stays as it is: its leaks are reported, not acted on."""
    name: str = ""
    """A name for reports."""
    encoding: str = "utf-8"
    """Encoding of the files; a byte order mark of UTF-8 is understood."""
    max_line_bytes: int = Field(default=16 * 2**20, ge=1)
    """Longest line or row in bytes; a longer one is rejected unread."""

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, encoding: str) -> str:
        try:
            newline = "\n".encode(encoding)
        except LookupError:
            raise ValueError(f"{encoding!r} is no known encoding; try utf-8, gb18030, big5 or latin-1") from None
        if newline != b"\n":
            raise ValueError(f"{encoding} can't be read line by line; convert the file to UTF-8")
        return encoding

    @model_validator(mode="after")
    def _published_split_is_named(self) -> "SourceSettings":
        if self.as_published and self.split is None:
            raise ValueError("as_published speaks of a published split: say which with `split`")
        return self


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that can't be used: its place, what was seen, the nearest known format, what to do, and the row itself."""

    place: str
    seen: str
    nearest: str
    remedy: str
    raw: str
    """The row's first 500 characters."""
    stops: bool = False
    """Whether one such row stops the build, however few they are: it speaks of a whole file that is not what it seems."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw", _printable(self.raw[:RAW_CHARACTERS]))
        object.__setattr__(self, "seen", _printable(self.seen))

    def to_json(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if name != "stops"}


Row = Example | Reject


def _printable(text: str) -> str:
    """The text with lone surrogates written out, so that it can be saved as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a source: where it lies, and the name by which places speak of it."""

    path: Path
    name: str


def find_files(source: SourceSettings, root: Path, suffixes: Sequence[str], tally: Tally) -> tuple[DataFile, ...]:
    """The files of a source in sorted order; InputError if there are none.

    A folder gives its files (those below it too, hidden ones not) that end in one of `suffixes`.
    """
    path = root / source.path
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        found = [p for p in inside if p.suffix.lower() in suffixes]
        if len(found) < len(inside):
            tally["files of another kind left out"] += len(inside) - len(found)
        remedy = f"It is a folder without a file that this reader takes ({', '.join(suffixes)}); name a file or a glob"
    elif path.exists() or not glob.has_magic(str(source.path)):
        if not path.exists():
            raise InputError(
                str(path), "no such file", f"Check `path` of this source; relative ones are taken from {root.resolve()}"
            )
        found, remedy = [path], ""
    else:
        base = Path(source.path.anchor) if source.path.is_absolute() else root
        found = sorted(
            p for p in base.glob(str(source.path.relative_to(source.path.anchor))) if p.is_file() and not p.name.startswith(".")
        )
        remedy = f"Nothing matches; relative paths are taken from {root.resolve()}"
    if not found:
        raise InputError(str(path), "no file to read", remedy)
    return tuple(DataFile(p, _shown(p, root)) for p in found)


def _shown(path: Path, root: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def read_each(files: Sequence[DataFile], tally: Tally, read_one: Callable[[DataFile], Iterator[Row]]) -> Iterator[Row]:
    """The rows of all files, one file after the other; a file without a row is an InputError."""
    for file in files:
        before = tally["rows"]
        with open_to_read(file.path) as opened:
            if not opened.read(1):
                raise InputError(file.name, "is empty", "Check how it was written, or take it out of the recipe")
        yield from read_one(file)
        if tally["rows"] == before:
            raise InputError(file.name, "holds no rows", "Check how it was written, or take it out of the recipe")


def read_lines(file: DataFile, source: SourceSettings) -> Iterator[tuple[int, str] | Reject]:
    """Each line's number and text without its line end; a line over the limit is a Reject and is never held whole.

    Raises InputError at the first byte that is not in the source's encoding, or rejects its line (`rejects_bad_lines`).
    """
    limit = source.max_line_bytes
    with open_to_read(file.path) as opened:
        number, offset = 0, 0
        while line := opened.readline(limit + 2):
            number += 1
            size = len(line)
            if len(line.removesuffix(NEWLINE).removesuffix(b"\r")) > limit:
                head = line[: 4 * RAW_CHARACTERS].decode(source.encoding, "replace")
                while not line.endswith(NEWLINE) and (line := opened.readline(limit)):
                    size += len(line)
                yield too_long(f"{file.name}:{number}", size, limit, head)
            else:
                start = 3 if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
                try:
                    text = decode(line[start:], file, source.encoding, number, offset + start)
                    yield number, text.removesuffix("\n").removesuffix("\r")
                except InputError as error:
                    if not source.rejects_bad_lines:
                        raise
                    yield Reject(error.place, error.what, "", error.remedy, repr(line[:RAW_CHARACTERS]))
            offset += size


def too_long(place: str, size: int, limit: int, raw: str) -> Reject:
    return Reject(
        place, f"a line of {size:,} bytes; the limit is {limit:,}", "",
        "Split the row, or raise max_line_bytes if it is meant to be that long", raw, stops=True,
    )  # fmt: skip


def decode(raw: bytes, file: DataFile, encoding: str, line: int, offset: int) -> str:
    """The text of `raw`, which starts at byte `offset` on line `line`; InputError that names the first bad byte."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8") and (damage := _damage(raw, at)):
            raise InputError(
                f"{file.name}:{line + raw.count(NEWLINE, 0, at)}", f"byte {offset + at} (0x{raw[at]:02x}) is not utf-8; {damage}",
                "Write that line again from the original, or take it out",
            ) from None  # fmt: skip
        likely = _guess_encoding(raw[max(0, at - 1) : at + _GUESS_BYTES], raw[:2] if offset == 0 else b"")
        setting = "" if likely == "utf-16" else f"Set `encoding: {likely}` on this source, or "
        raise InputError(
            f"{file.name}:{line + raw.count(NEWLINE, 0, at)}",
            f"byte {offset + at} (0x{raw[at]:02x}) is not {encoding}; the file is likely {likely}",
            f"{setting}convert the file to UTF-8" if setting else "Convert the file to UTF-8",
        ) from None


def _damage(raw: bytes, at: int) -> str:
    """What happened to bytes that are UTF-8 but for a few; empty if they are likely of another encoding."""
    if raw[at] == 0xED and 0xA0 <= (raw[at + 1] if at + 1 < len(raw) else 0) <= 0xBF:
        return "it begins half of a surrogate pair: a character was cut in two where this row was written"
    around = raw[max(0, at - _GUESS_BYTES) : at + _GUESS_BYTES].decode("utf-8", "replace")
    num_bad = around.count("\ufffd")
    if sum(char > "\x7f" for char in around) - num_bad >= 8 * num_bad:
        return "all around it is: a character is damaged there"
    return ""


def _guess_encoding(raw: bytes, head: bytes) -> str:
    """The likeliest encoding of bytes that are not UTF-8: a Chinese one if they read as Chinese, else a Western one."""
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    high = sum(byte >= 0x80 for byte in raw)
    for encoding in ("gb18030", "big5"):
        text = raw.decode(encoding, "replace")
        if 2 * len(_CJK.findall(text)) >= 0.9 * high and high >= 4:
            return encoding
    return "cp1252" if any(0x80 <= byte < 0xA0 for byte in raw) else "latin-1"


def digest(text: str) -> str:
    """A short hash that names a group."""
    return hash_text(text)[:_GROUP_DIGITS]


def finish(example: Example, raw: str) -> Row:
    """The example under its id (a hash of its text and gold), or a Reject if its text can't be written as UTF-8."""
    body = example_to_json(example)
    for key in ("id", "source", "group", "category"):
        body.pop(key, None)
    text = canonical(body)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Reject(
            example.source, f"half of a surrogate pair, U+{ord(text[error.start]):04X}", "",
            "A character was cut in two where this row was written; write it again from the original", raw,
        )  # fmt: skip
    return replace(example, id=digest(text))


def describe(value: Any) -> str:
    """A JSON value's kind in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
