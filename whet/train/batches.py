"""Rows to micro-batches: the order of a run as a function of (seed, step), and packs under a token budget."""

from collections.abc import Iterable, Sequence

import numpy as np

from whet.backends.base import Pack
from whet.train.encode import Row


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Steps that see every row once; the last one may be smaller."""
    return -(-num_rows // rows_per_step)


def rows_of_step(num_rows: int, rows_per_step: int, seed: int, step: int) -> list[int]:
    """Numbers of the rows that a step trains. Each epoch is a permutation drawn from (seed, epoch); no row is left out."""
    epoch, at = divmod(step, steps_per_epoch(num_rows, rows_per_step))
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows)
    return [int(number) for number in order[at * rows_per_step : (at + 1) * rows_per_step]]


def common_prefix(rows: Sequence[Row]) -> int:
    """Length of the longest run of ids with which every row's prompt begins."""
    first = min((row.prompt_ids for row in rows), default=())
    last = max((row.prompt_ids for row in rows), default=())
    # The least and the greatest in lexical order agree exactly where all agree.
    for at, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return at
    return min(len(first), len(last))


def pack_rows(rows: Iterable[Row], max_tokens: int) -> list[Pack]:
    """Packs that hold every row once, each of at most `max_tokens` computed tokens (one longer row makes a pack of its own).

    Rows are put longest first into the first pack with room (first-fit decreasing). The rows of a pack share their
    prompts' common prefix, which is computed once; so rows are first sorted into groups by how their prompts begin.
    """
    groups: list[list[Row]] = []
    prefixes: list[int] = []
    sizes: list[int] = []
    for row in sorted(rows, key=lambda row: (-row.num_tokens, row.example_id)):
        for number, group in enumerate(groups):
            shared = common_prefix([group[0], row])
            prefix = min(prefixes[number], shared)
            # A shorter prefix is repeated in every segment of the pack.
            size = sizes[number] + (prefixes[number] - prefix) * (len(group) - 1) + row.num_tokens - prefix
            if size <= max_tokens:
                group.append(row)
                prefixes[number], sizes[number] = prefix, size
                break
        else:
            groups.append([row])
            prefixes.append(len(row.prompt_ids))
            sizes.append(row.num_tokens)
    return [
        Pack(group[0].prompt_ids[:prefix], tuple(row.behind(prefix) for row in group))
        for group, prefix in zip(groups, prefixes, strict=True)
    ]
