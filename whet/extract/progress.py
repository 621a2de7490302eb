"""How far a pass over a corpus has come, and how long the rest will take."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEASURED_S = 2.0  # that adding up the sizes of the inputs may take; beyond it the time left is not known


@dataclass(slots=True)
class Tally:
    """What a pass has done so far."""

    total_bytes: int | None = None
    """Of all inputs; None where that is not known."""
    counts: Counter[str] = field(default_factory=Counter)
    """documents, unchanged, changed, repeated, refused, broken; pages, chars, problems; chunks (answered now), known (before),
    blank, again, done, cut, failed; records, tokens."""
    began: float = field(default_factory=time.monotonic)
    bytes_behind: int = 0
    """Of the documents that were read to their end."""
    bytes_here: float = 0.0
    """Of the document that is read now, up to its last chunk."""
    chars_cut: int = 0
    """Of all chunks that were cut or are asked again; where chunks overlap they count twice."""
    chars_open: int = 0
    """Of the chunks that are being answered."""
    chars_answered: int = 0
    is_read: bool = False
    """Whether nothing is left to read."""

    @property
    def seconds(self) -> float:
        """Since the pass began."""
        return time.monotonic() - self.began

    @property
    def share(self) -> float | None:
        """The part of the inputs that is answered, 0 to 1; None where their size is not known."""
        if self.is_read:
            return max(0.0, 1.0 - self.chars_open / max(1, self.chars_cut))
        if not self.total_bytes:
            return None
        bytes_cut = self.bytes_behind + self.bytes_here
        is_open = min(1.0, self.chars_open / max(1, self.chars_cut))
        return min(1.0, bytes_cut / self.total_bytes) * (1.0 - is_open)

    @property
    def seconds_left(self) -> float | None:
        """Until all is answered, if the rest is like what was asked in this pass; None where that can't be told."""
        if not self.chars_answered:
            return None
        pace = self.seconds / self.chars_answered
        if self.is_read:
            return self.chars_open * pace
        bytes_cut = self.bytes_behind + self.bytes_here
        if not self.total_bytes or not bytes_cut or not self.chars_cut:
            return None
        ahead = max(0.0, self.total_bytes - bytes_cut) * self.chars_cut / bytes_cut
        return (ahead + self.chars_open) * pace


def measure(inputs: Sequence[str]) -> int | None:
    """Bytes of all files that are named or lie in a folder that is; None for standard input, or where adding takes too long."""
    total, until = 0, time.monotonic() + MEASURED_S
    for name in inputs:
        path = Path(name)
        if name == "-" or not (path.is_file() or path.is_dir()):
            return None
        if path.is_file():
            total += path.stat().st_size
            continue
        for folder, folders, names in os.walk(path):
            if time.monotonic() > until:
                return None
            folders[:] = [one for one in folders if not one.startswith(".")]
            for one in names:
                file = Path(folder) / one
                if not one.startswith(".") and file.is_file():
                    total += file.stat().st_size
    return total
