"""Reads what a GGUF file says of itself (fields, names, shapes and places of tensors), believing none of its numbers."""

import itertools
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from whet.errors import InputError, open_to_read

MAX_HEADER = 256 << 20
"""Most bytes of fields and tensor infos: a vocabulary of 262,144 with its merges takes about 12 MiB."""
MAX_FIELDS = 65_536
MAX_TENSORS = 262_144
MAX_KEY = 65_535  # bytes, by the format
MAX_STRINGS = 4_194_304  # in all arrays together; each costs about 60 bytes of memory
MAX_ALIGNMENT = 1 << 20
MAX_DIMENSIONS = 4
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Name, numbers a block and bytes a block of each tensor type, by its number."""
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: its name, its shape as numpy counts it (rows first), its type, and where its bytes lie in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of a GGUF file."""

    path: Path
    version: int
    fields: dict[str, Any]
    """Numbers, booleans, texts, and arrays: of numbers a numpy array, of texts a list. Bytes that are no UTF-8 are written as
    backslash escapes."""
    tensors: tuple[GgufTensor, ...]

    def text(self, key: str) -> str | None:
        """A field that is a text; None where there is none of that name and kind."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else None

    def read(self, tensor: GgufTensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a tensor, as they lie in the file."""
        with open_to_read(self.path) as file:
            file.seek(tensor.offset)
            data = file.read(tensor.num_bytes)
        if len(data) != tensor.num_bytes:
            raise InputError(str(self.path), f"ends within the tensor {tensor.name!r}")
        return np.frombuffer(data, np.uint8)


