"""Numbers as safetensors files hold them, to fp32 and back, without a library that knows bf16."""

import numpy as np
from numpy.typing import NDArray

BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16, "BF16": 16},
    **{"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64},
}
"""Bits of one number of each kind, by the format's names."""
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The plain floating-point kinds, and what a config.json calls them."""


def to_float32(raw: bytes, dtype: str) -> NDArray[np.float32]:
    """Floating-point numbers (little endian) as fp32; F64 is rounded, the others are exact. A copy, of shape (N,)."""
    if dtype == "BF16":  # the upper half of an fp32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    return np.frombuffer(raw, kind).astype(np.float32)


def from_float32(values: NDArray[np.float32], dtype: str) -> bytes:
    """The same numbers in another kind, each rounded once to the nearest, ties to even; too large ones become infinite."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    with np.errstate(over="ignore"):
        return values.astype(kind).tobytes()
