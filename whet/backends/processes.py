"""Which process this is among those that train together, as its launcher tells, and how they meet."""

import os
from collections.abc import Sequence
from typing import Protocol

from whet.errors import WhetError

LOST = 69  # exit code of a process that ends because another one did; EX_UNAVAILABLE of sysexits.h


class LostRankError(WhetError):
    """Another process of the same training has ended or can't be reached."""

    exit_code = LOST

    def __init__(self) -> None:
        super().__init__("", "another process of this training has ended", "Its own message says why")


class Company(Protocol):
    """The processes that train together (ranks), seen from one of them."""

    @property
    def rank(self) -> int:
        """Number of this process; 0 writes the files."""
        ...

    @property
    def count(self) -> int: ...

    def wait(self) -> None:
        """Until all are here. Raises LostRankError where one has ended."""
        ...

    def any_of(self, said: bool) -> bool:
        """Whether any of them says so; the same for all."""
        ...

    def first_of(self, numbers: Sequence[float]) -> list[float]:
        """The first process's numbers, for all of them; as many everywhere."""
        ...

    def leave(self) -> None:
        """From here on this process is alone; all of them call it."""
        ...


class Alone:
    """The company of a process that trains by itself."""

    rank, count = 0, 1

    def wait(self) -> None:
        pass

    def any_of(self, said: bool) -> bool:
        return said

    def first_of(self, numbers: Sequence[float]) -> list[float]:
        return list(numbers)

    def leave(self) -> None:
        pass


def is_launched() -> bool:
    """Whether a launcher (`whet train --devices`, torchrun) has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> Company:
    """Meet the other processes, if there are any. Nothing heavy is imported where there are none."""
    if not is_launched():
        return Alone()
    from whet.backends.on_torch.ranks import Ranks

    return Ranks()
