"""The data of a page: rows as columns of numbers, texts stored once, places counted in UTF-16 units as JavaScript counts."""

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whet.pipeline.view.rows import ReadRow, Row
from whet.pipeline.view.texts import Passage

PAGE_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """A document on the page: its passages in their order, and its rows."""

    name: str
    passages: tuple[Passage, ...]
    rows: tuple[ReadRow, ...]
    goes_on: bool = False
    """Whether the source goes on behind the last passage."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A value that does not stand in the source where its row says."""

    document: str
    name: str
    text: str
    start: int
    end: int
    stands: str
    """What is there now."""

    def __str__(self) -> str:
        return f"{self.name} {_cut(self.text)!r} at {self.start} to {self.end}, where {_cut(self.stands)!r} stands"


@dataclass(frozen=True, slots=True)
class _Laid:
    """A passage on the page: its text as the page has it, where that begins (UTF-16 units), and the code points that take two."""

    passage: Passage
    text: str
    base: int
    wide: Sequence[int]

    def units(self, place: int) -> int:
        """UTF-16 units of the passage before a code point of the document."""
        return place - self.passage.start + bisect_left(self.wide, place - self.passage.start)


@dataclass(frozen=True, slots=True)
class Found:
    """Characters of a document on the page: place and length in UTF-16 units, the text, and the text as the page has it."""

    at: int
    length: int
    stands: str
    shown: str


class Flow:
    """The passages of a page, one after the other."""

    def __init__(self) -> None:
        self.length = 0
        """UTF-16 units of all passages so far."""
        self.shown: list[dict[str, Any]] = []
        self._laid: list[_Laid] = []

    def open(self, document: int, passages: Sequence[Passage]) -> None:
        """Put a document's passages on the page; `find` then speaks of this document."""
        self._laid = []
        for passage in passages:
            text = _PAIRED.sub("\N{REPLACEMENT CHARACTER}\\2", passage.text)
            points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            laid = _Laid(passage, text, self.length, np.flatnonzero(points > 0xFFFF).tolist())
            self._laid.append(laid)
            pages = [[laid.units(page.start), page.number, page.problem] for page in passage.pages]
            self.shown.append({"document": document, "start": passage.start, "text": text, "pages": pages})
            self.length += len(text) + len(laid.wide)

    def find(self, start: int, end: int) -> Found | None:
        """Code points of the open document on the page; None where no passage holds them all."""
        at = bisect_right(self._laid, start, key=lambda laid: laid.passage.start) - 1
        if at < 0 or end > self._laid[at].passage.end:
            return None
        laid = self._laid[at]
        first, last = laid.units(start), laid.units(end)
        inside = slice(start - laid.passage.start, end - laid.passage.start)
        return Found(laid.base + first, last - first, laid.passage.text[inside], laid.text[inside])


_PAIRED = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
"""Two lone halves that JavaScript would take for one character. No decoder gives them; the first is shown as U+FFFD."""


