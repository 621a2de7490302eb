"""Activations that are computed a second time in the backward pass: for the whole run, or within one check."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whet.errors import InputError


def compute_again(model: Any) -> None:
    """Keep each layer's input only. InputError where layers drop out by themselves: they would, once told that they train."""
    if named := _dropouts(model):
        raise InputError(
            "device.checkpoint_activations", f"this base's own layers would drop out ({', '.join(named)})", "Set it to false"
        )
    # transformers renamed it, and warns of the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def computed_again(model: Any) -> Iterator[None]:
    """Within, as `compute_again`, where the model can and does not do so anyway."""
    is_on = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if is_on or _dropouts(model) or not getattr(model, "supports_gradient_checkpointing", False):
        yield
        return
    compute_again(model)
    try:
        yield
    finally:
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
        model.eval()


def _dropouts(model: Any) -> list[str]:
    return [name for name, value in model.config.to_dict().items() if "drop" in name and isinstance(value, float) and value > 0]
