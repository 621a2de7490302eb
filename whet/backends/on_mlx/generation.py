"""Continues prompts on MLX, one at a time: what a prompt shares with the one before it is computed once."""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from whet.backends.base import Ask, Generated
from whet.backends.on_mlx.load import LoadedModel
from whet.backends.replies import Reply, choose_one

TOKENS_AT_ONCE = 512  # of a prompt in one forward pass
LEAST_SHARED = 8  # tokens that two prompts must share for a copy of their keys and values to pay


class Prompt:
    """A prompt that was computed: its ids, and each layer's keys and values of them."""

    def __init__(self, ids: tuple[int, ...], cache: list[Any]) -> None:
        # Slices are arrays of their own: what is written behind them later does not change them.
        self.ids = ids
        self.layers = [(each.keys[..., : len(ids), :], each.values[..., : len(ids), :]) for each in cache]

    def put_into(self, cache: list[Any], num: int) -> None:
        """Fill a fresh cache with the first `num` tokens."""
        for each, (keys, values) in zip(cache, self.layers, strict=True):
            each.keys, each.values, each.offset = keys[..., :num, :], values[..., :num, :], num
            if isinstance(each, RotatingKVCache):
                each._idx = num  # where it writes next; it has not turned round yet


class Decoder:
    """The decoding of one call: keeps the last prompt of each adapter."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._last: dict[str | None, Prompt] = {}

    def generated(self, number: int, ask: Ask, end_ids: frozenset[int]) -> Generated:
        """What an ask is continued with; its adapter is on the base."""
        reply = Reply(number, ask, end_ids)
        new = (ask.ids[-1], *reply.begin())
        cache = None if reply.is_done else self._computed(ask)
        while not reply.is_done:
            new = reply.take(*_choose(self._logits(new, cache), reply))
        return reply.result()

    def _computed(self, ask: Ask) -> list[Any]:
        """A cache that holds all tokens of a prompt but the last."""
        cache, ids = make_prompt_cache(self._loaded.model), ask.ids[:-1]
        num_shared = 0
        if (last := self._last.get(ask.adapter)) is not None:
            num_shared = _num_common(last.ids, ids)
            num_shared = num_shared if num_shared >= LEAST_SHARED else 0
            if num_shared:
                last.put_into(cache, num_shared)
        for start in range(num_shared, len(ids), TOKENS_AT_ONCE):
            # Nothing asks for these logits, so the head is not computed.
            self._loaded.model(mx.array([ids[start : start + TOKENS_AT_ONCE]]), cache=cache)
            mx.eval([each.state for each in cache])
        if all(_keeps_all(each, len(ids)) for each in cache):
            self._last[ask.adapter] = Prompt(ids, cache)
        return cache

    def _logits(self, new: tuple[int, ...], cache: Any) -> mx.array:
        """(V,) logits behind some ids, which are computed in one pass; the head runs for the last one alone where it can."""
        ids_BT, head = mx.array([new]), self._loaded.head
        if head is None or len(new) == 1:
            return self._loaded.model(ids_BT, cache=cache)[0, -1]
        return head(self._loaded.model.model(ids_BT, cache=cache)[:, -1:])[0, -1]


def _keeps_all(cache: Any, num: int) -> bool:
    """Whether a layer's cache is plain keys and values of all tokens so far; a window that has turned round is not."""
    return num > 0 and (type(cache) is KVCache or (type(cache) is RotatingKVCache and cache.offset < cache.max_size))


def _choose(logits_V: mx.array, reply: Reply) -> tuple[int, float]:
    """The next id and its log-probability. Samples are drawn in double precision, as the other backend draws them."""
    logits_V = logits_V.astype(mx.float32)
    if reply.ask.temperature > 0:
        return choose_one(np.array(logits_V), reply)
    if reply.guide is not None:
        logits_V = logits_V + _barred(reply.guide.mask(), logits_V.shape[0])
    chosen = mx.argmax(logits_V)
    log_prob = logits_V[chosen] - mx.logsumexp(logits_V)
    mx.eval(chosen, log_prob)
    return int(chosen.item()), float(log_prob.item())


def _barred(words: Any, num_ids: int) -> mx.array:
    """(V,) zeros where a guide's mask has a bit, minus infinity elsewhere; ids that it has no bit for are barred."""
    words_W = mx.array(np.ascontiguousarray(words).view(np.uint32))
    bits_V = ((words_W[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1).reshape(-1)[:num_ids]
    missing = num_ids - bits_V.shape[0]
    bits_V = mx.pad(bits_V, (0, missing)) if missing > 0 else bits_V
    return mx.where(bits_V == 1, mx.array(0.0), mx.array(-mx.inf))


def _num_common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Ids that both begin with."""
    num = min(len(a), len(b))
    differ = np.nonzero(np.array(a[:num]) != np.array(b[:num]))[0]
    return int(differ[0]) if len(differ) else num
