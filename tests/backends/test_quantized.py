"""Bases in 4 and 8 bits: the same as bitsandbytes' own, small, untouched by training, exact for rows that stand together."""

import importlib.util
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from conftest import copy_base, random_model

from whet.backends.base import FullSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch import quantized
from whet.backends.on_torch.adapters import adapt, adapt_fully, load_adapter, num_rows, remove_adapter, save_adapter
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.optimizers import make_optimizer, set_rate
from whet.errors import InputError, MissingExtraError
from whet.models.base_model import BaseModel, open_base

Kind = Literal["nf4", "int8"]
KINDS: tuple[Kind, ...] = ("nf4", "int8")
CPU = torch.device("cpu")
IDS = torch.randint(3, 8000, (3, 12), generator=torch.Generator().manual_seed(0))
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (the `quantized` extra)"
)


@pytest.fixture(scope="module")
def own_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("bases") / "base"
    # A layer's output must not be a multiple of 32 only: bitsandbytes' packed kernel would fail on it.
    return open_base(random_model(folder, "Qwen2", tie_word_embeddings=True, hidden_size=128, intermediate_size=208))


def held(model: Any) -> dict[str, bytes]:
    """All bytes of a model's weights and of the scales that belong to them."""
    found = {}
    for name, tensor in model.state_dict().items():
        if "lora_" not in name:
            found[name.replace("base_model.model.", "").replace("base_layer.", "")] = (
                tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode()
            )
    return found


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_is_small_and_keeps_its_head(kind: Kind, own_base: BaseModel) -> None:
    full, model = load_model(own_base, torch.float32, CPU), load_model(own_base, torch.float32, CPU, kind)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, full.get_input_embeddings().weight)
    assert not any(weight.requires_grad for weight in model.parameters())

    def size(m: Any) -> int:
        return sum(w.nbytes for n, w in m.model.layers.named_parameters() if n.endswith("proj.weight"))

    assert size(model) == size(full) / (8 if kind == "nf4" else 4)


@needs_bitsandbytes
def test_nf4_is_what_transformers_and_bitsandbytes_compute(own_base: BaseModel) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    # In training mode their layers compute as they should.
    theirs = AutoModelForCausalLM.from_pretrained(own_base.folder, quantization_config=config, device_map={"": CPU}).train()
    ours = load_model(own_base, torch.float32, CPU, "nf4")
    plain = load_model(own_base, torch.float32, CPU)
    with torch.no_grad():
        assert torch.equal(ours(IDS).logits, theirs(IDS).logits)
        for name, module in ours.named_modules():
            if hasattr(module.__dict__.get("_parameters", {}).get("weight"), "quant_state"):
                weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
                plain.get_submodule(name).weight.copy_(weight)
        torch.testing.assert_close(ours(IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
def test_int8_is_the_product_with_rounded_weights(own_base: BaseModel) -> None:
    ours, plain = load_model(own_base, torch.float32, CPU, "int8"), load_model(own_base, torch.float32, CPU)
    for name, module in plain.model.layers.named_modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.detach().abs().amax(1, keepdim=True) / 127
            rounded = (module.weight.detach() / scale).round() * scale
            off = quantized.dequantize(
                ours.model.layers.get_submodule(name).weight.data, ours.model.layers.get_submodule(name).weight.SCB, torch.float32
            )
            # bitsandbytes rounds through half precision: now and then to the next code.
            assert (off - rounded).abs().max() <= scale.max() * 1.01
            assert ((off - rounded).abs() > scale / 2).float().mean() < 0.02
            module.weight.data.copy_(off)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_change_their_neighbours_and_gradients_are_true(kind: Kind, own_base: BaseModel) -> None:
    model = load_model(own_base, torch.float32, CPU, kind)
    with torch.no_grad():
        together = model(IDS).logits
        alone = torch.cat([model(IDS[n : n + 1]).logits for n in range(len(IDS))])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    # After a forward without gradients, in evaluation mode, the gradient must still reach the input.
    inputs = model.get_input_embeddings()(IDS).detach().requires_grad_()
    loss = model(inputs_embeds=inputs, labels=IDS).loss
    (gradient,) = torch.autograd.grad(loss, inputs)
    assert torch.isfinite(gradient).all()
    torch.manual_seed(0)
    direction = torch.randn_like(inputs)
    with torch.no_grad():
        ends = [model(inputs_embeds=inputs + sign * 1e-3 * direction, labels=IDS).loss.double() for sign in (1, -1)]
    assert (gradient * direction).sum().item() == pytest.approx(((ends[0] - ends[1]) / 2e-3).item(), rel=0.05)


@needs_bitsandbytes
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_on_a_quantised_base(kind: Kind, dora: bool, own_base: BaseModel, tmp_path: Path) -> None:
    model = load_model(own_base, torch.float32, CPU, kind)
    before = held(model)
    with torch.no_grad():
        start = model(IDS, labels=IDS).loss.item()
    peft = adapt(model, LoraSettings(rank=4, dora=dora))
    with torch.no_grad():
        assert peft(IDS, labels=IDS).loss.item() == pytest.approx(start, rel=1e-4)
    optimizer = make_optimizer(peft, OptimizerSettings())
    set_rate(optimizer, 3e-3)
    for _ in range(4):
        peft(IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        reached = peft(IDS, labels=IDS).loss.item()
    assert reached < start - 0.1
    save_adapter(peft, tmp_path)
    remove_adapter(peft, num_rows(model))
    assert held(model) == before
    again = load_adapter(load_model(own_base, torch.float32, CPU, kind), tmp_path)
    with torch.no_grad():
        assert again(IDS, labels=IDS).loss.item() == reached


@needs_bitsandbytes
def test_what_a_quantised_base_can_not_do_is_refused(own_base: BaseModel) -> None:
    model = load_model(own_base, torch.float32, CPU, "nf4")
    with pytest.raises(InputError, match=r"device.quantize: a quantised base can't be trained in full"):
        adapt_fully(model, FullSettings())
    with pytest.raises(InputError, match=r"q_proj is quantised and can't be trained whole"):
        adapt(model, LoraSettings(save_modules=("q_proj",)))


@needs_bitsandbytes
def test_a_base_that_is_stored_quantised(own_base: BaseModel, tmp_path: Path) -> None:
    model = load_model(own_base, torch.float32, CPU, "nf4")
    with torch.no_grad():
        expected = model(IDS).logits
    model.save_pretrained(tmp_path / "nf4")
    stored = open_base(tmp_path / "nf4")
    with torch.no_grad():
        assert torch.equal(load_model(stored, torch.float32, CPU)(IDS).logits, expected)
    with pytest.raises(InputError, match=r"device.quantize: .* is stored quantised already"):
        load_model(stored, torch.float32, CPU, "int8")


def test_other_quantisations_are_named(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(InputError, match=r"is stored quantised by gptq, which whet does not load.*device.quantize"):
        load_model(open_base(folder), torch.float32, CPU)


def test_a_missing_bitsandbytes_is_named(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"device.quantize=nf4 needs bitsandbytes. .*whet\[quantized\]"):
        load_model(base, torch.float32, CPU, "nf4")
