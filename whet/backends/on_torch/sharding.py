"""Spreads a frozen base over processes with FSDP2: each holds a part of every layer, and has it whole while it computes it."""

from pathlib import Path
from typing import Any

import torch

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings
from whet.backends.on_torch.layers import speed_up
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.quantized import quantized_by
from whet.backends.on_torch.ranks import Ranks
from whet.backends.on_torch.targets import decoder_layers
from whet.errors import InputError
from whet.models.base_model import BaseModel

PLACE = "device.shard"


def load_sharded(base: BaseModel, settings: DeviceSettings, dtype: torch.dtype, device: torch.device, ranks: Ranks) -> Any:
    """The base with its layers spread over all ranks; embeddings, last norm and head are whole on each.

    The processes of a machine load in turn, each into the machine's memory first: at any time one of them holds it whole there,
    and none on its device.
    """
    from torch.distributed.device_mesh import init_device_mesh

    if settings.quantize or quantized_by(base.config):
        raise InputError(PLACE, "a quantised base can't be spread", "Leave device.shard or device.quantize out")
    if settings.frozen_cache_mb:
        raise InputError(f"{PLACE}, device.frozen_cache_mb", "do not go together", "Leave one of the two out")
    mesh = init_device_mesh(device.type, (ranks.count,))
    with ranks.in_turn():
        model = load_model(base, dtype, torch.device("cpu"))
        _shard(model, mesh, device)
    return model


def _shard(model: Any, mesh: Any, device: torch.device) -> None:
    from torch.distributed.fsdp import fully_shard

    _, layers = decoder_layers(model)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if id(module) not in inside:
            _move(module, device)
    # Norms are tried out before they are replaced, which a part of a weight can't be.
    speed_up(model)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # The root fetches layers ahead. It has no weights of its own: the head's are used outside of any forward call.
    decoder = model.get_decoder()
    own = {id(weight) for layer in layers for weight in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params={weight for weight in decoder.parameters() if id(weight) not in own})


def _move(module: torch.nn.Module, device: torch.device) -> None:
    """Put a module's own weights and buffers on a device; tied weights stay one."""
    for weight in module.parameters(recurse=False):
        weight.data = weight.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def check_trainable(adapter: Any) -> None:
    """Refuse what needs a layer's weights whole outside of its own computation."""
    if isinstance(adapter, FullSettings) or (isinstance(adapter, Path) and not (adapter / "adapter_config.json").is_file()):
        raise InputError(PLACE, "spreads a frozen base, and full fine-tuning has none", "Leave it out, or train an adapter")
    if isinstance(adapter, LoraSettings) and adapter.dora:
        raise InputError("train.lora.dora", "measures the base's weights, which device.shard spreads", "Leave one of the two out")


def check_whole(model: Any) -> None:
    """Trained weights stand whole on every rank; a copy of a layer's own would be a part."""
    from torch.distributed.tensor import DTensor

    for name, weight in model.named_parameters():
        if weight.requires_grad and isinstance(weight, DTensor):
            raise InputError("train.lora.save_modules", f"{name} stands in a layer, which device.shard spreads", "Leave it out")
