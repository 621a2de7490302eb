"""Loads an mlx-lm model from a folder, offline, without running code from it, and makes it take packed rows."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from whet.backends.base import DeviceSettings
from whet.backends.on_mlx.rows import PackedRow, PositionedRope
from whet.errors import InputError
from whet.models.base_model import BaseModel
from whet.models.mlx_config import flat_entries
from whet.models.weights import read_weights

LOAD_ERRORS = (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError, IndexError, AssertionError)


@dataclass(frozen=True)
class LoadedModel:
    """An mlx-lm model, frozen, and what of its shape the backend must know."""

    model: Any
    head: Callable[[mx.array], mx.array] | None
    """From hidden states to logits; None where it can't be told apart from the model."""
    unpackable: str
    """Why its rows can't be packed; empty where they can."""
    max_exact: int | None
    """Longest row that mlx-lm computes as the model was made; null for no limit."""
    shapes: dict[str, tuple[int, ...]]
    """Shape of every tensor of the folder, by its name there."""


def load_model(base: BaseModel, settings: DeviceSettings) -> LoadedModel:
    """The causal language model of a folder, frozen, in evaluation mode."""
    refuse_settings(settings)
    shapes = _tensor_shapes(base)
    kind = base.model_type
    if not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
        raise InputError(str(base.folder / "config.json"), f"names no model type that can be ({kind!r})")
    from mlx_lm import utils as mlx_lm_utils

    try:
        model, config = mlx_lm_utils.load_model(base.folder, lazy=True, model_config=flat_entries(base.config))
        layers = list(model.layers)
        _prove_layers(base, model, layers)
        _set_numbers(model, settings, bool(config.get("quantization")), base)
        model.freeze()
        model.eval()
        mx.eval(model.parameters())
        head = _head_of(model)
        unpackable = _let_rows_be_packed(model, layers)
    except LOAD_ERRORS as error:
        raise InputError(
            str(base.folder),
            f"mlx-lm can't load it ({(str(error).splitlines() or [''])[0][:200] or type(error).__name__})",
            "It must be a text model that mlx-lm supports; take another one, or train with torch (device.kind=cpu)",
        ) from None
    if settings.checkpoint_activations:
        for layer in layers:
            _checkpoint(layer)
    return LoadedModel(model, head, unpackable, _max_exact(base.config, layers), shapes)


def refuse_settings(settings: DeviceSettings) -> None:
    """Settings of a device that mean nothing on MLX are refused."""
    if settings.dtype == "fp16":
        raise InputError(
            "device.dtype", "fp16 needs loss scaling, which the MLX backend does not do", "Set it to auto, bf16 or fp32"
        )
    if settings.quantize == "nf4":
        raise InputError(
            "device.quantize",
            "MLX has no NF4",
            "Quantise the base once (mlx_lm.convert --hf-path BASE --mlx-path FOLDER -q --q-bits 4), name FOLDER as the base, "
            "and leave device.quantize out",
        )
    if settings.frozen_cache_mb:
        raise InputError("device.frozen_cache_mb", "is not done on MLX", "Set it to 0")


