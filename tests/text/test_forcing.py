"""Forced ids: those of gold replies, and never one that the tokenizer would not give whatever follows."""

import itertools
import tempfile
from pathlib import Path

import pytest
from constrained import allowed, constrainer, decoder
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import ANNALS, KINDS, byte_pairs, passages

from whet.records import Message
from whet.text.chat import Chat
from whet.text.closing import Vocabulary
from whet.text.constrain import Constrainer
from whet.text.forcing import Forcer
from whet.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def annals():
    return passages(9, 40)


@pytest.mark.parametrize("kind", ["embedded", *KINDS])
def test_gold_ids_are_allowed_and_what_is_forced_is_gold(kind: str, annals) -> None:
    made, tokenizer = constrainer(kind), decoder(kind)
    bare = Constrainer(tokenizer, made.end_id)
    num_forced = 0
    for example in annals:
        lead = tokenizer.encode("\n")  # what stands before a reply in a prompt
        gold = [*tokenizer.encode("\n" + ANNALS.reply(example))[len(lead) :], made.end_id]
        guide = bare.guide(ANNALS.ask(example).constraint)
        ids = [*guide.begin(256)]
        while not guide.is_ended:
            assert gold[len(ids)] in allowed(guide)
            taken = guide.take(gold[len(ids)], 256 - len(ids))
            num_forced += len(taken) - 1
            ids += taken
            assert ids == gold[: len(ids)]
        assert ids == gold
        assert guide.num_own is None
    assert num_forced >= 40  # the end id of each at least


def test_half_of_a_demo_reply_is_forced(chat: Chat, annals) -> None:
    made = Constrainer.of_chat(chat)
    num_ids = num_asked = 0
    for example in annals:
        gold = chat.training_ids((Message("user", example.text),), ANNALS.reply(example)).answer_ids
        guide = made.guide(ANNALS.ask(example).constraint)
        ids = guide.begin(256)
        while not guide.is_ended:
            ids += guide.take(gold[len(ids)], 256 - len(ids))
            num_asked += 1
        assert ids == gold
        num_ids += len(ids)
    assert num_asked < 0.5 * num_ids


def forcer_of(merges: list[str]) -> Forcer:
    """A forcer for a tokenizer that joins these pairs alone."""
    with tempfile.TemporaryDirectory() as folder:
        byte_pairs(merges).save(str(Path(folder) / "tokenizer.json"))
        tokenizer = Tokenizer(Path(folder))
    return Forcer(tokenizer, Vocabulary(tokenizer.token_bytes()))


@st.composite
def merges(draw: st.DrawFn) -> list[str]:
    """Pairs out of letters and of what earlier pairs made."""
    names, found = [*"abcd"], list[str]()
    for _ in range(draw(st.integers(1, 9))):
        one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        if one + other not in names and len(one + other) < 6:
            names.append(one + other)
            found.append(f"{one} {other}")
    return found


def encode(forcer: Forcer, text: str) -> list[int]:
    return forcer._tokenizer.encode(text)


def test_an_id_that_what_follows_undoes_is_not_forced() -> None:
    """Chopping off the last ids that a longer one could begin in leaves ab, but abcdx is a, bc, dx."""
    forcer = forcer_of(["d x", "c d", "b c", "a b"])
    pieces = forcer._pieces
    assert [pieces[number] for number in encode(forcer, "abcd")] == [b"ab", b"cd"]
    assert [pieces[number] for number in encode(forcer, "abcdx")] == [b"a", b"bc", b"dx"]
    assert forcer.cuts(b"abcd", lambda rest: True) == (3,)
    assert forcer.ids((), b"abcd", (3,)) == ()
    assert forcer.cuts(b"abcd", lambda rest: rest == b"y") == ()
    assert [pieces[number] for number in forcer.ids((), b"abcd", ())] == [b"ab", b"cd"]


@given(merges(), st.text("abcd", max_size=3), st.text("abcd", min_size=1, max_size=7), st.sets(st.sampled_from("abcd")))
def test_forced_ids_are_given_whatever_follows(pairs: list[str], head: str, text: str, follows: set[str]) -> None:
    forcer = forcer_of(pairs)
    ids = encode(forcer, head + text)
    before = next((number for number in range(len(ids) + 1) if forcer_text(forcer, ids[:number]) == head), None)
    if before is None:
        return  # these ids reach across: such a reply was not encoded in one piece
    cuts = forcer.cuts(text.encode(), lambda rest: chr(rest[0]) in follows)
    forced = forcer.ids(ids[:before], text.encode(), cuts)
    for size in range(4):
        for more in itertools.product(sorted(follows), repeat=size):
            whole = encode(forcer, head + text + "".join(more))
            if whole[:before] == ids[:before]:
                assert tuple(whole[before : before + len(forced)]) == forced


def forcer_text(forcer: Forcer, ids: list[int]) -> str:
    return b"".join(forcer._pieces[number] or b"" for number in ids).decode()


def test_a_text_that_holds_a_mark_or_half_a_character_is_left_to_the_model() -> None:
    forcer = constrainer("words").forcer
    assert forcer.ids((), b"<think>", ()) == ()
    assert forcer.ids((), "張".encode()[:2], ()) == ()
    assert forcer.ids((), b"", ()) == ()
