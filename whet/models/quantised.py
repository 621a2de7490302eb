"""Weights that a base holds in a few bits, as MLX or bitsandbytes pack them: read as fp32, and rounded as their packer would."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.models.numbers import from_float32
from whet.models.weights import Tensor

Array = NDArray[np.float32]
_STATE = ".quant_state.bitsandbytes__"
_BLOCK = 1 << 19  # numbers that are unpacked at a time
_INT8_STEPS = 127.0  # bitsandbytes' int8 codes run from -127 to 127 over a row's largest absolute weight
_MLX_BITS = (2, 3, 4, 5, 6, 8)


class Packing(Protocol):
    """How some numbers are packed."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def rows(self, start: int, stop: int) -> Array:
        """Rows as fp32."""
        ...

    def round(self, rows: Array) -> Array:
        """What the same packer would keep of other numbers in the place of whole rows."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed tensor that passes for one of plain numbers: it is read as fp32, and written in `dtype`."""

    name: str
    dtype: str
    path: Path
    packing: Packing
    is_float: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return self.packing.shape

    def rows(self, start: int, stop: int) -> Array:
        """Rows as fp32."""
        return self.packing.rows(start, stop)

    def read(self) -> Array:
        """The whole tensor as fp32."""
        return self.rows(0, self.shape[0])

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in `dtype`, some rows at a time."""
        step = max(1, _BLOCK // max(1, math.prod(self.shape[1:])))
        for start in range(0, self.shape[0], step):
            yield from_float32(self.rows(start, min(start + step, self.shape[0])), self.dtype)


@dataclass(frozen=True, slots=True)
class MlxAffine:
    """MLX's affine groups: code x scale + bias, a scale and a bias for each group of a row."""

    codes: Tensor
    scales: Tensor
    biases: Tensor
    bits: int
    group: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1] * 32 // self.bits

    def rows(self, start: int, stop: int) -> Array:
        """See Packing."""
        raw = _raw_rows(self.codes, start, stop).view(np.uint8)
        # A row is one stream of bits, each code's lowest bit first.
        streams = np.unpackbits(raw, axis=1, bitorder="little").reshape(stop - start, -1, self.bits)
        codes = streams @ (1 << np.arange(self.bits, dtype=np.uint16))
        grouped = codes.astype(np.float32).reshape(stop - start, -1, self.group)
        made = grouped * self.scales.rows(start, stop)[:, :, None] + self.biases.rows(start, stop)[:, :, None]
        return np.asarray(made.reshape(stop - start, -1), np.float32)

    def round(self, rows: Array) -> Array:
        """See Packing; MLX's own rule, whose groups keep their extreme value and, where it can be, zero."""
        grouped = rows.reshape(len(rows), -1, self.group)
        high, low = grouped.max(-1), grouped.min(-1)
        steps = np.float32((1 << self.bits) - 1)
        is_low = np.abs(low) > np.abs(high)
        scale = np.maximum((high - low) / steps, np.float32(1e-7))
        scale = np.where(is_low, scale, -scale)
        edge = np.where(is_low, low, high)
        at_zero = np.rint(edge / scale)
        scale = np.where(at_zero != 0, edge / np.where(at_zero != 0, at_zero, 1), scale)
        bias = np.where(at_zero != 0, edge, 0)
        codes = np.clip(np.rint((grouped - bias[..., None]) / scale[..., None]), 0, steps)
        return np.asarray((codes * scale[..., None] + bias[..., None]).reshape(rows.shape), np.float32)


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """bitsandbytes' int8: code x largest absolute weight of the row / 127."""

    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def rows(self, start: int, stop: int) -> Array:
        """See Packing."""
        codes = _raw_rows(self.codes, start, stop).view(np.int8).astype(np.float32)
        return np.asarray(codes * (self.scales.rows(start, stop) / np.float32(_INT8_STEPS))[:, None], np.float32)

    def round(self, rows: Array) -> Array:
        """See Packing."""
        scale = np.maximum(np.abs(rows).max(1, keepdims=True), np.float32(1e-30)) / np.float32(_INT8_STEPS)
        return np.asarray(np.rint(rows / scale) * scale, np.float32)


