"""An adapter as mlx-lm lays it on disk, read as PEFT's is, and both written exactly: A and B turned, alpha = scale x rank."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.models.described import read_description
from whet.models.lora import CONFIG, PREFIX, WEIGHTS, Lora, LoraLayer, Matrix, read_lora
from whet.models.numbers import FLOATS
from whet.models.weights import Tensor, check_inside, read_weights_file
from whet.models.writing import Written, write_weights_file, written_matrix
from whet.storage import write_json

MLX_WEIGHTS = "adapters.safetensors"
# Name here: name in PEFT's file. MLX holds A and B transposed; a DoRA's magnitude is a vector in both.
PEFT_NAMES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "m": "lora_magnitude_vector"}
_ALL_LAYERS = -1  # what mlx-lm takes for all of them


def peft_name(name: str) -> str:
    """PEFT's name of a tensor that mlx-lm names so."""
    module, _, part = name.rpartition(".")
    return f"{PREFIX}{module}.{PEFT_NAMES[part]}"


def turned(name: str, tensor: Any) -> Any:
    """A and B as the other side holds them; a magnitude as it is."""
    return tensor if name.endswith((".m", PEFT_NAMES["m"])) else tensor.T


@dataclass(frozen=True, slots=True)
class Turned:
    """A matrix of a file, read the other way round."""

    tensor: Tensor

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def dtype(self) -> str:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1]

    def read(self) -> NDArray[np.float32]:
        """As fp32."""
        return self.tensor.read().T

    def matrix(self) -> NDArray[Any]:
        """Its numbers, bit for bit."""
        return self.tensor.matrix().T


def is_mlx(folder: Path) -> bool:
    """Whether a folder holds an adapter of mlx-lm's, and none of PEFT's."""
    return (folder / MLX_WEIGHTS).is_file() and not (folder / WEIGHTS).is_file()


def read_adapter(folder: Path) -> Lora:
    """The adapter of a folder in either layout; see read_lora for what is refused."""
    return read_mlx(folder) if is_mlx(folder) else read_lora(folder)


def read_mlx(folder: Path) -> Lora:
    """The adapter that mlx-lm wrote, described in PEFT's words.

    Refused: a tensor that would be left unused or does not fit the rest; no scale.
    """
    described = folder / CONFIG
    if not described.is_file():
        raise InputError(
            str(folder), f"has no {CONFIG}, and without its scale the adapter's strength is unknown",
            "mlx-lm writes it beside the weights; copy it here",
        )  # fmt: skip
    config = read_description(described)
    rank, scale, kind = _parameters(described, config)
    path = folder / MLX_WEIGHTS
    check_inside(path, folder)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_weights_file(path).tensors.items():
        module, _, part = name.rpartition(".")
        if not module or part not in PEFT_NAMES or tensor.dtype not in FLOATS:
            raise InputError(str(path), f"holds {name[:120]}, which is no part of a LoRA adapter: it would be left unused")
        parts.setdefault(module, {})[part] = tensor
    if not parts:
        raise InputError(str(path), "holds no tensors", "Nothing was saved; train it again")
    layers = {module: _layer(path, module, found, rank, scale, kind == "dora") for module, found in parts.items()}
    return Lora(folder, peft_config(layers, rank, scale, config, is_dora=kind == "dora"), layers, {})


def peft_config(layers: Iterable[str], rank: int, scale: float, config: Mapping[str, Any], *, is_dora: bool) -> dict[str, Any]:
    """PEFT's description of an adapter of one rank and scale; its targets are the layers by their full names."""
    alpha = alpha_of(scale, rank)
    parameters = config.get("lora_parameters")
    dropout = parameters.get("dropout") if isinstance(parameters, dict) else None
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(config.get("model") or ""),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": dropout if isinstance(dropout, int | float) else 0.0,
        "target_modules": sorted(layers),
        "use_rslora": False,
        "use_dora": is_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
    }


def alpha_of(scale: float, rank: int) -> float:
    """The alpha for which alpha / rank is the scale again, to the last bit where a double can say it."""
    alpha = scale * rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf))
    return min(near, key=lambda candidate: abs(candidate / rank - scale))


def write_peft(lora: Lora, folder: Path) -> None:
    """Write an adapter that read_mlx gave in PEFT's layout into an existing folder; every number as it was."""
    tensors: list[Written] = []
    for module, layer in sorted(lora.layers.items()):
        for part, tensor in (("lora_a", layer.a), ("lora_b", layer.b), ("m", layer.magnitude)):
            if tensor is not None:
                tensors.append(written_matrix(peft_name(f"{module}.{part}"), tensor.dtype, tensor.matrix()))
    write_weights_file(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, lora.config)


