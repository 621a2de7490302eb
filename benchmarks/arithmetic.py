"""The floating-point operations of a LoRA training step, counted, and the rate at which this machine multiplies matrices."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from random_models import Shape, dtype_on

from whet.backends.base import Pack


@dataclass(frozen=True, slots=True)
class Work:
    """What one step computes."""

    tokens: int
    """Tokens that go through the layers, padding included."""
    pairs: int
    """Pairs of a query and a key that it sees, a layer; in a padded row the padding sees what stands before it."""
    head_rows: int
    """Tokens at which the vocabulary head is computed."""
    is_recomputed: bool = False
    """Activation checkpointing: the layers' forward pass is computed twice."""
    keys_only: int = 0
    """Tokens of which the last layer hands on keys and values only: its output projection and MLP leave them out."""
    head_rows_again: int = 0
    """Tokens at which the head's product is computed once more in the backward pass."""

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens, self.pairs + other.pairs, self.head_rows + other.head_rows,
            self.is_recomputed or other.is_recomputed, self.keys_only + other.keys_only,
            self.head_rows_again + other.head_rows_again,
        )  # fmt: skip


NOTHING = Work(0, 0, 0)


def count_flops(shape: Shape, rank: int, work: Work) -> float:
    """Operations (a multiplication and an addition are two) of forward and backward pass.

    A frozen linear map costs its product in the forward pass and the gradient by its input in the backward pass; its weights
    have no gradient. LoRA's two factors cost their products, both gradients by their inputs and both by their weights.
    Attention: two products a pair in the forward pass, four in the backward pass (the scores that flash attention computes
    anew are not counted). The head: its product and the gradient by its input. Nothing below the first layer is trained, so
    the first layer's query, key and value give no gradient to their input, unless checkpointing asks for one.
    """
    base = sum(2 * n * m for n, m in shape.linears)
    lora = sum(2 * rank * (n + m) for n, m in shape.linears)
    forward = base + lora
    backward = base + 2 * lora
    first = 0 if work.is_recomputed else sum(2 * n * m + 2 * rank * n for n, m in shape.linears[:3])
    pair = 4 * shape.heads * shape.head_size
    layers_forward = shape.layers * (forward * work.tokens + pair * work.pairs)
    layers_backward = shape.layers * (backward * work.tokens + 2 * pair * work.pairs) - first * work.tokens
    behind = shape.linears[3:]
    layers_forward -= work.keys_only * sum(2 * n * m + 2 * rank * (n + m) for n, m in behind)
    layers_backward -= work.keys_only * sum(2 * n * m + 4 * rank * (n + m) for n, m in behind)
    head = 2 * shape.hidden * shape.vocabulary * (2 * work.head_rows + work.head_rows_again)
    return float(layers_forward * (2 if work.is_recomputed else 1) + layers_backward + head)


def packed_work(packs: Sequence[Pack]) -> Work:
    """Work of whet's packs: prefixes of neighbouring packs once, the head at learnt tokens only."""
    work = NOTHING
    for prefix, group in groupby(packs, key=lambda pack: pack.prefix):
        together = list(group)
        work += Work(len(prefix), len(prefix) * (len(prefix) + 1) // 2, 0, keys_only=len(prefix))
        for pack in together:
            depths: list[int] = []
            for segment in pack.segments:
                before = depths[segment.parent] if segment.parent >= 0 else len(prefix)
                length = len(segment.ids)
                depths.append(before + length)
                pairs = length * before + length * (length + 1) // 2
                work += Work(length, pairs, segment.num_learnt, keys_only=length - segment.num_learnt)
    return work


def padded_work(packs: Sequence[Pack]) -> Work:
    """Work of whet's padded rows: the head at learnt tokens only."""
    work = NOTHING
    for pack in packs:
        rows = len(pack.leaves)
        width = pack.num_padded // max(1, rows)
        work += Work(rows * width, rows * width * (width + 1) // 2, pack.num_learnt)
    return work


def peer_work(batches: Iterable[Sequence[int]], is_padded: bool, is_recomputed: bool) -> Work:
    """Work of micro-batches of rows of these lengths: each computed alone, the head at every token."""
    work = NOTHING
    for lengths in batches:
        widths = [max(lengths)] * len(lengths) if is_padded else lengths
        work += Work(sum(widths), sum(width * (width + 1) // 2 for width in widths), sum(widths), is_recomputed)
    return work


def measure_matrix_rate(shape: Shape, device: str = "cpu", seconds: float = 0.1) -> dict[str, float]:
    """FLOP/s of plain matrix products over the shapes that the model uses; the best of each shape, and of all as `best`."""
    import torch

    dtype = getattr(torch, dtype_on(device))
    sizes = {(rows, n, m) for rows in (256, 512, 1024, 2048, 4096) for n, m in shape.linears}
    sizes |= {(rows, shape.hidden, shape.vocabulary) for rows in (64, 256, 512)}
    rates: dict[str, float] = {}
    for rows, n, m in sorted(sizes):
        left = torch.randn(rows, n, device=device, dtype=dtype)
        # The weights of a linear map lie transposed in memory.
        right = torch.randn(m, n, device=device, dtype=dtype).T
        out = left @ right
        began, best = time.perf_counter(), float("inf")
        while time.perf_counter() - began < seconds:
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        rates[f"{rows}x{n}x{m}"] = 2 * rows * n * m / best
    return rates | {"best": max(rates.values())}
