"""A LoRA adapter in PEFT's layout, every one of its tensors explained: which layer it changes, by what rank and strength."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import regex
from numpy.typing import NDArray

from whet.errors import InputError
from whet.models.described import read_description
from whet.models.weights import Tensor, check_inside, read_weights_file

PREFIX = "base_model.model."  # what PEFT puts before the name of a module
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapters.npz", "adapters.bin")
# Other starts (pissa, olora, loftq, corda) take a part out of the base's own weights.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "lora_ga")
HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")
# Entries of PEFT's config that are read here, or that change no arithmetic of a trained adapter.
_READ = frozenset(
    {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules"}
    | {"exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core", "megatron_config", "qalora_group_size"}
    | {"ensure_weight_tying", "eva_config", "lora_ga_config", "loftq_config", "fan_in_fan_out", "bias", "lora_bias"}
    | {"modules_to_save", "init_lora_weights", "runtime_config"}
)
_PARTS = regex.compile(
    r"(?P<module>.+?)\.(?:(?P<embedding>lora_embedding_(?P<ab>[AB]))|lora_(?P<AB>[AB])\.(?P<kind>weight|bias)"
    r"|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)


class Matrix(Protocol):
    """Numbers of an adapter, in PEFT's orientation however they lie on disk."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self) -> NDArray[np.float32]:
        """As fp32."""
        ...

    def matrix(self) -> NDArray[Any]:
        """Bit for bit, as unsigned numbers of their width."""
        ...


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What an adapter adds to one layer: scale * B A, with A (rank, inputs) and B (outputs, rank)."""

    module: str
    """Name of the layer in the base."""
    scale: float
    """alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    a: Matrix
    b: Matrix
    magnitude: Matrix | None = None
    """DoRA's lengths, one an output."""
    bias: Tensor | None = None
    """Added to the layer's bias, times the scale."""
    is_embedding: bool = False
    is_transposed: bool = False
    """Whether the base holds this layer's weight as (inputs, outputs): embeddings, and the Conv1D layers of GPT-2."""

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape that the base's weight must have."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.is_transposed else (outputs, inputs)


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter folder, read."""

    folder: Path
    config: dict[str, Any]
    layers: dict[str, LoraLayer]
    """By the names of their modules in the base."""
    whole: dict[str, Tensor]
    """Tensors that stand in the place of the base's, by the base's names: modules_to_save, biases."""


def read_lora(folder: Path) -> Lora:
    """The adapter of a folder.

    Refused: a tensor or an entry of its config that would be left unused, or does not fit the rest; pickles.
    """
    config = read_lora_config(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = next((name for name in PICKLES if (folder / name).exists()), "")
        raise InputError(
            str(folder / pickled) if pickled else str(folder),
            "is pickled, which can run code, and is not read" if pickled else f"has no {WEIGHTS}",
            "Save it as safetensors where it was made: save_pretrained(..., safe_serialization=True)" if pickled else "",
        )
    check_inside(path, folder)
    parts: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in read_weights_file(path).tensors.items():
        found = _PARTS.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
        if found is None:
            others[name] = tensor
            continue
        part = "magnitude" if found["magnitude"] else f"{found['ab'] or found['AB']}{found['kind'] or ''}"
        parts.setdefault(found["module"], {})[part] = tensor
    whole = {_whole_name(path, name, config): tensor for name, tensor in others.items()}
    _refuse_numbers(path, [*whole.values(), *(tensor for named in parts.values() for tensor in named.values())])
    scales = Scales(config, folder / CONFIG)
    layers = {module: _layer(path, module, named, config, scales) for module, named in parts.items()}
    if not layers and not whole:
        raise InputError(str(path), "holds no tensors", "Nothing was saved; train it again")
    return Lora(folder, config, layers, whole)


def read_lora_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of PEFT; refused where it asks for what is not known here."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(str(folder), f"is no adapter folder (no {CONFIG})", "Give the folder that PEFT or mlx-lm wrote")
    config = read_description(path)
    if str(config.get("peft_type")) != "LORA":
        kind = config.get("peft_type") or config.get("fine_tune_type") or "unknown"
        raise InputError(str(path), f"describes no LoRA adapter of PEFT's ({str(kind)[:40]})")
    faults = [name for name, value in config.items() if name not in _READ and value]
    if faults:
        raise InputError(
            str(path), f"uses {', '.join(sorted(faults))[:200]}, which whet does not know", "Merge it with PEFT instead"
        )
    start = config.get("init_lora_weights")
    if start not in PLAIN_STARTS and not str(start).startswith("False"):
        raise InputError(
            str(path),
            f"starts from {str(start)[:40]}, which took a part out of the base's own weights",
            "Convert it to a plain LoRA with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    return config


class Scales:
    """Rank and strength of each layer, by PEFT's rule: the first pattern that a module's name ends in, or the plain entry."""

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        self._path = path
        self._rank: Any = config.get("r")
        self._alpha: Any = config.get("lora_alpha")
        self._ranks, self._alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
        self._is_rooted = bool(config.get("use_rslora"))
        numbers = [self._alpha, *self._alphas.values()] if isinstance(self._alphas, dict) else [None]
        ranks = [self._rank, *self._ranks.values()] if isinstance(self._ranks, dict) else [None]
        if not all(type(rank) is int and rank > 0 for rank in ranks) or not all(type(n) in (int, float) for n in numbers):
            raise InputError(str(path), "gives no rank and strength", "Is the adapter whole? Train it again if not")

    def rank(self, module: str) -> int:
        """Rank of a module's matrices."""
        return int(self._ranks.get(self._pattern(self._ranks, module), self._rank))

    def alpha(self, module: str) -> float:
        """Strength before it is divided by the rank or its root."""
        return float(self._alphas.get(self._pattern(self._alphas, module), self._alpha))

    def scale(self, module: str) -> float:
        """What B A is multiplied with."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self._is_rooted else rank)

    def _pattern(self, patterns: Iterable[str], module: str) -> str | None:
        try:
            return pattern_of(patterns, module)
        except (re.error, regex.error) as error:
            raise InputError(str(self._path), f"holds a pattern that is no regular expression ({error})") from None
        except TimeoutError:
            raise InputError(str(self._path), "holds a pattern that does not end", "Who wrote it?") from None


def pattern_of(patterns: Iterable[str], module: str) -> str | None:
    """The first pattern that a module's name ends in. regex.error where one is no expression, TimeoutError after a second."""
    return next((p for p in patterns if regex.match(rf"(.*\.)?({p})$", module, timeout=1)), None)