def write_mlx(lora: Lora, folder: Path, num_layers: int | None) -> list[str]:
    """Write an adapter in mlx-lm's layout into an existing folder; gives what was folded to make it fit.

    num_layers: layers of the base; where it is not known, all are named, and those without tensors stay as they are (B is 0).
    mlx-lm has one rank and one scale: smaller ranks are filled with zeros, other scales go into B. InputError for what it can't
    hold at all.
    """
    _refuse_for_mlx(lora)
    notes = []
    rank = max(layer.rank for layer in lora.layers.values())
    scales = [layer.scale for layer in lora.layers.values()]
    scale = max(set(scales), key=lambda value: (scales.count(value), value))
    if lora.config.get("use_rslora"):
        notes.append(f"rsLoRA is written as the scale {scale:g} = alpha / sqrt(rank)")
    tensors, padded, scaled = [], 0, 0
    for module, layer in sorted(lora.layers.items()):
        a, b = layer.a.matrix().T, layer.b.matrix().T
        if layer.scale != scale:
            scaled += 1
            b = _scaled(layer, scale).T
        if layer.rank < rank:
            padded += 1
            a = np.pad(a, ((0, 0), (0, rank - layer.rank)))
            b = np.pad(b, ((0, rank - layer.rank), (0, 0)))
        tensors += [
            written_matrix(f"{module}.lora_a", layer.a.dtype, a),
            written_matrix(f"{module}.lora_b", layer.b.dtype if layer.scale == scale else "F32", b),
        ]
        if layer.magnitude is not None:
            tensors.append(written_matrix(f"{module}.m", layer.magnitude.dtype, layer.magnitude.matrix().reshape(-1)))
    if padded:
        notes.append(f"{padded} layers of a smaller rank are filled with zeros up to rank {rank}, which changes nothing")
    if scaled:
        notes.append(f"the scales of {scaled} layers differ, and stand in their B (rounded to fp32)")
    write_weights_file(folder / MLX_WEIGHTS, tensors, {"format": "mlx"})
    write_json(folder / CONFIG, _mlx_config(lora, rank, scale, num_layers))
    return notes


def _mlx_config(lora: Lora, rank: int, scale: float, num_layers: int | None) -> dict[str, Any]:
    inner, numbers = set(), []
    for module in lora.layers:
        before, number, after = _in_layer(module)
        numbers.append(number)
        inner.add(after if number is not None else before)
    known = [number for number in numbers if number is not None]
    last = num_layers - min(known) if num_layers is not None and known else _ALL_LAYERS
    parameters = {"rank": rank, "scale": scale, "dropout": float(lora.config.get("lora_dropout") or 0.0), "keys": sorted(inner)}
    return {
        "model": str(lora.config.get("base_model_name_or_path") or ""),
        "fine_tune_type": "dora" if lora.config.get("use_dora") else "lora",
        "num_layers": last,
        "lora_parameters": parameters,
    }


def _in_layer(module: str) -> tuple[str, int | None, str]:
    """What stands before the number of a layer, the number, and what stands behind it."""
    steps = module.split(".")
    at = next((at for at, step in enumerate(steps) if step.isdigit()), None)
    return (module, None, "") if at is None else (".".join(steps[:at]), int(steps[at]), ".".join(steps[at + 1 :]))


def _scaled(layer: LoraLayer, scale: float) -> NDArray[np.float32]:
    return (layer.b.read().astype(np.float64) * (layer.scale / scale)).astype(np.float32)


def _refuse_for_mlx(lora: Lora) -> None:
    faults = [f"{name[:80]} (trained whole)" for name in lora.whole]
    faults += [f"{name} (a bias of its own)" for name, layer in lora.layers.items() if layer.bias is not None]
    faults += [f"{name} (an embedding)" for name, layer in lora.layers.items() if layer.is_embedding]
    is_turned = bool(lora.config.get("fan_in_fan_out"))
    faults += [f"{name} (weights turned)" for name, layer in lora.layers.items() if is_turned and not layer.is_embedding]
    if faults:
        raise InputError(
            str(lora.folder), f"holds what an adapter of mlx-lm can't: {', '.join(faults[:3])}",
            "Fuse it instead, and export the model: whet export mlx",
        )  # fmt: skip


def _parameters(path: Path, config: Mapping[str, Any]) -> tuple[int, float, str]:
    """Rank, scale and kind."""
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        told = "tells of full fine-tuning" if kind == "full" else "is no description of an adapter of mlx-lm's"
        raise InputError(str(path), told, "Fuse it with mlx_lm.fuse, and give the folder as a base" if kind == "full" else "")
    found = config.get("lora_parameters")
    rank, scale = (found.get("rank"), found.get("scale")) if isinstance(found, dict) else (None, None)
    if type(rank) is not int or rank < 1 or not isinstance(scale, int | float) or isinstance(scale, bool):
        hint = "; `alpha` is not read by mlx-lm" if isinstance(found, dict) and "alpha" in found else ""
        raise InputError(str(path), f"gives no rank and scale{hint}", "They stand under lora_parameters")
    return rank, float(scale), str(kind)


def _layer(path: Path, module: str, found: dict[str, Tensor], rank: int, scale: float, is_dora: bool) -> LoraLayer:
    wanted = {"lora_a", "lora_b", "m"} if is_dora else {"lora_a", "lora_b"}
    if found.keys() != wanted:
        odd = ", ".join(sorted(found.keys() ^ wanted))
        raise InputError(str(path), f"{module} and {CONFIG} do not agree about {odd}", "Do its two files belong together?")
    a, b = found["lora_a"], found["lora_b"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != rank or b.shape[0] != rank:
        raise InputError(
            str(path), f"{module} has lora_a {list(a.shape)} and lora_b {list(b.shape)}, and its config says rank {rank}",
            "Do its two files belong together? Experts' adapters are not read",
        )  # fmt: skip
    magnitude: Matrix | None = found.get("m")
    if magnitude is not None and magnitude.shape != (b.shape[1],):
        raise InputError(str(path), f"{module} has {list(magnitude.shape)} lengths for {b.shape[1]} outputs")
    return LoraLayer(module, scale, Turned(a), Turned(b), magnitude)
