"""One tensor of a base with what an adapter adds to it, some rows at a time, and how much of that its numbers could keep."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.models.lora import LoraLayer
from whet.models.numbers import from_float32, to_float32
from whet.models.quantised import Packed
from whet.models.weights import Tensor

Array = NDArray[np.float32]
BLOCK = 1 << 19  # numbers that are merged at a time: 2 MB as fp32, some times that with what is between


class Change(Protocol):
    """What is done to some rows of a base's tensor."""

    def apply(self, rows: Array, start: int) -> Array:
        """The changed rows; `rows` are the base's from number `start` on, and may be used up."""
        ...


class Add:
    """scale * B A is added; with DoRA every output is then brought to its learnt length."""

    def __init__(self, layer: LoraLayer, base: "Rows") -> None:
        self._a, self._b = layer.a.read(), layer.b.read()
        self._scale, self._is_transposed = np.float32(layer.scale), layer.is_transposed
        self._lengths = layer.magnitude.read().ravel() if layer.magnitude else None
        self._factors: Array | None = None
        if self._lengths is not None and self._is_transposed:  # a length runs down all rows: one pass to know it
            squares = np.zeros(self._b.shape[0], np.float64)
            for start, rows in base.blocks():
                squares += np.square(self._sum(rows, start), dtype=np.float64).sum(0)
            self._factors = (self._lengths / np.sqrt(squares)).astype(np.float32)

    def apply(self, rows: Array, start: int) -> Array:
        """See Change."""
        merged = self._sum(rows, start)
        if self._lengths is None:
            return merged
        if self._factors is not None:
            return np.asarray(merged * self._factors, np.float32)
        # The length of an output's weights, as in arXiv 2402.09353, eq. 5.
        norms = np.linalg.norm(merged, axis=1)
        return np.asarray(merged * (self._lengths[start : start + len(rows)] / norms)[:, None], np.float32)

    def _sum(self, rows: Array, start: int) -> Array:
        stop = start + len(rows)
        added = self._a[:, start:stop].T @ self._b.T if self._is_transposed else self._b[start:stop] @ self._a
        added *= self._scale
        added += rows
        return added


class AddBias:
    """The adapter's own bias, times its scale, is added."""

    def __init__(self, layer: LoraLayer) -> None:
        assert layer.bias is not None
        self._bias = layer.bias.read() * np.float32(layer.scale)

    def apply(self, rows: Array, start: int) -> Array:
        """See Change."""
        return rows + self._bias[start : start + len(rows)]


class Replace:
    """Another tensor stands in the base's place."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def apply(self, rows: Array, start: int) -> Array:
        """See Change."""
        return self._tensor.rows(start, start + len(rows))


class Rows(Protocol):
    """A tensor of floating-point numbers that is read some rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> Array:
        """Rows as fp32."""
        ...

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All rows, some at a time, each with the number of its first."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """A tensor of a file, cut to a number of rows; rows behind its own are zero (new tokens, that the base knows nothing of)."""

    tensor: Tensor | Packed
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, *self.tensor.shape[1:])

    def rows(self, start: int, stop: int) -> Array:
        """See Rows."""
        own = self.tensor.shape[0]
        found = self.tensor.rows(min(start, own), min(stop, own))
        if stop <= own:
            return found
        return np.concatenate([found, np.zeros((stop - max(start, own), *self.tensor.shape[1:]), np.float32)])

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """See Rows."""
        step = rows_at_a_time(self.shape)
        for start in range(0, self.shape[0], step):
            yield start, self.rows(start, min(start + step, self.shape[0]))


def rows_at_a_time(shape: tuple[int, ...]) -> int:
    """Rows of a block of a tensor of this shape."""
    return max(1, BLOCK // max(1, math.prod(shape[1:])))


@dataclass(slots=True)
class Kept:
    """How much of what an adapter changes its stored numbers keep: sums over the tensors that it touches."""

    num_moving: int = 0
    """Entries that the adapter changes."""
    num_moved: int = 0
    """Of these, the entries whose stored number differs from the base's."""
    largest: float = 0.0
    """Largest difference between a stored number and the exact sum."""
    change_squares: float = 0.0
    """Sum of the squares of what the adapter changes."""
    error_squares: float = 0.0
    """Sum of the squares of what rounding takes away or adds."""
    unchanged: list[str] = field(default_factory=list)
    """Tensors that the adapter speaks of, none of whose entries it changes."""

    @property
    def share(self) -> float:
        """Share of the entries to be changed that were; 1 where there are none."""
        return self.num_moved / self.num_moving if self.num_moving else 1.0

    @property
    def error(self) -> float:
        """Norm of the rounding over the norm of the change."""
        return math.sqrt(self.error_squares / self.change_squares) if self.change_squares else 0.0

    def add(self, base: Array, exact: Array, stored: Array) -> None:
        """Count some rows: the base's, the exact sum, and what was stored of it."""
        change, error = exact - base, stored - exact
        self.num_moving += int(np.count_nonzero(change))
        self.num_moved += int(np.count_nonzero((stored != base) & (change != 0)))
        self.largest = max(self.largest, float(np.abs(error).max(initial=0.0)))
        self.change_squares += float(np.square(change, dtype=np.float64).sum())
        self.error_squares += float(np.square(error, dtype=np.float64).sum())

    def join(self, other: "Kept") -> None:
        """Add another tensor's figures."""
        self.num_moving += other.num_moving
        self.num_moved += other.num_moved
        self.largest = max(self.largest, other.largest)
        self.change_squares += other.change_squares
        self.error_squares += other.error_squares
        self.unchanged += other.unchanged


def merged_bytes(name: str, base: Rows, changes: list[Change], dtype: str, kept: Kept) -> Iterator[bytes]:
    """The bytes of a changed tensor, some at a time; what rounding to `dtype` cost is added to `kept`."""
    own = Kept()
    for start, rows in base.blocks():
        exact = rows
        for change in changes:
            exact = change.apply(exact, start)
        raw = from_float32(exact, dtype)
        stored = to_float32(raw, dtype).reshape(exact.shape)
        if not np.isfinite(stored).all():
            raise InputError(
                name, f"holds numbers after the merge that {dtype} can't hold (infinite or no number)",
                "The adapter or the base is broken, or too large for this kind of number: try --dtype fp32",
            )  # fmt: skip
        own.add(rows, exact, stored)
        yield raw
    if not own.num_moving:
        own.unchanged.append(name)
    kept.join(own)
