"""Memory that the passes of a step take and give back, so that the same pages serve every layer, micro-batch and step."""

from collections import defaultdict

import torch

ROUND = 64  # rows by which a block is made larger than asked for, so that the next micro-batch fits as well


class Buffers:
    """Blocks of fp32 numbers by their width.

    What the C library's allocator is given back it keeps in pieces or hands to the system, which must clear each page that it
    gives out again. These blocks stay until they are let go before a validation, as many as were in use at
    once. One that is never given back goes with its last user.
    """

    def __init__(self) -> None:
        self.free: dict[int, list[torch.Tensor]] = defaultdict(list)

    def take(self, rows: int, width: int) -> torch.Tensor:
        """(rows, width) numbers of any value."""
        free = self.free[width]
        fitting = [number for number, block in enumerate(free) if len(block) >= rows]
        if fitting:
            return free.pop(min(fitting, key=lambda number: len(free[number])))[:rows]
        if free:  # the largest is too small for what is asked for now; another takes its place
            free.pop(max(range(len(free)), key=lambda number: len(free[number])))
        return torch.empty(-(-rows // ROUND) * ROUND, width)[:rows]

    def give(self, *parts: torch.Tensor | None) -> None:
        """Take back what `take` gave; None is passed over."""
        for part in parts:
            if part is not None:
                width, storage = part.shape[1], part.untyped_storage()
                rows = storage.nbytes() // (part.element_size() * width)
                self.free[width].append(part.new_empty(0).set_(storage, 0, (rows, width)))

    def clear(self) -> None:
        """Let all free blocks go."""
        self.free.clear()
