"""Extraction: strict reading, grounding, and counts held against brute force and against seqeval."""

import itertools
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import official
from hypothesis import assume, given
from hypothesis import strategies as st

from whet.records import Completion, Counts, Example, Message, Score, Span, Value
from whet.tasks.base import Answer, Unread
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings, is_grounded, match
from whet.tasks.reading import place_records
from whet.text.chat import Chat

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXT = "宣德九年，少師蹇義卒。蹇義，巴人也。"
CHOICES = ("Death", "Other")


def task(*fields: FieldSettings, **settings: Any) -> Extraction:
    return Extraction(ExtractionSettings(fields=fields, **settings))


OFFICIALS = task(
    FieldSettings(name="name", about="人名"),
    FieldSettings(name="office", nullable=True),
    FieldSettings(name="event", kind="choice", choices=CHOICES),
)
EXAMPLE = official(TEXT, "蹇義", "少師", "Death")
ENTITIES = task(FieldSettings(name="text"), FieldSettings(name="type", kind="choice", choices=("PER", "OFI")))


def reply(*rows: Any) -> str:
    return json.dumps(rows, ensure_ascii=False)


def row(name: Any = "蹇義", office: Any = "少師", event: Any = "Death", **more: Any) -> dict[str, Any]:
    return {"name": name, "office": office, "event": event, **more}


def score(text: str, example: Example = EXAMPLE, finish: Any = "stop", **more: Any) -> Score:
    return OFFICIALS.score(example, Completion(text, finish, **more))


@pytest.mark.parametrize("system", [None, "你是史官。"])
def test_the_prompt_is_golden(chat: Chat, system: str | None) -> None:
    asked = Extraction(OFFICIALS.settings.model_copy(update={"system": system}))
    golden = GOLDEN / ("extraction_system.txt" if system else "extraction.txt")
    rendered = chat.render([*asked.ask(EXAMPLE).messages, Message("assistant", asked.reply(EXAMPLE))], is_prompt=False)
    assert rendered == golden.read_text(encoding="utf-8")
    assert rendered.startswith(chat.render(asked.ask(EXAMPLE).messages, is_prompt=True))


def test_the_prompt_does_not_know_the_gold() -> None:
    other = official(TEXT, "巴", None, "Other")
    assert OFFICIALS.ask(EXAMPLE) == OFFICIALS.ask(other)
    assert OFFICIALS.reply(EXAMPLE) != OFFICIALS.reply(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "沒有",
        "{}",
        "null",
        '"蹇義"',
        "[",
        reply(row())[:-1],
        reply(row()) + "。",
        reply(row()) * 2,
        "```json\n" + reply(row()) + "\n```",
        reply("蹇義"),
        reply([row()]),
        reply(None),
        reply({"name": "蹇義", "office": "少師"}),
        reply(row(rank="x")),
        reply(row(name=None)),
        reply(row(name="")),
        reply(row(office="")),
        reply(row(name=3)),
        reply(row(name=["蹇義"])),
        reply(row(event="death")),
        reply(row(event=None)),
        reply(row(), row(event="Birth")),
        "[" * 100_000,
        "9" * 5000,
        "NaN",
    ],
)
def test_what_is_not_exactly_asked_for_is_unread_and_costs_every_gold(text: str) -> None:
    read = OFFICIALS.read(EXAMPLE, Completion(text, "stop"))
    assert isinstance(read, Unread)
    assert read.reason
    found = score(text)
    assert (found.status, found.flags["unread"]) == ("unread", 1)
    assert dict(found.counts) == {name: Counts(fn=1) for name in ("record", "name", "office", "event")}


def test_white_space_and_the_order_of_keys_do_not_matter() -> None:
    found = score(json.dumps([dict(reversed(row().items()))], ensure_ascii=True, indent=2) + "\n")
    assert found.counts["record"] == Counts(tp=1)


