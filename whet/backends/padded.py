"""What both kinds of backend need to compute rows padded, and to compare them with packed ones; no device in it."""

import math
from dataclasses import dataclass

from whet.backends.base import Pack


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """The rows of a pack, each from the first id of its prefix on. N learnt ids over all rows, in the order of the leaves."""

    rows: tuple[tuple[int, ...], ...]
    """Without their padding, which goes to the right."""
    row_N: tuple[int, ...]
    at_N: tuple[int, ...]
    """Row and column of the token that predicts each learnt id."""
    target_N: tuple[int, ...]
    segment_N: tuple[int, ...]
    """Number of the segment that each learnt id belongs to."""

    @property
    def width(self) -> int:
        """Ids of the longest row."""
        return max(map(len, self.rows))

    def padded(self, pad_id: int) -> list[list[int]]:
        """The ids of all rows, equally long."""
        return [[*row, *[pad_id] * (self.width - len(row))] for row in self.rows]


def pad_rows(pack: Pack) -> PaddedRows:
    """A pack as so many rows as it has leaves."""
    leaves = pack.leaves
    rows = tuple(pack.row(leaf) for leaf in leaves)
    learnt = [
        (number, offset - 1, row[offset], leaf)
        for number, (row, leaf) in enumerate(zip(rows, leaves, strict=True))
        for offset in range(len(row) - pack.segments[leaf].num_learnt, len(row))
    ]
    row_N, at_N, target_N, segment_N = zip(*learnt, strict=True) if learnt else ((), (), (), ())
    return PaddedRows(rows, row_N, at_N, target_N, segment_N)


def relative_difference(a: float, b: float) -> float:
    """Of the larger one; two values that are both zero do not differ, and one that is no number differs from everything."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b), 1e-12)
