"""A data set is read by its name; what can't be had is told in a sentence."""

import json
from pathlib import Path

import pytest

from whet.data.hub import fetch_rows
from whet.errors import InputError


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")
def test_rows_come_with_their_columns_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps({"q": "What?", "answer": "That."}) + "\n")
    assert fetch_rows(str(folder), None, "test", None, {"q": "question"}, tmp_path / "rows.jsonl") == 1
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"question": "What?", "answer": "That."}
    with pytest.raises(InputError, match="local files"):
        fetch_rows(str(folder), None, "none", None, {}, tmp_path / "rows.jsonl")
