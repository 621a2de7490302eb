"""Adapters of PEFT's and mlx-lm's: converted both ways bit by bit, checked against the real libraries; misfits refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from export.conftest import IDS, logits
from whet.errors import InputError
from whet.export.convert import convert_adapter
from whet.export.fit import check_fit, say_shown, show_adapter
from whet.models.adapter import write_card
from whet.models.base_model import open_base
from whet.models.mlx_adapter import alpha_of, read_mlx

Write = Callable[..., tuple[Any, Path]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(
        tmp_path_factory.mktemp("convert") / "llama", "Llama", hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        rope_theta=10000.0,
    )  # fmt: skip


def mlx_logits(base: Path, adapter: Path | None = None) -> np.ndarray[Any, Any]:
    """Logits of the same ids in real mlx-lm, (8, V)."""
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, _ = load_model(base)
    model.set_dtype(mx.float32)
    if adapter is not None:
        load_adapters(model, str(adapter))
    model.eval()
    return np.array(model(mx.array(IDS.numpy()))[0])


@pytest.fixture
def write_mlx_lm(tmp_path: Path, base: Path) -> Callable[..., Path]:
    """An adapter that real mlx-lm laid out, with random numbers."""

    def write(kind: str = "lora", num_layers: int = 2, rank: int = 4, scale: float = 20.0) -> Path:
        from mlx.utils import tree_flatten
        from mlx_lm.tuner.utils import linear_to_lora_layers
        from mlx_lm.utils import load_model, save_config

        model, _ = load_model(base)
        parameters = {"rank": rank, "scale": scale, "dropout": 0.0}
        model.freeze()
        linear_to_lora_layers(model, num_layers, parameters, use_dora=kind == "dora")
        mx.random.seed(0)
        tensors = {
            name: mx.random.normal(value.shape) * 0.02 + (value if name.endswith(".m") else 0)
            for name, value in tree_flatten(model.trainable_parameters())
        }
        folder = tmp_path / f"mlx-{kind}"
        folder.mkdir()
        mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
        save_config(
            {"model": str(base), "fine_tune_type": kind, "num_layers": num_layers, "lora_parameters": parameters},
            folder / "adapter_config.json",
        )
        return folder

    return write


@pytest.mark.parametrize("settings", [
    {}, {"use_dora": True}, {"use_rslora": True}, {"layers_to_transform": [1, 2], "target_modules": ["q_proj", "down_proj"]},
    {"target_modules": ["q_proj", "lm_head"]},
], ids=str)  # fmt: skip
def test_an_adapter_of_peft_says_the_same_in_mlx_lm(
    settings: dict[str, Any], base: Path, tmp_path: Path, write_peft: Write
) -> None:
    adapted, adapter = write_peft(base, **settings)
    notes = convert_adapter(adapter, "mlx-lm", tmp_path / "out", open_base(base))
    assert np.abs(mlx_logits(base, tmp_path / "out") - logits(adapted).numpy()).max() < 1e-4
    assert any("rsLoRA" in note for note in notes) == bool(settings.get("use_rslora"))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["num_layers"] == (2 if "layers_to_transform" in settings else 3)
    convert_adapter(adapter, "mlx-lm", tmp_path / "blind", None)
    assert np.abs(mlx_logits(base, tmp_path / "blind") - logits(adapted).numpy()).max() < 1e-4


def test_patterns_are_folded_into_one_rank_and_scale(base: Path, tmp_path: Path, write_peft: Write) -> None:
    adapted, adapter = write_peft(base, rank_pattern={"q_proj": 2}, alpha_pattern={"layers.1.mlp.up_proj": 3})
    notes = convert_adapter(adapter, "mlx-lm", tmp_path / "out", open_base(base))
    assert any(note.startswith("3 layers of a smaller rank") for note in notes)
    assert any("the scales of 4 layers differ" in note for note in notes)
    assert np.abs(mlx_logits(base, tmp_path / "out") - logits(adapted).numpy()).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_mlx_lm_says_the_same_in_peft(
    kind: str, base: Path, tmp_path: Path, write_mlx_lm: Callable[..., Path]
) -> None:
    import peft

    from export.conftest import open_model

    folder = write_mlx_lm(kind, scale=3.7)
    convert_adapter(folder, "peft", tmp_path / "out", open_base(base))
    adapted = peft.PeftModel.from_pretrained(open_model(base), tmp_path / "out").eval()
    assert np.abs(logits(adapted).numpy() - mlx_logits(base, folder)).max() < 1e-4
    assert np.abs(mlx_logits(base, folder) - mlx_logits(base)).max() > 0.01


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_there_and_back_is_bit_identical(kind: str, tmp_path: Path, write_mlx_lm: Callable[..., Path], base: Path) -> None:
    folder = write_mlx_lm(kind, scale=7.3)
    convert_adapter(folder, "peft", tmp_path / "peft", None)
    convert_adapter(tmp_path / "peft", "mlx-lm", tmp_path / "back", open_base(base))
    one, other = load_file(folder / "adapters.safetensors"), load_file(tmp_path / "back" / "adapters.safetensors")
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and (one[name] == other[name]).all() for name in one)
    before, after = (json.loads((path / "adapter_config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert before["num_layers"] == after["num_layers"]
    assert before["lora_parameters"].items() <= (after["lora_parameters"] | {"keys": None}).items()


def test_peft_there_and_back_is_bit_identical(base: Path, tmp_path: Path, write_peft: Write) -> None:
    _, adapter = write_peft(base)
    path = adapter / "adapter_model.safetensors"
    tensors = {name: torch.from_numpy(value).bfloat16() for name, value in load_file(path).items()}
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    save_torch(tensors, path)
    convert_adapter(adapter, "mlx-lm", tmp_path / "mlx", None)
    convert_adapter(tmp_path / "mlx", "peft", tmp_path / "back", None)
    back = load_torch(tmp_path / "back" / "adapter_model.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    one, other = (json.loads((folder / "adapter_config.json").read_text()) for folder in (adapter, tmp_path / "back"))
    assert (one["r"], one["lora_alpha"]) == (other["r"], other["lora_alpha"])


@given(st.floats(1e-3, 1e3), st.integers(1, 512))
def test_the_scale_comes_back_to_the_last_bit_or_its_neighbour(scale: float, rank: int) -> None:
    back = alpha_of(scale, rank) / rank
    assert abs(back - scale) <= np.spacing(scale)


@pytest.mark.parametrize(("settings", "words"), [
    ({"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}, r"lm_head.weight \(trained whole\).*whet export mlx"),
    ({"target_modules": ["embed_tokens"]}, r"embed_tokens \(an embedding\)"),
], ids=str)  # fmt: skip
def test_what_mlx_lm_can_not_hold_is_refused(
    settings: dict[str, Any], words: str, base: Path, tmp_path: Path, write_peft: Write
) -> None:
    _, adapter = write_peft(base, **settings)
    with pytest.raises(InputError, match=words):
        convert_adapter(adapter, "mlx-lm", tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "words"), [
    ({"lora_parameters": {"rank": 4, "alpha": 16}}, "gives no rank and scale; `alpha` is not read by mlx-lm"),
    ({"lora_parameters": {"rank": 8, "scale": 1.0}}, "its config says rank 8"),
    ({"fine_tune_type": "full"}, "full fine-tuning"),
    ({"fine_tune_type": "dora"}, "do not agree about m"),
    ({"fine_tune_type": "magic"}, "no description of an adapter"),
])  # fmt: skip
def test_a_broken_adapter_of_mlx_lm_is_refused(change: dict[str, Any], words: str, write_mlx_lm: Callable[..., Path]) -> None:
    folder = write_mlx_lm()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        read_mlx(folder)


def test_an_adapter_of_mlx_lm_without_its_scale_is_refused(write_mlx_lm: Callable[..., Path]) -> None:
    folder = write_mlx_lm()
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="the adapter's strength is unknown"):
        read_mlx(folder)


def test_what_an_adapter_holds_is_shown(write_mlx_lm: Callable[..., Path], base: Path, write_peft: Write) -> None:
    shown = show_adapter(write_mlx_lm(scale=20.0))
    assert (shown["layout"], shown["num_layers"]) == ("mlx-lm", 14)
    assert shown["strengths"] == [{"rank": 4, "scale": 20.0, "num_layers": 14}]
    _, adapter = write_peft(base, target_modules=["q_proj"], modules_to_save=["lm_head"], alpha_pattern={"layers.0.*q_proj": 4})
    shown = show_adapter(adapter)
    assert shown["strengths"] == [{"rank": 4, "scale": 1.0, "num_layers": 1}, {"rank": 4, "scale": 2.0, "num_layers": 2}]
    lines = say_shown(shown)
    assert "trained whole: lm_head.weight" in lines
    assert "rank 4, strength 2: 2 layers" in lines


class TestFit:
    """Whether an adapter belongs to a base."""

    @pytest.fixture
    def adapter(self, base: Path, write_peft: Write) -> Path:
        return write_peft(base, target_modules=["q_proj"])[1]

    def test_a_fit_is_said_with_what_proves_it(self, adapter: Path, base: Path) -> None:
        notes = check_fit(adapter, open_base(base))
        assert notes[0] == "each of its 3 parts has its place in the base, of the right shape"
        assert notes[-1].startswith("NOT PROVED: nothing beside it")
        write_card(adapter, open_base(base), {})
        assert "its card bears the base's fingerprint" in check_fit(adapter, open_base(base))

    def test_another_base_is_refused_by_its_card(self, adapter: Path, base: Path) -> None:
        write_card(adapter, open_base("embedded"), {})
        with pytest.raises(InputError, match="another base"):
            check_fit(adapter, open_base(base))

    def test_another_name_is_told(self, adapter: Path, base: Path, tmp_path: Path) -> None:
        shutil.copytree(base, tmp_path / "gemma")
        assert "it names llama as its base, and this is gemma" in check_fit(adapter, open_base(tmp_path / "gemma"))[-1]

    @pytest.mark.parametrize(("family", "extra", "words"), [
        ("Llama", {"hidden_size": 64}, r"is \[64, 64\] in this base"),
        ("Llama", {"hidden_size": 32, "num_hidden_layers": 2}, r"layers\.2.*which this base has not"),
        ("Phi3", {"hidden_size": 32, "num_hidden_layers": 3}, "which this base has not"),
    ])  # fmt: skip
    def test_other_shapes_are_refused(
        self, family: str, extra: dict[str, Any], words: str, adapter: Path, tmp_path: Path
    ) -> None:
        other = random_model(tmp_path / "other", family, intermediate_size=48, **extra)
        with pytest.raises(InputError, match=words):
            check_fit(adapter, open_base(other))

    def test_another_revision_is_refused(self, adapter: Path, base: Path, tmp_path: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "a" * 40}))
        for name in ("a" * 40, "b" * 40):
            shutil.copytree(base, tmp_path / "snapshots" / name)
        check_fit(adapter, open_base(tmp_path / "snapshots" / ("a" * 40)))
        with pytest.raises(InputError, match="revision aaaaaaaaaaaa"):
            check_fit(adapter, open_base(tmp_path / "snapshots" / ("b" * 40)))

    def test_a_tokenizer_with_more_tokens_is_refused(self, adapter: Path, base: Path) -> None:
        tokenizer = json.loads((base / "tokenizer.json").read_text())
        (adapter / "tokenizer.json").write_text((base / "tokenizer.json").read_text())
        assert "its tokenizer is the base's" in check_fit(adapter, open_base(base))
        tokenizer["added_tokens"].append({"id": 8192, "content": "<new>", "special": True})
        (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
        with pytest.raises(InputError, match="has 8193 entries, and the embedding 8192 rows"):
            check_fit(adapter, open_base(base))

    def test_an_adapter_that_was_never_trained_is_refused(self, adapter: Path, base: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        tensors = load_file(path)
        for name in tensors:
            if "lora_B" in name:
                tensors[name] = np.zeros_like(tensors[name])
        save_file(tensors, path)
        with pytest.raises(InputError, match="all 3 layers are as they were before the first step"):
            check_fit(adapter, open_base(base))


def test_an_adapter_of_mlx_lm_is_fused(base: Path, tmp_path: Path, write_mlx_lm: Callable[..., Path]) -> None:
    from export.conftest import open_model
    from export.test_fuse import fuse_folders

    folder = write_mlx_lm("dora")
    fuse_folders(base, folder, tmp_path / "out")
    assert np.abs(logits(open_model(tmp_path / "out")).numpy() - mlx_logits(base, folder)).max() < 1e-4
