"""Greedy continuation of prompts in left-padded batches, through transformers' own generate."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from whet.backends.base import Generated

PROMPT_TOKENS_AT_ONCE = 24_000  # padded prompt tokens of one generation batch


def generate(
    model: Any, prompts: Sequence[Sequence[int]], max_tokens: int, end_ids: Sequence[int], pad_id: int, device: torch.device
) -> list[Generated]:
    """The continuation of each prompt until an end id or the limit."""
    results: dict[int, Generated] = {}
    # Prompts of like length together: less padding, and short replies don't wait for long ones.
    for batch in _batches(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), prompts):
        made = _generate(model, [prompts[i] for i in batch], max_tokens, end_ids, pad_id, device)
        results |= dict(zip(batch, made, strict=True))
    return [results[number] for number in range(len(prompts))]


@torch.no_grad()
def _generate(
    model: Any, prompts: list[Sequence[int]], max_tokens: int, end_ids: Sequence[int], pad_id: int, device: torch.device
) -> list[Generated]:
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    # A config of our own: the one in the model's folder may sample, penalise or stop elsewhere.
    config = GenerationConfig(do_sample=False, max_new_tokens=max_tokens, eos_token_id=list(end_ids), pad_token_id=pad_id)
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    ends, made = set(end_ids), []
    for row in out[:, width:].tolist():
        stop = next((at for at, token in enumerate(row) if token in ends), None)
        made.append(Generated(tuple(row[:stop]), stop is not None))
    return made


def _batches(order: list[int], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Runs of `order` whose padded prompts hold at most PROMPT_TOKENS_AT_ONCE tokens."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * len(prompts[number]) > PROMPT_TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
