"""`whet import` and `whet export-settings`: files that the other verbs read, and faults in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from whet.cli.main import app
from whet.config import read_yaml
from whet.errors import InputError

MLX = "model: base\niters: 100\nnum_layers: 4\nlora_layers: 4\nmask_prompt: true\n"


def test_settings_become_a_recipe_that_whet_reads_and_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lora.yaml").write_text(MLX)
    said = CliRunner().invoke(app, ["import", "lora.yaml", "-o", "recipes/mine.yaml"])
    assert said.exit_code == 0, said.output
    assert "lora_layers: 4: mlx-lm does not read it: its name is num_layers" in said.output
    assert read_yaml(Path("recipes/mine.yaml"))[0]["data"]["root"] == ".."
    assert CliRunner().invoke(app, ["recipe", "show", "recipes/mine.yaml"]).exit_code == 0
    back = CliRunner().invoke(app, ["export-settings", "recipes/mine.yaml", "--to", "axolotl", "-o", "ax.yaml"])
    assert back.exit_code == 0, back.output
    assert read_yaml(Path("ax.yaml"))[0]["lora_r"] == 8
    assert "train.lora.last_layers: axolotl has no such setting" in back.output
    printed = CliRunner().invoke(app, ["import", "ax.yaml"])
    assert printed.exit_code == 0, printed.output
    assert "# lora_r: 8" in printed.output


def test_a_recipe_that_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").write_text(MLX)
    (tmp_path / "mine.yaml").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        CliRunner().invoke(
            app, ["import", str(tmp_path / "lora.yaml"), "-o", str(tmp_path / "mine.yaml")], catch_exceptions=False
        )
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_a_pickle_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").write_bytes(b"PK\x03\x04")
    done = subprocess.run([sys.executable, "-m", "whet.cli.main", "import", str(tmp_path / "training_args.bin")],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "print(trainer.args.to_json_string())" in done.stderr


def test_rows_are_written_in_another_format_and_losses_told(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"instruction": "Sum", "input": "1 2", "output": "3"}\n{"text": "plain"}\n')
    said = CliRunner().invoke(
        app, ["data", "convert", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--to", "messages"]
    )
    assert said.exit_code == 0, said.output
    assert "1 of 2 rows (1 alpaca, 1 text)" in said.output
    assert "left out, 1 row: has a plain text, which asks nothing (first: " in said.output
    assert "written without, 1 row: which part of the question was the input (first: " in said.output
    assert (tmp_path / "out.jsonl.losses.jsonl").is_file()
