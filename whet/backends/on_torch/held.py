"""Adapters beside each other on one base, by name; plain LoRA of several works in one forward pass, each on its own tokens."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from whet.backends.on_torch.adapters import load_adapter, num_rows, remove_adapter
from whet.backends.replies import unheld
from whet.errors import InputError

Spans = Sequence[tuple[str | None, torch.Tensor | None]]
"""Adapters, None for the bare base, and the tokens of a packed row that are theirs, None for all."""


class Held:
    """The adapters that were loaded, and the one or those that work now. At first none does."""

    def __init__(self, model: Any, folders: Mapping[str, Path]) -> None:
        self.peft: Any = None
        # PEFT's names may hold no dot, and `default` means the one that is trained.
        self.names = {name: f"held{number}" for number, name in enumerate(folders)}
        num_base = num_rows(model)
        try:
            for name, folder in folders.items():
                if not (folder / "adapter_config.json").is_file():
                    raise InputError(str(folder), "holds no adapter, so it can't stand beside others", "Attach it alone")
                self.peft = load_adapter(self.peft or model, folder, self.names[name])
        except InputError:
            if self.peft is not None:
                remove_adapter(self.peft, num_base)
            raise
        self.layers = _lora_layers(model)
        self.is_mixable = self.peft is None or _is_plain(model, self.layers)
        """Whether one forward pass can serve them all."""
        self.spans: Spans = ()
        model.requires_grad_(False)
        if self.is_mixable:
            for layer in self.layers:
                layer.forward = types.MethodType(_forward(self), layer)
        self.use(None)

    def check(self, name: str | None) -> None:
        """InputError where no adapter has that name."""
        if name is not None and name not in self.names:
            raise unheld(name, self.names)

    def use(self, name: str | None) -> None:
        """Let one adapter work on all tokens, or none."""
        self.check(name)
        if self.is_mixable:
            self.spans = [(name, None)]
        elif name is None:
            self.peft.base_model.disable_adapter_layers()
        else:
            self.peft.base_model.enable_adapter_layers()
            self.peft.set_adapter(self.names[name], inference_mode=True)

    def mix(self, spans: Spans) -> None:
        """Let each adapter work on its own tokens of the next packed rows."""
        assert self.is_mixable or len(spans) == 1, "adapters that rewrite their layer work one at a time"
        if self.is_mixable:
            self.spans = spans
        else:
            self.use(spans[0][0])


def _lora_layers(model: Any) -> list[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _is_plain(model: Any, layers: Sequence[Any]) -> bool:
    """Whether every adapter only adds scale * B A x to linear layers."""
    from peft.utils import ModulesToSaveWrapper

    if any(isinstance(module, ModulesToSaveWrapper) for module in model.modules()):
        return False
    return not any(layer.lora_variant or layer.lora_embedding_A or any(layer.lora_bias.values()) for layer in layers)


def _forward(held: Held) -> Any:
    def forward(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        y = self.base_layer(x)
        for name, at in held.spans:
            inner = held.names.get(name)
            if inner not in self.lora_A:
                continue
            a, b, scale = self.lora_A[inner].weight, self.lora_B[inner].weight, self.scaling[inner]
            part = x if at is None else x[0].index_select(0, at)
            more = (part.to(a.dtype) @ a.T).mul_(scale) @ b.T
            if at is None:
                y = y + more.to(y.dtype)
            else:
                y[0].index_add_(0, at, more.to(y.dtype))
        return y

    return forward
