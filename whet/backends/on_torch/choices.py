"""Chooses next ids: greedily or by a seed, among those that a guide allows, with their log-probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from whet.backends.replies import Reply, allowed_table

MOST_LOGITS = 1 << 24  # that are held at a time
NARROW = 8  # a guide that allows less than one in so many ids is narrow: the head is computed at what it allows


@dataclass(frozen=True)
class Predicted:
    """What a model says of R next ids: its last hidden states and its head, or its logits where its head does more."""

    hidden_RH: torch.Tensor | None = None
    head: torch.nn.Linear | None = None
    of_head: Callable[[torch.Tensor], torch.Tensor] | None = None
    """The head's product, where there is a faster one."""
    logits_RV: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Ids of the vocabulary."""
        return self.logits_RV.shape[1] if self.head is None else self.head.weight.shape[0]

    @cached_property
    def best(self) -> tuple[list[int], list[float]]:
        """The likeliest id of each of the R and its log-probability. All at once: a product of few rows costs that of many."""
        num = max(1, MOST_LOGITS // self.size)
        num_rows = len(self.logits_RV if self.head is None else self.hidden_RH)
        ids: list[int] = []
        logs: list[float] = []
        for start in range(0, num_rows, num):
            logits_rV = self.logits(range(start, min(start + num, num_rows)))
            most_r1, ids_r1 = logits_rV.max(1, keepdim=True)
            logs_r = (logits_rV - most_r1).exp_().sum(1).log_().neg_()
            ids += ids_r1[:, 0].tolist()
            logs += logs_r.tolist()
        return ids, logs

    @property
    def device(self) -> torch.device:
        return (self.logits_RV if self.head is None else self.hidden_RH).device

    def logits(self, rows: Sequence[int], ids_U: torch.Tensor | None = None) -> torch.Tensor:
        """(r, V) of some rows in fp32, or (r, U) of some ids."""
        at_r = torch.tensor(rows, device=self.device)
        if self.head is None:
            logits = self.logits_RV.index_select(0, at_r).float()
            return logits if ids_U is None else logits[:, ids_U]
        hidden_rH = self.hidden_RH if len(rows) == len(self.hidden_RH) else self.hidden_RH.index_select(0, at_r)
        if ids_U is None:
            return self.of_head(hidden_rH).float()
        bias_U = None if self.head.bias is None else self.head.bias[ids_U]
        return torch.nn.functional.linear(hidden_rH, self.head.weight.index_select(0, ids_U), bias_U).float()


def choose(predicted: Predicted, rows: Sequence[int], replies: Sequence[Reply]) -> tuple[list[int], list[float]]:
    """The next id of each reply and its log-probability in nats, at a temperature of 1 among the ids that its guide allows.

    rows: where each reply's next id is predicted.
    """
    ids, logs = [0] * len(rows), [0.0] * len(rows)
    guided = [number for number, reply in enumerate(replies) if reply.guide is not None]
    free = []
    for number, reply in enumerate(replies):
        if reply.guide is None and reply.ask.temperature == 0:
            best_ids, best_logs = predicted.best
            ids[number], logs[number] = best_ids[rows[number]], best_logs[rows[number]]
        elif reply.guide is None:
            free.append(number)
    groups: list[tuple[list[int], torch.Tensor | None, np.ndarray | None]] = [(free, None, None)] if free else []
    if guided:
        table_gV = allowed_table([replies[number].guide.mask() for number in guided], predicted.size)
        is_narrow_g = table_gV.sum(1, dtype=np.int64) * NARROW < predicted.size
        for is_wanted_g in (is_narrow_g, ~is_narrow_g):
            group = [number for number, is_wanted in zip(guided, is_wanted_g, strict=True) if is_wanted]
            if group:
                part_gV = table_gV[is_wanted_g]
                ids_U = np.flatnonzero(part_gV.any(0))
                is_few = len(ids_U) * NARROW < predicted.size * 4
                at_U = torch.from_numpy(ids_U).to(predicted.device) if is_few else None
                groups.append((group, at_U, part_gV[:, ids_U] if is_few else part_gV))
    for group, ids_U, allowed_gU in groups:
        logits_gU = predicted.logits([rows[number] for number in group], ids_U)
        if allowed_gU is not None:
            logits_gU.masked_fill_(torch.from_numpy(allowed_gU).to(logits_gU.device) == 0, -torch.inf)
        chosen_g = logits_gU.argmax(1)
        for row, number in enumerate(group):
            if replies[number].ask.temperature > 0:
                chosen_g[row] = _sample(logits_gU[row], replies[number])
        logs_g = logits_gU.gather(1, chosen_g[:, None])[:, 0] - logits_gU.logsumexp(1)
        found_g = chosen_g if ids_U is None else ids_U[chosen_g]
        for number, token, log_prob in zip(group, found_g.tolist(), logs_g.tolist(), strict=True):
            ids[number], logs[number] = token, log_prob
    return ids, logs


def _sample(logits_V: torch.Tensor, reply: Reply) -> int:
    """Where an id stands, drawn by its probability at the ask's temperature; each reply draws one number an id by itself."""
    sums_V = (logits_V.double() / reply.ask.temperature).softmax(0).cumsum(0).cpu()
    # Of a number that rounding takes to the last sum, the id is the last one that has a share.
    drawn = torch.tensor(reply.draw(), dtype=torch.float64).mul_(sums_V[-1])
    return min(int(torch.searchsorted(sums_V, drawn, right=True)), int(torch.searchsorted(sums_V, sums_V[-1])))
