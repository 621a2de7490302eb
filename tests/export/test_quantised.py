"""Bases in a few bits: read as their own libraries read them; fused into their origin, or unpacked, never packed again unseen."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from conftest import random_model
from safetensors.numpy import save_file

from export.conftest import logits, merged_by_peft, open_model
from export.test_fuse import fuse_folders
from whet.errors import InputError
from whet.export.onto import check_origin
from whet.models.base_model import open_base
from whet.models.quantised import FourBits, Packed, unpacked
from whet.models.weights import read_weights

Write = Callable[..., tuple[Any, Path]]
SIZES = {"hidden_size": 128, "intermediate_size": 192}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(tmp_path_factory.mktemp("plain") / "plain", "Llama", **SIZES)


@pytest.fixture(scope="module")
def packed_by_bitsandbytes(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import transformers

    found = {}
    for kind, settings in {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
        "int8": {"load_in_8bit": True},
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = transformers.BitsAndBytesConfig(**settings)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                plain, dtype=torch.float32, quantization_config=chosen, device_map={"": "cpu"}
            )
            folder = tmp_path_factory.mktemp(kind) / kind
            model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(plain / name, folder / name)
        found[kind] = folder
    return found


def mlx_folder(plain: Path, folder: Path, bits: int, group: int) -> Path:
    """A folder as mlx_lm.convert -q writes it."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model, quantize_model

    model, config = load_model(plain)
    model, config = quantize_model(model, config, group_size=group, bits=bits)
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("bits", "group"), [(2, 64), (3, 64), (4, 32), (5, 64), (6, 64), (8, 128)])
def test_mlx_bits_are_read_and_rounded_as_mlx_does(bits: int, group: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(bits)
    weights = generator.standard_normal((6, 256), np.float32) * np.linspace(0.01, 3, 6, dtype=np.float32)[:, None]
    codes, scales, biases = mx.quantize(mx.array(weights), group_size=group, bits=bits)
    save_file(
        {"m.weight": np.array(codes), "m.scales": np.array(scales), "m.biases": np.array(biases)}, tmp_path / "model.safetensors"
    )
    config = {"quantization": {"group_size": group, "bits": bits}}
    found = unpacked(read_weights(tmp_path), config, "here")
    assert found.keys() == {"m.weight"}
    tensor = found["m.weight"]
    assert isinstance(tensor, Packed)
    assert tensor.shape == (6, 256)
    wanted = np.array(mx.dequantize(codes, scales, biases, group_size=group, bits=bits))
    assert np.abs(tensor.read() - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert (tensor.rows(2, 5) == tensor.read()[2:5]).all()
    assert np.abs(tensor.packing.round(weights) - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes_is_read_as_it_reads_itself(kind: str, packed_by_bitsandbytes: dict[str, Path]) -> None:
    import bitsandbytes as bnb

    folder = packed_by_bitsandbytes[kind]
    base = open_base(folder)
    found = unpacked(read_weights(folder), base.config, str(folder))
    model = open_model(folder)
    num_packed = 0
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            wanted = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        elif isinstance(module, bnb.nn.Linear8bitLt):
            wanted = module.weight.data.float() * module.weight.SCB[:, None] / 127
        else:
            continue
        tensor = found[f"{name}.weight"]
        assert isinstance(tensor, Packed)
        assert np.abs(tensor.read() - wanted.numpy()).max() <= 1e-6 * wanted.abs().max().item(), name
        assert (tensor.rows(3, 7) == tensor.read()[3:7]).all()
        # What it holds already is what it rounds to.
        assert np.abs(tensor.packing.round(tensor.read()) - tensor.read()).max() <= 1e-5 * wanted.abs().max().item()
        num_packed += 1
    assert num_packed == 14
    assert not any("absmax" in name or "SCB" in name or "quant" in name for name in found)


def test_rows_of_odd_width_and_the_rounding_are_bitsandbytes_own(tmp_path: Path) -> None:
    import bitsandbytes.functional as bnb

    torch.manual_seed(0)
    weights = torch.randn(7, 33) * 0.1
    codes, state = bnb.quantize_4bit(weights, blocksize=64, quant_type="nf4")
    save_file({"w": codes.numpy().reshape(-1)}, tmp_path / "f.safetensors")
    packing = FourBits(read_weights(tmp_path)["w"], (7, 33), state.code.numpy(), state.absmax.numpy(), 64)
    wanted = bnb.dequantize_4bit(codes, state).numpy()
    assert (packing.rows(0, 7) == wanted).all()
    assert all((packing.rows(at, at + 1) == wanted[at : at + 1]).all() for at in range(7))
    assert np.abs(packing.round(weights.numpy()) - wanted).max() < 1e-6


@pytest.mark.parametrize("kind", ["nf4", "int8", "mlx"])
def test_a_quantised_base_is_refused_with_the_damage(
    kind: str, plain: Path, packed_by_bitsandbytes: dict[str, Path], tmp_path: Path, write_peft: Write
) -> None:
    base = mlx_folder(plain, tmp_path / "mlx", 4, 64) if kind == "mlx" else packed_by_bitsandbytes[kind]
    adapted, adapter = write_peft(plain, size=0.02)
    with pytest.raises(InputError, match=r"is quantised: packed again .*rounding would be \d+% .*--onto FOLDER.*--accept-loss"):
        fuse_folders(base, adapter, tmp_path / "out")
    onto = fuse_folders(base, adapter, tmp_path / "onto", onto=open_base(plain))
    assert "14 packed tensors of the base are these weights, rounded" in " ".join(onto.notes) or kind == "mlx"
    assert torch.allclose(logits(open_model(tmp_path / "onto")), logits(adapted), atol=2e-4, rtol=1e-4)
    assert "quantization" not in (tmp_path / "onto" / "config.json").read_text()
    # Its own numbers, unpacked: what PEFT computes over that base is what the folder computes.
    fuse_folders(base, adapter, tmp_path / "loss", is_loss_accepted=True, dtype="fp32")
    mine = unpacked(read_weights(base), open_base(base).config, "")
    deltas, before = merged_by_peft(adapted), open_model(plain).state_dict()
    for name, tensor in read_weights(tmp_path / "loss").items():
        wanted = mine[name].read() + (deltas[name] - before[name]).numpy()
        assert np.abs(tensor.read() - wanted).max() < 1e-5, name
    assert "quantization" not in (tmp_path / "loss" / "config.json").read_text()
    open_model(tmp_path / "loss")


def test_the_damage_is_that_of_packing_again(
    packed_by_bitsandbytes: dict[str, Path], plain: Path, tmp_path: Path, write_peft: Write
) -> None:
    """bitsandbytes itself packs the merged weights: share and error are its own."""
    import bitsandbytes.functional as bnb

    from whet.export.onto import measure_damage
    from whet.models.lora import read_lora

    base = packed_by_bitsandbytes["fp4"]
    _, adapter = write_peft(plain, size=0.02, target_modules=["q_proj"])
    mine = unpacked(read_weights(base), open_base(base).config, "")
    lora = read_lora(adapter)
    damage = measure_damage(mine, lora)
    moved, change, error = [], [], []
    for module, layer in lora.layers.items():
        before = torch.from_numpy(mine[f"{module}.weight"].read())
        delta = torch.from_numpy(layer.scale * layer.b.read() @ layer.a.read())
        after = bnb.dequantize_4bit(*bnb.quantize_4bit(before + delta, blocksize=64, quant_type="fp4"))
        moved.append((after - before).abs().flatten() > 1e-6)
        change.append(delta.flatten())
        error.append((after - before - delta).flatten())
    assert damage.num_tensors == 2
    assert damage.error == pytest.approx((torch.cat(error).norm() / torch.cat(change).norm()).item(), rel=0.01)
    assert damage.error > 1
    assert 0.02 < damage.share < 1


def test_other_weights_are_not_the_origin(packed_by_bitsandbytes: dict[str, Path], plain: Path, tmp_path: Path) -> None:
    base = open_base(packed_by_bitsandbytes["nf4"])
    assert check_origin(base, open_base(plain)).startswith("14 packed tensors")
    torch.manual_seed(5)
    other = open_model(plain)
    for parameter in other.parameters():
        parameter.data = parameter.data * (1 + 0.3 * torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match=r"--onto: .*does not hold the weights that nf4 was made from.*rounding explains"):
        check_origin(base, open_base(tmp_path / "other"))
    smaller = random_model(tmp_path / "smaller", "Llama", **(SIZES | {"hidden_size": 64}))
    with pytest.raises(InputError, match="is not there in this shape"):
        check_origin(base, open_base(smaller))


def test_onto_means_nothing_on_a_plain_base(
    plain: Path, packed_by_bitsandbytes: dict[str, Path], tmp_path: Path, write_peft: Write
) -> None:
    _, adapter = write_peft(plain, target_modules=["q_proj"])
    with pytest.raises(InputError, match="Leave --onto out"):
        fuse_folders(plain, adapter, tmp_path / "out", onto=open_base(plain))
    base = packed_by_bitsandbytes["int8"]
    with pytest.raises(InputError, match="is quantised itself"):
        fuse_folders(base, adapter, tmp_path / "out", onto=open_base(base))


@pytest.mark.parametrize(("config", "words"), [
    ({"quant_method": "gptq", "bits": 4}, "is quantised by gptq, which can't be read here"),
    ({"bits": 4, "group_size": 64, "mode": "mxfp4"}, "quantised by MLX's mxfp4"),
    ({"bits": 7, "group_size": 64}, "not packed as its config says"),
    ({"bits": 4, "group_size": 0}, "not packed as its config says"),
    ({"bits": 4, "group_size": 48}, "not packed as its config says"),
    ({"load_in_4bit": True}, "not packed as its config says"),
])  # fmt: skip
def test_what_can_not_be_unpacked_is_refused(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    save_file(
        {
            "m.weight": np.zeros((4, 16), np.uint32),
            "m.scales": np.zeros((4, 2), np.float32),
            "m.biases": np.zeros((4, 2), np.float32),
        },
        tmp_path / "model.safetensors",
    )
    with pytest.raises(InputError, match=words):
        unpacked(read_weights(tmp_path), {"quantization_config": config}, "base")
