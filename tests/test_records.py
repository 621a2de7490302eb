"""The nouns that travel: they survive JSON, and counts add up."""

import json

from hypothesis import given
from hypothesis import strategies as st

from whet.records import (
    Completion,
    Counts,
    Example,
    Message,
    Span,
    Step,
    Value,
    completion_from_json,
    completion_to_json,
    example_from_json,
    example_to_json,
)

spans = st.builds(Span, st.integers(0, 99), st.integers(0, 99))
shares = st.floats(0, 1)
values = st.builds(Value, st.text(max_size=4), st.none() | spans, st.none() | shares, st.booleans())
records = st.dictionaries(st.text(max_size=4), st.none() | values, max_size=3)
steps = st.lists(st.builds(Step, st.integers(0, 9), st.floats(-9, 0)), max_size=3).map(tuple)
completions = st.builds(
    Completion,
    st.text(max_size=6),
    st.sampled_from(["stop", "length", "error"]),
    steps=steps,
    cut_at=st.none() | st.integers(0, 9),
    violation=st.text(max_size=3),
)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=6))
heads = {name: st.text(max_size=6) for name in ("id", "text", "source", "group", "category")}
examples = st.one_of(
    st.builds(Example, **heads, records=st.lists(records, max_size=3).map(tuple)),
    st.builds(
        Example, **heads, choices=st.lists(st.text(max_size=3), min_size=1, max_size=4).map(tuple), answer=st.integers(0, 3)
    ),
    st.builds(Example, **heads, messages=st.lists(messages, min_size=1, max_size=3).map(tuple)),
)
counts = st.builds(Counts, st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))


@given(example=examples)
def test_an_example_survives_json(example: Example) -> None:
    assert example_from_json(json.loads(json.dumps(example_to_json(example)))) == example


@given(completion=completions)
def test_a_completion_survives_json_with_its_steps(completion: Completion) -> None:
    row = json.loads(json.dumps({"id": "x", **completion_to_json(completion), "score": {}}))
    assert completion_from_json(row) == completion
    # Answers that were kept before there were steps.
    assert completion_from_json({"text": "a", "finish": "stop"}) == Completion("a", "stop")


def test_no_records_and_a_true_negative_are_two_things() -> None:
    unlabelled, negative = (Example("a", "t", "s", "g", records=gold) for gold in (None, ()))
    assert "records" not in example_to_json(unlabelled)
    assert example_from_json(example_to_json(negative)).records == ()


@given(a=counts, b=counts)
def test_counts_add_up_and_f1_is_the_harmonic_mean(a: Counts, b: Counts) -> None:
    total = a + b
    assert (total.tp, total.fp, total.fn) == (a.tp + b.tp, a.fp + b.fp, a.fn + b.fn)
    if total.precision + total.recall:
        harmonic = 2 * total.precision * total.recall / (total.precision + total.recall)
        assert abs(total.f1 - harmonic) < 1e-12
    else:
        assert total.f1 == 0.0