@pytest.mark.parametrize(
    ("rows", "record", "name", "office"),
    [
        ([row()], (1, 0, 0), (1, 0, 0), (1, 0, 0)),
        ([], (0, 0, 1), (0, 0, 1), (0, 0, 1)),
        ([row(), row()], (1, 1, 0), (1, 1, 0), (1, 1, 0)),  # said twice, there once
        ([row(office=None)], (0, 1, 1), (1, 0, 0), (0, 0, 1)),
        ([row(name="蹇")], (0, 1, 1), (0, 1, 1), (1, 0, 0)),  # a piece of a value is wrong
        ([row(event="Other")], (0, 1, 1), (1, 0, 0), (1, 0, 0)),
        ([row("巴"), row()], (1, 1, 0), (1, 1, 0), (1, 1, 0)),
    ],
)
def test_strict_counts(rows: list[Any], record: Any, name: Any, office: Any) -> None:
    counts = score(reply(*rows)).counts
    assert (counts["record"], counts["name"], counts["office"]) == (Counts(*record), Counts(*name), Counts(*office))


def test_gold_records_that_are_the_same_must_be_said_as_often() -> None:
    twice = Example("e", TEXT, "f:1", "g", records=(EXAMPLE.records or ()) * 2)
    assert score(reply(row()), twice).counts["record"] == Counts(tp=1, fn=1)
    assert score(reply(row(), row()), twice).counts["record"] == Counts(tp=2)
    assert score(reply(row(), row(), row()), twice).counts["record"] == Counts(tp=2, fp=1)


def test_null_on_both_sides_is_no_match_of_the_field() -> None:
    gold = official(TEXT, "蹇義", None, "Death")
    counts = score(reply(row(office=None)), gold).counts
    assert counts["office"] == Counts()
    assert counts["record"] == Counts(tp=1)


def test_a_true_negative_is_nothing_said_of_nothing() -> None:
    negative = Example("e", TEXT, "f:1", "g", records=())
    assert OFFICIALS.reply(negative) == "[]"
    assert score("[]", negative).counts["record"] == Counts()
    assert score(reply(row()), negative).counts["record"] == Counts(fp=1)


def test_what_is_not_in_the_text_is_counted_as_ungrounded() -> None:
    found = score(reply(row("楊士奇", "少保"), row()))
    assert (found.flags["ungrounded"], found.flags["span_values"]) == (2, 4)
    assert found.counts["record"] == Counts(tp=1, fp=1)
    read = OFFICIALS.read(EXAMPLE, Completion(reply(row("楊士奇")), "stop"))
    assert isinstance(read, Answer)
    assert read.records[0]["name"] == Value("楊士奇", None)


@pytest.mark.parametrize("text", [reply(row()), reply(row())[:-3], "[]"])
def test_a_cut_reply_that_nobody_closed_is_never_read_even_if_it_could_be(text: str) -> None:
    found = score(text, finish="length")
    assert (found.status, dict(found.flags)) == ("unread", {"truncated": 1, "violated": 0, "unread": 1})
    assert found.counts["record"] == Counts(fn=1)


def test_a_cut_reply_that_was_closed_is_scored_by_its_whole_records_and_counted() -> None:
    text = reply(row(), row("巴"))
    found = score(text, finish="length", cut_at=text.index("巴"))
    assert found.status == "read"
    assert (found.flags["truncated"], found.flags["cut_records"], found.flags["span_values"]) == (1, 1, 2)
    assert found.counts["record"] == Counts(tp=1)
    assert score(text, finish="length", cut_at=len(text)).counts["record"] == Counts(tp=1, fp=1)


def test_a_broken_constraint_is_counted_and_the_reply_scored_by_what_it_says() -> None:
    scores = [
        score(reply(row()), violation="楊 is no piece of the source"),
        score("x", violation="not JSON"),
        score(reply(row())),
    ]
    total = OFFICIALS.total(scores)
    assert (total.rates["violated"], total.rates["unread"]) == (2 / 3, 1 / 3)
    assert total.measures["record"]["tp"] == 2


