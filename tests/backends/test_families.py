"""Packed rows on many families of models: loss and gradients are those of plain transformers, one row at a time."""

from typing import Any

import pytest
import torch
from conftest import PACKS, TREE, assert_close, enliven, plain_copy, plain_gradients, random_model, take_gradients

from whet.backends.base import DeviceSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch.backend import TorchBackend
from whet.models.base_model import open_base

# Windows are shorter than the rows, and shorter than some paths through the tree.
WINDOW = {"sliding_window": 6}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen3": {},
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Mistral window": WINDOW,
    "Gemma": {},
    "Gemma2": WINDOW | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "Gemma2 full": {"sliding_window": 256, "attn_logit_softcapping": 2.0, "final_logit_softcapping": None},
    "Gemma3Text": WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "Phi": {},
    "Phi3": {},
    "Phi3 window": WINDOW,
    "Ernie4_5": {},
    "Granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
}
# Their logits are more than head(hidden), so that the head runs as they wrote it.
OWN_HEADS = {"Gemma2", "Granite"}


@pytest.fixture(scope="module", params=FAMILIES)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TorchBackend:
    name = request.param
    folder = random_model(tmp_path_factory.mktemp("families") / "m", name.split()[0], **FAMILIES[name])
    backend = TorchBackend(open_base(folder), OptimizerSettings())
    generator = torch.Generator().manual_seed(2)
    for parameter in backend.model.parameters():
        if parameter.ndim == 1:  # biases start at 0 and norms at 1, where their mistakes don't show
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    backend.attach(LoraSettings(rank=4))
    enliven(backend.model)
    assert (backend.passes.head is None) == (name in OWN_HEADS)
    return backend


def test_loss_and_gradients_are_plain_transformers(backend: TorchBackend) -> None:
    assert (backend.row_layout, backend.layout_reason) == ("packed", "")
    plain = plain_copy(backend)
    tree_loss, tree = plain_gradients(plain, [TREE])
    rest_loss, rest = plain_gradients(plain, PACKS[1:])
    whole = tree_loss + rest_loss, {name: gradient + rest[name] for name, gradient in tree.items()}
    # The tree alone is one row; among others its prefix is computed apart.
    runs = (([TREE], "packed", (tree_loss, tree)), (PACKS, "packed", whole), (PACKS, "padded", whole))
    for packs, layout, (wanted_loss, wanted) in runs:
        loss, _ = backend.passes.backward(packs, layout, 1.0)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert_close(take_gradients(backend.model), wanted)
    assert backend.passes.loss(PACKS, "packed") == pytest.approx(whole[0], rel=1e-5)


@pytest.mark.parametrize("settings", [DeviceSettings(), DeviceSettings(checkpoint_activations=True)], ids=["kept", "again"])
def test_last_layers_of_a_windowed_model(settings: DeviceSettings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The layers below compute keys of the prefix apart as well."""
    folder = random_model(tmp_path_factory.mktemp("families") / "m", "Gemma3Text", **FAMILIES["Gemma3Text"])
    backend = TorchBackend(open_base(folder), OptimizerSettings(), settings)
    backend.attach(LoraSettings(rank=4, last_layers=1))
    enliven(backend.model)
    loss, gradients = plain_gradients(plain_copy(backend), PACKS)
    for _ in range(2):
        assert backend.passes.backward(PACKS, "packed", 1.0)[0] == pytest.approx(loss, rel=1e-5)
        assert_close(take_gradients(backend.model), gradients)
