"""Tagged columns, one token a line: BIO, BIOES and BMES, as in CoNLL files."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pydantic import model_validator

from whet.data.rows import DataFile, Reject, Row, SourceSettings, Tally, digest, finish, read_each, read_lines
from whet.errors import InputError
from whet.records import Example, Record, Span, Value

SUFFIXES = (".txt", ".conll", ".bio", ".bmes", ".bioes", ".iob", ".tsv")
_ROLES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""What a prefix says: begins, goes on (I, M), ends (E, L), stands alone (S, U)."""
_KNOWN = "O, or B- I- M- E- S- and a type"
_DOCUMENT = "-DOCSTART-"
_TYPE_KEY = "entities of type "


class Columns(SourceSettings):
    """CoNLL columns: a token and its tag a line, a blank line after each sentence."""

    reader: Literal["columns"]
    """The reader's name."""
    token_column: int = 0
    """Column of the token, from 0; -1 is the last."""
    tag_column: int = -1
    """Column of the tag, from 0; -1 is the last."""
    joiner: str = ""
    """What stands between two tokens of the text: nothing for Chinese, a space for English."""
    types: tuple[str, ...] = ()
    """The entity types that become records; none named means all."""
    text_field: str = "text"
    """The record field that takes the entity."""
    type_field: str = "type"
    """The record field that takes its type."""
    repair: bool = False
    """Read illegal tag sequences as conlleval does (a stray I or E begins an entity); else the sentence is rejected."""

    @model_validator(mode="after")
    def _parts_differ(self) -> "Columns":
        if self.token_column == self.tag_column:
            raise ValueError("token_column and tag_column are the same")
        if self.text_field == self.type_field:
            raise ValueError("text_field and type_field need different names")
        return self


@dataclass(frozen=True, slots=True)
class Entity:
    """Tokens `start` to `end` (exclusive) of one type."""

    type: str
    start: int
    end: int


@dataclass(slots=True)
class _Sentence:
    """Tokens and tags of one sentence, and the first thing that is wrong with its lines."""

    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    fault: Reject | None = None


def read_columns(source: Columns, files: Sequence[DataFile], tally: Tally) -> Iterator[Row]:
    """One example a sentence, its entities in order; a sentence without any is a true negative."""
    yield from read_each(files, tally, partial(_read_file, source, tally))
    check_names(source.types, [key.removeprefix(_TYPE_KEY) for key in tally if key.startswith(_TYPE_KEY)], "type", files)


def check_names(wanted: Sequence[str], seen: Sequence[str], what: str, files: Sequence[DataFile]) -> None:
    """InputError for a name in the settings that never occurs, if it looks misspelt or if none of them occurs."""
    unseen = [name for name in wanted if name not in seen]
    for name in unseen:
        near = difflib.get_close_matches(name, [other for other in seen if other not in wanted], n=1)
        if near or len(unseen) == len(wanted):
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(seen)) or 'none'}"
            raise InputError(files[0].name, f"no {what} {name} occurs in this source", f"Correct the setting; {hint}")


def _read_file(source: Columns, tally: Tally, file: DataFile) -> Iterator[Row]:
    ends_marked = _marks_ends(source, file)
    group = ""
    for sentence in _sentences(source, file):
        if isinstance(sentence, str):
            group = sentence
            continue
        tally["rows"] += 1
        yield _example(source, tally, file, sentence, group, ends_marked)


def _marks_ends(source: Columns, file: DataFile) -> bool:
    """Whether a file's tags mark the ends of entities (BIOES, BMES), seen from any E or S in it."""
    for line in read_lines(file, source):
        cells = [] if isinstance(line, Reject) else _cells(line[1])
        tag = cells[source.tag_column] if _fits(source, cells) else ""
        if tag[1:2] == "-" and _ROLES.get(tag[0]) in ("E", "S"):
            return True
    return False


def _cells(line: str) -> list[str]:
    """A line's columns; a tab separates them if there is one, so that a token may be a space."""
    line = line.rstrip(" \t\r")
    return line.split("\t") if "\t" in line else re.split(" +", line)


def _fits(source: Columns, cells: Sequence[str]) -> bool:
    wanted = (source.token_column, source.tag_column)
    if len(cells) < 2 or not all(-len(cells) <= column < len(cells) for column in wanted):
        return False
    return all(cells[column] for column in wanted) and wanted[0] % len(cells) != wanted[1] % len(cells)


