"""Replies as they grow: what a chosen id brings with it, what is left of the budget, and what comes out in the end."""

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from whet.backends.base import Ask, Generated
from whet.errors import InputError

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


class Reply:
    """One ask's reply: its ids so far, their log-probabilities, and its guide."""

    def __init__(self, number: int, ask: Ask, end_ids: Collection[int]) -> None:
        self.number, self.ask, self.guide = number, ask, ask.guide
        self.end_ids = end_ids
        self.ids: list[int] = []
        self.log_probs: list[float] = []
        self.is_ended = False
        self._random = random.Random(ask.seed)

    def draw(self) -> float:
        """The next random number in [0, 1) of this reply alone, whatever else is generated beside it."""
        return self._random.random()

    @property
    def left(self) -> int:
        """Ids that the budget still holds, the end id included."""
        return self.ask.max_tokens - len(self.ids)

    @property
    def is_done(self) -> bool:
        return self.is_ended or self.left <= 0

    def begin(self) -> tuple[int, ...]:
        """Ids that stand at the start whatever the model says."""
        return self._put(() if self.guide is None else self.guide.begin(self.left), None, 0.0)

    def take(self, token: int, log_prob: float) -> tuple[int, ...]:
        """Take the id that was chosen. Gives the ids that stand now: it and those that it forces, or others in its place."""
        ids = (token,) if self.guide is None else self.guide.take(token, self.left)
        return self._put(ids, token, log_prob)

    def result(self) -> Generated:
        ids = self.ids[:-1] if self.is_ended else self.ids
        num_own = None if self.guide is None else self.guide.num_own
        return Generated(tuple(ids), self.is_ended, tuple(self.log_probs), num_own)

    def _put(self, ids: tuple[int, ...], chosen: int | None, log_prob: float) -> tuple[int, ...]:
        assert len(ids) <= self.left, "a guide keeps to the budget"
        for at, token in enumerate(ids):
            self.ids.append(token)
            self.log_probs.append(log_prob if at == 0 and token == chosen else 0.0)
        self.is_ended = (bool(ids) and ids[-1] in self.end_ids) if self.guide is None else self.guide.is_ended
        return ids


def unheld(name: str, held: Iterable[str]) -> InputError:
    """What is said of an ask that names an adapter which is not held."""
    names = ", ".join(sorted(held))
    return InputError("", f"there is no adapter named {name!r} here", f"These are held: {names}" if names else "None is held")


def choose_one(logits_V: Floats, reply: Reply) -> tuple[int, float]:
    """The next id of a reply and its log-probability in nats, at a temperature of 1 among the ids that its guide allows."""
    logits_V = logits_V.astype(np.float64)
    if reply.guide is not None:
        logits_V = np.where(allowed_table([reply.guide.mask()], len(logits_V))[0], logits_V, -np.inf)
    chosen = int(logits_V.argmax())
    if reply.ask.temperature > 0:
        sums_V = np.exp((logits_V - logits_V[chosen]) / reply.ask.temperature).cumsum()
        # Of a number that rounding takes to the last sum, the id is the last one that has a share.
        drawn = reply.draw() * sums_V[-1]
        most = int(np.searchsorted(sums_V, sums_V[-1]))
        chosen_at = min(int(np.searchsorted(sums_V, drawn, side="right")), most)
    else:
        chosen_at = chosen
    whole = np.log(np.exp(logits_V - logits_V[chosen]).sum()) + logits_V[chosen]
    return chosen_at, float(logits_V[chosen_at] - whole)


def allowed_table(masks: Sequence[Any], num_ids: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(R, num_ids) ones where an id is allowed; ids that a mask has no bit for are not."""
    words = np.stack([np.ascontiguousarray(mask).view(np.uint8) for mask in masks])
    bits = np.unpackbits(words, axis=1, bitorder="little")[:, :num_ids]
    missing = num_ids - bits.shape[1]
    return np.pad(bits, ((0, 0), (0, missing))) if missing > 0 else bits
