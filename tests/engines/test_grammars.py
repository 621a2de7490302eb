"""Grammars for servers: what they let a model write keeps the constraint, and every right reply is let through."""

import json
import random
from typing import Any

import llguidance
import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance.gbnf_to_lark import gbnf_to_lark

from whet.engines.grammars import RECORDS, gbnf, json_schema, lark
from whet.records import Constraint, FieldRule
from whet.text.kept import broken

SOURCE = '少師"蹇\\義\n卒/😀\u2028𠮷\x7f\x01。'
FIELDS = (
    FieldRule('na"me\\\n', "span", min_chars=1, max_chars=4),
    FieldRule("官", "span", is_nullable=True, min_chars=2),
    FieldRule("event", "choice", ('A"x', "乙", "\\"), is_nullable=True),
    FieldRule("note", "free", min_chars=1, max_chars=3),
)
GROUNDED, LOOSE = Constraint(FIELDS, SOURCE), Constraint(FIELDS)
BYTES = llguidance.LLTokenizer("byte")


def matcher(grammar: str) -> Any:
    found = llguidance.LLMatcher(BYTES, grammar)
    assert not found.is_error(), found.get_error()
    return found


def write(grammar: str, draw: random.Random, num_bytes: int = 400) -> str | None:
    """A text that a writer of random bytes comes to under a grammar; None where it does not end."""
    state, raw = matcher(grammar), bytearray()
    while not state.is_stopped():
        allowed = np.nonzero(np.unpackbits(np.frombuffer(state.compute_bitmask(), np.uint8), bitorder="little"))[0].tolist()
        ends = [byte for byte in allowed if byte in (*b'"}],', BYTES.eos_token)]
        byte = draw.choice(ends if ends and draw.random() < 0.3 else allowed)
        if byte == BYTES.eos_token:
            break
        assert state.consume_token(byte)
        raw.append(byte)
        if len(raw) > num_bytes:
            return None
    return raw.decode()


def takes(grammar: str, reply: str) -> bool:
    """Whether a grammar lets a reply through to its end."""
    state = matcher(grammar)
    return bool(
        state.validate_tokens(ids := list(reply.encode())) == len(ids) and state.consume_tokens(ids) and state.is_accepting()
    )


def grammars(constraint: Constraint) -> dict[str, str]:
    return {
        "lark": llguidance.grammar_from("grammar", lark(constraint)),
        "gbnf": llguidance.grammar_from("grammar", gbnf_to_lark(gbnf(constraint))),
        "schema": llguidance.grammar_from("json_schema", json.dumps(json_schema(constraint))),
    }


@pytest.mark.parametrize("kind", ["lark", "gbnf", "schema"])
def test_what_a_grammar_lets_through_keeps_the_constraint(kind: str) -> None:
    # A schema and a GBNF grammar can't say where a span stands.
    constraint = GROUNDED if kind == "lark" else LOOSE
    grammar, draw, num_records = grammars(constraint)[kind], random.Random(0), 0
    for _ in range(80):
        reply = write(grammar, draw)
        if reply is not None:
            assert broken(reply, constraint) == ""
            num_records += len(json.loads(reply))
    assert num_records > 10


def rows(draw: random.Random, num: int) -> list[dict[str, Any]]:
    def piece(low: int, high: int) -> str:
        start = draw.randrange(len(SOURCE) - low + 1)
        return SOURCE[start : start + draw.randint(low, high)]

    return [
        {
            FIELDS[0].name: piece(1, 4),
            "官": draw.choice([None, piece(2, len(SOURCE))]),
            "event": draw.choice([None, *FIELDS[2].choices]),
            "note": draw.choice(["甲", '"\n\\', "😀乙", "\x01\t\x7f"]),
        }
        for _ in range(num)
    ]


@given(st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=30)
def test_every_right_reply_as_it_was_trained_is_let_through(seed: int, num: int) -> None:
    reply = json.dumps(rows(random.Random(seed), num), ensure_ascii=False, separators=(",", ":"))
    assert broken(reply, GROUNDED) == ""
    for name, grammar in grammars(GROUNDED).items():
        # llguidance's own JSON strings leave the control character 7F out.
        assert takes(grammar, reply) or (name == "schema" and "\x7f" in reply), name


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({"note": "四個字了"}, {"lark", "gbnf", "schema"}),
        ({"note": ""}, {"lark", "gbnf", "schema"}),
        ({"event": "丙"}, {"lark", "gbnf", "schema"}),
        ({FIELDS[0].name: None}, {"lark", "gbnf", "schema"}),
        ({FIELDS[0].name: "蹇义"}, {"lark"}),
        ({FIELDS[0].name: "師蹇"}, {"lark"}),  # both stand there, though not beside each other
    ],
)
def test_a_wrong_reply_is_stopped_by_what_can_tell(change: dict[str, Any], kinds: set[str]) -> None:
    right = {FIELDS[0].name: "師", "官": None, "event": "乙", "note": "甲"}
    reply = json.dumps([right | change], ensure_ascii=False, separators=(",", ":"))
    assert {name for name, grammar in grammars(GROUNDED).items() if not takes(grammar, reply)} == kinds


def test_gbnf_and_lark_write_the_trained_white_space_and_order() -> None:
    row = rows(random.Random(2), 1)[0]
    for other in (
        json.dumps([row], ensure_ascii=False),
        json.dumps([dict(reversed(row.items()))], ensure_ascii=False, separators=(",", ":")),
    ):
        assert [takes(grammars(GROUNDED)[name], other) for name in ("lark", "gbnf")] == [False, False]


@pytest.mark.parametrize("source", ["", "一"])
def test_a_source_without_room_for_a_span_leaves_the_empty_list(source: str) -> None:
    constraint = Constraint((FieldRule("a", "span", min_chars=2),), source)
    assert write(llguidance.grammar_from("grammar", lark(constraint)), random.Random(0)) == "[]"
    nullable = Constraint((FieldRule("a", "span", is_nullable=True, min_chars=2),), source)
    assert takes(llguidance.grammar_from("grammar", lark(nullable)), '[{"a":null}]')


@given(st.text(min_size=1, max_size=30).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)), st.integers(0, 99))
@settings(max_examples=25)
def test_any_source_is_kept_to(source: str, seed: int) -> None:
    constraint = Constraint((FieldRule("a", "span", max_chars=5),), source)
    reply = write(llguidance.grammar_from("grammar", lark(constraint)), random.Random(seed))
    assert reply is None or broken(reply, constraint) == ""
    # A value ends where a character ends as a reader sees it: no letter without its accent.
    clusters = [found.end() for found in regex.finditer(r"\X", source) if found.end() <= 5]
    whole = json.dumps([{"a": source[: clusters[-1]]}] if clusters else [], ensure_ascii=False, separators=(",", ":"))
    assert takes(llguidance.grammar_from("grammar", lark(constraint)), whole)


def test_a_schema_of_the_object_kind_has_the_list_in_it_and_no_lengths() -> None:
    schema = json_schema(LOOSE, is_object=True)
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", [RECORDS], False)
    text = json.dumps(schema)
    assert "Length" not in text
    assert schema["properties"][RECORDS]["items"]["properties"]["event"] == {
        "type": ["string", "null"],
        "enum": ['A"x', "乙", "\\", None],
    }
