"""Outcomes: as many whole records as the task counts, then as many values as any pairing gives."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from whet.evaluate.outcomes import judge
from whet.records import Span, Value
from whet.tasks.extraction import match

NAMES = ("name", "office")
texts = st.fixed_dictionaries({"name": st.sampled_from("ab"), "office": st.sampled_from(["x", "y", None])})
rows = st.lists(texts, max_size=4)


def records(found: list[dict[str, Any]]) -> list[Any]:
    return [{name: text and Value(text) for name, text in row.items()} for row in found]


@given(gold=rows, said=rows)
def test_as_many_are_right_as_the_task_counts_and_as_many_values_as_can_be(gold: list[Any], said: list[Any]) -> None:
    outcomes = judge(records(gold), records(said), NAMES)
    assert len(outcomes) == len(said)
    assert sum(outcome.is_right for outcome in outcomes) == match(gold, said).tp
    assert all(all(outcome.fields.values()) for outcome in outcomes if outcome.is_right)

    def worth(one: Any, other: Any) -> int:
        equal = [name for name in NAMES if one[name] == other[name]]
        return 100 * (len(equal) == 2) + sum(2 if one[name] is not None else 1 for name in equal)

    padded = [*gold, *[None] * len(said)]
    best = max(
        sum(worth(one, other) for one, other in zip(said, order, strict=True) if other is not None)
        for order in itertools.permutations(padded, len(said))
    )
    found = sum(
        100 * outcome.is_right + sum((2 if row[name] is not None else 1) * outcome.fields[name] for name in NAMES)
        for row, outcome in zip(said, outcomes, strict=True)
    )
    assert found == best


def test_a_value_is_held_against_its_own_record_and_texts_not_places_count() -> None:
    gold = [{"name": Value("a", Span(0, 1)), "office": Value("x")}, {"name": Value("b"), "office": None}]
    said = [{"name": Value("b"), "office": Value("x")}, {"name": Value("a", Span(5, 6)), "office": Value("x")}]
    outcomes = judge(gold, said, NAMES)
    assert [dict(outcome.fields) for outcome in outcomes] == [{"name": True, "office": False}, {"name": True, "office": True}]
    surplus = judge(gold[:1], [said[1], said[1]], NAMES)
    assert sorted(outcome.is_right for outcome in surplus) == [False, True]
    assert [any(outcome.fields.values()) for outcome in judge([], said, NAMES)] == [False, False]
