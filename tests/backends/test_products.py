"""The products that decoding puts in the place of linear layers: the same numbers to rounding, and gone afterwards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PACKS, enliven, ids_of, random_model

from whet.backends.base import Ask, DeviceSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch import products
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.products import Products
from whet.models.base_model import BaseModel, open_base


def opened(base: BaseModel, adapter: LoraSettings | None, **device: Any) -> TorchBackend:
    backend = TorchBackend(base, OptimizerSettings(), DeviceSettings(kind="cpu", **device))
    backend.attach(adapter)
    enliven(backend.model)
    return backend


def forwards(model: Any) -> dict[str, Any]:
    return {name: vars(module).get("forward") for name, module in model.named_modules()}


@pytest.mark.parametrize("adapter", [None, LoraSettings(rank=4), LoraSettings(rank=4, last_layers=1),
                                     LoraSettings(rank=4, dora=True), LoraSettings(rank=2, save_modules=("lm_head",))])  # fmt: skip
@pytest.mark.parametrize("family", ["Qwen2", "Phi", "Phi3", "Ernie4_5"])
def test_layers_give_the_same_numbers(family: str, adapter: LoraSettings | None, tmp_path: Path) -> None:
    backend = opened(open_base(random_model(tmp_path / "m", family, tie_word_embeddings=False)), adapter)
    inputs = {"input_ids": torch.tensor([ids_of(37, 1)]), "use_cache": False}
    before = forwards(backend.model)
    with torch.no_grad():
        wanted = backend.model(**inputs).logits
        made = Products(backend.passes)
        assert made.forwards
        with made.at_work():
            hidden = backend.model.get_decoder()(**inputs).last_hidden_state
            assert forwards(backend.model) != before
            got = made.of_head(hidden)
    assert forwards(backend.model) == before
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_siblings_are_one_product(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    made = Products(backend.passes)
    layer = backend.model.get_decoder().layers[1]
    q, k, v, gate, up, out = (
        layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj,
        layer.mlp.gate_proj, layer.mlp.up_proj, layer.self_attn.o_proj,
    )  # fmt: skip
    x, y = torch.randn(1, 5, 64), torch.randn(1, 3, 64)
    with torch.no_grad():
        # Whoever is asked in another order, or about another input, gives its own output all the same.
        for module, given in ((q, x), (k, x), (v, x), (gate, x), (up, x), (k, y), (v, x), (q, x), (v, y), (up, y), (out, x)):
            wanted = module(given)
            assert (made.forwards[module](given) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    together = [made.forwards[module].__closure__ for module in (q, k, v, gate, up)]
    assert all(together)
    assert isinstance(made.forwards[out], products._Product)


@pytest.mark.parametrize("name", ["Intel Xeon", "AMD EPYC", ""])
def test_every_cpu_has_its_products(name: str, small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    backend = opened(small_base, LoraSettings(rank=4))
    made, layer = Products(backend.passes), backend.model.get_decoder().layers[0]
    assert type(made.forwards[layer.mlp.down_proj]) is (products._Product if name[:5] == "Intel" else products._OneDnnProduct)
    with torch.no_grad():
        for module, num in ((layer.self_attn.q_proj, 1), (layer.mlp.down_proj, 16), (layer.mlp.down_proj, 37)):
            x = torch.randn(1, num, module.in_features)
            wanted, got = module(x), made.forwards[module](x)
            assert got.shape == wanted.shape
            assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_nothing_stays_after_a_reply_or_an_abandoned_one(small_base: BaseModel) -> None:
    backend, other = opened(small_base, LoraSettings(rank=4)), opened(small_base, LoraSettings(rank=4))
    before = forwards(backend.model)
    asks = [Ask(ids_of(9, n), 3 + n) for n in range(5)]
    assert len(list(backend.generate(asks, [2]))) == 5
    stream = backend.generate(asks, [2])
    next(stream)
    stream.close()
    assert forwards(backend.model) == before
    for one in (backend, other):
        one.update(PACKS, 1e-2)
    assert backend.digests() == other.digests()


@pytest.mark.parametrize("settings", [{"dtype": "bf16"}, {"quantize": "int8"}])
def test_other_numbers_are_left_to_their_layers(settings: dict[str, Any], small_base: BaseModel) -> None:
    if "quantize" in settings:
        pytest.importorskip("bitsandbytes")
    backend = opened(small_base, LoraSettings(rank=4), **settings)
    assert Products(backend.passes).forwards.keys() <= {
        module for module in backend.model.modules() if type(module) is torch.nn.Linear and module.weight.dtype == torch.float32
    }


def test_copies_that_would_fill_the_memory_are_not_made(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_memory", lambda: 1 << 20)
    assert not Products(opened(small_base, LoraSettings(rank=4)).passes).forwards
