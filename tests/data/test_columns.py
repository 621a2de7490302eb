"""Columns: entities against seqeval's reading of the same tags, illegal sequences, groups, spaces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from seqeval.metrics.sequence_labeling import get_entities

from whet.data.columns import find_entities
from whet.data.rows import Reject, Tally
from whet.data.sources import Source, read
from whet.errors import InputError
from whet.records import Span, Value

SOURCE = TypeAdapter(Source)


def make(**options):
    return SOURCE.validate_json(json.dumps({"reader": "columns", "path": "a.txt", **options}), strict=True)


def read_all(tmp_path, text, tally=None, **options):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    return list(read(make(**options), tmp_path, tally))


def column(tokens, tags):
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"


TAGS = st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIMES" for t in ("PER", "LOC"))]), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(TAGS, st.booleans())
def test_any_tags_are_read_as_seqeval_does(tags, ends_marked):
    entities, _ = find_entities(tags, ends_marked)
    wanted = get_entities([tag.replace("M-", "I-") for tag in tags])
    assert [(e.type, e.start, e.end - 1) for e in entities] == wanted


WORDS = st.lists(st.tuples(st.sampled_from(["O", "PER", "LOC"]), st.integers(1, 4)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.sampled_from(["BIO", "BIOES", "BMES"]))
def test_legal_tags_have_no_fault_and_a_broken_one_has(words, scheme):
    tags, wanted = [], []
    for kind, length in words:
        if kind == "O":
            tags += ["O"] * length
            continue
        wanted.append((kind, len(tags), len(tags) + length))
        inner = "M" if scheme == "BMES" else "I"
        prefixes = ["B"] + [inner] * (length - 1)
        if scheme != "BIO":
            prefixes = ["S"] if length == 1 else ["B"] + [inner] * (length - 2) + ["E"]
        tags += [f"{prefix}-{kind}" for prefix in prefixes]
    entities, faults = find_entities(tags, scheme != "BIO")
    assert [(e.type, e.start, e.end) for e in entities] == wanted
    assert faults == []
    broken = [*tags, "O", "I-PER"]
    assert find_entities(broken, False)[1] == [(len(tags) + 1, "I-PER after O: nothing of type PER is open")]


def test_places_are_of_the_joined_text(tmp_path):
    text = column(["In", "New", "York", "."], ["O", "B-LOC", "I-LOC", "O"])
    [example] = read_all(tmp_path, text, joiner=" ")
    assert example.text == "In New York ."
    assert example.records == ({"text": Value("New York", Span(3, 11)), "type": Value("LOC")},)
    [example] = read_all(tmp_path, text, text_field="x", type_field="y", types=["LOC"])
    assert (example.text, example.records[0]["x"]) == ("InNewYork.", Value("NewYork", Span(2, 9)))


def test_line_ends_spaces_and_columns_are_tolerated(tmp_path):
    text = "\ufeff\r\nEU NNP I-NP B-ORG  \r\nrejects VBZ I-VP O\r\n \r\n\t\r\nPeter NNP I-NP B-PER"
    one, two = read_all(tmp_path, text, joiner=" ")
    assert (one.text, one.source, one.records[0]["text"].text) == ("EU rejects", "a.txt:2", "EU")
    assert (two.text, two.source, two.records[0]["type"].text) == ("Peter", "a.txt:6", "PER")
    pos = read_all(tmp_path, "NNP\tEU\tO\n", token_column=1)
    assert pos[0].text == "EU"


def test_a_space_may_be_a_token(tmp_path):
    [example] = read_all(tmp_path, "蹇\tB-PER\n \tO\n\u3000\tO\n義\tB-PER\n")
    assert example.text == "蹇 \u3000義"
    assert [record["text"].span for record in example.records] == [Span(0, 1), Span(3, 4)]


@pytest.mark.parametrize(
    ("tags", "line", "words"),
    [
        (["O", "I-PER"], 2, "I-PER after O"),
        (["B-PER", "I-LOC"], 2, "PER is not ended before I-LOC"),
        (["B-PER", "O", "S-LOC"], 2, "PER is not ended before O"),
        (["S-PER", "B-PER"], 2, "PER is not ended before the end"),
        (["B-PER", "B-PER", "E-PER"], 2, "PER is not ended before B-PER"),
        (["O", "E-PER"], 2, "E-PER after O"),
        (["O", "X-PER"], 2, "unknown tag 'X-PER'"),
        (["B", "O"], 1, "unknown tag 'B'"),
    ],
)
def test_illegal_tags_are_rejected_with_their_line(tmp_path, tags, line, words):
    good = column("楊榮", ["B-PER", "E-PER"])
    text = column("蹇義卒"[: len(tags)], tags)
    bad, kept = read_all(tmp_path, text + good)
    assert isinstance(bad, Reject)
    assert bad.place == f"a.txt:{line}"
    assert words in bad.seen
    assert bad.raw == "蹇義卒"[: len(tags)]
    assert kept.text == "楊榮"


def test_repair_reads_them_as_seqeval_does(tmp_path):
    tally = Tally()
    [example] = read_all(tmp_path, column("蹇義卒", ["I-PER", "I-PER", "E-LOC"]), tally, repair=True)
    assert [record["text"].text for record in example.records] == ["蹇義", "卒"]
    assert tally["sentences with repaired tags"] == 1


def test_lines_without_columns_reject_their_sentence(tmp_path):
    rows = read_all(tmp_path, "蹇\tO\n義\n卒\tO\n\n楊\tO\n\n\tO\n\n榮\tO\n")
    assert [row.place for row in rows if isinstance(row, Reject)] == ["a.txt:2", "a.txt:7"]
    assert [row.text for row in rows if not isinstance(row, Reject)] == ["楊", "榮"]
    long = read_all(tmp_path, "蹇\tO\n" + "x" * 99 + "\tO\n\n楊\tO\n", max_line_bytes=50)
    assert [type(row) is Reject for row in long] == [True, False]


def test_documents_are_groups(tmp_path):
    text = "a O\n\n-DOCSTART- -X- O\n\nb O\n\nc O\n\n-DOCSTART- -X- O\nd O\n\na O\n"
    a, b, c, d, again = read_all(tmp_path, text)
    assert [row.text for row in (a, b, c, d, again)] == ["a", "b", "c", "d", "a"]
    assert b.group == c.group
    assert len({a.group, b.group, d.group}) == 3
    assert d.group == again.group


def test_types_choose_and_a_misspelt_one_is_refused(tmp_path):
    text = column("蹇義卒北京", ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"])
    [example] = read_all(tmp_path, text, types=["LOC"])
    assert [record["text"].text for record in example.records] == ["北京"]
    assert [record["type"].text for record in read_all(tmp_path, text, types=["LOC", "BOOK"])[0].records] == ["LOC"]
    for types in (["PRE", "LOC"], ["BOOK"]):
        with pytest.raises(InputError, match="did you mean PER" if "PRE" in types else "there are LOC, PER"):
            read_all(tmp_path, text, types=types)


def test_columns_and_fields_must_differ():
    for options in ({"tag_column": 0}, {"text_field": "type"}):
        with pytest.raises(ValidationError):
            make(**options)