def read_gguf(path: Path) -> GgufFile:
    """The header of a GGUF file of version 2 or 3, whole and checked: counts, lengths and offsets lie within the file.

    InputError for everything that can't be. Memory stays within a small multiple of the header's bytes.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(str(path), "is no plain file")
    with open_to_read(path) as file:
        return _Header(path, file).read()


class _Header:
    """A cursor over the file that never goes behind its end or behind the largest header."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size
        self.at = 0
        self.strings = 0

    def fault(self, what: str, remedy: str = "Is the file whole? Download or export it again") -> InputError:
        return InputError(str(self.path), what, remedy)

    def take(self, num: int, what: str) -> bytes:
        if not 0 <= num <= min(self.size, MAX_HEADER) - self.at:
            limit = "the file" if self.size <= MAX_HEADER else f"the {MAX_HEADER >> 20} MiB that a header may have"
            raise self.fault(f"says that {what} has {num:,} bytes, more than {limit} holds from there")
        data = self.file.read(num)
        if len(data) != num:
            raise self.fault(f"ends within {what}")
        self.at += num
        return data

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def text(self, what: str, most: int | None = None) -> str:
        length = self.number("Q", what)
        if most is not None and length > most:
            raise self.fault(f"says that {what} has {length:,} bytes; at most {most:,} are allowed")
        return self.take(length, what).decode("utf-8", "backslashreplace")

    def read(self) -> GgufFile:
        if self.size < 24 or self.take(4, "the mark") != b"GGUF":
            raise self.fault("is no GGUF file", "Give a .gguf file")
        version = self.number("I", "the version")
        if version in (2 << 24, 3 << 24):
            raise self.fault("is a big-endian GGUF file", "Convert it with gguf-convert-endian")
        if version not in (2, 3):
            raise self.fault(f"is GGUF of version {version}; whet reads 2 and 3", "Export it again with a newer tool")
        num_tensors = self.count("tensors", MAX_TENSORS, 24)
        num_fields = self.count("fields", MAX_FIELDS, 13)
        fields: dict[str, Any] = {}
        for _ in range(num_fields):
            key = self.text("the name of a field", MAX_KEY)
            if key in fields:
                raise self.fault(f"holds the field {key[:80]!r} twice")
            fields[key] = self.value(self.number("I", f"the kind of {key[:80]!r}"), f"the field {key[:80]!r}")
        return GgufFile(self.path, version, fields, self.tensors(num_tensors, fields))

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A number of things of which each takes some bytes, so that it can't be more than the file has room for."""
        found = int(self.number("Q", f"the number of {what}"))
        if found > most or found * least_bytes > self.size - self.at:
            raise self.fault(f"says that it has {found:,} {what}, more than it has room for")
        return found

    def value(self, kind: int, what: str) -> Any:
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind])
            return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()
        if kind == _BOOL:
            return self.take(1, what) != b"\0"
        if kind == _STRING:
            return self.text(what)
        if kind == _ARRAY:
            return self.array(what)
        raise self.fault(f"{what} is of the kind {kind}, which is none of the format's")

    def array(self, what: str) -> Any:
        kind, length = self.number("I", what), self.number("Q", what)
        if kind in _NUMBERS or kind == _BOOL:
            dtype = np.dtype(_NUMBERS.get(kind, "?"))
            return np.frombuffer(self.take(length * dtype.itemsize, what), np.uint8 if kind == _BOOL else dtype)
        if kind != _STRING:
            raise self.fault(f"{what} is an array of the kind {kind}, which whet does not read")
        self.strings += length
        if self.strings > MAX_STRINGS or length * 8 > self.size - self.at:
            raise self.fault(f"says that {what} has {length:,} texts, more than it has room for")
        return [self.text(what) for _ in range(length)]

    def tensors(self, num: int, fields: dict[str, Any]) -> tuple[GgufTensor, ...]:
        alignment = fields.get("general.alignment", 32)
        is_power = isinstance(alignment, int) and 0 < alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0
        if not is_power:
            raise self.fault(f"aligns its tensors at {alignment!r} bytes, which is no power of two up to {MAX_ALIGNMENT:,}")
        infos = [self.tensor() for _ in range(num)]
        start = -(-self.at // alignment) * alignment
        if len({info.name for info in infos}) != num:
            raise self.fault("holds two tensors of one name")
        placed = []
        for info in infos:
            if info.offset % alignment:
                raise self.fault(f"the tensor {info.name[:80]!r} lies at {info.offset:,}, which is not aligned")
            if start + info.offset + info.num_bytes > self.size:
                end = start + info.offset + info.num_bytes
                raise self.fault(f"the tensor {info.name[:80]!r} would end at byte {end:,} of a file of {self.size:,}")
            placed.append(GgufTensor(info.name, info.shape, info.type, start + info.offset, info.num_bytes))
        ordered = sorted(placed, key=lambda tensor: (tensor.offset, tensor.num_bytes))
        for one, other in itertools.pairwise(ordered):
            if one.offset + one.num_bytes > other.offset:
                raise self.fault(f"the tensors {one.name[:80]!r} and {other.name[:80]!r} lie on each other")
        return tuple(placed)

    def tensor(self) -> GgufTensor:
        """The next tensor's info, its offset still counted from the start of all tensors."""
        name = self.text("the name of a tensor", MAX_KEY)
        dimensions = self.number("I", f"the shape of {name[:80]!r}")
        if dimensions > MAX_DIMENSIONS:
            raise self.fault(f"the tensor {name[:80]!r} has {dimensions:,} dimensions; at most {MAX_DIMENSIONS} are allowed")
        lengths = [self.number("Q", f"the shape of {name[:80]!r}") for _ in range(dimensions)]
        number = self.number("I", f"the type of {name[:80]!r}")
        offset = self.number("Q", f"the place of {name[:80]!r}")
        if number not in TYPES:
            raise self.fault(f"the tensor {name[:80]!r} is of the type {number}, which whet does not know", "Update whet")
        kind, block, block_bytes = TYPES[number]
        total = math.prod(lengths)
        if total == 0 or total >= 1 << 63 or (lengths[0] if lengths else 1) % block:
            raise self.fault(f"the tensor {name[:80]!r} has a shape that can't be ({'x'.join(map(str, lengths))} of {kind})")
        return GgufTensor(name, tuple(reversed(lengths)), kind, offset, total // block * block_bytes)
