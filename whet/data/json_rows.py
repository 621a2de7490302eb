"""Rows out of JSON: one value a line, a list, or an object with one list of rows in it, each with its line."""

import json
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from whet.data.rows import DataFile, Reject, SourceSettings, Tally, decode, read_lines, too_long
from whet.errors import InputError, open_to_read

MAX_DOCUMENT_BYTES = 512 * 2**20  # a JSON list is held whole; JSONL is not
_SPACE = re.compile(r"[ \t\r\n]*")
_LINE_SUFFIXES = (".jsonl", ".ndjson")
_HEAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One JSON value that should be a row, and its text."""

    place: str
    value: Any
    raw: str


@dataclass(slots=True)
class _Parser:
    """A JSON parser that remembers the keys given twice in one object, of which JSON libraries drop one silently."""

    repeated: list[str] = field(default_factory=list)
    decoder: json.JSONDecoder = field(init=False)

    def __post_init__(self) -> None:
        self.decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            self.repeated += [name for name in result if names.count(name) > 1]
        return result

    def value_at(self, text: str, at: int) -> tuple[Any, int]:
        """The value at `at` and where it ends; ValueError where there is none."""
        self.repeated.clear()
        try:
            return self.decoder.raw_decode(text, at)
        except RecursionError:
            raise json.JSONDecodeError("nested too deeply", text, at) from None

    def row(self, place: str, value: Any, raw: str) -> "JsonRow | Reject":
        if not self.repeated:
            return JsonRow(place, value, raw)
        names = ", ".join(dict.fromkeys(self.repeated))
        return Reject(place, f"the key {names} is given twice in one object", "", "Keep one of them", raw)


def read_json_rows(
    file: DataFile, source: SourceSettings, tally: Tally, is_row: Callable[[Any], bool]
) -> Iterator[JsonRow | Reject]:
    """The rows of a JSON or JSONL file, in order.

    is_row tells a row that is alone in its file from an object that holds the list of rows. A broken line of JSONL is a
    Reject; a broken list or object is an InputError, since what follows the fault can't be told apart.
    """
    rows = _read_jsonl(file, source) if _is_jsonl(file, source, is_row) else _read_document(file, source, is_row)
    for row in rows:
        tally["rows"] += 1
        yield row


def _is_jsonl(file: DataFile, source: SourceSettings, is_row: Callable[[Any], bool]) -> bool:
    """Whether a file holds a value a line; its first line tells: a list, or an object that goes on, is a document."""
    with open_to_read(file.path) as opened:
        head = opened.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
        if head[:1] == b"[":
            return False
        if head[:1] != b"{" or file.path.suffix.lower() in _LINE_SUFFIXES:
            return True
        opened.seek(0)
        line = b""
        while not line.removeprefix(b"\xef\xbb\xbf").strip():
            line = opened.readline(source.max_line_bytes + 2)
        goes_on = bool(opened.read(_HEAD_BYTES).strip())
    try:
        value = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return len(line) > source.max_line_bytes
    return goes_on or is_row(value)


def _read_jsonl(file: DataFile, source: SourceSettings) -> Iterator[JsonRow | Reject]:
    parser = _Parser()
    for line in read_lines(file, source):
        if isinstance(line, Reject):
            yield line
            continue
        number, text = line
        at = _skip(text, 0)
        if at == len(text):
            continue
        place = f"{file.name}:{number}"
        try:
            value, end = parser.value_at(text, at)
            if (after := _skip(text, end)) < len(text):
                raise json.JSONDecodeError("more than one value", text, after)
        except json.JSONDecodeError as error:
            yield Reject(place, f"not JSON at column {error.pos + 1}: {error.msg}", "one JSON object a line",
                         "Mend this line", text)  # fmt: skip
        except ValueError as error:
            yield Reject(place, f"not usable JSON: {error}", "one JSON object a line", "Mend this line", text)
        else:
            yield parser.row(place, value, text)


def _read_document(file: DataFile, source: SourceSettings, is_row: Callable[[Any], bool]) -> Iterator[JsonRow | Reject]:
    """Rows of a list, or of the one list of objects inside an object, or the object itself if it holds no such list."""
    text = _read_whole(file, source)
    walk = _Walk(file, text, _Parser())
    at = _skip(text, 0)
    if text[at] == "[":
        end = yield from walk.list_at(at, source.max_line_bytes)
    else:
        value, end = walk.value_at(at)
        lists = [key for key, inner in value.items() if inner and isinstance(inner, list) and isinstance(inner[0], dict)]
        if is_row(value) or len(lists) != 1:
            yield walk.parser.row(f"{file.name}:{walk.line(at)}", value, text[at:end])
        else:
            yield from walk.list_at(walk.find(at, lists[0]), source.max_line_bytes)
    end = _skip(text, end)
    if end < len(text):
        raise walk.fault(end, "something follows the end of the JSON value")


def _read_whole(file: DataFile, source: SourceSettings) -> str:
    with open_to_read(file.path) as opened:
        raw = opened.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise InputError(file.name, "is a JSON list of more than 512 MB, which must be held whole", "Write it as JSONL")
    return decode(raw, file, source.encoding, 1, 0).removeprefix("\ufeff")


@dataclass(slots=True)
class _Walk:
    """A walk through one JSON text that knows its lines."""

    file: DataFile
    text: str
    parser: _Parser
    _seen: tuple[int, int] = (0, 1)
    """How far lines were counted, and the line there."""

    def line(self, at: int) -> int:
        last, line = self._seen if self._seen[0] <= at else (0, 1)
        self._seen = (at, line + self.text.count("\n", last, at))
        return self._seen[1]

    def fault(self, at: int, what: str) -> InputError:
        column = at - self.text.rfind("\n", 0, at)
        ends = at >= len(self.text.rstrip()) or what.startswith("Unterminated string")
        ended = " (the file ends there: it was cut off)" if ends else ""
        return InputError(
            f"{self.file.name}:{self.line(at)}", f"not JSON at column {column}: {what}{ended}",
            "Mend it there, or write one row a line (JSONL), of which a bad line alone is lost",
        )  # fmt: skip

    def value_at(self, at: int) -> tuple[Any, int]:
        try:
            return self.parser.value_at(self.text, at)
        except json.JSONDecodeError as error:
            raise self.fault(error.pos, error.msg) from None
        except ValueError as error:
            raise self.fault(at, str(error)) from None

    def list_at(self, at: int, limit: int) -> Generator[JsonRow | Reject, None, int]:
        """The values of the list that starts at `at`; returns where it ends.

        A row that starts on the line of the one before it, or of the list's start, gets its number (from 1) into its place.
        """
        text, before, number = self.text, self.line(at), 0
        at = _skip(text, at + 1)
        while text[at : at + 1] != "]":
            number += 1
            line = self.line(at)
            value, end = self.value_at(at)
            place, raw = f"{self.file.name}:{line}" + (f" row {number}" if line == before else ""), text[at:end]
            before = self.line(end)
            yield too_long(place, len(raw), limit, raw) if len(raw) > limit else self.parser.row(place, value, raw)
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise self.fault(at, "a comma or ] is missing")
        return at + 1

    def find(self, at: int, key: str) -> int:
        """Where the value of a key starts, in the (valid) object at `at`."""
        at = _skip(self.text, at + 1)
        found = -1
        while self.text[at] != "}":
            name, end = self.value_at(at)
            start = _skip(self.text, _skip(self.text, end) + 1)
            if name == key:
                found = start
            _, end = self.value_at(start)
            at = _skip(self.text, end)
            at = _skip(self.text, at + 1) if self.text[at] == "," else at
        return found


def _skip(text: str, at: int) -> int:
    """The first position at or after `at` that is no JSON white space."""
    match = _SPACE.match(text, at)
    return match.end() if match else at
