"""`whet train` by two processes gives the adapter of one, and leaves one run folder behind."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from whet.cli import devices
from whet.data.annals.write import write
from whet.pipeline.ask import Silent
from whet.pipeline.run import run
from whet.recipe import read_recipe
from whet.storage import read_jsonl

pytestmark = pytest.mark.end_to_end
TAGS = {"name": {"tag": "P"}, "office": {"tag": "O"}}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "base": "embedded",
    "task": {
        "kind": "extraction",
        "prompt": "取官員。",
        "max_tokens": 64,
        "fields": [{"name": "name"}, {"name": "office", "nullable": True}],
    },
    "data": {
        "sources": [
            {"reader": "inline", "path": f"{split}.txt", "split": split, "tags": TAGS} for split in ("train", "valid", "test")
        ]
    },
    "train": {
        "max_steps": 4,
        "examples_per_step": 6,
        "max_length": 256,
        "validate_every": 2,
        "learning_rate": 1e-3,
        "lora": {"rank": 2},
        # AdamW makes whole steps of the rounding where a gradient all but vanishes; this keeps them in proportion.
        "optimizer": {"epsilon": 1e-4},
    },
    "device": {"kind": "cpu"},
}


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write(folder, 24, 6, 6, 0)
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(RECIPE))  # which is YAML, without aliases
    return path


@pytest.fixture(scope="module")
def alone(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    run(read_recipe(recipe_path, []), folder, Silent(), "train")
    return folder


def assert_same_training(found: Path, wanted: Path) -> None:
    ours, theirs = (load_file(folder / "train" / "adapter" / "adapter_model.safetensors") for folder in (found, wanted))
    assert set(ours) == set(theirs)
    assert max(float(abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-5
    lines, wanted_lines = (list(read_jsonl(folder / "train" / "metrics.jsonl")) for folder in (found, wanted))
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line, wanted_line in zip(lines, wanted_lines, strict=True):
        assert line["loss"] == pytest.approx(wanted_line["loss"], rel=1e-5)


@pytest.mark.parametrize("settings", [[], ["device.shard=true"]])
def test_two_processes_give_the_adapter_of_one(
    settings: list[str], alone: Path, recipe_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    devices.launch(2, ["train", str(recipe_path), *settings, "--out", str(tmp_path)])
    shown = capfd.readouterr()
    assert shown.out.count("adapter:") == 1
    assert shown.err.count("proved: weights moved") == 1
    assert_same_training(tmp_path, alone)
    assert json.loads((tmp_path / "marks" / "train.json").read_text())["ended"] == "finished"


def test_a_fault_of_the_data_is_told_once(recipe_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        devices.launch(2, ["train", str(recipe_path), "train.max_length=16", "--out", str(tmp_path)])
    assert left.value.code == 2
    assert capfd.readouterr().err.count("whet: ") == 1


def test_ctrl_c_ends_all_at_one_step_and_another_number_goes_on(
    alone: Path, recipe_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "train" / "metrics.jsonl"

    def interrupt() -> None:
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 1):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(SystemExit) as left:
        devices.launch(2, ["train", str(recipe_path), "train.checkpoints.every=1", "--out", str(tmp_path)])
    thread.join()
    assert left.value.code == 130
    assert "stopped by Ctrl-C" in capfd.readouterr().err
    assert 1 <= len(list(read_jsonl(metrics))) < 4
    run(read_recipe(recipe_path, []), tmp_path, Silent(), "train")
    assert_same_training(tmp_path, alone)


def test_torchrun_starts_them_too(alone: Path, recipe_path: Path, tmp_path: Path) -> None:
    from torch.distributed.run import main

    arguments = ["--standalone", "--nproc-per-node", "2", "--no-python", sys.executable, "-c", devices.WORK]
    main([*arguments, "train", str(recipe_path), "--out", str(tmp_path)])
    assert_same_training(tmp_path, alone)
