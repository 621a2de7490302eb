"""MingOfficial: cells that spell Python lists, the join rule against a second reading of it, texts given twice."""

import csv
import json
import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from whet.data.rows import Reject, Tally
from whet.data.sources import Source, read
from whet.errors import InputError
from whet.records import Span, Value

SOURCE = TypeAdapter(Source)
TAGGED = re.compile(r"<(P|O)(?: [^>]*)?>(.*?)</\1>")


def write(path, cells, header=("Name", "Related Texts", "Note")):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([f"official {n}", cell, "x"] for n, cell in enumerate(cells))


def read_all(path, tally=None, **options):
    source = SOURCE.validate_json(json.dumps({"reader": "ming_csv", "path": path.name, **options}), strict=True)
    return list(read(source, path.parent, tally))


def pairs(example):
    return [(record["name"].text, record["rank"] and record["rank"].text) for record in example.records]


def first_version(tagged):
    """The labelling rule as the first version put it, written another way: over (kind, text) pieces and gaps."""
    found, rank, gap, end = [], None, 0, 0
    for match in TAGGED.finditer(tagged):
        gap += match.start() - end
        end = match.end()
        if match[1] == "O":
            rank, gap = match[2], 0
        else:
            found.append((match[2], rank if gap < 5 else None))
            rank = None
    return found


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("，升為行在'\"\\", max_size=7), st.sampled_from("PPO"), st.text("蹇義楊榮", min_size=1, max_size=3)),
        max_size=6,
    )
)
def test_names_get_their_ranks_by_the_rule(tmp_path_factory, parts):
    tagged = "".join(f"{gap}<{tag}{' id=3' * (tag == 'P')}>{name}</{tag}>" for gap, tag, name in parts) + "。"
    path = tmp_path_factory.mktemp("ming") / "a.csv"
    write(path, [str([("1", "太祖實錄", tagged)])])
    [example] = read_all(path)
    assert example.text == re.sub("<[^>]*>", "", tagged)
    assert pairs(example) == first_version(tagged)
    for record in example.records:
        for value in record.values():
            assert value is None or example.text[value.span.start : value.span.end] == value.text


def test_texts_come_once_and_rows_without_texts_are_counted(tmp_path):
    one, two = ("1", "甲", "<O>少師</O><P>蹇義</P>卒"), ("2", "甲", "<P>楊榮</P>卒")
    path = tmp_path / "a.csv"
    write(path, [str([one, two]), "N/A", "", "[]", str([two, ("9", "乙", one[2])])])
    write(tmp_path / "b.csv", [str([one])])
    tally = Tally()
    first, second = read_all(path, tally)
    assert first.records == ({"name": Value("蹇義", Span(2, 4)), "rank": Value("少師", Span(0, 2))},)
    assert (first.source, second.source, pairs(second)) == ("a.csv:2", "a.csv:2", [("楊榮", None)])
    assert first.group != second.group
    assert tally == {"rows": 5, "rows without texts": 3, "texts": 4, "texts that stood in an earlier row": 2}
    both = SOURCE.validate_json('{"reader": "ming_csv", "path": "*.csv"}', strict=True)
    assert list(read(both, tmp_path)) == [first, second]
    first, second = read_all(path, group="document", fields={"name": "who", "rank": "post"})
    assert first.group == second.group
    assert list(first.records[0]) == ["who", "post"]


def test_the_same_text_with_other_tags_is_counted_and_left_to_cleaning(tmp_path):
    tagged = ["<P>蹇義</P>卒", "<P>蹇</P>義卒", "<P>蹇義</P>卒", "<P>蹇</P>義卒"]
    write(tmp_path / "a.csv", [str([("1", "甲", text)]) for text in tagged])
    tally = Tally()
    one, other = read_all(tmp_path / "a.csv", tally)
    assert (one.source, pairs(one)) == ("a.csv:2", [("蹇義", None)])
    assert (other.source, pairs(other)) == ("a.csv:3", [("蹇", None)])
    assert (one.text, one.group) == (other.text, other.group)
    assert tally["texts of an earlier row with other tags"] == 1
    assert tally["texts that stood in an earlier row"] == 2


@pytest.mark.parametrize(
    "cell",
    [
        "[('1', '甲', '少師'", "nothing", "('1', '甲', '少師')", "{'a': 1}", "__import__('os').getcwd()", "[" * 5000,
        "['\\d' + 1]", "-" * 90000 + "1", "[1, 2]", "[('1', '甲')]", "[('1', '甲', 5)]", "[('1', '甲', ' ')]",
        "[('1', '甲', '\\ud800')]", "[('1', '甲', '<X>少師</X>')]", "'text'", "[('\0', '甲', '\\x00<P>a')]",
    ],
)  # fmt: skip
def test_a_cell_that_spells_no_list_is_rejected_alone(tmp_path, cell):
    write(tmp_path / "a.csv", [cell, str([("1", "甲", "少師")])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read_all(tmp_path / "a.csv")
    assert rows[-1].text == "少師"
    assert rows[:-1]
    for row in rows[:-1]:
        assert isinstance(row, Reject)
        assert row.place == "a.csv:2"
        assert row.remedy


def test_other_entries_of_a_cell_are_kept(tmp_path):
    write(tmp_path / "a.csv", [str([("1", "甲", "少師"), ("2", "甲"), ("3", "甲", "<P>蹇"), ("4", "甲", "卒")])])
    assert [isinstance(row, Reject) for row in read_all(tmp_path / "a.csv")] == [False, True, True, False]


def test_cells_beyond_the_limit_of_csv_are_read(tmp_path):
    texts = [(str(n), "甲", f"第{n}日上御奉天門") for n in range(8_000)]
    write(tmp_path / "a.csv", [str(texts)])
    assert len(read_all(tmp_path / "a.csv")) == 8_000


def test_a_missing_column_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "a.csv", ["[]"], header=("Name", "Related Text", "Note"))
    with pytest.raises(InputError) as caught:
        read_all(tmp_path / "a.csv")
    assert caught.value.place == "a.csv:1"
    assert "did you mean 'Related Text'?" in caught.value.remedy
    assert len(read_all(tmp_path / "a.csv", column="Related Text")) == 0


def test_short_rows_are_rejected(tmp_path):
    (tmp_path / "a.csv").write_text("Name,Related Texts\na\nb,N/A\n")
    [bad] = read_all(tmp_path / "a.csv")
    assert bad.place == "a.csv:2"
