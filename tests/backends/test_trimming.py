"""The last layer at learnt tokens only: what of it runs, which models take it, and that nothing else changes."""

from pathlib import Path

import pytest
import torch
from conftest import PACKS, TREE, assert_close, enliven, random_model, take_gradients

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch.backend import TorchBackend
from whet.models.base_model import BaseModel, open_base


def opened(base: BaseModel, adapter: LoraSettings | FullSettings, **device: object) -> TorchBackend:
    backend = TorchBackend(base, OptimizerSettings(), DeviceSettings(**device))
    backend.attach(adapter)
    enliven(backend.model)
    return backend


def rows_through(backend: TorchBackend, name: str, packs: list) -> list[int]:
    """Tokens that a part of the last layer computes in each forward pass."""
    part = backend.passes.last.layer.get_submodule(name)
    seen: list[int] = []
    handle = part.register_forward_hook(lambda _, inputs, out: seen.append(out.shape[-2]))
    backend.passes.loss(packs, "packed")
    handle.remove()
    return seen


def test_the_mlp_sees_learnt_tokens_and_a_prefix_hardly_anything(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    assert rows_through(backend, "mlp", [TREE]) == [TREE.num_learnt]
    assert rows_through(backend, "self_attn.o_proj", [TREE]) == [TREE.num_learnt]
    assert rows_through(backend, "self_attn.k_proj", [TREE]) == [TREE.num_tokens]
    packs = [pack for pack in PACKS if pack.prefix == TREE.prefix]
    # The prefix is read by its keys and values alone; no kernel is asked for no rows, so one is computed.
    assert rows_through(backend, "mlp", packs) == [1, *(pack.num_learnt for pack in packs)]


@pytest.mark.parametrize(
    ("family", "is_trimmed"),
    [("Qwen2", True), ("Llama", True), ("Phi3", True), ("Ernie4_5", True), ("Gemma3Text", False), ("Phi", False)],
)
def test_layers_that_are_built_otherwise_stay_whole(family: str, is_trimmed: bool, tmp_path: Path) -> None:
    more = {"layer_types": ["full_attention", "full_attention"]} if family == "Gemma3Text" else {}
    backend = opened(open_base(random_model(tmp_path / "m", family, **more)), LoraSettings(rank=4))
    assert (backend.passes.last is not None) == is_trimmed


@pytest.mark.parametrize("device", [{}, {"checkpoint_activations": True}], ids=["kept", "computed again"])
@pytest.mark.parametrize("adapter", [LoraSettings(rank=4), LoraSettings(rank=4, last_layers=1), FullSettings()], ids=str)
def test_gradients_are_those_of_the_whole_layer(
    small_base: BaseModel, adapter: LoraSettings | FullSettings, device: dict[str, bool]
) -> None:
    backend = opened(small_base, adapter, **device)
    backend._prepare(is_training=True)
    trimmed = backend.passes.backward(PACKS, "packed", 1.0), take_gradients(backend.model)
    backend.passes.last = None  # nothing says any more which tokens are wanted
    whole = backend.passes.backward(PACKS, "packed", 1.0), take_gradients(backend.model)
    assert trimmed[0] == pytest.approx(whole[0], rel=1e-6)
    assert_close(trimmed[1], whole[1])


def test_a_closed_pass_leaves_the_layer_as_it_was(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    layer = backend.passes.last.layer
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        before = backend.model(input_ids=ids).logits
        backend.passes.close()
        assert "forward" not in vars(layer)
        assert not layer.self_attn.o_proj._forward_pre_hooks
        assert torch.equal(before, backend.model(input_ids=ids).logits)
