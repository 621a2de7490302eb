"""Folders for other programs: mlx-lm computes what transformers does; the hub's folder is whole and is pushed only when asked."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from conftest import random_model
from typer.testing import CliRunner

from export.conftest import IDS, logits, open_model
from whet.cli.main import app
from whet.errors import InputError, MissingExtraError
from whet.export.push import push

Write = Callable[..., tuple[Any, Path]]
ROPE = {"rope_type": "llama3", "rope_theta": 5e4, "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}  # fmt: skip
# What transformers 5 writes inside rope_parameters, and mlx-lm reads at the top (its defaults are other numbers).
FAMILIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}, {}),
    ("Llama", {"rope_parameters": ROPE, "tie_word_embeddings": True}, {"target_modules": ["q_proj", "lm_head"]}),
    ("Qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}, "tie_word_embeddings": True}, {}),
    ("Gemma3Text", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}, {}),
]


pytestmark = pytest.mark.end_to_end  # each export is loaded by the library that it is for


def invoke(*args: object) -> str:
    found = CliRunner().invoke(app, [str(arg) for arg in args])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.filterwarnings("ignore:.*tie.*", "ignore:.*tying.*")
@pytest.mark.parametrize(("family", "extra", "settings"), FAMILIES, ids=[family for family, _, _ in FAMILIES])
def test_mlx_lm_computes_what_transformers_does(
    family: str, extra: dict[str, Any], settings: dict[str, Any], tmp_path: Path, write_peft: Write
) -> None:
    from mlx_lm.utils import load_model

    base = random_model(tmp_path / "m", family, **extra)
    adapted, adapter = write_peft(base, **settings)
    wanted = logits(adapted).numpy()
    invoke("export", "mlx", adapter, "--base", base, "-o", tmp_path / "out")
    model, _ = load_model(tmp_path / "out")
    model.set_dtype(mx.float32)
    assert np.abs(np.array(model(mx.array(IDS.numpy()))[0]) - wanted).max() < 1e-4
    assert np.abs(logits(open_model(tmp_path / "out")).numpy() - wanted).max() < 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    if family == "Qwen2":
        assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (777.0, 777.0)
        # The trap itself: without the entry at the top mlx-lm computes something else.
        del config["rope_theta"]
        (tmp_path / "out" / "config.json").write_text(json.dumps(config))
        model, _ = load_model(tmp_path / "out")
        assert np.abs(np.array(model(mx.array(IDS.numpy()))[0].astype(mx.float32)) - wanted).max() > 0.1


@pytest.fixture
def pair(tmp_path: Path, write_peft: Write) -> tuple[Path, Path]:
    base = random_model(tmp_path / "m", "Llama", hidden_size=32, intermediate_size=48)
    return base, write_peft(base, target_modules=["q_proj"])[1]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")
def test_an_adapter_for_others_names_its_base_and_no_path(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import peft

    base, adapter = pair
    out = tmp_path / "out"
    told = invoke("export", "hf", adapter, "--base", base, "--adapter", "--base-name", "acme/base-1", "-o", out)
    assert "each of its 2 parts has its place" in told
    certificate = json.loads((out / "certificate.json").read_text())
    assert [(form["name"], form["status"]) for form in certificate["forms"]] == [("adapter on its base", "passed")]
    assert str(tmp_path) not in (out / "adapter_config.json").read_text() + (out / "README.md").read_text()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/base-1"
    card = (out / "README.md").read_text()
    assert "library_name: peft" in card
    assert "base_model: acme/base-1" in card
    one, other = (logits(peft.PeftModel.from_pretrained(open_model(base), folder).eval()) for folder in (adapter, out))
    assert (one == other).all()
    invoke("export", "hf", adapter, "--base", base, "--adapter", "-o", out)  # what an export wrote may be written again


def test_a_fused_folder_for_others(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    config = base / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_name_or_path": "/home/me/secret"}))
    out = tmp_path / "out"
    assert "pushed" not in invoke("export", "hf", adapter, "--base", base, "-o", out)
    assert "secret" not in (out / "config.json").read_text()
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    assert "library_name: transformers" in (out / "README.md").read_text()


class Hub:
    """A hub that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo: str, **options: Any) -> str:
        self.asked.append((repo, options))
        return f"https://hub.example/{repo}"

    def upload_folder(self, **options: Any) -> None:
        self.asked.append((options["repo_id"], options))


def test_a_push_is_private_unless_told(tmp_path: Path) -> None:
    hub = Hub()
    assert push(tmp_path, "me/officials", api=hub) == "https://hub.example/me/officials"
    assert hub.asked[0] == ("me/officials", {"repo_type": "model", "private": True, "exist_ok": True})
    assert hub.asked[1][1]["folder_path"] == str(tmp_path)
    push(tmp_path, "me/officials", is_public=True, api=hub)
    assert hub.asked[2][1]["private"] is False


def test_a_hub_that_can_not_be_reached_is_one_line(tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    with pytest.raises(InputError, match=r"--push me/officials: the hub did not take it .*The folder is whole") as caught:
        push(tmp_path, "me/officials", api=HfApi(endpoint="http://127.0.0.1:9", token=False))
    assert "\n" not in str(caught.value)


def test_without_the_hubs_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'whet\[hub\]'"):
        push(tmp_path, "me/officials")
