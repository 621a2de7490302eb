"""Rules drop, flag and split; every part of a split value stands where it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from whet.records import Record, Span, Value
from whet.tasks.names import SURNAMES
from whet.tasks.rules import Rule, Rules, Verdict

NAMES = st.builds(
    lambda surname, given: surname + given,
    st.sampled_from([surname for surname in SURNAMES if len(surname) == 1]),
    st.text("濙奇榮幼孜原吉義士溥驥謙璉", min_size=1, max_size=2),
)


def rules(*settings: dict) -> Rules:
    return Rules([TypeAdapter(Rule).validate_python(one) for one in settings])


def record(name: str, start: int = 0, **more: Value | None) -> Record:
    return {"name": Value(name, Span(start, start + len(name)), 0.75), **more}


def texts(setting: dict, name: str, **more: Value | None) -> list[str]:
    return [one["name"].text for one, _ in rules({"kind": "split", "field": "name"} | setting).split(record(name, **more))]


TITLE, KIN = {"kind": "title", "field": "name"}, {"kind": "kinship", "field": "name"}
SHORT = {"kind": "length", "field": "name", "min_chars": 2, "max_chars": 4}


@pytest.mark.parametrize(
    ("setting", "name", "is_caught"),
    [
        (TITLE, "皇帝", True),
        (TITLE, "太子", True),
        (TITLE, "百官", True),
        (TITLE, "文武百官", True),
        (TITLE, "尚书侍郎等", True),
        (TITLE, "皇太子", True),
        (TITLE, "尚書夏原吉", False),
        (TITLE, "于謙", False),
        (TITLE, "王臣", False),
        (TITLE, "王", True),
        (TITLE | {"titles": ["尚書"]}, "皇帝", False),
        (TITLE | {"titles": []}, "皇帝", False),
        (KIN, "其子", True),
        (KIN, "其長子", True),
        (KIN, "母", True),
        (KIN, "張輔之弟", True),
        (KIN, "张辅之孙", True),
        (KIN, "孫承宗", False),
        (KIN, "王子", False),
        (KIN, "陳之孫", False),
        (SHORT, "上", True),
        (SHORT, "𠮷\U000e0100", True),
        (SHORT, "于謙", False),
        (SHORT, "脫脫不花王", True),
        ({"kind": "set", "field": "name", "allowed": ["於謙", "刘瑾"]}, "劉瑾", False),
        ({"kind": "set", "field": "name", "allowed": ["劉瑾"]}, "于謙", True),
        ({"kind": "pattern", "field": "name", "pattern": "[A-Z]"}, "于A", True),
        ({"kind": "pattern", "field": "name", "pattern": "[A-Z]"}, "于謙", False),
        ({"kind": "pattern", "field": "name", "pattern": "^于", "when": "lacking"}, "于謙", False),
        ({"kind": "pattern", "field": "name", "pattern": "^于", "when": "lacking"}, "王直", True),
    ],
)
def test_a_rule_catches_what_it_is_for_and_nothing_else(setting: dict, name: str, is_caught: bool) -> None:
    dropped = rules(setting | {"action": "drop"}).judge(record(name))
    flagged = rules(setting).judge(record(name))
    assert (dropped.rule, bool(dropped.reason)) == ((setting["kind"], True) if is_caught else ("", False))
    assert flagged == Verdict(flags=(setting["kind"],) if is_caught else ())
    assert not is_caught or f"name {name!r}" in dropped.reason


def test_the_first_rule_that_drops_counts_and_flags_add_up() -> None:
    settings = (TITLE | {"flag": "bare"}, SHORT, KIN | {"action": "drop", "flag": "kin_only"})
    assert rules(*settings).judge(record("皇太后皇太子")) == Verdict(flags=("bare", "length"))
    assert rules(*settings).judge(record("母")).rule == "kin_only"
    assert rules(*settings).judge({"name": None}) == Verdict()


@pytest.mark.parametrize(
    ("setting", "name", "parts"),
    [
        ({}, "尚书夏原吉、蹇义", ["夏原吉", "蹇义"]),
        ({}, "胡濙杨士奇", ["胡濙", "杨士奇"]),
        ({}, "胡濙楊士奇楊榮", ["胡濙", "楊士奇", "楊榮"]),
        ({}, "楊榮、金幼孜等", ["楊榮", "金幼孜"]),
        ({}, "少保兼尚書夏原吉及蹇義", ["夏原吉", "蹇義"]),
        ({}, "太子少保尚書夏原吉及蹇義", ["夏原吉", "蹇義"]),
        ({}, "趙與時", ["趙與時"]),
        ({}, "夏原吉", ["夏原吉"]),
        ({}, "司馬光祖", ["司馬光祖"]),
        ({}, "歐陽修司馬光", ["歐陽修司馬光"]),
        ({"names": ["司馬光"]}, "歐陽修、司馬光", ["歐陽修", "司馬光"]),
        ({}, "脫脫不花", ["脫脫不花"]),
        ({}, "夏原吉、", ["夏原吉、"]),
        ({}, "王文成公", ["王文成公"]),
        ({"surnames": []}, "胡濙杨士奇", ["胡濙杨士奇"]),
        ({"surnames": [], "names": ["胡濙", "楊士奇"]}, "胡濙杨士奇", ["胡濙", "杨士奇"]),
        ({"names": ["也先", "阿剌知院"]}, "也先阿剌知院", ["也先", "阿剌知院"]),
        ({"separators": []}, "夏原吉、蹇義", ["夏原吉、蹇義"]),
    ],
)
def test_names_run_together_become_one_each(setting: dict, name: str, parts: list[str]) -> None:
    assert texts(setting, name) == parts


def test_a_value_that_can_be_cut_in_two_ways_stays_whole_and_is_flagged() -> None:
    name = "王文高榮"
    assert texts({"surnames": ["王", "高", "文"]}, name) == ["王文", "高榮"]
    found = rules({"kind": "split", "field": "name", "surnames": ["王", "高", "文"]}).split(record("王高文高榮"))
    assert found == [(record("王高文高榮"), ("run_together",))]


def test_the_records_own_office_is_taken_off_a_name() -> None:
    assert texts({"offices": []}, "掌事夏原吉、蹇義", office=Value("掌事", Span(0, 2))) == ["夏原吉", "蹇義"]


def test_every_part_is_a_record_of_its_own_with_all_other_fields() -> None:
    office = Value("尚書", Span(3, 5), 0.5)
    found = rules({"kind": "split", "field": "name"}).split(record("夏原吉、蹇義", 10, office=office))
    assert found == [
        ({"name": Value("夏原吉", Span(10, 13), 0.75), "office": office}, ("split",)),
        ({"name": Value("蹇義", Span(14, 16), 0.75), "office": office}, ("split",)),
    ]


def test_what_has_no_place_is_not_split() -> None:
    free = {"name": Value("夏原吉、蹇義"), "office": None}
    assert rules({"kind": "split", "field": "name"}, {"kind": "split", "field": "office"}).split(free) == [(free, ())]


@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["、", "，", "", "及", " "]), st.integers(0, 50))
def test_every_part_stands_where_it_says_and_nothing_but_separators_is_lost(names: list[str], between: str, start: int) -> None:
    text = "前" * start + between.join(names) + "後"
    value = between.join(names)
    found = rules({"kind": "split", "field": "name", "names": names}).split(record(value, start))
    at = start
    for one, flags in found:
        part = one["name"]
        assert part.text == text[part.span.start : part.span.end]
        assert part.span.start >= at
        assert set(text[at : part.span.start]) <= set(between)
        at = part.span.end
        assert flags in ((), ("split",), ("run_together",))
    assert len(found) <= max(1, len(names))


@given(st.text(max_size=60), st.integers(0, 5))
def test_any_text_is_split_into_parts_in_their_order(text: str, start: int) -> None:
    found = rules({"kind": "split", "field": "name"}).split(record(text, start)) if text else []
    ends = [start]
    for one, _ in found:
        span = one["name"].span
        assert ends[-1] <= span.start < span.end <= start + len(text)
        assert one["name"].text == text[span.start - start : span.end - start]
        ends.append(span.end)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"kind": "length", "field": "name"}, "does nothing"),
        ({"kind": "length", "field": "name", "min_chars": 3, "max_chars": 2}, "below min_chars"),
        ({"kind": "pattern", "field": "name", "pattern": "("}, "no regular expression"),
        ({"kind": "set", "field": "name", "allowed": []}, "at least 1"),
        ({"kind": "title", "field": "name", "flag": "a b"}, "pattern"),
        ({"kind": "title", "field": "name", "action": "split"}, "'drop' or 'flag'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(setting: dict, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(Rule).validate_python(setting)
