"""Closing: against every cut of the bytes, and against every way to the end of small replies."""

import json
import random

import pytest
from constrained import Case, cases, check_text, constrainer, fewest_ids
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Constraint, FieldRule
from whet.text.closing import NOTHING, Closer, Vocabulary
from whet.text.shape import Shape, State


@given(st.lists(st.binary(min_size=2, max_size=5), max_size=30), st.binary(max_size=12), st.binary(max_size=12))
def test_a_path_is_the_fewest_ids_of_its_bytes(pieces: list[bytes], head: bytes, tail: bytes) -> None:
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)] + pieces)
    path = vocabulary.before(head, vocabulary.before(tail, NOTHING))
    ids = vocabulary.write(path)
    assert b"".join(vocabulary.pieces[number] or b"" for number in ids) == head + tail
    assert len(ids) == path.cost == fewest_ids(head + tail, vocabulary.ids)


def walked(case: Case, shape: Shape) -> tuple[State, bytes]:
    """A state that some bytes of a reply lead to, chosen one by one out of all that may come next."""
    luck, closer = random.Random(case.seed), Closer(shape, constrainer(case.kind).vocabulary)
    state, written = shape.start, b""
    for _ in range(luck.randrange(60)):
        for byte in luck.sample(range(256), 256):
            after = shape.step(state, bytes([byte]))
            # A step into a dead end (a piece that can't be as long as it must) is one that the mask would not have allowed.
            if after is not None and closer.fits(after, 1 << 20):
                state, written = after, written + bytes([byte])
                break
    return state, written


@given(cases())
def test_every_state_can_be_closed_in_what_it_is_said_to_cost(case: Case) -> None:
    made = constrainer(case.kind)
    shape = Shape(case.constraint, made.lead, made.tail)
    state, written = walked(case, shape)
    closer = Closer(shape, made.vocabulary)
    ids = closer.ids(state)
    assert closer.fits(state, len(ids) + 1)
    assert not Closer(shape, made.vocabulary).fits(state, len(ids))
    rest = b"".join(made.vocabulary.pieces[number] or b"" for number in ids)
    whole = shape.step(state, rest)
    assert whole is not None and whole[0] is shape.end
    check_text((written + rest).decode().removeprefix(made.lead).removesuffix(made.tail), case.constraint)


FIELDS = (
    FieldRule("name", "span", min_chars=2),
    FieldRule("office", "span", is_nullable=True),
    FieldRule("event", "choice", ("Appointment", "Death", "Military")),
)


@pytest.mark.parametrize(
    ("written", "closed"),
    [
        ("", "[]"),
        ("[", "[]"),
        ("[{", '[{"name":"二三","office":null,"event":"Death"}]'),
        ('[{"name":"二', '[{"name":"二三","office":null,"event":"Death"}]'),
        ('[{"name":"二三', '[{"name":"二三","office":null,"event":"Death"}]'),
        ('[{"name":"二三","office":"三', '[{"name":"二三","office":"三","event":"Death"}]'),
        ('[{"name":"二三","office":null,"event":"M', '[{"name":"二三","office":null,"event":"Military"}]'),
        ('[{"name":"二三","office":null,"event":"Death"}', '[{"name":"二三","office":null,"event":"Death"}]'),
    ],
)
def test_closing_takes_null_and_the_shortest_and_begins_no_record(written: str, closed: str) -> None:
    shape = Shape(Constraint(FIELDS, "二三"))
    state = shape.step(shape.start, written.encode())
    assert state is not None
    vocabulary = constrainer("embedded").vocabulary
    rest = b"".join(vocabulary.pieces[number] or b"" for number in Closer(shape, vocabulary).ids(state))
    assert written + rest.decode() == closed


def test_closing_tears_no_cluster_though_its_parts_stand_elsewhere() -> None:
    shape, vocabulary = Shape(Constraint((FieldRule("a", "span"),), "👨‍👩‍👧👧🏽")), constrainer("embedded").vocabulary
    state = shape.step(shape.start, '[{"a":"👧'.encode())
    assert state is not None
    rest = b"".join(vocabulary.pieces[number] or b"" for number in Closer(shape, vocabulary).ids(state))
    assert rest.decode() == '🏽"}]'


def test_no_shorter_way_to_end_a_record_exists() -> None:
    source = "二三四\n五"
    fields = (FieldRule("a", "span", max_chars=2), FieldRule("b", "choice", ("Military", "Other", "x")))
    shape, vocabulary = Shape(Constraint(fields, source)), constrainer("embedded").vocabulary
    begun = "[{"
    values = {source[at:end] for at in range(5) for end in range(at + 1, min(at + 2, 5) + 1)}
    replies = [
        json.dumps([{"a": a, "b": b}], ensure_ascii=False, separators=(",", ":")) for a in values for b in fields[1].choices
    ]
    state = shape.step(shape.start, begun.encode())
    assert state is not None
    fewest = min(fewest_ids(reply.removeprefix(begun).encode(), vocabulary.ids) for reply in replies)
    assert len(Closer(shape, vocabulary).ids(state)) == fewest


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        (b'[{"a":"\\', b'n"}]'),
        (b'[{"a":"\\u', b'0000"}]'),
        (b'[{"a":"\\u001', b'0"}]'),
        (b'[{"a":"\xe0', b'\xa0\x80"}]'),
        (b'[{"a":"\xed\x80', b'\x80"}]'),
        (b'[{"a":"\xf0', b'\x90\x80\x80"}]'),
        (b'[{"a":"\xf4\x8f', b'\x80\x80"}]'),
        (b'[{"a":"x', b'"}]'),
        (b'[{"a":', b'"."}]'),
    ],
)
def test_a_character_that_was_begun_is_ended(written: bytes, rest: bytes) -> None:
    shape = Shape(Constraint((FieldRule("a", "free"),)))
    state = shape.step(shape.start, written)
    assert state is not None
    vocabulary = constrainer("embedded").vocabulary
    assert b"".join(vocabulary.pieces[number] or b"" for number in Closer(shape, vocabulary).ids(state)) == rest
    json.loads(written + rest)
