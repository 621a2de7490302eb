"""The verb `whet fuse`: a run or an adapter folder in, one model folder out."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import random_model
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import InputError
from whet.models.adapter import open_adapter, write_card
from whet.models.base_model import open_base
from whet.storage import write_json

pytestmark = pytest.mark.integration


def invoke(*args: object) -> str:
    found = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=True)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder as the steps leave it: recipe, data, adapter, scores."""
    import numpy as np
    from safetensors.numpy import save_file

    from whet.pipeline.run import _as_saved
    from whet.recipe import recipe_from

    base = random_model(tmp_path / "m", "Llama", hidden_size=32, intermediate_size=48)
    raw = {
        "name": "officials",
        "base": str(base),
        "task": {"kind": "extraction", "prompt": "列出官員", "fields": [{"name": "name"}]},
        "data": {"sources": [{"reader": "inline", "path": "train.txt", "tags": {"name": {"tag": "P"}}}]},
    }
    run = tmp_path / "run"
    adapter = run / "train" / "adapter"
    adapter.mkdir(parents=True)
    generator = np.random.default_rng(0)
    q = "base_model.model.model.layers.1.self_attn.q_proj"
    save_file(
        {
            f"{q}.lora_A.weight": generator.standard_normal((2, 32), np.float32),
            f"{q}.lora_B.weight": np.ones((32, 2), np.float32),
        },
        adapter / "adapter_model.safetensors",
    )
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 2, "lora_alpha": 4})
    opened = open_base(base)
    write_card(adapter, opened, {"step": 3})
    write_json(run / "recipe.json", _as_saved(recipe_from(raw, [], "test", tmp_path)))
    write_json(run / "marks" / "train.json", {"key": "k"})
    (run / "data").mkdir()
    (run / "data" / "train.jsonl").write_text("{}\n")
    write_json(run / "data" / "manifest.json", {
        "statistics": {"train": {"examples": 1}, "valid": {"examples": 0}},
        "sources": [{"name": "train.txt", "files": {"train.txt": "ab" * 32}}],
    })  # fmt: skip
    write_json(run / "metrics.json", {
        "headline": ["record", "f1"],
        "systems": [{"name": "specialist", "score": {"value": 0.5, "interval": {"low": 0.4, "high": 0.6}, "num": 9}}],
        "conclusions": [{"tone": "good", "words": "It is better.", "detail": "P = 0.01"}],
        "provenance": [["adapter", open_adapter(adapter, opened).fingerprint], ["seed", "0"]],
    })  # fmt: skip
    return run


def test_a_run_becomes_one_folder_with_its_card(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = invoke("fuse", run_folder, "-o", out)
    assert "1 of 21 tensors are changed; the weights are held in F32." in told
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["base_model"], head["library_name"]) == ("m", "transformers")
    for words in ("# officials", "列出官員", "| specialist | record f1 | 0.500 (0.400 to 0.600), 9 examples |", "It is better.",
                  "| train | 1 |", "ab" * 32, "unknown: the base's folder does not say"):  # fmt: skip
        assert words in card
    assert "valid" not in card


def test_scores_of_another_adapter_are_left_out(run_folder: Path, tmp_path: Path) -> None:
    path = run_folder / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["provenance"] = [["adapter", "f" * 64]]
    write_json(path, metrics)
    (run_folder / "marks" / "train.json").unlink()
    told = json.loads(invoke("fuse", run_folder, "-o", tmp_path / "out", "--json"))
    assert told["notes"] == [
        "its training is not finished: this is the best adapter so far",
        "the scores in metrics.json are of another adapter, and are left out",
    ]
    assert "None: the run was not evaluated" in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_folder_needs_its_base(run_folder: Path, tmp_path: Path) -> None:
    adapter = run_folder / "train" / "adapter"
    with pytest.raises(InputError, match="its base is not named"):
        invoke("fuse", adapter, "-o", tmp_path / "out")
    with pytest.raises(InputError, match="another base"):
        invoke("fuse", adapter, "--base", "embedded", "-o", tmp_path / "out")
    with pytest.raises(InputError, match="Leave --base out"):
        invoke("fuse", run_folder, "--base", "embedded", "-o", tmp_path / "out")
    told = invoke(
        "fuse", adapter, "--base", tmp_path / "m", "-o", tmp_path / "out", "--max-shard-size", "100KB", "--dtype", "bf16"
    )
    assert "held in BF16" in told
    assert len(list((tmp_path / "out").glob("model-0*.safetensors"))) > 1


@pytest.mark.parametrize(
    ("option", "value"), [("--dtype", "int3"), ("--max-shard-size", "5 elephants"), ("--max-shard-size", "0")]
)
def test_options_that_can_not_be_are_named(option: str, value: str, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=option):
        invoke("fuse", run_folder, "-o", tmp_path / "out", option, value)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run folder and no adapter folder"):
        invoke("fuse", tmp_path, "-o", tmp_path / "out")
