"""Reads safetensors files and their indexes as strangers wrote them: nothing in a header or an index is believed unchecked."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, counted, open_to_read
from whet.models.described import read_description
from whet.models.numbers import BITS, FLOATS, to_float32

# The format's own limit is 100 MB, whose JSON would take gigabytes to read; 16 MB hold the tensors of the largest models.
MAX_HEADER = 16_000_000
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PIECE = 8 << 20  # bytes that are copied or turned to floats at a time
_MAX_DIMENSIONS = 16
_REMEDY = "Copy it again from where it came, and look at who wrote it"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file: its numbers and where they lie, checked against the file's size."""

    name: str
    dtype: str
    """As the format names it: F32, BF16, U8 ..."""
    shape: tuple[int, ...]
    path: Path
    start: int
    """First byte in the file."""
    end: int
    """The byte behind the last."""

    @property
    def num_bytes(self) -> int:
        return self.end - self.start

    @property
    def is_float(self) -> bool:
        """Whether it holds plain floating-point numbers, no packed or quantised ones."""
        return self.dtype in FLOATS

    def pieces(self, size: int = PIECE) -> Iterator[bytes]:
        """Its bytes, some at a time."""
        with open_to_read(self.path) as file:
            file.seek(self.start)
            left = self.num_bytes
            while left:
                piece = file.read(min(size, left))
                if not piece:
                    raise InputError(str(self.path), "became shorter while it was read", _REMEDY)
                left -= len(piece)
                yield piece

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows (entries of the first axis) as fp32; (stop - start, *the other axes)."""
        if not self.is_float:
            raise InputError(str(self.path), f"{self.name} holds {self.dtype}, no floating-point numbers")
        row_bytes = math.prod(self.shape[1:]) * BITS[self.dtype] // 8
        with open_to_read(self.path) as file:
            file.seek(self.start + start * row_bytes)
            raw = file.read((stop - start) * row_bytes)
        return to_float32(raw, self.dtype).reshape(stop - start, *self.shape[1:])

    def read(self) -> NDArray[np.float32]:
        """The whole tensor as fp32."""
        if not self.shape:
            return to_float32(b"".join(self.pieces()), self.dtype).reshape(())
        return self.rows(0, self.shape[0])

    def matrix(self) -> NDArray[Any]:
        """Its numbers bit for bit, as unsigned numbers of their width; not of kinds that share bytes."""
        return np.frombuffer(b"".join(self.pieces()), f"<u{BITS[self.dtype] // 8}").reshape(self.shape)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One safetensors file: its tensors in the order of their places, its metadata, and its header as it is written."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    header: bytes


def read_weights_file(path: Path) -> WeightsFile:
    """The checked header of a safetensors file.

    Refused, in one line: a header that is too long, no JSON, or names a tensor twice; numbers of an unknown kind; shapes that do
    not fit the bytes; places that overlap, leave holes, or lie outside the file. Reads the header alone.
    """
    with open_to_read(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise _no_file(path, "its header length can't be")
        if length > MAX_HEADER:
            raise _no_file(path, f"its header of {length:,} bytes is longer than any model's")
        header = file.read(length)
    entries = _parse_header(path, header)
    metadata = entries.pop("__metadata__", None) or {}  # mlx writes null where there is none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _no_file(path, "its metadata is no table of texts")
    found = sorted((_read_entry(path, name, entry, 8 + length) for name, entry in entries.items()), key=_place)
    at = 8 + length
    for tensor in found:
        if tensor.start != at:
            how = "overlaps the tensor before it" if tensor.start < at else "leaves a hole before it"
            raise _no_file(path, f"{_short(tensor.name)} {how}")
        at = tensor.end
    if at != size:
        what = "is cut off" if at > size else "has bytes that belong to no tensor"
        raise _no_file(path, f"it {what}: {size:,} bytes, and its header speaks of {at:,}")
    return WeightsFile(path, {tensor.name: tensor for tensor in found}, metadata, header)


def weights_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights: model.safetensors, or those that its index names, or all safetensors there are.

    An index may name files of this folder only, all of which must be there; links may not lead out of the folder.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        paths = [folder / SINGLE]
    elif index.is_file():
        paths = [folder / name for name in sorted(set(_read_index(index).values()))]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        check_inside(path, folder)
    return paths


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder by name, in the order of their files and places."""
    tensors: dict[str, Tensor] = {}
    paths = weights_files(folder)
    for path in paths:
        for name, tensor in read_weights_file(path).tensors.items():
            if name in tensors:
                raise InputError(str(path), f"{_short(name)} stands in {tensors[name].path.name} too", _REMEDY)
            tensors[name] = tensor
    if not tensors:
        raise InputError(str(folder), "has no safetensors weights", "Pickled weights can run code and are not read")
    if paths[0].name != SINGLE and (folder / INDEX).is_file():
        _check_index(folder / INDEX, tensors)
    return tensors


