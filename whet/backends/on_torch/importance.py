"""Measures what enters each linear layer of a model, for quantisers that keep best what matters most."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whet.backends.on_torch.load import load_model
from whet.models.base_model import BaseModel


def mean_squares(base: BaseModel, rows: Iterable[Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """For each linear layer but the head the mean square of each of its inputs, (inputs,), over all tokens of the rows, by its
    weight's name.
    """
    model = load_model(base, torch.float32, torch.device("cpu"))
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen = given[0].detach().reshape(-1, given[0].shape[-1]).double()
            sums[name] = sums.get(name, torch.zeros(seen.shape[-1], dtype=torch.float64)) + seen.square().sum(0)
            counts[name] = counts.get(name, 0) + len(seen)

        return hook

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.register_forward_pre_hook(watch(f"{name}.weight"))
    with torch.inference_mode():
        for row in rows:
            model(torch.tensor([list(row)]), logits_to_keep=1)
    return {name: (total / counts[name]).float().numpy() for name, total in sums.items()}
