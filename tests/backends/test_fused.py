"""Layers as one function: which models take it, gradients against transformers' own, and memory that is used again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PACKS, TREE, assert_close, enliven, plain_copy, plain_gradients, random_model, take_gradients

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch import fused_layer, fused_linear
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.buffers import ROUND, Buffers
from whet.models.base_model import BaseModel, open_base

# Queries are scaled by their positions, from the 17th on.
BY_POSITION: dict[str, Any] = {
    "head_dim": 16, "sliding_window": None,
    "rope_parameters": {
        "type": "yarn", "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16,
        "max_position_embeddings": 256, "beta_fast": 32.0, "beta_slow": 1.0, "mscale_all_dim": 1.0, "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}  # fmt: skip
ONLY_SOME = LoraSettings(rank=3, targets=("q_proj", "o_proj", "down_proj"))


def opened(base: BaseModel, adapter: Any, **device: Any) -> TorchBackend:
    backend = TorchBackend(base, OptimizerSettings(), DeviceSettings(**device))
    backend.attach(adapter)
    enliven(backend.model)
    return backend


@pytest.mark.parametrize(
    ("family", "more", "is_fused"),
    [
        ("Qwen2", {}, True),
        ("Qwen3", {}, True),
        ("Llama", {}, True),
        ("Mistral", {"sliding_window": 6}, True),
        ("Ernie4_5", {}, True),
        ("Ministral3", BY_POSITION, False),
        ("Gemma", {}, False),
        ("Gemma3Text", {}, False),
        ("Phi", {}, False),
        ("Phi3", {}, False),
        ("Granite", {"residual_multiplier": 0.5}, False),
    ],
)
def test_layers_that_compute_something_else_stay_plain(family: str, more: dict[str, Any], is_fused: bool, tmp_path: Path) -> None:
    backend = opened(open_base(random_model(tmp_path / "m", family, **more)), LoraSettings(rank=4))
    assert (backend.passes.fused is not None and backend.passes.fused.count == 2) == is_fused


@pytest.mark.parametrize(
    ("adapter", "device"),
    [
        (FullSettings(), {}),
        (LoraSettings(rank=4, dropout=0.1), {}),
        (LoraSettings(rank=4, dora=True), {}),
        (LoraSettings(rank=4), {"checkpoint_activations": True}),
        (LoraSettings(rank=4), {"dtype": "bf16"}),
    ],
    ids=["full", "dropout", "dora", "checkpointed", "bf16"],
)
def test_what_is_trained_otherwise_stays_plain(small_base: BaseModel, adapter: Any, device: dict[str, Any]) -> None:
    assert opened(small_base, adapter, **device).passes.fused is None


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "Ernie4_5"])
@pytest.mark.parametrize(
    "adapter", [LoraSettings(rank=4), LoraSettings(rank=4, last_layers=1), ONLY_SOME], ids=["all", "last", "some"]
)
def test_gradients_are_those_of_plain_transformers(family: str, adapter: LoraSettings, tmp_path: Path) -> None:
    backend = opened(open_base(random_model(tmp_path / "m", family)), adapter)
    assert backend.passes.fused is not None
    wanted_loss, wanted = plain_gradients(plain_copy(backend), PACKS)
    for _ in range(2):  # the second time in memory that the first one left
        loss, _ = backend.passes.backward(PACKS, "packed", 1.0)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert_close(take_gradients(backend.model), wanted)


def test_the_fused_layers_are_what_runs(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    called = []
    layer = backend.passes.last.layer
    handle = layer.mlp.register_forward_hook(lambda *_: called.append(True))
    backend.passes.backward([TREE], "packed", 1.0)
    assert not called
    backend.passes.loss([TREE], "packed")
    assert called
    handle.remove()


def test_a_fused_layer_that_errs_is_found_before_training(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    assert backend.check_layout(PACKS).startswith("rows are packed")
    # The forward pass stays right.
    monkeypatch.setattr(fused_layer.Norm, "backward", lambda _, g, x, scale, add: g if add is None else g.add_(add))
    assert "gradient norm by" in backend.check_layout(PACKS)
    assert backend.row_layout == "padded"


def test_a_wrong_gradient_of_a_is_found_though_b_is_zero(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(small_base, OptimizerSettings(), DeviceSettings())
    backend.attach(LoraSettings(rank=4))
    before = {name: weight.clone() for name, weight in backend.model.named_parameters()}
    right = fused_linear.Linears.backward

    def wrong(self: Any, *given: Any) -> Any:
        return [None if g is None else g * -5 if at % 2 == 0 else g for at, g in enumerate(right(self, *given))]

    assert backend.check_layout(PACKS).startswith("rows are packed")
    assert all(torch.equal(weight, before[name]) for name, weight in backend.model.named_parameters())
    monkeypatch.setattr(fused_linear.Linears, "backward", wrong)
    assert "gradient norm by" in backend.check_layout(PACKS)
    assert backend.row_layout == "padded"


def test_a_check_that_fails_midway_leaves_no_gradients(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    losses, num = backend.passes._losses, [0]

    def fails(part: Any) -> Any:
        num[0] += 1
        if num[0] == 2:
            raise RuntimeError("no kernel")
        return losses(part)

    monkeypatch.setattr(backend.passes, "_losses", fails)
    backend.check_layout(PACKS)
    assert all(parameter.grad is None for parameter in backend.model.parameters())


def test_a_closed_pass_leaves_the_layers_as_they_were(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    layers = backend.model.get_decoder().layers
    assert all("forward" in vars(layer) for layer in layers)
    backend.passes.close()
    assert not any("forward" in vars(layer) for layer in layers)


def test_a_step_gives_back_what_it_took(small_base: BaseModel) -> None:
    backend = opened(small_base, LoraSettings(rank=4))
    free = backend.passes.fused.buffers.free

    def held() -> dict[int, int]:
        return {width: len(blocks) for width, blocks in free.items()}

    backend.passes.backward(PACKS, "packed", 1.0)
    first = held()
    assert sum(first.values()) > 10
    for _ in range(3):
        backend.passes.backward(PACKS, "packed", 1.0)
    assert held() == first


def test_buffers_are_used_again_and_grow() -> None:
    buffers = Buffers()
    small = buffers.take(3, 5)
    assert small.shape == (3, 5)
    address = small.data_ptr()
    buffers.give(small, None)
    again = buffers.take(ROUND, 5)
    assert again.data_ptr() == address
    other = buffers.take(3, 5)
    assert other.data_ptr() != address
    buffers.give(again, other)
    large = buffers.take(2 * ROUND, 5)  # neither fits; it takes the place of one
    assert large.shape == (2 * ROUND, 5)
    assert len(buffers.free[5]) == 1
    buffers.give(large)
    assert buffers.take(1, 5).data_ptr() != large.data_ptr()  # the smallest that fits
    assert buffers.take(1, 6).shape == (1, 6)
    buffers.clear()
    assert not buffers.free
    assert torch.is_tensor(large)
