"""Whether a reply keeps its constraint: each way to break it is named, the gravest first, and nothing else is."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Constraint, FieldRule
from whet.text.kept import KINDS, breaches, broken

TEXT = '洪武三年，少師蹇義卒。"𠮷"\n太保e\u0301😀'
NAME = FieldRule("name", "span", min_chars=1, max_chars=4)
OFFICE = FieldRule("office", "span", is_nullable=True)
EVENT = FieldRule("event", "choice", ("Death", "Other"))
NOTE = FieldRule("note", "free", is_nullable=True, min_chars=2)
GROUNDED = Constraint((NAME, OFFICE, EVENT, NOTE), TEXT)
LOOSE = Constraint(GROUNDED.fields)
RIGHT = {"name": "蹇義", "office": "少師", "event": "Death", "note": None}


def say(*rows: Any) -> str:
    return json.dumps(list(rows), ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    "reply",
    [
        "[]",
        say(RIGHT),
        say(RIGHT, RIGHT | {"office": None, "note": "甲乙"}),
        f" {json.dumps([RIGHT], ensure_ascii=False, indent=2)}\n",  # white space changes no value
        json.dumps([RIGHT]),  # nor do escapes
        say(RIGHT | {"name": "e\u0301😀", "office": '卒。"𠮷"\n太'}),
    ],
)
def test_what_keeps_the_constraint_breaks_nothing(reply: str) -> None:
    assert broken(reply, GROUNDED) == ""
    assert broken(reply, LOOSE) == ""


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (f"```json\n{say(RIGHT)}\n```", "fence: the reply is wrapped in a code fence"),
        (f"Here it is:\n{say(RIGHT)}", "json: not JSON (Expecting value: line 1 column 1 (char 0))"),
        (say(RIGHT) + "。", "json: not JSON"),
        (say(RIGHT)[:-3], "json: not JSON"),
        ("", "json: not JSON"),
        ('[{"name":NaN}]', "json: not JSON (NaN is no JSON)"),
        ("[" * 100_000, "json: not JSON"),
        ("[" + "1" * 5000 + "]", "json: not JSON"),
        (json.dumps(RIGHT), "list: JSON object, not a list"),
        ("null", "list: JSON null, not a list"),
        ('"[]"', "list: JSON string, not a list"),
        ("[1]", "entry: entry 1 is JSON number, not an object"),
        (say(RIGHT, [RIGHT]), "entry: entry 2 is JSON list, not an object"),
        ("[{}]", "keys: entry 1 has the keys none; wanted name, office, event, note"),
        (say(RIGHT | {"more": "x"}), "keys: entry 1 has the keys name, office, event, note, more;"),
        (say(RIGHT)[:-2] + ',"name":"蹇義"}]', "keys: entry 1 has the keys name, office, event, note, name;"),
        (say(RIGHT | {"name": None}), "null: name of entry 1 is null"),
        (say(RIGHT | {"event": None}), "null: event of entry 1 is null"),
        (say(RIGHT | {"name": 3}), "text: name of entry 1 is JSON number, not text"),
        (say(RIGHT | {"office": ["少師"]}), "text: office of entry 1 is JSON list, not text"),
        (say(RIGHT | {"office": {"a": 1}}), "text: office of entry 1 is JSON object, not text"),
        (say(RIGHT | {"event": "death"}), "choice: event of entry 1 is 'death', not one of its choices"),
        (say(RIGHT, RIGHT | {"name": "蹇义"}), "ungrounded: name of entry 2 is '蹇义', which does not stand in the text"),
        (say(RIGHT | {"name": ""}), "length: name of entry 1 has 0 characters; 1 at least were wanted"),
        (say(RIGHT | {"name": "少師蹇義卒"}), "length: name of entry 1 has 5 characters; 4 at most were wanted"),
        (say(RIGHT | {"note": "甲"}), "length: note of entry 1 has 1 character; 2 at least were wanted"),
        (say(dict(reversed(RIGHT.items()))), "order: entry 1 has its keys in the order note, event, office, name;"),
    ],
)
def test_each_way_to_break_it_is_named(reply: str, words: str) -> None:
    assert broken(reply, GROUNDED).startswith(words)


def test_without_a_source_a_span_may_be_any_text() -> None:
    assert broken(say(RIGHT | {"name": "蹇义"}), LOOSE) == ""


def test_of_several_ways_the_gravest_is_named_and_all_are_told() -> None:
    reply = say({"office": "不在", "name": "蹇義", "event": "Death", "note": None}, RIGHT | {"event": "?"}, 3)
    assert [kind for kind, _ in breaches(reply, GROUNDED)] == ["order", "ungrounded", "choice", "entry"]
    assert broken(reply, GROUNDED).startswith("entry: entry 3")


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)).map(json.dumps)
)
def test_anything_is_either_kept_or_broken_in_a_known_way(reply: str) -> None:
    found = [kind for kind, _ in breaches(reply, GROUNDED)]
    assert set(found) <= set(KINDS)
    assert bool(found) == bool(broken(reply, GROUNDED))
    if not found:
        assert isinstance(json.loads(reply), list)


@given(st.data())
def test_it_agrees_with_a_check_written_otherwise(data: st.DataObject) -> None:
    value = st.none() | st.sampled_from(["蹇義", "少師", "𠮷", "Death", "Other", "甲乙", "太保e\u0301", ""]) | st.just(1)
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(RIGHT, value)), max_size=3))

    def is_right(row: dict[str, Any]) -> bool:
        name, office, event, note = row.values()
        return (
            isinstance(name, str)
            and name in TEXT
            and 1 <= len(name) <= 4
            and (office is None or (isinstance(office, str) and office in TEXT and office != ""))
            and event in ("Death", "Other")
            and (note is None or (isinstance(note, str) and len(note) >= 2))
        )

    assert (broken(say(*rows), GROUNDED) == "") == all(map(is_right, rows))
