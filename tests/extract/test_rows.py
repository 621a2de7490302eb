"""Rows are made of what chunks gave: split before they meet, judged, calibrated, accepted where they may be."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from whet.extract.found import Found
from whet.extract.rows import Assembly, Labels, Trust
from whet.extract.state import Outcome, Part, State
from whet.records import Span, Value
from whet.tasks.base import Answer, Evidence, RecordEvidence
from whet.tasks.rules import Rule, Rules

LABELS = Labels("marked", "f00d")
SPLIT = {"kind": "split", "field": "name"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(State(tmp_path)) as opened:
        yield opened


def name(text: str, start: int, confidence: float | None = None, **more: Any) -> Found:
    return Found({"name": Value(text, Span(start, start + len(text)), confidence)}, confidence=confidence, **more)


def keep(state: State, *chunks: tuple[int, int, Sequence[Found]], pages: tuple[tuple[int, int], ...] = ()) -> None:
    """A document of these chunks: start, end, records."""
    number = state.begin_pass()
    entry = state.meet("a", "text", "1", number, 0)
    for start, end, records in chunks:
        part = Part(f"{start:032}", entry.id, entry.version, start, end, "", pages)
        state.keep(part, Outcome("done", tuple(records)), number)
    state.end_pass(number)


def assemble(state: State, *rules: dict[str, Any], trust: Trust = Trust()) -> tuple[list[dict[str, Any]], Assembly]:  # noqa: B008
    assembly = Assembly(state, Rules([TypeAdapter(Rule).validate_python(rule) for rule in rules]), LABELS, trust)
    return [dict(row) for row in assembly.rows()], assembly


def test_parts_of_a_split_value_meet_what_the_next_chunk_said_of_each(state: State) -> None:
    together, apart = name("夏原吉、蹇義", 10), [name("夏原吉", 10), name("蹇義", 14)]
    keep(state, (0, 20, [together]), (8, 30, apart))
    rows, assembly = assemble(state, SPLIT)
    assert [(row["values"]["name"]["text"], row["values"]["name"]["start"]) for row in rows] == [("夏原吉", 10), ("蹇義", 14)]
    sums = assembly.sums
    assert (sums.said, sums.split, sums.merged.total(), sums.rows) == (3, 1, 2, 2)


def test_what_is_dropped_is_in_the_state_with_rule_and_reason_and_counted_once_however_often_rows_are_made(state: State) -> None:
    keep(state, (0, 20, [name("上", 2), name("太子", 4), name("于謙", 8)]))
    rules = ({"kind": "length", "field": "name", "min_chars": 2, "action": "drop"}, {"kind": "title", "field": "name"})
    for _ in range(2):
        rows, assembly = assemble(state, *rules)
        assert [(row["values"]["name"]["text"], row["flags"]) for row in rows] == [("太子", ["title"]), ("于謙", [])]
        assert (assembly.sums.dropped, assembly.sums.flagged) == ({"length": 1}, {"title": 1})
        dropped = list(state.rows("SELECT rule, reason FROM dropped"))
        assert dropped == [("length", "name '上' has 1 character, fewer than 2")]


def test_a_record_is_accepted_where_it_is_sure_and_nothing_speaks_against_it(state: State) -> None:
    records = [name("于謙", 2, 0.9), name("太子", 5, 0.9), name("王直", 8, 0.5), name("李賢", 11), name("徐", 14, 0.9)]
    records[-1] = replace(records[-1], flags=("ungrounded",))
    keep(state, (0, 20, records))
    trust = Trust(accepts=lambda confidence: confidence is not None and confidence >= 0.8)
    rows, assembly = assemble(state, {"kind": "title", "field": "name"}, trust=trust)
    assert [row["is_accepted"] for row in rows] == [True, False, False, False, False]
    assert (assembly.sums.accepted, assembly.sums.to_review) == (1, 4)
    rows, _ = assemble(state)
    assert [row["is_accepted"] for row in rows] == [None, None, None, None, False]


def test_confidences_are_calibrated_when_rows_are_made_and_say_which_chunk_is_believed(state: State) -> None:
    def evidence(total: float) -> RecordEvidence:
        return RecordEvidence(Evidence(0, 0, 0), {"name": Evidence(total, total, 1)}, Evidence(total, total, 1))

    # The raw confidences would have it the other way round.
    first = Found({"name": Value("于謙", Span(10, 12), 0.9), "event": Value("Death")}, confidence=0.9, evidence=evidence(-2.0))
    second = Found({"name": Value("于謙", Span(10, 12), 0.1), "event": Value("Other")}, confidence=0.1, evidence=evidence(-1.0))
    keep(state, (0, 20, [first]), (8, 30, [second]))

    def calibrate(answer: Answer) -> Answer:
        sure = tuple(1 / (1 - found.whole.total) for found in answer.evidence)
        records = tuple(
            {key: value and replace(value, confidence=0.25) for key, value in record.items()} for record in answer.records
        )
        return replace(answer, records=records, confidences=sure)

    (row,), _ = assemble(state, trust=Trust(calibrate))
    assert (row["values"]["event"]["text"], row["confidence"], row["values"]["name"]["confidence"]) == ("Other", 0.5, 0.25)


def test_a_row_knows_the_pages_of_its_values(state: State) -> None:
    record = Found({"name": Value("于謙", Span(12, 14)), "office": Value("尚書", Span(4, 6)), "event": Value("Other")})
    keep(state, (0, 20, [record, Found({"event": Value("Death")})]), pages=((0, 7), (10, 8)))
    (free, row), _ = assemble(state)
    assert (row["page"], row["values"]["name"]["page"], row["values"]["office"]["page"]) == (7, 8, 7)
    assert "page" not in row["values"]["event"]
    assert (free["page"], free["values"]) == (7, {"event": {"text": "Death", "confidence": None}})


def test_an_id_is_of_the_values_and_their_places_alone(state: State, tmp_path: Path) -> None:
    keep(state, (0, 20, [name("于謙", 10, 0.3), name("于謙", 2)]), (8, 30, [name("于謙", 10, 0.8)]))
    before = [row["id"] for row in assemble(state)[0]]
    assert len(set(before)) == 2
    (tmp_path / "other").mkdir()
    with closing(State(tmp_path / "other")) as other:
        keep(other, (5, 25, [name("于謙", 10, 0.1)]))
        (row,), _ = assemble(other)
    assert row["id"] == before[1]
