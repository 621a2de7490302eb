"""Reading: the places of values in a reply, what a cut leaves, and which tokens a confidence rests on."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.records import Completion, FieldRule, Span, Step, Value
from whet.tasks.base import Answer, Evidence, Unread
from whet.tasks.reading import place_records, read_reply

SOURCE = "宣德九年，少師蹇義卒。蹇義，巴人也。"
RULES = (
    FieldRule("name", "span"),
    FieldRule("office", "span", is_nullable=True),
    FieldRule("event", "choice", choices=("Death", "Other")),
)
REPLY = '[{"name":"蹇義","office":"少師","event":"Death"},{"name":"巴","office":null,"event":"Other"}]'


def steps_of(tokens: Sequence[str], log_probs: Sequence[float]) -> tuple[Step, ...]:
    """Steps of tokens that are whole characters."""
    steps, end = [], 0
    for token, log_prob in zip(tokens, log_probs, strict=True):
        end += len(token)
        steps.append(Step(end, log_prob))
    return tuple(steps)


def read(text: str, rules: Sequence[FieldRule] = RULES, **more: Any) -> Answer:
    answer = read_reply(rules, SOURCE, Completion(text, **({"finish": "stop"} | more)))
    assert isinstance(answer, Answer), answer
    return answer


def test_values_have_places_and_say_whether_those_are_certain() -> None:
    answer = read(REPLY)
    assert answer.records == (
        {"name": Value("蹇義", Span(7, 9), is_ambiguous=True), "office": Value("少師", Span(5, 7)), "event": Value("Death")},
        {"name": Value("巴", Span(14, 15)), "office": None, "event": Value("Other")},
    )
    assert (answer.ungrounded, answer.num_cut, answer.confidences, answer.evidence) == (0, 0, (), ())


@pytest.mark.parametrize("cut_at", range(len(REPLY) + 1))
def test_a_record_whose_last_value_was_not_finished_is_cut(cut_at: int) -> None:
    """The fixed characters after a record's last value say nothing: without them it is whole."""
    ends = [REPLY.index(',"event":"Other"') + len(',"event":"Other"'), REPLY.index('"Death"') + len('"Death"')]
    answer = read(REPLY, finish="length", cut_at=cut_at, steps=steps_of(REPLY, [-0.1] * len(REPLY)))
    assert len(answer.records) == sum(end <= cut_at for end in ends)
    assert answer.num_cut == 2 - len(answer.records)
    assert len(answer.evidence) == len(answer.confidences) == len(answer.records)
    assert answer.records == tuple(read(REPLY, steps=steps_of(REPLY, [-0.1] * len(REPLY))).records[: len(answer.records)])


def test_an_error_and_a_reply_that_was_cut_open_are_unread() -> None:
    failed = read_reply(RULES, SOURCE, Completion("[]", "error", error="down"))
    assert failed == Unread("the engine failed (down)")
    assert isinstance(read_reply(RULES, SOURCE, Completion("[]", "length")), Unread)
    assert read_reply(RULES, SOURCE, Completion("[]", "length", cut_at=1)) == Answer()


TOKENS = ['[{"', "name", '":"', "蹇", "義", '","', "office", '":"', "少師", '","', "event", '":"', "De", "ath", '"},{"']
TOKENS += ["name", '":"', "巴", '","', "office", '":', "null", ',"', "event", '":"', "Other", '"}]', ""]


def test_each_value_is_decided_in_its_own_tokens() -> None:
    assert "".join(TOKENS) == REPLY
    chosen = {0: 0.9, 3: 0.8, 4: 0.5, 5: 0.4, 7: 0.95, 8: 0.7, 9: 0.99, 12: 0.6, 14: 0.3, 17: 0.25, 20: 0.85, 25: 0.55, 27: 0.1}
    answer = read(REPLY, steps=steps_of(TOKENS, [math.log(chosen.get(at, 1.0)) for at in range(len(TOKENS))]))
    first, second = answer.records

    def said(value: Value | None) -> float:
        assert value is not None
        assert value.confidence is not None
        return value.confidence

    assert said(first["name"]) == pytest.approx(0.8 * 0.5 * 0.4)  # 0.4: that the name ends here
    assert said(first["office"]) == pytest.approx(0.95 * 0.7 * 0.99)  # 0.95: that it is not null
    assert said(first["event"]) == pytest.approx(0.6 * 0.3)
    assert said(second["name"]) == pytest.approx(0.25)
    assert second["office"] is None
    assert answer.evidence[1].fields["office"] == Evidence(pytest.approx(math.log(0.85)), pytest.approx(math.log(0.85)), 1)  # type: ignore[arg-type]
    assert math.exp(answer.evidence[0].begin.total) == pytest.approx(0.9)
    assert math.exp(answer.evidence[1].begin.total) == pytest.approx(0.3)  # the token that ends one record begins the next
    assert answer.confidences[0] == pytest.approx(0.9 * 0.8 * 0.5 * 0.4 * 0.95 * 0.7 * 0.99 * 0.6 * 0.3)
    assert answer.confidences[1] == pytest.approx(0.3 * 0.25 * 0.85 * 0.55)
    evidence = answer.evidence[0].fields["name"]
    assert (evidence.num_tokens, evidence.lowest) == (3, math.log(0.4))
    assert evidence.mean == pytest.approx(math.log(0.16) / 3)
    assert Evidence(0.0, 0.0, 0).mean == 0.0