class Table:
    """Numbers for things that come again: each thing once, by its place."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self.things: list[Any] = []

    def number(self, thing: Any) -> int:
        key = tuple(thing) if isinstance(thing, list) else thing
        at = self._numbers.setdefault(key, len(self.things))
        if at == len(self.things):
            self.things.append(thing)
        return at


class _Tables:
    """What the columns refer to by number."""

    def __init__(self) -> None:
        self.shapes, self.texts, self.names, self.flags = Table(), Table(), Table(), Table()


class _ValueColumns:
    """One field of all rows, or their quotes. A value whose text is what its place holds carries no text of its own."""

    def __init__(self, tables: _Tables) -> None:
        self.tables = tables
        # shape: -1 the row has no such key, 0 null, else 1 + the number of the list of its keys
        self.columns: dict[str, list[Any]] = {name: [] for name in ("shape", "at", "length", "text", "page", "confidence")}
        self.ambiguous: list[int] = []
        self.changed: list[int] = []
        self.more: dict[int, dict[str, Any]] = {}

    def skip(self, is_null: bool) -> None:
        self._append(shape=0 if is_null else -1, at=-1, length=0, text=-1, page=None, confidence=None)

    def add(self, value: Mapping[str, Any], found: Found | None) -> bool:
        """Add a value; gives whether it stands where it says it does."""
        number, text = len(self.columns["shape"]), value["text"]
        more = {key: value[key] for key in value if key not in VALUE_KEYS}
        is_held = value.get("start") is None or (found is not None and found.stands == text)
        if not is_held:
            more |= {"start": value["start"], "end": value["end"]}
            self.changed.append(number)
            found = None
        is_own = found is None or found.shown != text
        self._append(
            shape=1 + self.tables.shapes.number(list(value)),
            at=found.at if found else -1,
            length=found.length if found else 0,
            text=self.tables.texts.number(text) if is_own else -1,
            page=value.get("page"),
            confidence=value.get("confidence"),
        )
        if value.get("ambiguous"):
            self.ambiguous.append(number)
        if more:
            self.more[number] = more
        return is_held

    def _append(self, **cells: Any) -> None:
        for name, column in self.columns.items():
            column.append(cells[name])

    def packed(self) -> dict[str, Any]:
        columns = {name: pack(column) for name, column in self.columns.items()}
        return columns | {"ambiguous": self.ambiguous, "changed": self.changed, "more": self.more}


VALUE_KEYS = frozenset(("text", "start", "end", "page", "confidence", "ambiguous"))
ROW_KEYS = frozenset(Row.model_fields)
_PLAIN = ("id", "page", "confidence", "is_accepted")
_NAMED = ("chunk", "run", "adapter")  # few different ones: each is written once


class PageRows:
    """The rows of a page as columns, and every value that does not stand in the source where its row says."""

    def __init__(self, field_names: Sequence[str]) -> None:
        self.field_names = field_names
        self.tables = _Tables()
        self.faults: list[Fault] = []
        self.fields = {name: _ValueColumns(self.tables) for name in field_names}
        self.quotes = _ValueColumns(self.tables)
        self.columns: dict[str, list[Any]] = {name: [] for name in (*_PLAIN, *_NAMED, "document", "shape", "flags")}
        self.more: dict[int, dict[str, Any]] = {}

    def add(self, document: int, read: ReadRow, flow: Flow) -> None:
        """Add a row of the document that the flow has open."""
        row, number = read.raw(), len(self.columns["id"])
        cells: dict[str, Any] = {
            "document": document,
            "shape": self.tables.shapes.number(list(row)),
            "flags": self.tables.flags.number(row.get("flags", [])),
        }
        cells |= {name: row.get(name) for name in _PLAIN}
        cells |= {name: self.tables.names.number(row.get(name)) for name in _NAMED}
        for name, cell in cells.items():
            self.columns[name].append(cell)
        if more := {key: row[key] for key in row if key not in ROW_KEYS}:
            self.more[number] = more
        for name in self.field_names:
            self._add_value(self.fields[name], name, row["values"], row["document"], flow)
        self._add_value(self.quotes, "quote", row, row["document"], flow)

    def _add_value(self, column: _ValueColumns, name: str, values: Mapping[str, Any], document: str, flow: Flow) -> None:
        value = values.get(name)
        if value is None:
            column.skip(is_null=name in values)
            return
        found = None if value.get("start") is None else flow.find(value["start"], value["end"])
        if not column.add(value, found):
            stands = found.stands if found else ""
            self.faults.append(Fault(document, name, value["text"], value["start"], value["end"], stands))

    def packed(self) -> dict[str, Any]:
        return {
            "fields": list(self.field_names),
            "shapes": self.tables.shapes.things,
            "texts": self.tables.texts.things,
            "names": self.tables.names.things,
            "flag_lists": self.tables.flags.things,
            "num_records": len(self.columns["id"]),
            "records": {name: pack(column) for name, column in self.columns.items()} | {"more": self.more},
            "values": [column.packed() for column in (*self.fields.values(), self.quotes)],
        }


def page_data(documents: Sequence[ShownDocument]) -> tuple[dict[str, Any], list[Fault]]:
    """The data of a page, and every value that does not stand where its row says (the page marks it as changed).

    Rows stand in the order of their documents and of their places in them; those without a place come last in their document.
    """
    flow = Flow()
    rows = PageRows(list(dict.fromkeys(name for shown in documents for read in shown.rows for name in read.names)))
    for number, shown in enumerate(documents):
        flow.open(number, shown.passages)
        for read in sorted(shown.rows, key=_order):
            rows.add(number, read, flow)
    names = [{"name": shown.name, "goes_on": shown.goes_on} for shown in documents]
    return {"format": PAGE_FORMAT, "documents": names, "passages": flow.shown} | rows.packed(), rows.faults


def _order(read: ReadRow) -> tuple[float, float]:
    """A row's place in its document: where its first value starts, or else its quote; of two, the shorter one first."""
    return min(read.values, default=read.quote or (math.inf, math.inf))


def pack(column: Sequence[Any]) -> Any:
    """A column as JSON: one value if all are equal, else the list."""
    if column and all(type(value) is type(column[0]) and value == column[0] for value in column):
        return {"all": column[0]}
    return list(column)


def embed(data: Any) -> str:
    """JSON that can stand in an HTML script element: no character of it can end or open a tag, or a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_UNSAFE = re.compile("[<>&\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff]")
"""What HTML gives a meaning, what it or UTF-8 can't hold, and what old readers take for a line end. All stand in strings only."""


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
