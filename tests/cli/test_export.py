"""The verbs of `whet export`."""

from pathlib import Path

import pytest
from conftest import random_model
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import InputError
from whet.models.gguf_file import read_gguf


def run(*words: str) -> str:
    found = CliRunner().invoke(app, ["export", *words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_gguf_of_a_model_folder(tmp_path: Path) -> None:
    random_model(tmp_path / "small", "Qwen2")
    out = run("gguf", str(tmp_path / "small"), "--type", "q8_0", "-o", str(tmp_path))
    assert f"gguf: {tmp_path / 'small-q8_0.gguf'}" in out
    assert read_gguf(tmp_path / "small-q8_0.gguf").text("general.name") == "small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small", "small-q8_0.gguf"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "is no run folder"),
        (["embedded", "--type", "q9"], "is no type"),
        (["embedded", "--base", "embedded"], "is a whole model"),
    ],
)
def test_gguf_refuses(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run("gguf", *words, "-o", str(tmp_path / "m.gguf"))
    assert list(tmp_path.iterdir()) == []