@dataclass(frozen=True, slots=True)
class FourBits:
    """bitsandbytes' 4 bits (NF4, FP4): a table of 16 values times the largest absolute weight of a block."""

    codes: Tensor
    shape: tuple[int, ...]
    table: Array
    """The 16 values."""
    scales: Array
    """One a block, of the numbers in the order of the rows."""
    block: int

    def rows(self, start: int, stop: int) -> Array:
        """See Packing."""
        width = math.prod(self.shape[1:])
        first, last = start * width // 2 * 2, stop * width
        raw = np.frombuffer(b"".join(_bytes_of(self.codes, first // 2, (last + 1) // 2)), np.uint8)
        codes = np.stack([raw >> 4, raw & 15], 1).reshape(-1)[start * width - first :][: last - start * width]
        scales = self.scales[np.arange(start * width, last) // self.block]
        return np.asarray((self.table[codes] * scales).reshape(stop - start, *self.shape[1:]), np.float32)

    def round(self, rows: Array) -> Array:
        """See Packing; without the second rounding, of the scales themselves."""
        flat = rows.reshape(-1)
        padded = np.pad(flat, (0, -flat.size % self.block)).reshape(-1, self.block)
        scales = np.maximum(np.abs(padded).max(1, keepdims=True), np.float32(1e-30))
        order = np.argsort(self.table)
        middles = (self.table[order][:-1] + self.table[order][1:]) / 2
        made = self.table[order][np.searchsorted(middles, padded / scales)] * scales
        return np.asarray(made.reshape(-1)[: flat.size].reshape(rows.shape), np.float32)


def is_quantised(config: Mapping[str, Any]) -> bool:
    """Whether a base is stored in fewer bits, by its config.json."""
    return bool(config.get("quantization_config") or config.get("quantization"))


def unpacked(tensors: Mapping[str, Tensor], config: Mapping[str, Any], place: str) -> dict[str, Tensor | Packed]:
    """The tensors of a quantised base, its packed ones read as plain numbers, under the names of plain ones.

    InputError for ways of packing that are not known here (GPTQ, AWQ, FP8 and others).
    """
    kind = config.get("quantization_config") or config.get("quantization")
    keys = kind if isinstance(kind, dict) else {}
    method = str(keys.get("quant_method") or ("mlx" if "group_size" in keys and "bits" in keys else "bitsandbytes"))
    dtype = {"float16": "F16", "float32": "F32"}.get(str(config.get("dtype") or config.get("torch_dtype")), "BF16")
    if method not in ("mlx", "bitsandbytes"):
        raise InputError(place, f"is quantised by {method[:40]}, which can't be read here", "Give its origin: --onto")
    if method == "mlx" and str(keys.get("mode") or "affine") != "affine":
        raise InputError(place, f"is quantised by MLX's {keys['mode']}, which can't be read here", "Give its origin: --onto")
    found: dict[str, Tensor | Packed] = {}
    used: set[str] = set()
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        packing = None
        if name.endswith(".weight") and not tensor.is_float:
            packing, parts = _mlx(module, tensors, keys, place) if method == "mlx" else _bitsandbytes(module, tensors, place)
            used |= parts
        found[name] = tensor if packing is None else Packed(name, dtype, tensor.path, packing)
    return {name: tensor for name, tensor in found.items() if name not in used}


def _mlx(module: str, tensors: Mapping[str, Tensor], keys: Mapping[str, Any], place: str) -> tuple[Packing, set[str]]:
    own = keys.get(module)
    bits, group = ((own if isinstance(own, dict) else keys).get(key) for key in ("bits", "group_size"))
    parts = {f"{module}.scales", f"{module}.biases"}
    codes = tensors[f"{module}.weight"]
    if bits not in _MLX_BITS or type(group) is not int or group < 1 or not parts <= tensors.keys() or codes.dtype != "U32":
        raise _broken(place, module)
    made = MlxAffine(codes, tensors[f"{module}.scales"], tensors[f"{module}.biases"], bits, group)
    wanted = (codes.shape[0], made.shape[1] // group) if len(codes.shape) == 2 else ()
    if made.scales.shape != wanted or made.biases.shape != wanted or made.shape[1] % group:
        raise _broken(place, module)
    return made, parts


def _bitsandbytes(module: str, tensors: Mapping[str, Tensor], place: str) -> tuple[Packing, set[str]]:
    codes = tensors[f"{module}.weight"]
    if f"{module}.SCB" in tensors:
        scales = tensors[f"{module}.SCB"]
        if codes.dtype != "I8" or len(codes.shape) != 2 or scales.shape != codes.shape[:1]:
            raise _broken(place, module)
        return Int8Rows(codes, scales), {f"{module}.SCB", f"{module}.weight_format"}
    state_name = next((name for name in tensors if name.startswith(f"{module}.weight{_STATE}")), "")
    parts = {name for name in tensors if name.startswith(f"{module}.weight.")}
    try:
        state = json.loads(b"".join(tensors[state_name].pieces()))
        shape, block = tuple(state["shape"]), state["blocksize"]
        block_scales = _scales(f"{module}.weight", tensors, state)
        table = tensors[f"{module}.weight.quant_map"].read()
    except (KeyError, ValueError, TypeError, RecursionError):
        raise _broken(place, module) from None
    numbers = math.prod(shape) if all(type(n) is int and n > 0 for n in shape) else 0
    is_whole = type(block) is int and block > 0 and numbers and codes.num_bytes == (numbers + 1) // 2
    if not is_whole or block_scales.size != -(-numbers // block) or table.shape != (16,) or codes.dtype != "U8":
        raise _broken(place, module)
    return FourBits(codes, shape, table, block_scales, block), parts


def _scales(name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Array:
    """One scale a block; where they were rounded themselves, a table of 256 values times the scale of a block of scales."""
    stored = tensors[f"{name}.absmax"]
    if stored.is_float:
        return stored.read()
    table, scales = tensors[f"{name}.nested_quant_map"].read(), tensors[f"{name}.nested_absmax"].read()
    codes = np.frombuffer(b"".join(stored.pieces()), np.uint8)
    made = table[codes] * scales[np.arange(codes.size) // int(state["nested_blocksize"])] + np.float32(state["nested_offset"])
    return np.asarray(made, np.float32)


def _raw_rows(tensor: Tensor, start: int, stop: int) -> NDArray[np.uint8]:
    width = tensor.num_bytes // tensor.shape[0]
    raw = b"".join(_bytes_of(tensor, start * width, stop * width))
    return np.frombuffer(raw, np.uint8).reshape(stop - start, width)


def _bytes_of(tensor: Tensor, start: int, stop: int) -> Iterator[bytes]:
    part = Tensor(tensor.name, "U8", (stop - start,), tensor.path, tensor.start + start, tensor.start + stop)
    return part.pieces()


def _broken(place: str, module: str) -> InputError:
    return InputError(place, f"{module[:120]} is not packed as its config says", "Copy the base again, or give --onto")
