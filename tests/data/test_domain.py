"""Domain sets: every row is kept or dropped with its reason, nothing near is left, and categories are balanced."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.clean import normalised, question_of
from whet.data.domain import REASONS, DomainSettings, Guarded, make_domain, share_out, to_row
from whet.data.near import jaccard, ngrams
from whet.data.rows import Reject
from whet.records import Example, Message

WORDS = [
    "the",
    "cell",
    "wall",
    "of",
    "plants",
    "holds",
    "water",
    "and",
    "sugar",
    "while",
    "roots",
    "take",
    "salt",
    "from",
    "soil",
    "at",
    "night",
    "under",
    "rain",
]


def question(at, text=None, category="", answer=0, choices=("yes", "no")):
    text = (
        text
        if text is not None
        else " ".join(WORDS[(at * 7 + step * (at % 5 + 1)) % len(WORDS)] for step in range(12)) + f" {at * 977}?"
    )
    return Example(f"e{at}", text, f"f.jsonl:{at + 1}", f"g{at}", category, choices=choices, answer=answer)


def make(rows, guarded=(), **settings):
    return make_domain(
        rows, lambda example: ("choice: bad",) if example.answer == 9 else (), guarded, DomainSettings(name="d", **settings)
    )


def reasons(domain):
    return {row.place: row.reason for row in domain.dropped}


def test_each_row_is_kept_or_dropped_with_its_reason():
    rows = [
        question(0), question(1, answer=9), Reject("f.jsonl:99", "no object", "", "", "{"),
        question(2), replace(question(2), id="e2b", source="f.jsonl:50", text=question(2).text.upper().replace("?", " !")),
        question(3), replace(question(3, answer=1), id="e3b", source="f.jsonl:51"),
        question(4), replace(question(4), id="e4b", source="f.jsonl:52", text="Now " + question(4).text),
        question(5), question(6),
    ]  # fmt: skip
    guarded = [
        Guarded("s", "p", replace(question(5), id="q")),
        Guarded("s", "p", replace(question(6, text="So: " + question(6).text), id="r")),
    ]
    domain = make(rows, guarded)
    assert reasons(domain) == {
        "f.jsonl:2": "faulty", "f.jsonl:99": "unreadable", "f.jsonl:50": "duplicate", "f.jsonl:4": "conflicting",
        "f.jsonl:51": "conflicting", "f.jsonl:52": "near_duplicate", "f.jsonl:6": "in_suite", "f.jsonl:7": "near_suite",
    }  # fmt: skip
    assert [example.id for example in domain.examples] == ["e0", "e2", "e4"]
    assert domain.num_read == len(rows) == len(domain.examples) + len(domain.dropped)
    assert list(domain.counts()) == list(REASONS)
    assert sum(domain.counts().values()) == len(domain.dropped)
    seen = {row.place: row.seen for row in domain.dropped}
    assert seen["f.jsonl:6"] == "stands in s/p q (f.jsonl:6)"
    assert seen["f.jsonl:7"].endswith("like s/p r (f.jsonl:7)")


def test_a_question_is_met_in_a_suite_with_choices_or_without():
    free = Example(
        "x",
        "Which wall holds water?",
        "g:1",
        "g",
        messages=(Message("user", "Which wall holds water?"), Message("assistant", "a")),
    )
    choice = question(1, text="Which wall holds water?")
    assert reasons(make([free], [Guarded("s", "p", choice)])) == {"g:1": "in_suite"}
    assert reasons(make([choice], [Guarded("s", "p", free)])) == {"f.jsonl:2": "in_suite"}
    other = replace(choice, choices=("oak", "pine"))  # another question, though it begins alike
    assert reasons(make([choice], [Guarded("s", "p", other)], near_threshold=0.99)) == {}


def test_no_two_near_questions_are_left():
    rows = [question(at) for at in range(150)]
    rows += [
        replace(question(at), id=f"v{at}", source=f"v:{at}", text=question(at).text.replace("cell", "cells"))
        for at in range(0, 150, 3)
    ]
    domain = make(rows, near_threshold=0.7)

    def grams(example):
        return ngrams(normalised(question_of(example)), 3, 5)

    kept = [(example, grams(example)) for example in domain.examples]
    assert all(jaccard(x, y) < 0.7 for (_, x), (_, y) in itertools.combinations(kept, 2))
    by_place = {row.source: row for row in rows}
    for row in domain.dropped:  # and each that was dropped is near to one that was kept
        assert any(jaccard(grams(by_place[row.place]), other) >= 0.7 for _, other in kept)


def test_the_first_of_near_ones_stays_and_chains_do_not_take_all():
    base = [*WORDS, "one", "two", "three", "four", "five", "six", "seven", "eight"]
    chain = [question(at, text=" ".join(base[at * 2 : at * 2 + 18])) for at in range(5)]
    kept = [example.id for example in make(chain, near_threshold=0.6).examples]
    assert kept[0] == "e0"
    assert len(kept) > 1


def test_categories_are_balanced_by_seed_and_not_by_place():
    rows = [question(at, category="abc"[0 if at < 90 else 1 if at < 120 else 2]) for at in range(130)]
    domain = make(rows, size=60, near_threshold=1.0)
    assert domain.kept == {"a": 25, "b": 25, "c": 10}
    assert {row.reason for row in domain.dropped} == {"surplus"}
    again = make(rows[::-1], size=60, near_threshold=1.0)
    assert {example.id for example in again.examples} == {example.id for example in domain.examples}
    assert {example.id for example in make(rows, size=60, near_threshold=1.0, seed=1).examples} != {
        example.id for example in domain.examples
    }
    assert [example.id for example in domain.examples] == sorted((e.id for e in domain.examples), key=lambda id_: int(id_[1:]))


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 200))
def test_shares_are_as_equal_as_the_numbers_allow(there, size):
    shares = share_out(there, size)
    assert sum(shares.values()) == min(size, sum(there.values()))
    assert all(shares[name] <= there[name] for name in there)
    for poor, rich in itertools.permutations(there, 2):
        assert shares[poor] == there[poor] or shares[rich] <= shares[poor] + 1


def test_without_a_size_all_stay():
    assert share_out({"a": 3, "b": 9}, None) == {"a": 3, "b": 9}


def test_rows_are_of_a_known_format():
    assert to_row(question(1, category="c")).keys() == {"id", "category", "source", "question", "choices", "answer"}
    free = Example("x", "q", "g:1", "g", messages=(Message("user", "q"), Message("assistant", "a")))
    assert to_row(free)["messages"] == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("name", ["", "a/b", "../x"])
def test_a_name_is_a_file_name(name):
    with pytest.raises(ValueError, match="name"):
        DomainSettings(name=name)


def test_counts_are_those_of_the_rows():
    domain = make([question(at, category="ab"[at % 2]) for at in range(20)], size=7, near_threshold=1.0)
    assert Counter(example.category for example in domain.examples) == Counter(domain.kept) == {"a": 4, "b": 3}
    assert domain.there == {"a": 10, "b": 10}
