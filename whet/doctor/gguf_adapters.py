"""Looks at a GGUF file with an adapter: its strength and its matrices beside the adapter that was trained, its fit to a model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.errors import InputError, MissingExtraError, counted
from whet.export.gguf_adapter import place_layers
from whet.models.base_model import open_base
from whet.models.gguf_file import GgufFile, GgufTensor
from whet.models.lora import Lora
from whet.models.mlx_adapter import read_adapter

TOLERANCE = 0.02  # of what a layer adds; numbers of 8 bits are off by less
MAX_RANK = 4096
_READ = {"F32": "<f4", "F16": "<f2"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A and B of one layer, and what B A is multiplied with."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    strength: float

    def size(self) -> float:
        """How much it adds: the norm of strength * B A, which no order of rows changes."""
        return float(abs(self.strength) * np.sqrt(np.maximum(0.0, float(((self.b.T @ self.b) * (self.a @ self.a.T)).sum()))))

    def add(self, entering: NDArray[np.float32]) -> NDArray[np.float32]:
        """What it adds to a layer's output."""
        added: NDArray[np.float32] = np.float32(self.strength) * (self.b @ (self.a @ entering))
        return added


def look_adapter(file: GgufFile, context: Context) -> Findings:
    """All findings about an adapter's file. It is held against the adapter's folder where one, and one alone, is looked at."""
    if not alpha_of(file):
        yield error(
            "an adapter without strength",
            file.path,
            "it gives no adapter.lora.alpha",
            "llama.cpp then applies it at strength 1.",
            "Write it again: whet export gguf ADAPTER --base BASE --adapter",
        )
    if len(context.adapters) != 1:
        return
    lora, pairs = read_adapter(context.adapters[0]), read_pairs(file)
    if pairs is None:
        yield note(
            "not looked at", file.path, "its matrices are of a type that is not read here", "Its strength was not seen.", ""
        )
        return
    if len(pairs) != len(lora.layers):
        yield warning(
            "layers that were left out",
            file.path,
            f"it changes {counted(len(pairs), 'layer')}, the adapter {lora.folder} {len(lora.layers):,}",
            "What is not in it is served untrained.",
            "Write it again: whet export gguf ADAPTER --base BASE --adapter",
        )
        return
    yield from _beside(file, lora, pairs, context)


def _beside(file: GgufFile, lora: Lora, pairs: dict[str, Pair], context: Context) -> Findings:
    """Strength and places beside the adapter that was trained; layer by layer where the base is known."""
    trained = _placed(lora, context)
    ratios: list[float] = []
    turned: list[str] = []
    if trained is not None and trained.keys() == pairs.keys():
        for name, wanted in trained.items():
            entering = np.random.default_rng(0).standard_normal((wanted.a.shape[1],), np.float32)
            if wanted.a.shape[1] != pairs[name].a.shape[1] or wanted.b.shape[0] != pairs[name].b.shape[0]:
                turned.append(name)
                continue
            theirs, ours = wanted.add(entering), pairs[name].add(entering)
            norm = float(theirs @ theirs)
            if norm == 0:
                continue
            ratio = float(ours @ theirs) / norm
            # Written so that NaN is another one.
            is_other = not float(np.linalg.norm(ours - ratio * theirs)) <= TOLERANCE * float(np.linalg.norm(ours))
            (turned.append(name) if is_other else ratios.append(ratio))
    else:
        sizes = sorted(Pair(layer.a.read(), layer.b.read(), layer.scale).size() for layer in lora.layers.values())
        found = sorted(pair.size() for pair in pairs.values())
        ratios = [ours / theirs for ours, theirs in zip(found, sizes, strict=True) if theirs]
    if turned:
        yield error(
            "an adapter that was changed on the way",
            file.path,
            f"{len(turned):,} of {len(pairs):,} layers add something else than in {lora.folder}, such as {turned[0]}",
            "A conversion that turns the rows of the wrong matrix, or mixes up layers, serves another adapter.",
            "Write it again: whet export gguf ADAPTER --base BASE --adapter",
        )
    off = [ratio for ratio in ratios if not abs(ratio - 1) <= TOLERANCE]
    if off:
        strength = max(layer.scale for layer in lora.layers.values())
        ratio = float(np.median(off))
        yield error(
            "an adapter at another strength",
            file.path,
            f"{len(off):,} of {len(pairs):,} layers run at strength {strength * ratio:.3g} instead of {strength:g} (that of "
            f"{lora.folder})",
            "It is served stronger or weaker than it was trained.",
            "Write it again: whet export gguf ADAPTER --base BASE --adapter",
        )


def _placed(lora: Lora, context: Context) -> dict[str, Pair] | None:
    """What the file should hold, by its names; None without a base, or where the adapter can't be said in the format."""
    if context.base is None:
        return None
    try:
        layout, placed = place_layers(open_base(context.base), lora)
    except (InputError, MissingExtraError):
        return None
    found = {}
    for name, layer in placed.items():
        change, b = layout.change(f"{layer.module}.weight"), layer.b.read()
        found[name] = Pair(layer.a.read(), change(b) if change else b, layer.scale)
    return found


def read_pairs(file: GgufFile) -> dict[str, Pair] | None:
    """A and B by the names of the weights that they change; None where they are of a type that is not read here.

    InputError where a matrix stands alone.
    """
    named = {tensor.name: tensor for tensor in file.tensors}
    found = {}
    for name, tensor in named.items():
        weight, _, part = name.rpartition(".")
        if part != "lora_a":
            continue
        other = named.get(f"{weight}.lora_b")
        if weight == "token_embd.weight":
            return None  # llama.cpp has A and B of an embedding the other way round
        if other is None or len(tensor.shape) != 2 or len(other.shape) != 2 or tensor.shape[0] != other.shape[1]:
            raise InputError(str(file.path), f"does not hold the A and B of {weight[:80]!r} as one pair", "Is it whole?")
        if tensor.shape[0] > MAX_RANK:
            raise InputError(str(file.path), f"says that {weight[:80]!r} has rank {tensor.shape[0]:,}", "Is it an adapter?")
        a, b = _numbers(file, tensor), _numbers(file, other)
        if a is None or b is None:
            return None
        alpha = alpha_of(file)
        found[weight] = Pair(a, b, alpha / a.shape[0] if alpha else 1.0)
    return found


def alpha_of(file: GgufFile) -> float:
    """The strength before it is divided by the rank; 0 where the file gives none, which runners take for a strength of 1."""
    alpha = file.fields.get("adapter.lora.alpha")
    return float(alpha) if isinstance(alpha, int | float) else 0.0


def _numbers(file: GgufFile, tensor: GgufTensor) -> NDArray[np.float32] | None:
    raw = file.read(tensor)
    if tensor.type == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
    if tensor.type == "Q8_0":
        blocks = raw.reshape(-1, 34)
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        return (np.ascontiguousarray(blocks[:, 2:]).view(np.int8) * scales).astype(np.float32).reshape(tensor.shape)
    if tensor.type not in _READ:
        return None
    return raw.view(_READ[tensor.type]).astype(np.float32).reshape(tensor.shape)
