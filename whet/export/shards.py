"""Writes a model's weights as safetensors files, tensor by tensor: headers first, then the bytes as they come."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from whet.models.numbers import BITS
from whet.models.weights import INDEX, SINGLE
from whet.storage import write_json


@dataclass(frozen=True, slots=True)
class Written:
    """A tensor to be written: its numbers, and what gives its bytes when its turn comes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes]]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


def write_shards(folder: Path, tensors: Sequence[Written], max_bytes: int) -> list[str]:
    """Write tensors into an existing folder, as one file or as shards of at most `max_bytes` with an index; gives the names.

    A tensor that is larger has a file of its own. Memory is that of one piece.
    """
    shards = _shards(tensors, max_bytes)
    names = [SINGLE] if len(shards) == 1 else [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard)
    if len(shards) > 1:
        places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        metadata = {"total_size": sum(tensor.num_bytes for tensor in tensors)}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(sorted(places.items()))})
    return names


def _shards(tensors: Sequence[Written], max_bytes: int) -> list[list[Written]]:
    shards: list[list[Written]] = [[]]
    room = max_bytes
    for tensor in tensors:
        if shards[-1] and tensor.num_bytes > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(tensor)
        room -= tensor.num_bytes
    return shards


def _write_file(path: Path, tensors: Sequence[Written]) -> None:
    # Wide numbers first, so that each starts at a multiple of its width.
    ordered = sorted(tensors, key=lambda tensor: -BITS[tensor.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in ordered:
        places = [at, at + tensor.num_bytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": places}
        at += tensor.num_bytes
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in ordered:
            before = file.tell()
            for piece in tensor.pieces():
                file.write(piece)
            assert file.tell() - before == tensor.num_bytes, tensor.name
        file.flush()
        os.fsync(file.fileno())
