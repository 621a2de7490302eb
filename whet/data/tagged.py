"""Inline tags in running text: the walker that reads them, the rule that joins them to records, and plain files."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from whet.config import Settings
from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, digest, finish, read_each, read_lines
from whet.records import Example, Record, Span, Value

SUFFIXES = (".txt", ".xml", ".tagged")
_TAG = re.compile(r"""<(/?)([^\W\d][\w.:-]*)((?:[\s/](?:[^<>"']|"[^"]*"|'[^']*')*+)?)>""")
_TAG_START = re.compile(r"</?[^\W\d]")
_ATTRIBUTE = re.compile(r"""([^\s=/"']+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']+))""")
_PIECE = re.compile(r"&(lt|gt|amp|quot|apos);|<")
_ESCAPED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}


class TagSettings(Settings):
    """The tag that holds one field."""

    tag: str
    """Name of the tag."""
    attribute: str | None = None
    """Take this attribute of the tag instead of the text in it; such a value has no place in the text."""


class Inline(SourceSettings):
    """Plain text with inline tags, such as 召<P>蹇義</P>爲<O>少師</O>."""

    reader: Literal["inline"]
    """The reader's name."""
    unit: Literal["line", "paragraph"] = "line"
    """What is one text: a line, or a paragraph that a blank line ends."""
    tags: Annotated[dict[str, TagSettings], Field(min_length=1)]
    """Record field to its tag. The first field is the anchor: each of its tags gives one record."""
    max_gap: int = Field(default=5, ge=0)
    """A tag joins the next anchor if fewer characters of text than this lie between them."""
    ignore_tags: tuple[str, ...] = ()
    """Tags that are taken out, their text kept."""

    @model_validator(mode="after")
    def _fields_differ(self) -> "Inline":
        taken: dict[tuple[str, str | None], str] = {}
        for name, tag in self.tags.items():
            other = taken.setdefault((tag.tag, tag.attribute), name)
            if other != name:
                raise ValueError(f"the fields {other} and {name} take the same part of the tag {tag.tag}")
        if next(iter(self.tags.values())).attribute is not None:
            raise ValueError("the first field is the anchor and takes its tag's text: leave its attribute out")
        return self


@dataclass(frozen=True, slots=True)
class Tag:
    """One tagged stretch of a plain text."""

    name: str
    span: Span
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Misread:
    """Why a tagged text can't be read: the position (from 0), what is there, the nearest known thing, the remedy."""

    at: int
    seen: str
    nearest: str
    remedy: str


def walk_tags(text: str, known: Collection[str], ignored: Collection[str] = ()) -> tuple[str, list[Tag]] | Misread:
    """The text without its tags, and the tags in order, their spans counted in that text.

    Tags don't nest. `<` before anything but a letter or a slash is a character like any other.
    """
    parts: list[str] = []
    tags: list[Tag] = []
    length, at = 0, 0
    opened: tuple[re.Match[str], int] | None = None
    for piece in _PIECE.finditer(text):
        if piece.start() < at:
            continue
        taken: str | None = _ESCAPED[piece[1]] if piece[1] else None
        tag = None if taken else _TAG.match(text, piece.start())
        if taken is None and tag is None and not _TAG_START.match(text, piece.start()):
            continue
        parts.append(text[at : piece.start()])
        length += len(parts[-1])
        if taken is not None:
            parts.append(taken)
            length, at = length + 1, piece.end()
            continue
        if tag is None:
            return Misread(piece.start(), *_BROKEN)
        fault = _tag_fault(tag, opened[0] if opened else None, length - opened[1] if opened else 0, known, ignored)
        if fault:
            return Misread(piece.start(), *fault)
        if tag[2] in known:
            if tag[1] and opened:
                tags.append(Tag(tag[2], Span(opened[1], length), _attributes(opened[0][3])))
            opened = None if tag[1] else (tag, length)
        at = tag.end()
    if opened:
        return Misread(opened[0].start(), f"<{opened[0][2]}> is never closed", "", f"Close it with </{opened[0][2]}>")
    parts.append(text[at:])
    return "".join(parts), tags


_Fault = tuple[str, str, str]
"""What is seen, the nearest known thing, the remedy."""
_BROKEN: _Fault = ("a tag without its >", "", "Write &lt; for a plain <")


def _tag_fault(
    tag: re.Match[str], opened: re.Match[str] | None, length: int, known: Collection[str], ignored: Collection[str]
) -> _Fault | None:
    """What is wrong with a tag where it stands; `opened` is the one open there, `length` its characters."""
    name, shown = tag[2], tag[0] if len(tag[0]) < 40 else f"<{tag[1]}{tag[2]} ...>"
    if name in ignored:
        return None
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3) or sorted(known)
        remedy = f"Known are {', '.join(sorted(known))}; name others in ignore_tags"
        return f"unknown tag {shown}", f"<{near[0]}>", remedy
    if tag[1]:
        return _closing_fault(name, shown, opened, length)
    if tag[3].rstrip().endswith("/"):
        return f"{shown} holds no text", f"<{name}>", "A tag must stand around the text that it names"
    return (f"{shown} inside <{opened[2]}>", "", "Tags can't be nested; close the outer one first") if opened else None


def _closing_fault(name: str, shown: str, opened: re.Match[str] | None, length: int) -> _Fault | None:
    if opened is None:
        return f"{shown} closes nothing", f"<{name}>", "Open it, or take it out"
    if opened[2] != name:
        return f"{shown} closes <{opened[2]}>", f"</{opened[2]}>", "Close the tag that was opened last"
    return None if length else (f"<{name}></{name}> holds no text", f"<{name}>", "Take it out")


def _attributes(text: str) -> dict[str, str]:
    found = {name: one or two or bare for name, one, two, bare in _ATTRIBUTE.findall(text)}
    return {name: _PIECE.sub(lambda m: _ESCAPED[m[1]] if m[1] else m[0], value) for name, value in found.items()}


def join_records(
    text: str, tags: Sequence[Tag], fields: Mapping[str, TagSettings], max_gap: int, tally: Tally
) -> tuple[Record, ...]:
    """One record for each tag of the first field.

    A tag of another name belongs to the next anchor if fewer than `max_gap` characters lie between the two; of
    several of a name the nearest is taken, and each is used once at most. What joins nothing is counted in `tally`.
    """
    anchor = next(iter(fields.values())).tag
    waiting: dict[str, Tag] = {}
    records: list[Record] = []
    num_joined = 0
    for tag in tags:
        if tag.name != anchor:
            waiting[tag.name] = tag
            continue
        joined = {name: other for name, other in waiting.items() if tag.span.start - other.span.end < max_gap}
        num_joined += len(joined) + 1
        joined[anchor] = tag
        waiting.clear()
        records.append({name: _value(text, joined.get(wanted.tag), wanted) for name, wanted in fields.items()})
    if num_joined < len(tags):
        tally["tags joined to no record"] += len(tags) - num_joined
    return tuple(records)


def _value(text: str, tag: Tag | None, wanted: TagSettings) -> Value | None:
    if tag is None:
        return None
    if wanted.attribute is None:
        return Value(text[tag.span.start : tag.span.end], tag.span)
    value = tag.attributes.get(wanted.attribute)
    return None if value is None else Value(value)


def read_inline(source: Inline, files: Sequence[DataFile], tally: Tally) -> Iterator[Row]:
    """Examples of files with inline tags; a text without tags is a true negative."""
    return read_each(files, tally, partial(_read_file, source, tally))


def _read_file(source: Inline, tally: Tally, file: DataFile) -> Iterator[Row]:
    known = {tag.tag for tag in source.tags.values()}
    for unit in _units(source, file):
        tally["rows"] += 1
        if isinstance(unit, Reject):
            yield unit
            continue
        number, raw = unit
        place = f"{file.name}:{number}"
        read = walk_tags(raw, known, source.ignore_tags)
        if isinstance(read, Misread):
            line = number + raw.count("\n", 0, read.at)
            column = read.at - raw.rfind("\n", 0, read.at)
            yield Reject(f"{file.name}:{line}", f"{read.seen} at column {column}", read.nearest, read.remedy, raw)
            continue
        text, tags = read
        records = join_records(text, tags, source.tags, source.max_gap, tally)
        yield finish(Example("", text, place, digest(text), records=records), raw)


def _units(source: Inline, file: DataFile) -> Iterator[tuple[int, str] | Reject]:
    """Lines, or paragraphs under the number of their first line; what is blank is between them."""
    held: list[str] = []
    first = 0
    for line in read_lines(file, source):
        if isinstance(line, Reject):
            yield line
            continue
        number, text = line
        if source.unit == "line":
            if text.strip():
                yield number, text
        elif text.strip():
            first = first if held else number
            held.append(text)
        elif held:
            yield first, "\n".join(held)
            held = []
    if held:
        yield first, "\n".join(held)
