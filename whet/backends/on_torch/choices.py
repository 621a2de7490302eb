"""Chooses next ids from logits: greedily or by a seed, among those that a guide allows, with their log-probabilities."""

from collections.abc import Sequence
from typing import Any

import torch

from whet.backends.replies import Reply, allowed_table


def choose(logits_RV: torch.Tensor, replies: Sequence[Reply], masks: Sequence[Any]) -> tuple[list[int], list[float]]:
    """The next id of each reply and its log-probability in nats, at a temperature of 1 among the ids that are allowed.

    masks: each row's words from its guide, None where all ids are allowed.
    """
    logits_RV = logits_RV.float()
    guided = [row for row, mask in enumerate(masks) if mask is not None]
    if guided:
        bits = torch.from_numpy(allowed_table([masks[row] for row in guided], logits_RV.shape[1]))
        is_barred = bits.to(logits_RV.device) == 0
        if len(guided) == len(masks):
            logits_RV = logits_RV.masked_fill(is_barred, -torch.inf)
        else:
            at_R = torch.tensor(guided, device=logits_RV.device)
            logits_RV = logits_RV.index_copy(0, at_R, logits_RV[at_R].masked_fill(is_barred, -torch.inf))
    chosen_R = logits_RV.argmax(1)
    for row, reply in enumerate(replies):
        if reply.ask.temperature > 0:
            chosen_R[row] = _sample(logits_RV[row], reply)
    logs_R = logits_RV.gather(1, chosen_R[:, None])[:, 0] - logits_RV.logsumexp(1)
    return chosen_R.tolist(), logs_R.tolist()


def _sample(logits_V: torch.Tensor, reply: Reply) -> int:
    """An id by its probability at the ask's temperature. Each reply draws from a generator of its own, one number an id."""
    sums_V = (logits_V.double() / reply.ask.temperature).softmax(0).cumsum(0).cpu()
    # Of a number that rounding takes to the last sum, the id is the last one that has a share.
    drawn = torch.tensor(reply.draw(), dtype=torch.float64).mul_(sums_V[-1])
    return min(int(torch.searchsorted(sums_V, drawn, right=True)), int(torch.searchsorted(sums_V, sums_V[-1])))
