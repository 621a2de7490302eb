"""Every format holds what the rows hold; names of columns never clash in silence."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import InputError
from whet.extract.targets import Targets
from whet.extract.write import columns_of, format_of, writing
from whet.tasks.extraction import FieldSettings

FIELDS = (FieldSettings(name="name"), FieldSettings(name="event", kind="choice", choices=("Death", "Other"), nullable=True))


def row(text: str = "于謙", **more: Any) -> dict[str, Any]:
    value = {"text": text, "start": 3, "end": 3 + len(text), "page": 2, "confidence": 0.5, "ambiguous": True}
    made = {"id": "1", "document": "a", "page": 2, "chunk": "c", "values": {"name": value, "event": None}}
    made |= {"quote": {"text": "q", "start": 0, "end": 9}, "confidence": 0.25, "is_accepted": False, "flags": ["a", "b"]}
    return made | {"run": "r", "adapter": None} | more


def write(path: Path, rows: list[dict[str, Any]], **more: Any) -> Path:
    with writing(path, format_of(path), FIELDS, **more) as writer:
        for one in rows:
            writer.write(one)
    return path


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text and "\r" not in text))
def test_texts_come_back_from_csv_as_they_were(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("t") / "a.csv", [row(text)])
    with path.open(encoding="utf-8", newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["name"] == text
    assert (found["name_start"], found["event"], found["is_accepted"], found["flags"]) == ("3", "", "false", "a;b")
    assert found["name_ambiguous"] == "true"


def test_half_a_surrogate_pair_is_escaped_in_jsonl_and_marked_in_tables(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    odd, good = row("于\ud800"), row("𠮷")
    lines = write(tmp_path / "a.jsonl", [odd, good]).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [odd, good]
    assert "𠮷" in lines[1]
    assert "于\ufffd" in write(tmp_path / "a.csv", [odd]).read_text(encoding="utf-8")
    table = pyarrow.read_table(write(tmp_path / "a.parquet", [odd, good]))
    assert table.column("name").to_pylist() == ["于\ufffd", "𠮷"]


def test_parquet_is_typed_even_without_a_row(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for rows in ([], [row() for _ in range(3)]):
        table = pyarrow.read_table(write(tmp_path / "a.parquet", rows))
        types = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
        assert types["name_start"] == types["quote_end"] == types["page"] == "int64"
        assert (types["event_confidence"], types["is_accepted"], types["adapter"]) == ("double", "bool", "string")
        assert types["flags"].startswith("list<")
        assert table.num_rows == len(rows)


def test_a_file_appears_when_it_is_whole_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    for name in ("a.csv", "a.parquet", "a.jsonl"):
        with pytest.raises(ZeroDivisionError), writing(tmp_path / name, format_of(Path(name)), FIELDS) as writer:
            writer.write(row())
            raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.csv", "old")]


def test_a_column_whose_name_is_taken_is_told_apart_and_a_clash_is_refused(tmp_path: Path) -> None:
    assert columns_of((FieldSettings(name="page"),))[4:7] == ["field_page", "field_page_start", "field_page_end"]
    columns = columns_of((FieldSettings(name="quote"),))
    assert columns.count("quote") == columns.count("quote_start") == 1
    clash = (FieldSettings(name="name"), FieldSettings(name="name_start"))
    Targets(tmp_path / "a.jsonl").check(clash, is_anew=False)
    with pytest.raises(InputError, match="two columns would be named name_start"):
        Targets(tmp_path / "a.csv").check(clash, is_anew=False)


def test_a_format_goes_by_what_is_said_then_by_the_name() -> None:
    assert format_of(Path("a.CSV")) == "csv"
    assert format_of(Path("a.csv"), "parquet") == "parquet"
    with pytest.raises(InputError, match="does not say a format"):
        format_of(Path("a"))