words = st.text(st.sampled_from('甲乙"\\\n𠮷é\u0301😀{}[]:, '), min_size=1, max_size=4)
replies = st.lists(st.tuples(words, st.none() | words, st.sampled_from(["Death", "Other"])), max_size=3)


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, float]], list[dict[str, tuple[int, int]]]]:
    """A reply, its bytes cut into tokens anywhere, and where each field's characters from its key's closing quote on stand."""
    text, places = "[", []
    separators = (",", ":") if draw(st.booleans()) else (", ", " : ")
    for name, office, event in draw(replies):
        text += separators[0] if places else ""
        places.append({})
        for key, value in {"name": name, "office": office, "event": event}.items():
            text += ("{" if key == "name" else separators[0]) + f'"{key}'
            start = len(text)
            text += '"' + separators[1] + json.dumps(value, ensure_ascii=draw(st.booleans()))
            places[-1][key] = (start, len(text))
        text += "}"
    text += "]"
    raw = text.encode()
    cuts = sorted({0, len(raw)} | draw(st.sets(st.integers(0, len(raw)), max_size=30)))
    probabilities = st.floats(-3, 0) | st.just(0.0)
    return text, [(a, b, draw(probabilities)) for a, b in itertools.pairwise(cuts)], places


def characters(text: str, start: int, end: int) -> set[int]:
    """The characters of which the bytes `start` to `end` are a part."""
    owners = [at for at, character in enumerate(text) for _ in character.encode()]
    return set(owners[start:end])


@given(case=tokenised())
def test_evidence_is_that_of_the_tokens_that_overlap_whatever_the_tokenizer(
    case: tuple[str, list[tuple[int, int, float]], list[dict[str, tuple[int, int]]]],
) -> None:
    text, tokens, places = case
    raw = text.encode()
    steps = tuple(Step(len(raw[:end].decode(errors="ignore")), log_prob) for _, end, log_prob in tokens)
    answer = read(text, steps=(*steps, Step(len(text), -1.0)))  # and the token that ends the turn
    before = 0
    for record, evidence, confidence in zip(places, answer.evidence, answer.confidences, strict=True):
        ranges = {**record, "begin": (before, record["name"][0]), "whole": (before, record["event"][1])}
        for name, (start, end) in ranges.items():
            # A token that holds parts of two characters counts for the first, unless it ends none.
            wanted = []
            for a, b, log_prob in tokens:
                touched = sorted(characters(text, a, b))
                ended = [at for at in touched if len(text[: at + 1].encode()) <= b]
                if any(start <= at < end for at in (ended or touched[:1])):
                    wanted.append(log_prob)
            found = {"begin": evidence.begin, "whole": evidence.whole}.get(name) or evidence.fields[name]
            assert found.total == pytest.approx(math.fsum(wanted), abs=1e-9)
            assert found.lowest == min(wanted, default=0.0)
            assert found.num_tokens == sum(log_prob < 0 for log_prob in wanted)
        assert confidence == pytest.approx(math.exp(evidence.whole.total))
        before = record["event"][1]


def test_a_record_is_the_product_of_its_parts_where_no_token_is_shared() -> None:
    at = TOKENS.index('"},{"')
    tokens = [*TOKENS[:at], '"', '},{"', *TOKENS[at + 1 :]]
    keys = {"name", "office", "event", ',"'}  # they follow of themselves
    log_probs = [0.0 if token in keys else -0.01 * (1 + number % 7) for number, token in enumerate(tokens)]
    answer = read(REPLY, steps=steps_of(tokens, log_probs))
    for evidence, confidence in zip(answer.evidence, answer.confidences, strict=True):
        total = math.fsum([evidence.begin.total, *(found.total for found in evidence.fields.values())])
        assert evidence.whole.total == pytest.approx(total)
        assert confidence == pytest.approx(math.exp(total))


@given(
    rows=st.lists(st.fixed_dictionaries({"name": st.sampled_from(["蹇義", "巴", "楊榮"]), "office": st.none() | st.just("少師")}))
)
def test_placed_records_hold_the_same_texts_and_stand_where_they_say(rows: list[dict[str, Any]]) -> None:
    records = place_records(rows, RULES[:2], SOURCE)
    assert [{name: value and value.text for name, value in record.items()} for record in records] == rows
    for value in (value for record in records for value in record.values() if value):
        if value.span:
            assert SOURCE[value.span.start : value.span.end] == value.text
        else:
            assert value.text == "楊榮"