def is_named(module: str, names: Iterable[str]) -> bool:
    """Whether a module is one of these or its name ends in one."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer(path: Path, module: str, named: dict[str, Tensor], config: dict[str, Any], scales: Scales) -> LoraLayer:
    is_embedding = "A" in named
    a, b = (named.get("A"), named.get("B")) if is_embedding else (named.get("Aweight"), named.get("Bweight"))
    magnitude, bias = named.get("magnitude"), named.get("Bbias")
    known = {"A", "B", "magnitude"} if is_embedding else {"Aweight", "Bweight", "Bbias", "magnitude"}
    if a is None or b is None or named.keys() - known:
        raise InputError(str(path), f"does not hold the A and B of {module} as one pair", "Is the adapter whole?")
    rank = scales.rank(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] != rank:
        raise InputError(
            str(path), f"{module} has A {list(a.shape)} and B {list(b.shape)}, and its config says rank {rank}",
            "Is the adapter whole, and do its two files belong together?",
        )  # fmt: skip
    is_dora = bool(config.get("use_dora"))
    if is_dora != (magnitude is not None) or (magnitude is not None and math.prod(magnitude.shape) != b.shape[0]):
        told = "has lengths that its config knows nothing of" if not is_dora else "lacks its lengths, which DoRA needs"
        raise InputError(str(path), f"{module} {told}", "Do its two files belong together?")
    if (bias is not None) != (bool(config.get("lora_bias")) and not is_embedding):
        raise InputError(str(path), f"{module} and its config do not agree about a bias", "Do its two files belong together?")
    is_transposed = is_embedding or bool(config.get("fan_in_fan_out"))
    return LoraLayer(module, scales.scale(module), a, b, magnitude, bias, is_embedding, is_transposed)


def _whole_name(path: Path, name: str, config: dict[str, Any]) -> str:
    """The base's name of a tensor that stands in its place; InputError where nothing in the config explains it."""
    inner = name.removeprefix(PREFIX)
    module, _, part = inner.rpartition(".")
    module = module.removesuffix(".base_layer")
    saved = config.get("modules_to_save") or []
    # PEFT takes every module that ends in such a name; what lies within a saved module is saved with it.
    steps = module.split(".")
    is_saved = any(is_named(".".join(steps[: at + 1]), saved) for at in range(len(steps)))
    is_bias = part == "bias" and config.get("bias", "none") != "none"
    is_vocabulary = steps[-1] in (*HEADS, *EMBEDDINGS)  # written beside an adapter that brings new tokens
    if not name.startswith(PREFIX) or not (is_saved or is_bias or is_vocabulary):
        raise InputError(
            str(path),
            f"holds {name[:120]}, which nothing in {CONFIG} explains: it would be left unused",
            "Is it an adapter of PEFT's, and do its two files belong together?",
        )
    return f"{module}.{part}"


def _refuse_numbers(path: Path, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if not tensor.is_float:
            raise InputError(str(path), f"{tensor.name[:120]} holds {tensor.dtype}, no floating-point numbers")
