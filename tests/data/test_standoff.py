"""Stand-off JSON: offsets, relations, groups, and rows whose offsets lead nowhere."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from whet.data.rows import Reject, Tally
from whet.data.sources import Source, read
from whet.errors import InputError
from whet.records import Span, Value

SOURCE = TypeAdapter(Source)
TEXT = "少师蹇义、尚书夏原吉卒"
ENTITIES = [
    {"type": "PER", "start": 7, "end": 10, "span": "夏原吉"},
    {"type": "OFI", "start": 0, "end": 2, "span": "少師"},
    {"type": "PER", "start": 2, "end": 4, "span": "蹇義"},
    {"type": "OFI", "start": 5, "end": 7, "span": "尚書"},
]


def held(head, tail, kind="任职"):
    return {"type": kind, "head": head, "tail": tail, "head_span": "?", "tail_span": "?"}


def make(**options):
    return SOURCE.validate_json(json.dumps({"reader": "standoff", "path": "a.json", **options}), strict=True)


def read_all(tmp_path, rows, tally=None, **options):
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return list(read(make(**options), tmp_path, tally))


def row(entities=ENTITIES, relations=(), **more):
    return {"tokens": TEXT, "entities": entities, "relations": list(relations), **more}


def test_a_relation_joins_head_and_tail_in_the_order_of_the_text(tmp_path):
    relations = [held(0, 3), held(2, 1), held(2, 0, "同僚"), held(2, 1)]
    tally = Tally()
    [example] = read_all(tmp_path, [row(relations=relations)], tally, relation="任职")
    assert example.records == (
        {"name": Value("蹇义", Span(2, 4)), "office": Value("少师", Span(0, 2))},
        {"name": Value("夏原吉", Span(7, 10)), "office": Value("尚书", Span(5, 7))},
    )
    assert example.source == "a.json:2"
    assert tally == {"rows": 1}
    [example] = read_all(tmp_path, [row(relations=relations)], relation="同僚", head_field="a", tail_field="b")
    assert [{name: value.text for name, value in record.items()} for record in example.records] == [{"a": "蹇义", "b": "夏原吉"}]


def test_without_a_relation_entities_are_records(tmp_path):
    [example] = read_all(tmp_path, [row()])
    assert [(r["text"].text, r["type"].text) for r in example.records] == [
        ("少师", "OFI"), ("蹇义", "PER"), ("尚书", "OFI"), ("夏原吉", "PER"),
    ]  # fmt: skip
    [example] = read_all(tmp_path, [row()], types=["PER"], text_field="who", type_field="kind")
    assert [r["who"].text for r in example.records] == ["蹇义", "夏原吉"]


def test_a_span_of_other_words_is_counted_and_makes_the_gold_ungrounded(tmp_path):
    off_by_one = [{"type": "PER", "start": 1, "end": 3, "span": "蹇義"}]
    tally = Tally()
    rows = read_all(tmp_path, [row(), row(off_by_one), row([{"type": "PER", "start": 2, "end": 4}])], tally)
    assert tally["rows whose span differs from the text by more than script"] == 1
    assert [found.records[0]["text"].text for found in rows] == ["少师", "蹇義", "蹇义"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row([{"type": "PER", "start": 7, "end": 12}]), "entity 0 stands at 7 to 12 of a text of 11"),
        (row([{"type": "PER", "start": 3, "end": 3}]), "entity 0 stands at 3 to 3"),
        (row([{"type": "PER", "start": -1, "end": 3}]), "entity 0 stands at -1"),
        (row([{"type": "PER", "start": "0", "end": 3}]), "entity 0 stands at '0'"),
        (row([{"type": "PER", "start": True, "end": 3}]), "entity 0 stands at True"),
        (row([{"start": 0, "end": 3}]), "entity 0 has no type"),
        (row(relations=[held(0, 4)]), "relation 0 has the tail 4; there are 4 entities"),
        (row(relations=[held(-1, 2)]), "relation 0 has the head -1"),
        (row(relations=[{"head": 0, "tail": 1}]), "relation 0 has no type"),
        ({"tokens": ["少", "师"], "entities": []}, "token lists with token offsets are not read"),
        ({"entities": []}, "tokens is null"),
        ({"tokens": TEXT}, "entities or relations is no list"),
        ([], "a list where an object is due"),
    ],
)
def test_offsets_that_lead_nowhere_are_rejected(tmp_path, bad, words):
    found, good = read_all(tmp_path, [bad, row()])
    assert isinstance(found, Reject)
    assert found.place == "a.json:2"
    assert words in found.seen
    assert "tokens" in found.nearest
    assert good.text == TEXT


def test_groups(tmp_path):
    rows = [row(orig_id=1), row(orig_id=2), row(orig_id=1, tokens=TEXT + "。"), row()]
    by_text = read_all(tmp_path, rows)
    assert by_text[0].group == by_text[1].group != by_text[2].group
    one, two, three, bad = read_all(tmp_path, rows, group_key="orig_id")
    assert one.group == three.group != two.group
    assert "no orig_id" in bad.seen


def test_a_misspelt_relation_or_type_is_refused(tmp_path):
    with pytest.raises(InputError, match="did you mean 任职"):
        read_all(tmp_path, [row(relations=[held(2, 1)])], relation="任职者")
    with pytest.raises(InputError, match="there are OFI, PER"):
        read_all(tmp_path, [row()], types=["BOOK"])


def test_fields_must_differ():
    for options in ({"text_field": "type"}, {"relation": "x", "head_field": "office"}):
        with pytest.raises(ValidationError):
            make(**options)


def test_jsonl_is_read_too(tmp_path):
    (tmp_path / "a.json").write_text("\n".join(json.dumps(row()) for _ in range(2)))
    assert [found.source for found in read(make(), tmp_path)] == ["a.json:1", "a.json:2"]
