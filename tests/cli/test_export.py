"""The verbs of `whet export`."""

import json
from pathlib import Path

import pytest
from conftest import random_model
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import InputError
from whet.export.llama_cpp import find_llama
from whet.models.gguf_file import read_gguf
from whet.pipeline.certify import PLAIN_PROMPTS

pytestmark = pytest.mark.integration


def run(*words: str) -> str:
    found = CliRunner().invoke(app, ["export", *words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_gguf_of_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.pipeline.certify.PLAIN_PROMPTS", PLAIN_PROMPTS[:1])
    random_model(tmp_path / "small", "Qwen2")
    out = run("gguf", str(tmp_path / "small"), "--type", "f16", "-o", str(tmp_path))
    assert f"gguf: {tmp_path / 'small-f16.gguf'}" in out
    assert read_gguf(tmp_path / "small-f16.gguf").text("general.name") == "small"
    plain = json.loads((tmp_path / "small-f16.certificate.json").read_text())
    assert plain["status"] == ("passed" if find_llama() else "not judged")
    kept = ["small", "small-f16.certificate.html", "small-f16.certificate.json", "small-f16.gguf"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept


def test_gguf_without_a_certificate(tmp_path: Path) -> None:
    random_model(tmp_path / "small", "Qwen2")
    run("gguf", str(tmp_path / "small"), "--type", "q8_0", "-o", str(tmp_path / "m.gguf"), "--no-certificate")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "small"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "is no run folder"),
        (["embedded", "--type", "q9"], "is no type"),
        (["embedded", "--base", "embedded"], "is a whole model"),
        (["embedded", "--type", "f16", "--importance"], "does nothing for f16"),
        (["embedded", "--type", "q4_k_m", "--importance"], "needs a run folder"),
    ],
)
def test_gguf_refuses(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run("gguf", *words, "-o", str(tmp_path / "m.gguf"))
    assert list(tmp_path.iterdir()) == []
