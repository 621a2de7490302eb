"""Folders for the hub and for MLX come with a certificate: the adapter that PEFT trained, and the folder that it was fused into."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_model
from typer.testing import CliRunner

from whet.backends.on_torch.importance import mean_squares
from whet.cli.main import app
from whet.models.base_model import open_base
from whet.models.weights import read_weights

pytestmark = pytest.mark.end_to_end  # each export is loaded by the library that it is for


@pytest.mark.parametrize(("form", "names"), [("hf", ["hf"]), ("mlx", ["hf", "mlx"])])
def test_a_fused_folder_is_proved(form: str, names: list[str], tmp_path: Path, write_peft: Any) -> None:
    base = random_model(tmp_path / "m", "Qwen2")
    _, adapter = write_peft(base)
    words = ["export", form, str(adapter), "--base", str(base), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    plain = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert plain["status"] == "passed"
    assert [made["name"] for made in plain["forms"]] == names
    assert all(made["type"] == "fp32" for made in plain["forms"])
    assert (tmp_path / "out" / "certificate.html").is_file()


def test_importance_is_the_mean_square_of_what_enters(tmp_path: Path) -> None:
    """The first layer's queries read the normed embeddings, which can be computed by hand."""
    base = open_base(random_model(tmp_path / "m", "Llama"))
    rows = [(3, 5, 7, 11), (13, 17)]
    found = mean_squares(base, rows)
    weights = read_weights(base.folder)
    tokens = weights["model.embed_tokens.weight"].read()[[token for row in rows for token in row]]
    normed = tokens / np.sqrt(np.square(tokens).mean(axis=1, keepdims=True) + 1e-6)
    wanted = np.square(normed * weights["model.layers.0.input_layernorm.weight"].read()).mean(axis=0)
    assert np.allclose(found["model.layers.0.self_attn.q_proj.weight"], wanted, rtol=1e-4)
    assert len(found) == 2 * 7
    assert "lm_head.weight" not in found
