"""CSV: cells and the lines on which rows start, also where a row is broken."""

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.csv_rows import CsvRow, read_csv_rows
from whet.data.formats import ExampleFiles
from whet.data.rows import DataFile, Reject


def read_all(path, **options):
    source = ExampleFiles(reader="examples", path=path, **options)
    return list(read_csv_rows(DataFile(path, path.name), source))


CELLS = st.text(st.sampled_from('ab",;\n 少\0'), max_size=6)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=3), min_size=1, max_size=5))
def test_what_was_written_is_read(tmp_path_factory, rows):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    found = read_all(path)
    assert [row.cells for row in found] == rows
    line, wanted = 1, []
    for row in rows:
        wanted.append(f"a.csv:{line}")
        line += 1 + sum(cell.count("\n") for cell in row)
    assert [row.place for row in found] == wanted


def test_a_tsv_is_parted_by_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("a,b\tc\n")
    assert read_all(tmp_path / "a.tsv") == [CsvRow("a.tsv:1", ["a,b", "c"])]


def test_an_open_quote_names_what_it_swallowed(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,"open\n2,c\n3,d\n')
    good, bad = read_all(tmp_path / "a.csv")
    assert good.cells == ["a", "b"]
    assert isinstance(bad, Reject)
    assert bad.place == "a.csv:2"
    assert "lines 2 to 4" in bad.seen
    assert bad.raw == '1,"open'


def test_a_cell_beyond_the_limit_ends_there(tmp_path):
    (tmp_path / "a.csv").write_text('"a\n' + "b\n" * 2_000 + "c,d\n")
    rows = read_all(tmp_path / "a.csv", max_line_bytes=1000)
    assert isinstance(rows[0], Reject)
    assert "a row of more than 1,000 characters" in rows[0].seen
    assert rows[-1].cells == ["c", "d"]


def test_a_line_over_the_limit_rejects_its_row_alone(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "x" * 99 + ',1\nc,d\n"e\n' + "y" * 99 + '\nf",2\ng,h\n')
    rows = read_all(tmp_path / "a.csv", max_line_bytes=50)
    assert [row.place for row in rows] == [f"a.csv:{n}" for n in (1, 2, 3, 4, 7)]
    assert [isinstance(row, Reject) for row in rows] == [False, True, False, True, False]
    assert "lines 4 to 6" in rows[3].seen