def test_an_error_is_never_scored() -> None:
    failed = score("[]", finish="error", error="no connection")
    assert (failed.status, dict(failed.counts), failed.right) == ("error", {}, None)
    good = score(reply(row()))
    total = OFFICIALS.total([good, failed])
    assert total.measures["record"]["f1"] == 1.0
    assert (total.num_asked, total.num_scored, total.rates["error"]) == (2, 1, 0.5)


def test_totals_are_sums_over_examples_and_shares_of_what_was_answered() -> None:
    scores = [score(reply(row())), score(reply(row("楊士奇"))), score("x"), score(reply(row(), row("巴")), finish="length")]
    total = OFFICIALS.total(scores)
    assert total.headline == ("record", "f1")
    assert {name: total.measures["record"][name] for name in ("tp", "fp", "fn")} == {"tp": 1, "fp": 1, "fn": 3}
    assert total.measures["record"]["f1"] == pytest.approx(1 / 3)
    assert total.rates == {"unread": 0.5, "truncated": 0.25, "ungrounded": 1 / 4, "violated": 0.0, "error": 0.0}
    nothing = OFFICIALS.total([])
    assert (nothing.num_asked, nothing.measures["record"]["f1"], nothing.rates["error"]) == (0, 0.0, 0.0)


def most_matches(gold: list[Any], said: list[Any]) -> int:
    """Brute force: the most pairs of equal entries, over every way to line the two lists up."""
    short, long = sorted((gold, said), key=len)
    return max(sum(a == b for a, b in zip(short, order, strict=False)) for order in itertools.permutations(long))


@given(gold=st.lists(st.sampled_from("abc"), max_size=5), said=st.lists(st.sampled_from("abc"), max_size=5))
def test_matching_is_the_best_of_all_alignments(gold: list[str], said: list[str]) -> None:
    tp = most_matches(gold, said)
    assert match(gold, said) == Counts(tp, len(said) - tp, len(gold) - tp)


rows = st.lists(
    st.builds(row, st.sampled_from(["蹇義", "巴", "楊榮"]), st.sampled_from(["少師", None]), st.sampled_from(CHOICES)), max_size=4
)


@given(gold=rows, said=rows)
def test_counts_of_records_and_fields_are_the_brute_force_ones(gold: list[dict[str, Any]], said: list[dict[str, Any]]) -> None:
    records = place_records(gold, OFFICIALS.rules, TEXT)
    counts = score(reply(*said), Example("e", TEXT, "f:1", "g", records=records)).counts
    tp = most_matches(gold, said)
    assert counts["record"] == Counts(tp, len(said) - tp, len(gold) - tp)
    for name in ("name", "office", "event"):
        left = [entry[name] for entry in gold if entry[name] is not None]
        right = [entry[name] for entry in said if entry[name] is not None]
        assert counts[name] == Counts(
            most_matches(left, right), len(right) - most_matches(left, right), len(left) - most_matches(left, right)
        )


@st.composite
def tagged(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, str]], list[tuple[int, int, str]]]:
    """A text of distinct characters, and two taggings of it without overlaps."""
    text = "".join(chr(0x4E00 + 7 * at) for at in range(draw(st.integers(1, 14))))

    def tagging() -> list[tuple[int, int, str]]:
        cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
        pieces = [(a, b, draw(st.sampled_from(["PER", "OFI", ""]))) for a, b in itertools.pairwise(cuts)]
        return [piece for piece in pieces if piece[2]]

    return text, tagging(), tagging()


def bio(text: str, spans: list[tuple[int, int, str]]) -> list[str]:
    tags = ["O"] * len(text)
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


