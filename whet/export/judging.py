"""Who reads an exported model again to compare it: ids in, logits and ids out, whatever runs it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Judge(Protocol):
    """A runner with a model loaded."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, names of special tokens read as those tokens, none added."""
        ...

    def logits(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        """What follows each of the ids from number `start` on: (len(ids) - start, vocabulary)."""
        ...

    def continue_ids(self, ids: Sequence[int], max_tokens: int, end_ids: Sequence[int]) -> list[int]:
        """The likeliest ids one after the other, up to and with the first end id."""
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """One form in which the model stands: its name, its type, and who reads it."""

    name: str
    """As the certificate names it: fused, gguf, mlx ..."""
    kind: str
    """Type of its numbers, a key of LIMITS."""
    judge: str
    """Who reads it, in words."""
    open: Callable[[], AbstractContextManager[Judge]]
    """Opens the judge and closes it."""
    explain: Callable[[], list[str]] = list
    """Where its numbers differ most, tensor by tensor; asked only where the limits are passed."""