def _tensor_shapes(base: BaseModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a folder's tensors; their headers are checked here, before mlx reads them."""
    return {name: tensor.shape for name, tensor in read_weights(base.folder).items()}


def _slides(layer: Any) -> bool:
    """Whether mlx-lm lets a layer see a window only."""
    attention = getattr(layer, "self_attn", None)
    return any(bool(getattr(thing, name, False)) for thing in (layer, attention) for name in ("use_sliding", "is_sliding"))


def _prove_layers(base: BaseModel, model: Any, layers: list[Any]) -> None:
    """ValueError where mlx-lm built another model than the config describes, or one that is no plain text model."""
    if not hasattr(model, "model") or not hasattr(model, "args") or not hasattr(model.args, "vocab_size"):
        raise ValueError("no plain text model")
    kinds = base.config.get("layer_types")
    for number, layer in enumerate(layers):
        if kinds and number < len(kinds) and kinds[number] == "full_attention" and _slides(layer):
            raise ValueError(f"layer {number} attends in full, and mlx-lm gives it a window")
    ropes = [
        value
        for value in (base.config.get("rope_parameters") or {}).values()
        if isinstance(value, dict) and "rope_theta" in value
    ]
    if len(ropes) > 1 and not {"rope_parameters", "rope_local_base_freq"} & set(vars(model.args)):
        raise ValueError(f"each kind of layer has rope_parameters of its own, which mlx-lm's {base.model_type} does not read")


def _set_numbers(model: Any, settings: DeviceSettings, is_quantized: bool, base: BaseModel) -> None:
    """The numbers that the base is held and computed in."""
    if settings.quantize == "int8":
        if is_quantized:
            raise InputError("device.quantize", f"{base.folder} is quantised already", "Leave device.quantize out")

        def is_taken(name: str, module: Any) -> bool:
            return isinstance(module, nn.Linear) and "lm_head" not in name and module.weight.shape[-1] % 64 == 0

        nn.quantize(model, group_size=64, bits=8, class_predicate=is_taken)
    is_on_cpu = mx.default_device() == mx.Device(mx.cpu)
    dtype = {"auto": mx.float32 if is_on_cpu else mx.bfloat16, "fp32": mx.float32, "bf16": mx.bfloat16}[settings.dtype]
    model.set_dtype(dtype)


def _head_of(model: Any) -> Callable[[mx.array], mx.array] | None:
    """The model's head, if hidden states and head give what the model gives, to the bit; some models cap or scale logits."""
    is_tied = getattr(model.args, "tie_word_embeddings", False) or not hasattr(model, "lm_head")
    if is_tied and not hasattr(getattr(model.model, "embed_tokens", None), "as_linear"):
        return None
    head = model.model.embed_tokens.as_linear if is_tied else model.lm_head
    ids_BT = mx.array([[0, 1, 2]])
    return head if mx.array_equal(head(model.model(ids_BT)), model(ids_BT)).item() else None


def _let_rows_be_packed(model: Any, layers: list[Any]) -> str:
    """Give every layer a rotary embedding that takes positions; why that can't be, or an empty text."""
    from mlx_lm.models import cache as mlx_lm_cache

    # Layers with another memory than keys and values (Mamba, linear attention) don't see tokens through a mask.
    odd = {type(kept).__name__ for kept in mlx_lm_cache.make_prompt_cache(model)} - {"KVCache", "RotatingKVCache"}
    if odd:
        return f"this model's layers keep {', '.join(sorted(odd))}, not plain keys and values"
    attentions = [getattr(layer, "self_attn", None) for layer in layers]
    if not all(isinstance(getattr(attention, "rope", None), nn.Module) for attention in attentions):
        return "this model's positions are not given by a rotary embedding in each layer"
    for attention in attentions:
        attention.rope = PositionedRope(attention.rope)  # type: ignore[union-attr]
    return ""


def _max_exact(config: dict[str, Any], layers: list[Any]) -> int | None:
    """Longest row for which attention in full is what the config says; mlx-lm leaves the window of some models out."""
    window = config.get("sliding_window")
    kinds = set(config.get("layer_types") or ())
    has_window = bool(window) and config.get("use_sliding_window", True) and (not kinds or "sliding_attention" in kinds)
    return int(window) if has_window and not any(map(_slides, layers)) else None


def _checkpoint(layer: Any) -> None:
    """Keep a layer's input only in training. A class of its own: mlx-lm's own way would change all models of this process."""
    plain = type(layer)

    def call(self: Any, *args: Any, **others: Any) -> Any:
        # Generation keeps keys and values in the cache; only training takes this way.
        if any(hasattr(value, "update_and_fetch") and not isinstance(value, PackedRow) for value in (*args, *others.values())):
            return plain.__call__(self, *args, **others)

        def inner(parameters: Any, x: mx.array) -> Any:
            self.update(parameters)
            return plain.__call__(self, x, *args[1:], **others)

        return mx.checkpoint(inner)(self.trainable_parameters(), args[0])

    layer.__class__ = type(plain.__name__, (plain,), {"__call__": call})
