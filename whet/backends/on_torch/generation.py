"""Continues prompts in left-padded batches through transformers' own generate: for models whose rows can't be packed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from whet.backends.base import Ask, Generated
from whet.backends.on_torch.choices import Predicted, choose
from whet.backends.replies import Reply
from whet.errors import InputError

PROMPT_TOKENS_AT_ONCE = 24_000  # padded prompt tokens of one generation batch
ASKS_IN_VIEW = 256  # that are sorted by length together


def generate(
    model: Any,
    asks: Iterable[Ask],
    end_ids: Collection[int],
    pad_id: int,
    device: torch.device,
    use: Callable[[str | None], None],
) -> Iterator[tuple[int, Generated]]:
    """The continuation of each prompt until an end id or its limit, a batch at a time. use: puts an adapter to work."""
    source = enumerate(asks)
    while view := [Reply(number, ask, end_ids) for number, ask in islice(source, ASKS_IN_VIEW)]:
        begun = [(reply, (*reply.ask.ids, *reply.begin())) for reply in view]
        yield from ((reply.number, reply.result()) for reply, _ in begun if reply.is_done)
        going = [(reply, prompt) for reply, prompt in begun if not reply.is_done]
        # Prompts and limits of like length together: less padding, and short replies don't wait for long ones.
        for batch in _batches(sorted(going, key=lambda pair: (pair[0].ask.adapter or "", pair[0].left, len(pair[1])))):
            use(batch[0][0].ask.adapter)
            _generate(model, batch, pad_id, device)
            yield from ((reply.number, reply.result()) for reply, _ in batch)


@torch.no_grad()
def _generate(model: Any, batch: Sequence[tuple[Reply, tuple[int, ...]]], pad_id: int, device: torch.device) -> None:
    from transformers import GenerationConfig

    replies, prompts = zip(*batch, strict=True)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    # A config of our own: the one in the model's folder may sample, penalise or stop elsewhere. The end id stands in for those
    # of each reply, which the chooser minds: whoever is done is given it.
    end = next(iter(replies[0].end_ids))
    config = GenerationConfig(do_sample=False, max_new_tokens=max(r.left for r in replies), eos_token_id=end, pad_token_id=pad_id)
    model.generate(input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[_Chooser(replies, end)])


class _Chooser:
    """A processor of logits that leaves each row one id: what its reply chose, or what had to follow that."""

    def __init__(self, replies: Sequence[Reply], end: int) -> None:
        self.replies, self.end = replies, end
        self.due: list[list[int]] = [[] for _ in replies]
        """Ids that stand and are not fed yet."""

    def __call__(self, _: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        rows = [row for row, reply in enumerate(self.replies) if not self.due[row] and not reply.is_done]
        if rows:
            found = choose(Predicted(logits_RV=logits_BV), rows, [self.replies[row] for row in rows])
            for row, token, log_prob in zip(rows, *found, strict=True):
                self.due[row] = list(self.replies[row].take(token, log_prob))
        fed = [self.end if reply.is_done or not due else due.pop(0) for reply, due in zip(self.replies, self.due, strict=True)]
        only = torch.full_like(logits_BV, -torch.inf)
        return only.scatter_(1, torch.tensor(fed, device=only.device)[:, None], 0.0)


def _batches(order: list[tuple[Reply, tuple[int, ...]]]) -> Iterator[list[tuple[Reply, tuple[int, ...]]]]:
    """Runs of `order` of one adapter whose padded prompts hold at most PROMPT_TOKENS_AT_ONCE tokens."""
    batch: list[tuple[Reply, tuple[int, ...]]] = []
    longest = 0
    for reply, prompt in order:
        longest = max(longest, len(prompt))
        is_other = bool(batch) and batch[0][0].ask.adapter != reply.ask.adapter
        if batch and (is_other or (len(batch) + 1) * longest > PROMPT_TOKENS_AT_ONCE):
            yield batch
            batch, longest = [], len(prompt)
        batch.append((reply, prompt))
    if batch:
        yield batch


def refuse_empty(asks: Iterable[Ask]) -> Iterator[Ask]:
    """The asks; InputError where one has no prompt."""
    for ask in asks:
        if not ask.ids:
            raise InputError("", "a prompt without tokens can't be continued", "Give it a message")
        yield ask
