"""Replies as plain transformers give them, one id at a time by whole forward passes, and a guide to try them with."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from whet.backends.base import Ask, Generated

END = 2
SIZE = 8192
MARGIN = 1e-4  # logits that lie closer may change places by rounding


class Toy:
    """A guide over few ids: what may come next depends on the last id, some ids force others, and a reply closes with 9, END."""

    def __init__(self, salt: int) -> None:
        self.salt, self.last = salt, salt
        self.is_ended, self.num_own, self.num_taken = False, None, 0

    def begin(self, left: int) -> tuple[int, ...]:
        assert left >= 4
        return (11, 12)

    def allowed(self) -> list[int]:
        rolled = random.Random(self.salt * 1000 + self.last)
        return [*rolled.sample(range(20, SIZE), 40), *([END] if self.num_taken > 3 and rolled.random() < 0.3 else [])]

    def mask(self) -> Any:
        bits = np.zeros(SIZE, dtype=np.uint8)
        bits[self.allowed()] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def take(self, token: int, left: int) -> tuple[int, ...]:
        assert token in self.allowed()
        assert not self.is_ended
        if token == END:
            self.is_ended = True
            return (END,)
        stands = (token, 13, 14) if token % 3 == 0 else (token,)
        if left - len(stands) < 2 + 2:  # no room for one more id that forces two, and the closing
            self.is_ended, self.num_own = True, 2 + self.num_taken
            return (9, END)
        self.num_taken += len(stands)
        self.last = token
        return stands


def plain_generated(model: Any, ask: Ask) -> Generated:
    """Greedy continuation by whole forward passes of plain transformers: no cache, no batch."""
    guide = ask.guide
    ids = list(guide.begin(ask.max_tokens)) if guide else []
    logs = [0.0] * len(ids)
    while len(ids) < ask.max_tokens:
        with torch.no_grad():
            logits = model(torch.tensor([[*ask.ids, *ids]])).logits[0, -1]
        if guide:
            barred = torch.ones(SIZE, dtype=torch.bool)
            barred[guide.allowed()] = False
            logits = logits.masked_fill(barred, -torch.inf)
        token = int(logits.argmax())
        stands = guide.take(token, ask.max_tokens - len(ids)) if guide else (token,)
        ids += stands
        logs += [float(logits.log_softmax(-1)[token]) if stands[0] == token else 0.0, *[0.0] * (len(stands) - 1)]
        if ids[-1] == END:
            break
    is_ended = ids[-1:] == [END]
    return Generated(tuple(ids[:-1] if is_ended else ids), is_ended, tuple(logs), guide.num_own if guide else None)


def margin_at(model: Any, ask: Ask, ids: Sequence[int]) -> float:
    """Distance of the two largest logits behind a prompt and some ids."""
    with torch.no_grad():
        first, second = model(torch.tensor([[*ask.ids, *ids]])).logits[0, -1].topk(2).values
    return float(first - second)


def assert_same(model: Any, asks: Sequence[Ask], got: dict[int, Generated], wanted: Sequence[Generated]) -> None:
    """Equal but where the two best logits lie closer than rounding can tell."""
    assert sorted(got) == list(range(len(asks)))
    for number, (ask, right) in enumerate(zip(asks, wanted, strict=True)):
        ours = got[number]
        if ours.ids != right.ids or ours.is_ended != right.is_ended:
            pairs = zip([*ours.ids, END], [*right.ids, END], strict=False)
            at = next(at for at, (a, b) in enumerate(pairs) if a != b)
            assert ask.guide is None, (ours, right)
            assert margin_at(model, ask, ours.ids[:at]) < MARGIN, (ours, right)
            continue
        assert ours.num_own == right.num_own
        assert ours.log_probs == pytest.approx(right.log_probs, abs=1e-4)


def renewed(asks: Sequence[Ask]) -> list[Ask]:
    """The same asks with guides that have taken nothing."""
    return [
        Ask(a.ids, a.max_tokens, Toy(a.guide.salt) if a.guide else None, a.adapter, a.temperature, a.seed, a.draft) for a in asks
    ]