def _sentences(source: Columns, file: DataFile) -> Iterator[_Sentence | str]:
    """Sentences in order, and the name of a new group where a document starts."""
    sentence = _Sentence()
    for line in read_lines(file, source):
        if isinstance(line, Reject):
            sentence.fault = sentence.fault or line
            continue
        number, text = line
        blank, starts = not text.strip(" \t\r"), text.startswith(_DOCUMENT)
        if blank or starts:
            if sentence.tokens or sentence.fault:
                yield sentence
                sentence = _Sentence()
            if starts:
                yield digest(f"{file.name}:{number}")
            continue
        cells = _cells(text)
        if not _fits(source, cells):
            remedy = "A line holds a token and its tag; see token_column and tag_column"
            place = f"{file.name}:{number}"
            seen = f"{len(cells)} column{'s'[: len(cells) != 1]} in {text[:40]!r}"
            sentence.fault = sentence.fault or Reject(place, seen, "token<TAB>tag", remedy, text)
            continue
        sentence.tokens.append(cells[source.token_column])
        sentence.tags.append(cells[source.tag_column])
        sentence.lines.append(number)
    if sentence.tokens or sentence.fault:
        yield sentence


def _example(source: Columns, tally: Tally, file: DataFile, sentence: _Sentence, group: str, ends_marked: bool) -> Row:
    text = source.joiner.join(sentence.tokens)
    if sentence.fault:
        return sentence.fault
    entities, faults = find_entities(sentence.tags, ends_marked)
    unknown = next((at for at, tag in enumerate(sentence.tags) if not _is_tag(tag)), None)
    if unknown is not None or (faults and not source.repair):
        at, seen = (unknown, f"unknown tag {sentence.tags[unknown]!r}") if unknown is not None else faults[0]
        remedy = f"Known are {_KNOWN}" if unknown is not None else "Correct the tags, or set `repair: true`"
        return Reject(f"{file.name}:{sentence.lines[at]}", seen, "BIOES" if ends_marked else "BIO", remedy, text)
    if faults:
        tally["sentences with repaired tags"] += 1
    starts, at = [], 0
    for token in sentence.tokens:
        starts.append(at)
        at += len(token) + len(source.joiner)
    records: list[Record] = []
    for entity in entities:
        tally[_TYPE_KEY + entity.type] += 1
        if not source.types or entity.type in source.types:
            span = Span(starts[entity.start], starts[entity.end - 1] + len(sentence.tokens[entity.end - 1]))
            value = Value(text[span.start : span.end], span)
            records.append({source.text_field: value, source.type_field: Value(entity.type)})
    place = f"{file.name}:{sentence.lines[0]}"
    return finish(Example("", text, place, group or digest(text), records=tuple(records)), text)


def _is_tag(tag: str) -> bool:
    return tag == "O" or (len(tag) > 2 and tag[1] == "-" and tag[0] in _ROLES)


def find_entities(tags: Sequence[str], ends_marked: bool) -> tuple[list[Entity], list[tuple[int, str]]]:
    """The entities that tags say, read as conlleval does, and each illegal step with the index of its tag.

    ends_marked: the scheme marks ends (BIOES, BMES), so that an entity must begin with B or S and end with E or S.
    """
    entities: list[Entity] = []
    faults: list[tuple[int, str]] = []
    start, kind = -1, ""
    for at, tag in enumerate([*tags, "O"]):
        role, new = ("O", "") if not _is_tag(tag) else (_ROLES.get(tag[0], "O"), tag[2:])
        goes_on = start >= 0 and role in ("I", "E") and new == kind
        if start >= 0 and not goes_on:
            entities.append(Entity(kind, start, at))
            if ends_marked:
                faults.append((min(at, len(tags) - 1), f"{kind} is not ended before {tag if at < len(tags) else 'the end'}"))
        if role != "O" and not goes_on:
            if role in ("I", "E"):
                faults.append((at, f"{tag} after {tags[at - 1] if at else 'the start'}: nothing of type {new} is open"))
            start, kind = at, new
        elif role == "O":
            start = -1
        if role in ("E", "S"):
            entities.append(Entity(kind, start, at + 1))
            start = -1
    return entities, faults