@given(corpus=st.lists(tagged(), min_size=1, max_size=4))
def test_entity_scores_are_those_of_seqeval(corpus: list[tuple[str, Any, Any]]) -> None:
    assume(any(gold for _, gold, _ in corpus) and any(said for _, _, said in corpus))
    scores = []
    for number, (text, gold, said) in enumerate(corpus):
        entries = [[{"text": text[a:b], "type": kind} for a, b, kind in spans] for spans in (gold, said)]
        records = place_records(entries[0], ENTITIES.rules, text)
        example = Example(f"e{number}", text, "f:1", "g", records=records)
        scores.append(ENTITIES.score(example, Completion(reply(*entries[1]), "stop")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns where one side is empty
        from seqeval.metrics import f1_score, precision_score, recall_score
        from seqeval.scheme import IOB2

        tags = [[bio(text, gold) for text, gold, _ in corpus], [bio(text, said) for text, _, said in corpus]]
        wanted = [measure(*tags, mode="strict", scheme=IOB2) for measure in (precision_score, recall_score, f1_score)]
    found = ENTITIES.total(scores).measures["record"]
    assert [found["precision"], found["recall"], found["f1"]] == pytest.approx(wanted)


@st.composite
def labelled(draw: st.DrawFn) -> Example:
    """An example of any text whose gold stands in it."""
    text = draw(st.text(min_size=1, max_size=20))
    records = []
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        office = Value(text[:end], Span(0, end)) if draw(st.booleans()) else None
        records.append(
            {"name": Value(text[start:end], Span(start, end)), "office": office, "event": Value(draw(st.sampled_from(CHOICES)))}
        )
    return Example("e", text, "f:1", "g", records=tuple(records))


@given(example=labelled())
def test_the_gold_reply_reads_back_as_the_gold_and_is_grounded(example: Example) -> None:
    read = OFFICIALS.read(example, Completion(OFFICIALS.reply(example), "stop"))
    assert isinstance(read, Answer)
    assert read.ungrounded == 0
    assert len(read.records) == len(example.records or ())
    for said, gold in zip(read.records, example.records or (), strict=True):
        for field in OFFICIALS.fields:
            a, b = said[field.name], gold[field.name]
            assert (a and a.text) == (b and b.text)
            assert a is None or field.kind != "span" or is_grounded(a, example.text)
    counts = OFFICIALS.score(example, Completion(OFFICIALS.reply(example), "stop")).counts
    assert all(count.fp == count.fn == 0 for count in counts.values())
    if not any(fault.startswith("empty: the text") for fault in OFFICIALS.faults(example)):
        assert OFFICIALS.faults(example) == ()


def test_faults_of_the_gold_are_named_by_kind() -> None:
    gold = {"name": Value("蹇義", Span(6, 8)), "office": Value("少師"), "event": Value("Birth")}
    faults = OFFICIALS.faults(Example("e", TEXT, "f:1", "g", records=(gold, {"name": None})))
    assert Counter(fault.partition(":")[0] for fault in faults) == {"ungrounded": 2, "choice": 1, "empty": 2}
    assert any("office" in fault for fault in faults if fault.startswith("ungrounded"))  # no span is no proof
    assert OFFICIALS.faults(EXAMPLE) == ()
    assert OFFICIALS.faults(Example("e", " \n", "f:1", "g", records=()))[0].startswith("empty")
    (fault,) = task(FieldSettings(name="note", kind="free")).faults(
        Example("e", TEXT, "f:1", "g", records=({"note": Value("")},))
    )
    assert fault.startswith("empty: note")


def test_a_chat_row_is_adopted_where_its_reply_holds_records() -> None:
    chat_row = Example("e", TEXT, "f:1", "g", messages=(Message("user", TEXT), Message("assistant", OFFICIALS.reply(EXAMPLE))))
    adopted = OFFICIALS.adopt(chat_row)
    assert isinstance(adopted, Example)
    gold = (EXAMPLE.records or ())[0]
    assert adopted.messages == ()
    assert [{**record, "name": gold["name"]} for record in adopted.records or ()] == [gold]
    assert (adopted.records or ())[0]["name"] == Value("蹇義", Span(7, 9), is_ambiguous=True)
    assert isinstance(OFFICIALS.adopt(Example("e", TEXT, "f:1", "g", messages=(Message("assistant", "好"),))), Unread)
    assert isinstance(OFFICIALS.adopt(Example("e", TEXT, "f:1", "g")), Unread)
    assert OFFICIALS.adopt(EXAMPLE) is EXAMPLE
