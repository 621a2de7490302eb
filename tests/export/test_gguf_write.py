"""GGUF files of every family: their fields and tensors as the format's package reads them, their logits as llama.cpp gives them."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from conftest import copy_base, ids_of, random_model

from whet.errors import InputError
from whet.export.gguf_export import export_gguf
from whet.export.gguf_families import interleave_halves, read_layout
from whet.export.gguf_write import write_gguf
from whet.models.base_model import BaseModel, open_base
from whet.models.gguf_file import read_gguf
from whet.models.weights import read_weights

LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0 + i / 9 for i in range(8)],
            "long_factor": [2.0 + i for i in range(8)], "original_max_position_embeddings": 256}  # fmt: skip
GEMMA = {"query_pre_attn_scalar": 16, "num_hidden_layers": 7, "sliding_window": 16}
# Family, its settings, and the largest logit difference in f32: llama.cpp takes GELU from a table of f16.
FAMILIES: dict[str, tuple[str, dict[str, Any], float]] = {
    "Qwen2": ("Qwen2", {"tie_word_embeddings": True}, 2e-5),
    "Llama": ("Llama", {"attention_bias": True}, 2e-5),
    "Llama 3.1": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}, 2e-5),
    "Mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}, 2e-5),
    "Qwen3": ("Qwen3", {"head_dim": 32}, 2e-5),
    "Gemma3": ("Gemma3Text", GEMMA, 1e-2),
    "Phi3": ("Phi3", {}, 2e-5),
    "Phi3 long": ("Phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 256}, 2e-5),
    "Phi": ("Phi", {}, 1e-2),
    "Ernie4.5": ("Ernie4_5", {}, 2e-5),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    """Models by name, written when first asked for."""
    folder = tmp_path_factory.mktemp("families")

    class Made(dict[str, BaseModel]):
        def __missing__(self, name: str) -> BaseModel:
            family, settings, _ = FAMILIES[name]
            self[name] = open_base(random_model(folder / name, family, **settings))
            return self[name]

    return Made()


def logits_of(model: BaseModel, ids: list[int]) -> Any:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
    with torch.no_grad():
        return loaded(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(name: str, made: Any, tmp_path: Path, llama: Any) -> None:
    ids = [*ids_of(70, 1)]
    wanted = logits_of(made[name], ids)
    assert np.abs(wanted).max() > 1  # nearly uniform logits would hide a mistake
    llama.open(write_gguf(made[name], tmp_path / "m.gguf", "f32").path, num_context=256)
    assert np.abs(llama.logits(ids, 0) - wanted).max() < FAMILIES[name][2]


@pytest.mark.parametrize(("kind", "limit"), [("f16", 3e-2), ("bf16", 3e-1), ("q8_0", 5e-1)])
def test_smaller_types_stay_near(kind: Any, limit: float, made: Any, tmp_path: Path, llama: Any) -> None:
    ids = [*ids_of(70, 1)]
    llama.open(write_gguf(made["Llama"], tmp_path / "m.gguf", kind).path, num_context=256)
    assert 0 < np.abs(llama.logits(ids, 0) - logits_of(made["Llama"], ids)).max() < limit


def test_a_wrong_layout_is_far_outside_the_limits(made: Any, tmp_path: Path, llama: Any, monkeypatch: Any) -> None:
    """The limits above are no matter of course: without the order of rows that llama wants they are passed by far."""
    ids = [*ids_of(70, 1)]
    monkeypatch.setattr("whet.export.gguf_families.interleave_halves", lambda array, heads: array)
    llama.open(write_gguf(made["Llama"], tmp_path / "m.gguf", "f32").path, num_context=256)
    assert np.abs(llama.logits(ids, 0) - logits_of(made["Llama"], ids)).max() > 0.1


@pytest.mark.parametrize("kind", ["q4_k_m", "q4_0", "q6_k"])
def test_quantised_types_stay_near(kind: str, base: BaseModel, tmp_path: Path, llama: Any) -> None:
    ids = [*ids_of(40, 2)]
    written = export_gguf(base, tmp_path / "m.gguf", kind)
    assert written.path.stat().st_size < (base.folder / "model.safetensors").stat().st_size * 0.6
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    llama.open(written.path, num_context=256)
    wanted = logits_of(base, ids)
    assert 0.01 < np.abs(llama.logits(ids, 0) - wanted).mean() < 0.5


def test_an_importance_matrix_changes_what_is_kept(base: BaseModel, tmp_path: Path, llama: Any) -> None:
    """With all the weight on some inputs, those columns are kept better than without."""
    name = "model.layers.0.mlp.down_proj.weight"
    heavy = np.full(768, 1e-6, np.float32)
    heavy[::8] = 1.0
    linears = {
        key: np.ones(tensor.shape[1], np.float32) for key, tensor in read_weights(base.folder).items() if "proj.weight" in key
    }
    errors = []
    for number, importance in enumerate((linears, linears | {name: heavy})):
        path = export_gguf(base, tmp_path / f"{number}.gguf", "q4_k_s", importance=importance).path
        found = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.0.ffn_down.weight")
        values = gguf.dequantize(found.data, found.tensor_type)
        errors.append(np.square(values - read_weights(base.folder)[name].read())[:, ::8].mean())
    assert errors[1] < 0.8 * errors[0]


def test_the_file_says_what_the_folder_says(base: BaseModel, tmp_path: Path) -> None:
    found = read_gguf(write_gguf(base, tmp_path / "m.gguf", "f32").path)
    fields = found.fields
    assert fields["general.architecture"] == "qwen2"
    assert fields["qwen2.context_length"] == 2048
    assert fields["tokenizer.ggml.eos_token_id"] == 2
    assert fields["tokenizer.ggml.pre"] == "qwen2"
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == (base.folder / "chat_template.jinja").read_text()
    tokenizer = json.loads((base.folder / "tokenizer.json").read_text())
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert {name: number for number, name in enumerate(fields["tokenizer.ggml.tokens"]) if number > 2} == {
        name: number for name, number in tokenizer["model"]["vocab"].items() if number > 2
    }
    assert fields["tokenizer.ggml.token_type"][:4].tolist() == [3, 3, 3, 1]
    assert "output.weight" not in {tensor.name for tensor in found.tensors}  # tied: the embedding stands for it


@pytest.mark.end_to_end
@pytest.mark.parametrize(("kind", "error"), [("f32", 0), ("f16", 1e-3), ("bf16", 0), ("q8_0", 1e-2)])
def test_tensors_hold_the_folders_numbers(kind: Any, error: float, base: BaseModel, tmp_path: Path) -> None:
    """The embedded base is stored in bf16, so that f32 and bf16 lose nothing."""
    path = write_gguf(base, tmp_path / "m.gguf", kind).path
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for ours, name in (("model.embed_tokens", "token_embd"), ("model.layers.3.mlp.down_proj", "blk.3.ffn_down")):
        wanted = read_weights(base.folder)[f"{ours}.weight"].read()
        stored = tensors[f"{name}.weight"]
        assert stored.tensor_type.name == kind.upper()
        found = gguf.dequantize(stored.data, stored.tensor_type)
        assert np.abs(found - wanted).max() <= error * np.abs(wanted).max()


@pytest.mark.end_to_end
def test_rows_are_written_some_at_a_time(base: BaseModel, tmp_path: Path, monkeypatch: Any) -> None:
    whole = write_gguf(base, tmp_path / "a.gguf", "q8_0").path.read_bytes()
    monkeypatch.setattr("whet.export.gguf_write.ROWS_BYTES", 100_000)
    assert write_gguf(base, tmp_path / "a.gguf", "q8_0").path.read_bytes() == whole


def test_the_order_of_rows_is_that_of_rotating_neighbours() -> None:
    """Rotating halves and then reordering is reordering and then rotating neighbours, for any angle."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2 * 8, 3)).astype(np.float32)
    angles = rng.standard_normal(4)

    def halves(x: Any) -> Any:
        a, b = x.reshape(2, 2, 4, 3).swapaxes(0, 1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.stack([a * cos - b * sin, b * cos + a * sin], 1).reshape(16, 3)

    def neighbours(x: Any) -> Any:
        a, b = x.reshape(2, 4, 2, 3).transpose(2, 0, 1, 3)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.stack([a * cos - b * sin, b * cos + a * sin], 2).reshape(16, 3)

    assert np.allclose(interleave_halves(halves(rows), 2), neighbours(interleave_halves(rows, 2)), atol=1e-6)


def test_a_sliding_window_ends_the_file(tmp_path: Path, made: Any) -> None:
    config = made["Mistral"].config | {"sliding_window": 128}
    layout = read_layout(config, "config.json")
    assert layout.fields["context_length"] == 128
    assert "looks back 128 tokens" in layout.notes[0]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a family": ({"model_type": "mamba"}, "family 'mamba'"),
    "an activation": ({"hidden_act": "relu"}, "computes with relu"),
    "positions": ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
    "quantised": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised already"),
    "too few rows": ({"vocab_size": 8000}, "8,000 rows"),
    "more rows than there are": ({"vocab_size": 9000}, "9,000 tokens"),
    "more layers than there are": ({"num_hidden_layers": 7}, "lack 1 tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_said_is_refused(name: str, tmp_path: Path) -> None:
    changes, words = REFUSED[name]
    model = open_base(copy_base(tmp_path / "m", **changes))
    with pytest.raises(InputError, match=words):
        write_gguf(model, tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_f16_does_not_write_infinity(tmp_path: Path) -> None:
    folder = random_model(tmp_path / "m", "Qwen2")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = 70_000.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj.weight: holds numbers beyond 65,504"):
        write_gguf(open_base(folder), tmp_path / "m.gguf", "f16")


def test_a_type_that_is_none_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'q9' is no type.*q4_k_m"):
        export_gguf(base, tmp_path / "m.gguf", "q9")
