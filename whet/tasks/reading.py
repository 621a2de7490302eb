"""Reads a reply of JSON records: strictly, with the place of each value in the source and the log-probabilities behind it."""

import bisect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.records import Completion, FieldRule, Record, Step, Value
from whet.tasks.base import Answer, Evidence, RecordEvidence, Unread
from whet.tasks.occurrences import place

_GAP = re.compile(r"[ \t\n\r,:\[{}]*")
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a field stands in a reply: from the quote that ends its key to the end of its value, in code points."""

    name: str
    start: int
    end: int


def read_reply(rules: Sequence[FieldRule], source: str, completion: Completion) -> Answer | Unread:
    """The records of a reply, those that the budget cut off left out.

    Anything but a JSON list of records with exactly these fields is unread, and so is a reply that was cut without being closed.
    A value's confidence is the probability of the tokens in which it was decided, as they came (not calibrated).
    """
    if completion.finish == "error":
        return Unread(f"the engine failed ({completion.error})")
    if completion.finish == "length" and completion.cut_at is None:
        # It may still be JSON: then the model went on after its end, or all that follows is lost.
        return Unread("it was cut at task.max_tokens")
    rows = _load(completion.text, rules)
    if isinstance(rows, Unread):
        return rows
    parts = _find_parts(completion.text) if completion.steps or completion.cut_at is not None else []
    num_cut = 0
    if completion.cut_at is not None:
        # The keys and brackets after a record's last value follow of themselves; it is whole without them.
        num_cut = sum(record[-1].end > completion.cut_at for record in parts)
        rows, parts = rows[: len(rows) - num_cut], parts[: len(rows) - num_cut]
    records = place_records(rows, rules, source)
    spans = {rule.name for rule in rules if rule.kind == "span"}
    ungrounded = sum(
        value is not None and value.span is None for record in records for name, value in record.items() if name in spans
    )
    if not completion.steps:
        return Answer(records=records, ungrounded=ungrounded, num_cut=num_cut)
    evidence = _gather(completion.steps, parts)
    return Answer(
        records=tuple(_sure(record, found) for record, found in zip(records, evidence, strict=True)),
        ungrounded=ungrounded,
        num_cut=num_cut,
        confidences=tuple(_probability(found.whole) for found in evidence),
        evidence=evidence,
    )


def place_records(rows: Sequence[Mapping[str, str | None]], rules: Sequence[FieldRule], source: str) -> tuple[Record, ...]:
    """Records of the fields' values; each span value has the place where it most likely stands in the source, given the others.

    A value that stands nowhere keeps no span; that is what "ungrounded" means.
    """
    spans = [rule.name for rule in rules if rule.kind == "span"]
    places = place([{name: value for name in spans if (value := row.get(name))} for row in rows], source)
    records: list[Record] = []
    for row, placed in zip(rows, places, strict=True):
        record: dict[str, Value | None] = {}
        for rule in rules:
            text, found = row.get(rule.name), placed.get(rule.name)
            if text is None:
                record[rule.name] = None
            else:
                record[rule.name] = Value(text, found.span, is_ambiguous=found.is_ambiguous) if found else Value(text)
        records.append(record)
    return tuple(records)


def _load(text: str, rules: Sequence[FieldRule]) -> list[dict[str, str | None]] | Unread:
    try:
        rows = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        return Unread(f"not JSON ({error})")
    if not isinstance(rows, list):
        return Unread(f"JSON {type(rows).__name__}, not a list")
    reason = next((reason for row in rows if (reason := _misfit(row, rules))), "")
    return Unread(reason) if reason else rows


def _misfit(row: Any, rules: Sequence[FieldRule]) -> str:
    """Why a JSON value is no record of these fields; empty if it is one."""
    if not isinstance(row, dict):
        return f"an entry is JSON {type(row).__name__}, not an object"
    names = {rule.name for rule in rules}
    if set(row) != names:
        return f"an entry has the keys {', '.join(map(str, row)) or 'none'}; wanted {', '.join(sorted(names))}"
    for rule in rules:
        value = row[rule.name]
        if value is None and not rule.is_nullable:
            return f"{rule.name} is null"
        if value is not None and (not isinstance(value, str) or not value):
            return f"{rule.name} is {value!r}, not text"
        if value is not None and rule.kind == "choice" and value not in rule.choices:
            return f"{rule.name} is {value!r}, not one of its choices"
    return ""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys differ: of two equal ones the standard library would take the last, unsaid."""
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice in one entry")
    return dict(pairs)


def _find_parts(text: str) -> list[list[_Part]]:
    """Where each field of each record stands in a reply that is known to be a JSON list of records without lists in them."""
    records: list[list[_Part]] = []
    at = 0
    while True:
        gap = _GAP.match(text, at)
        assert gap is not None  # it matches nothing too
        if text[gap.end()] == "]":
            return records
        if "{" in gap.group():
            records.append([])
        name, key_end = _JSON.raw_decode(text, gap.end())
        between = _GAP.match(text, key_end)
        assert between is not None
        _, at = _JSON.raw_decode(text, between.end())
        records[-1].append(_Part(name, key_end - 1, at))


def _gather(steps: Sequence[Step], parts: Sequence[Sequence[_Part]]) -> tuple[RecordEvidence, ...]:
    """What the steps say of each record.

    A field was decided in the tokens that overlap the characters from its key's closing quote, since one token may hold that,
    the colon and the value's first characters or null, to its value's end, the closing quote included: it says that the value
    is no longer. A record was begun in the tokens between the value before it and its first key.
    """
    starts = [0, *(step.end for step in steps[:-1])]
    # A token that ends no character holds a part of the next one.
    stops = [max(step.end, start + 1) for step, start in zip(steps, starts, strict=True)]

    def between(start: int, end: int) -> Evidence:
        first, last = bisect.bisect_right(stops, start), bisect.bisect_left(starts, end)
        found = [step.log_prob for step in steps[first:last]]
        return Evidence(math.fsum(found), min(found, default=0.0), sum(log_prob < 0 for log_prob in found))

    evidence, end = [], 0
    for record in parts:
        fields = {part.name: between(part.start, part.end) for part in record}
        evidence.append(RecordEvidence(between(end, record[0].start), fields, between(end, record[-1].end)))
        end = record[-1].end
    return tuple(evidence)


def _sure(record: Record, evidence: RecordEvidence) -> Record:
    """The record, its values with their probabilities."""
    return {
        name: value and Value(value.text, value.span, _probability(evidence.fields[name]), value.is_ambiguous)
        for name, value in record.items()
    }


def _probability(evidence: Evidence) -> float:
    return math.exp(min(0.0, evidence.total))  # rounding may put a sum above 0
