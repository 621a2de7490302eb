"""Words that messages are made of."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import counted
from whet.models.base_model import EMBEDDED_PATH


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ((1, "row"), "1 row"),
        ((0, "row"), "0 rows"),
        ((2000, "row"), "2,000 rows"),
        ((1, "category"), "1 category"),
        ((2, "category"), "2 categories"),
        ((1, "layer", "changes", "change"), "1 layer changes"),
        ((2, "layer", "changes", "change"), "2 layers change"),
    ],
)
def test_one_is_one(asked: tuple[int, str], words: str) -> None:
    assert counted(*asked) == words


def test_the_doctor_counts_one_thing_as_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    said = CliRunner().invoke(app, ["doctor", str(tmp_path), str(EMBEDDED_PATH)]).output
    assert said.startswith("looked at: 1 data file, 1 model\n")
