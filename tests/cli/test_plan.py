"""`whet plan` as a user sees it: one screen, a plan without a base on disk, JSON, and faults in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from whet.cli.plan import plan
from whet.data.sources import read
from whet.errors import InputError, SettingsError
from whet.recipe import read_recipe
from whet.records import Example, example_to_json
from whet.train.plan import FIELD_MODELS

pytestmark = pytest.mark.integration
RECIPE = {
    "name": "tiny",
    "task": {"kind": "extraction", "fields": [{"name": "name"}]},
    "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    "train": {"tokens_per_batch": 512, "epochs": 2},
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the verb in a folder with a recipe, on a machine of 16 GB whose rate is known."""
    from whet.backends.on_torch import calibrate

    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    lines = [f"<P>蹇{chr(0x4E00 + number)}</P>初為修撰，卒於南京官舍。\n" for number in range(40)]
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "seven.json").write_text(json.dumps(FIELD_MODELS["7B"]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    machine = calibrate.Measured("cpu", "a test's machine", 16 * 10**9, 1e11)
    monkeypatch.setattr(calibrate, "calibrate", lambda *_: machine)
    app = typer.Typer()
    app.command()(plan)

    def call(*words: str) -> Any:
        said = CliRunner().invoke(app, list(words))
        if said.exception is not None and not isinstance(said.exception, SystemExit):
            raise said.exception
        assert said.exit_code == 0
        return said.output

    return call


def test_a_plan_is_one_screen_and_says_what_is_asked(ask: Any) -> None:
    said = ask("r.yaml")
    assert len(said.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= 140
    for words in ("a test's machine", "141 GB", "peak", "activations", "trained", "rows of", "steps", "yes"):
        assert words in said
    assert "NO" not in said


def test_a_base_that_is_not_on_disk_is_planned_from_its_config(ask: Any) -> None:
    said = ask("r.yaml", "base=/nowhere/qwen", "--config", "seven.json")
    assert "7.62 G parameters" in said
    assert "NO, " in said
    assert "device.quantize=nf4" in said.replace("\n", "")
    assert "unknown without the base's tokenizer" in said


def test_json_holds_the_same_with_plain_numbers(ask: Any) -> None:
    found = json.loads(ask("r.yaml", "train.lora.rank=8", "--json"))
    assert found["work"]["num_rows"] == 32  # 40 rows, less the shares of valid and test
    assert found["steps"] == 4
    here = found["machines"][0]
    parts = here["parts"]
    resting = sum(parts[name] for name in ("runtime", "weights", "adapter", "gradients", "optimizer", "cache", "fragments"))
    assert here["peak"] == resting + parts["activations"] + max(parts["logits"], parts["backward"])
    assert here["is_fitting"]
    assert here["changes"] == ""
    assert here["seconds"] == pytest.approx(4 * found["flops_per_step"] / (1e11 * 0.7), rel=0.01)
    assert len(found["machines"]) == 8


def test_the_data_of_the_run_folder_are_counted_where_they_were_built(ask: Any, tmp_path: Path) -> None:
    recipe = read_recipe(tmp_path / "r.yaml", [])
    rows = [row for row in read(recipe.data.sources[0], tmp_path) if isinstance(row, Example)]
    data = tmp_path / "runs" / "tiny" / "data"
    data.mkdir(parents=True)
    for split, picked in (("train", rows[:10]), ("valid", rows[10:13])):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(example_to_json(row)) + "\n" for row in picked), "utf-8")
    (data / "manifest.json").write_text("{}")
    work = json.loads(ask("r.yaml", "--json"))["work"]
    assert (work["num_rows"], work["num_valid"], work["is_sample"]) == (10, 3, False)

    (data / "manifest.json").write_text(json.dumps({"sources": [{"name": "a", "files": [rows[0].source.rpartition(":")[0]]}]}))
    mixed = json.loads(ask("r.yaml", "train.mix.caps={a: 4}", "--json"))
    assert mixed["work"]["num_rows"] == 4


def test_a_mix_sets_the_rows_of_an_epoch(ask: Any, tmp_path: Path) -> None:
    found = json.loads(ask("r.yaml", "train.mix.epoch_size=20", "--json"))
    assert (found["work"]["num_rows"], found["steps"]) == (20, 4)  # two epochs of 20 rows, 16 a step
    capped = json.loads(ask("r.yaml", "train.mix.caps={a.txt: 10}", "--json"))
    assert (capped["work"]["num_rows"], capped["steps"]) == (10, 2)
    assert any("an epoch has 10 rows of the 32" in note for note in capped["notes"])
    with pytest.raises(SettingsError, match="no source of training examples is named b"):
        ask("r.yaml", "train.mix.weights={b.txt: 1}")


def test_a_mix_over_sources_that_are_not_counted_is_told(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.pipeline.plan.MOST_READ", 30)
    found = json.loads(ask("r.yaml", "train.mix.epoch_size=5", "--json"))
    assert found["work"]["num_rows"] == 24
    assert any("train.mix is not counted" in note for note in found["notes"])


def test_a_base_that_is_stored_quantised_is_told_what_training_would_say(ask: Any, tmp_path: Path) -> None:
    stored = FIELD_MODELS["7B"] | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "stored.json").write_text(json.dumps(stored))
    words = ("r.yaml", "base=/nowhere/qwen", "--config", "stored.json")
    assert "device.quantize" not in ask(*words)
    for setting in ("device.quantize=nf4", "device.shard=true", "train.method=full"):
        with pytest.raises(InputError, match="quantised"):
            ask(*words, setting)


def test_the_table_of_the_field_is_printed(ask: Any) -> None:
    said = ask("--table")
    for words in ("3B", "7B", "14B", "full", "LoRA", "QLoRA", "recommended"):
        assert words in said
    assert len(json.loads(ask("--table", "--json"))) == 9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "names no recipe"),
        (("r.yaml", "base=nowhere"), "config.json"),
        (("r.yaml", "train=null"), "null in this recipe"),
        (("r.yaml", "--config", "a.txt"), "a.txt"),
        (("r.yaml", "train.lora.targets=[c_attn]"), "names no linear layer"),
    ],
)
def test_faults_are_told(ask: Any, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask(*words)


def test_the_calibration_is_short_and_finds_a_rate() -> None:
    from whet.backends.on_torch import calibrate

    found = calibrate.calibrate("fp32", 64, 64, 64, "cpu")
    assert found.kind == "cpu"
    assert found.rate > 1e6
    assert found.memory > 2**28
