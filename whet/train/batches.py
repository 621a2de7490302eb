"""Rows to micro-batches: the order of a run as a function of (seed, step), and packs under a token budget."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from whet.backends.base import Pack
from whet.train.encode import Row

OPEN_PACKS = 64  # packs that a row is tried in; with more of them time would grow with the square of the rows


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Steps that see every row once; the last one may be smaller."""
    return -(-num_rows // rows_per_step)


def rows_of_step(num_rows: int, rows_per_step: int, seed: int, step: int) -> list[int]:
    """Numbers of the rows that a step trains. Each epoch is a permutation drawn from (seed, epoch); no row is left out."""
    epoch, at = divmod(step, steps_per_epoch(num_rows, rows_per_step))
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows)
    return [int(number) for number in order[at * rows_per_step : (at + 1) * rows_per_step]]


def num_shared(left: Sequence[int], right: Sequence[int], most: int) -> int:
    """How many ids two prompts begin with alike, `most` at most."""
    most = min(most, len(left), len(right))
    if left[:most] == right[:most]:
        return most
    return next(at for at in range(most) if left[at] != right[at])


def pack_rows(rows: Iterable[Row], max_tokens: int, layout: Literal["packed", "padded"] = "packed") -> list[Pack]:
    """Packs that hold every row once, each of at most `max_tokens` computed tokens (one longer row makes a pack of its own).

    Rows are put longest first into the first open pack with room (first-fit decreasing). The rows of a pack share their
    prompts' common prefix, which is computed once; padded rows share nothing, and rows of like length stand together.
    """
    ordered = sorted(rows, key=lambda row: (-row.num_tokens, row.example_id))
    return _pack(ordered, max_tokens) if layout == "packed" else _pad(ordered, max_tokens)


class _OpenPack:
    """Rows that are packed together so far: the length of their shared prefix, and what they compute."""

    def __init__(self, row: Row) -> None:
        self.rows, self.prefix, self.size = [row], len(row.prompt_ids), row.num_tokens

    def takes(self, row: Row, max_tokens: int) -> bool:
        """Put a row in, if there is room."""
        if self.size + row.num_tokens - self.prefix > max_tokens:
            return False  # too long even if it shared the whole prefix
        prefix = num_shared(self.rows[0].prompt_ids, row.prompt_ids, self.prefix)
        # A shorter prefix is repeated in every segment of the pack.
        size = self.size + (self.prefix - prefix) * (len(self.rows) - 1) + row.num_tokens - prefix
        if size > max_tokens:
            return False
        self.rows.append(row)
        self.prefix, self.size = prefix, size
        return True

    def close(self) -> Pack:
        return Pack(self.rows[0].prompt_ids[: self.prefix], tuple(row.behind(self.prefix) for row in self.rows))


def _pack(rows: Sequence[Row], max_tokens: int) -> list[Pack]:
    packs: list[_OpenPack] = []
    open_packs: list[_OpenPack] = []
    for row in rows:
        if any(pack.takes(row, max_tokens) for pack in open_packs):
            continue
        if len(open_packs) == OPEN_PACKS:
            open_packs.remove(max(open_packs, key=lambda pack: pack.size))
        open_packs.append(_OpenPack(row))
        packs.append(open_packs[-1])
    return [pack.close() for pack in packs]


def _pad(rows: Sequence[Row], max_tokens: int) -> list[Pack]:
    held: list[list[Row]] = []
    for row in rows:
        if not held or (len(held[-1]) + 1) * held[-1][0].num_tokens > max_tokens:
            held.append([])
        held[-1].append(row)
    return [Pack((), tuple(row.behind(0) for row in group)) for group in held]
