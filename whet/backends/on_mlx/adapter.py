"""LoRA and DoRA layers on an mlx-lm model, and PEFT's adapter folder, converted both ways without loss."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import regex
from mlx import nn
from mlx.utils import tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from safetensors import SafetensorError
from safetensors.numpy import save_file

from whet.backends.base import LoraSettings
from whet.errors import InputError, counted
from whet.models.described import read_description
from whet.models.lora import CONFIG, PLAIN_STARTS, PREFIX, WEIGHTS, Scales, pattern_of
from whet.models.mlx_adapter import PEFT_NAMES, peft_name, turned
from whet.models.weights import read_weights_file
from whet.storage import write_json

# Entries of PEFT's config that are read here, or that change no arithmetic.
READ = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules"}
    | {"exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "qalora_group_size", "ensure_weight_tying"}
    | {"eva_config", "lora_ga_config"}
)


@dataclass(frozen=True)
class MlxAdapter:
    """The adapted layers of a model, by their names in it, what they stand for, and PEFT's description of them."""

    layers: dict[str, Any]
    plain: dict[str, Any]
    """The base's own layers, to be put back."""
    config: dict[str, Any]
    """Contents of adapter_config.json."""

    @property
    def dropout(self) -> float:
        return float(self.config.get("lora_dropout") or 0.0)

    def tensors(self) -> dict[str, mx.array]:
        """The trained tensors by their names in the model."""
        return {f"{name}.{part}": layer[part] for name, layer in self.layers.items() for part in PEFT_NAMES if part in layer}

    def put(self, tensors: Mapping[str, mx.array]) -> None:
        """Replace trained tensors."""
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            self.layers[module][part] = tensor


def make_adapter(model: Any, settings: LoraSettings, seed: int, base_name: str) -> MlxAdapter:
    """A fresh adapter: A uniform in +-1 / sqrt(inputs) as in PEFT and mlx-lm, B zero; the model is changed."""
    if settings.save_modules:
        raise InputError("train.lora.save_modules", "is not done on MLX", "Leave it out, or train with torch (device.kind=cpu)")
    linear = _linear_layers(model)
    layers = _last_layers(len(model.layers), settings.last_layers)
    chosen = [name for name in linear if _is_target(name, settings.targets) and (layers is None or _layer_of(name) in layers)]
    names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
    is_all = isinstance(settings.targets, str)
    for target in () if is_all else settings.targets:
        if not any(_is_target(name, (target,)) for name in linear):
            raise InputError("train.lora.targets", f"no layer is named {target}", f"This base has: {names}")
    for field in ("rank_pattern", "alpha_pattern"):
        _check_patterns(f"train.lora.{field}", list(getattr(settings, field)), chosen, f"This base has: {names}")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted({name.rpartition(".")[2] for name in chosen} if is_all else settings.targets),
        "layers_to_transform": layers,
        "layers_pattern": "layers" if layers else None,
        "rank_pattern": dict(settings.rank_pattern),
        "alpha_pattern": dict(settings.alpha_pattern),
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
    }
    adapter = _put_on(model, {name: linear[name] for name in chosen}, config)
    for layer, key in zip(adapter.layers.values(), mx.random.split(mx.random.key(seed), len(chosen)), strict=True):
        bound = 1 / math.sqrt(layer.lora_a.shape[0])
        layer.lora_a = mx.random.uniform(-bound, bound, layer.lora_a.shape, mx.float32, key)
    mx.eval(adapter.tensors())
    return adapter


def load_adapter(model: Any, folder: Path) -> MlxAdapter:
    """The adapter in a PEFT folder, put on a model; every tensor of the file must find its place and every place a tensor."""
    config = read_description(folder / CONFIG)
    _refuse_config(folder, config)
    stored = _read_tensors(folder / WEIGHTS)
    linear = _linear_layers(model)
    named = {
        name.removeprefix(PREFIX).removesuffix(f".{PEFT_NAMES['lora_a']}") for name in stored if name.endswith("lora_A.weight")
    }
    strange = sorted(named - set(linear))
    if strange or not named:
        what = f"adapts {', '.join(strange[:3])}, which this base has not" if strange else "holds no LoRA tensors"
        raise InputError(str(folder), what, "It belongs to another base, or adapts layers that are not linear")
    adapter = _put_on(model, {name: layer for name, layer in linear.items() if name in named}, config)
    places = {peft_name(name): name for name in adapter.tensors()}
    odd = sorted(places.keys() ^ stored.keys())
    shapes = adapter.tensors()
    odd += [name for name in places.keys() & stored.keys() if turned(name, stored[name]).shape != shapes[places[name]].shape]
    if odd:
        remove_adapter(model, adapter)
        raise InputError(
            str(folder),
            f"{counted(len(odd), 'tensor', 'does', 'do')} not match base and adapter_config.json, such as {', '.join(odd[:3])}",
            "Is it whole, and trained on this base?",
        )
    adapter.put({places[name]: mx.contiguous(turned(name, tensor).astype(mx.float32)) for name, tensor in stored.items()})
    mx.eval(adapter.tensors())
    return adapter


