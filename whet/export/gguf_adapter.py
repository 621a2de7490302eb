"""Writes a LoRA adapter as GGUF, for runners that put it on a base at load time."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import InputError
from whet.export.gguf_families import Change, Layout, read_layout
from whet.export.gguf_write import open_gguf, tensor_names
from whet.models.base_model import BaseModel
from whet.models.lora import Lora, LoraLayer
from whet.storage import staged_file

_FUSE = "Export the fused model instead: leave --adapter out"


@dataclass(frozen=True, slots=True)
class WrittenAdapter:
    """What was written."""

    path: Path
    arch: str
    alpha: float
    """Runners multiply B A with alpha over the rank of each pair."""
    num_layers: int


def write_gguf_adapter(base: BaseModel, lora: Lora, path: Path, *, name: str = "") -> WrittenAdapter:
    """Write an adapter into one GGUF file in f32.

    Runners know one strength for the whole file: where ranks, strengths or rsLoRA give layers others, the rest goes into B, so
    that every product B A comes out at the strength that it was trained with. InputError for what the format can't say: DoRA,
    biases, whole modules, embeddings, a head that is the embedding.
    """
    gguf = open_gguf()
    layout, placed = place_layers(base, lora)
    alphas = [layer.scale * layer.rank for layer in placed.values()]
    alpha = float(np.float32(max(alphas)))
    with staged_file(path) as staged:
        writer = gguf.GGUFWriter(staged, layout.arch)
        try:
            writer.add_type("adapter")
            writer.add_name(name or lora.folder.name)
            writer.add_string("adapter.type", "lora")
            writer.add_float32("adapter.lora.alpha", alpha)
            for tensor, layer in placed.items():
                _add(writer, tensor, layer, layout.change(f"{layer.module}.weight"), alpha)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    return WrittenAdapter(path, layout.arch, alpha, len(placed))


def place_layers(base: BaseModel, lora: Lora) -> tuple[Layout, dict[str, LoraLayer]]:
    """How the base is written, and the adapter's layers by the names that their weights have there; InputError as above."""
    layout = read_layout(base.config, str(base.folder / "config.json"))
    names = tensor_names(open_gguf(), layout)
    placed = {_place(lora, layer, names, layout.sizes.is_tied): layer for layer in lora.layers.values()}
    if lora.whole:
        whole = ", ".join(list(lora.whole)[:3])
        raise InputError(str(lora.folder), f"brings whole tensors ({whole}), which no adapter of GGUF holds", _FUSE)
    return layout, placed


def _add(writer: Any, tensor: str, layer: LoraLayer, change: Change | None, alpha: float) -> None:
    b = layer.b.read()
    strength = layer.scale * layer.rank / alpha
    if not math.isclose(strength, 1, rel_tol=1e-6):
        b = b * np.float32(strength)
    # What reorders the rows of a weight reorders those of B: A only reads what enters.
    writer.add_tensor(f"{tensor}.lora_a", np.ascontiguousarray(layer.a.read()))
    writer.add_tensor(f"{tensor}.lora_b", np.ascontiguousarray(change(b) if change else b))


def _place(lora: Lora, layer: LoraLayer, names: Any, is_tied: bool) -> str:
    """The name of a layer's weight in the format."""
    if layer.magnitude is not None or layer.bias is not None:
        what = "learnt lengths (DoRA)" if layer.magnitude is not None else "a bias"
        raise InputError(str(lora.folder), f"{layer.module} has {what}, which no adapter of GGUF holds", _FUSE)
    name = names.get_name(f"{layer.module}.weight", try_suffixes=(".weight",))
    if layer.is_embedding or layer.is_transposed or name is None or (is_tied and name == "output.weight"):
        raise InputError(str(lora.folder), f"changes {layer.module}, which runners of GGUF don't change by an adapter", _FUSE)
    return str(name)