def check_inside(path: Path, folder: Path) -> None:
    """InputError where a file of a folder is a link out of it; links into the blobs of a Hugging Face cache are its own."""
    if not path.is_symlink():
        return
    real, homes = path.resolve(), [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        homes.append(folder.resolve().parent.parent / "blobs")
    if not any(real.is_relative_to(home) for home in homes):
        raise InputError(str(path), "is a link out of its folder", "Copy the file in")


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name of an index; file names are plain names of files that are there."""
    places = read_description(path, MAX_HEADER).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise InputError(str(path), "says no weight_map", _REMEDY)
    for name, file in places.items():
        if not isinstance(file, str) or not is_plain_name(file) or not file.endswith(".safetensors"):
            raise InputError(str(path), f"gives {_short(name)} a file that can't be: {_short(repr(file))}", _REMEDY)
    missing = sorted({file for file in places.values() if not (path.parent / file).is_file()})
    if missing:
        raise InputError(
            str(path), f"names {counted(len(missing), 'missing file')}, such as {_short(missing[0])}", "Copy the model again"
        )
    return places


def is_plain_name(name: str) -> bool:
    """Whether a text can name a file of a folder itself: no way up, no way down, no drive, no control characters."""
    return bool(name) and name not in (".", "..") and not any(c in '/\\:<>|"?*' or not c.isprintable() for c in name)


def _check_index(path: Path, tensors: dict[str, Tensor]) -> None:
    """The index and its files must tell of the same tensors in the same places."""
    places = _read_index(path)
    odd = [name for name, tensor in tensors.items() if places.get(name) != tensor.path.name]
    odd += [name for name in places if name not in tensors]
    if odd:
        moved = counted(len(odd), "tensor", "stands", "stand")
        raise InputError(str(path), f"{moved} elsewhere than it says, such as {_short(odd[0])}", _REMEDY)


def _parse_header(path: Path, header: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise _no_file(path, "its header names something twice")
        return made

    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise _no_file(path, "its header is not JSON") from None
    if not isinstance(entries, dict):
        raise _no_file(path, "its header is no table of tensors")
    return entries


def _read_entry(path: Path, name: str, entry: Any, offset: int) -> Tensor:
    """A header's entry, its bytes counted from the start of the file."""
    told = _short(name)
    if not isinstance(entry, dict) or not entry.keys() == {"dtype", "shape", "data_offsets"}:
        raise _no_file(path, f"{told} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _no_file(path, f"{told} holds numbers of an unknown kind ({_short(str(dtype))})")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _no_file(path, f"{told} has no shape that can be")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise _no_file(path, f"{told} has no place that can be")
    if math.prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise _no_file(path, f"{told} of shape {shape} in {dtype} does not take {offsets[1] - offsets[0]:,} bytes")
    return Tensor(name, dtype, tuple(shape), path, offset + offsets[0], offset + offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.start, tensor.end


def _short(text: str) -> str:
    """A name out of a stranger's file, fit for one line."""
    return "".join(c if c.isprintable() else "?" for c in text[:80]) + ("..." if len(text) > 80 else "")


def _no_file(path: Path, why: str) -> InputError:
    return InputError(str(path), f"is no safetensors file ({why})", _REMEDY)