def save_adapter(adapter: MlxAdapter, folder: Path) -> None:
    """Write PEFT's two files into an existing folder."""
    tensors = {peft_name(name): np.ascontiguousarray(turned(name, np.array(t))) for name, t in adapter.tensors().items()}
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise InputError(
            str(folder.parent), f"the adapter can't be written ({error})", "Free some space or choose another place"
        ) from None
    write_json(folder / CONFIG, adapter.config)


def remove_adapter(model: Any, adapter: MlxAdapter) -> None:
    """Put the base's own layers back."""
    model.update_modules(tree_unflatten(list(adapter.plain.items())))


def refuse_renamed(model: Any, shapes: Mapping[str, tuple[int, ...]], place: Path) -> None:
    """InputError where mlx-lm names or turns a model's layers otherwise than the folder: PEFT could not place such an adapter."""
    for name, layer in _linear_layers(model).items():
        found = shapes.get(f"{name}.weight")
        if found is None or (isinstance(layer, nn.Linear) and len(found) == 2 and found != tuple(layer.weight.shape)):
            raise InputError(
                str(place),
                f"mlx-lm holds the layer {name} otherwise than the folder, so its adapter would fit no other tool",
                "Train with torch (device.kind=cpu)",
            )


def _put_on(model: Any, chosen: dict[str, Any], config: dict[str, Any]) -> MlxAdapter:
    """Wrap layers, with rank and scale as the config says for each; the wrapped ones are frozen, the wrapping is trained."""
    scales = Scales(config, Path(CONFIG))
    layers = {}
    for name, layer in chosen.items():
        rank, scale = scales.rank(name), scales.scale(name)
        if config.get("use_dora") and isinstance(layer, nn.QuantizedLinear):
            raise InputError("train.lora.dora", "is not done over quantised layers on MLX", "Set it to false")
        kind = DoRALinear if config.get("use_dora") else LoRALinear
        layers[name] = kind.from_base(layer, r=rank, dropout=float(config.get("lora_dropout") or 0.0), scale=scale)
        layers[name].eval()
    model.update_modules(tree_unflatten(list(layers.items())))
    return MlxAdapter(layers, chosen, config)


def _linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers by name, without the head."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.QuantizedLinear))}
    return {name: found[name] for name in sorted(found, key=_in_order) if not name.endswith("lm_head")}


def _in_order(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _layer_of(name: str) -> int | None:
    """Number of the layer that a module belongs to."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _is_target(name: str, targets: Iterable[str] | str) -> bool:
    if isinstance(targets, str):
        return True
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _last_layers(number: int, wanted: int | None) -> list[int] | None:
    if wanted is not None and wanted > number:
        raise InputError("train.lora.last_layers", f"is {wanted}, and this base has {number} layers", f"Give at most {number}")
    return None if wanted is None else list(range(number - wanted, number))


def _check_patterns(place: str, patterns: list[str], chosen: list[str], remedy: str) -> None:
    """Every pattern must decide for some layer; the first one that fits a layer does."""
    try:
        deciding = {pattern_of(patterns, name) for name in chosen}
    except regex.error as error:
        raise InputError(place, f"{error.pattern!r} is no regular expression ({error})") from None
    for pattern in patterns:
        if pattern not in deciding:
            raise InputError(place, f"{pattern} decides for no adapted layer", remedy)


def _refuse_config(folder: Path, config: Any) -> None:
    """InputError for anything in PEFT's config that would be lost here."""
    path = str(folder / CONFIG)
    if not isinstance(config, dict) or str(config.get("peft_type")) != "LORA":
        raise InputError(path, "describes no LoRA adapter", "MLX takes LoRA and DoRA adapters only")
    faults = [name for name, value in config.items() if name not in READ and value and name not in ("bias", "init_lora_weights")]
    faults += ["bias"] if config.get("bias", "none") != "none" else []
    faults += ["init_lora_weights"] if config.get("init_lora_weights") not in PLAIN_STARTS else []
    if faults:
        raise InputError(
            path, f"uses {', '.join(sorted(faults))}, which MLX does not know", "Use it with torch (device.kind=cpu)"
        )


def _read_tensors(path: Path) -> dict[str, mx.array]:
    """The tensors of a safetensors file, its header checked before mlx reads it."""
    names = read_weights_file(path).tensors.keys()
    try:
        tensors: dict[str, mx.array] = mx.load(str(path), format="safetensors")
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise InputError(str(path), f"can't be read ({error})", "Is the adapter whole? Train it again if not") from None
    assert tensors.keys() == names
    return tensors
