"""Writes safetensors files tensor by tensor: the header first, then the bytes as they come."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whet.models.numbers import BITS


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


def written_matrix(name: str, dtype: str, matrix: NDArray[np.generic]) -> Written:
    """A tensor that is in memory, as numbers of its width."""
    return Written(name, dtype, matrix.shape, lambda: iter([np.ascontiguousarray(matrix).tobytes()]))


def write_weights_file(path: Path, tensors: Sequence[Written], metadata: dict[str, str] | None = None) -> None:
    """Write a file of these tensors; memory is that of one piece. metadata: "pt" as its format where nothing is given."""
    # Wide numbers first, so that each starts at a multiple of its width.
    ordered = sorted(tensors, key=lambda tensor: -BITS[tensor.dtype])
    header: dict[str, object] = {"__metadata__": metadata or {"format": "pt"}}
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
