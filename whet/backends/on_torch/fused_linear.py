"""Linear maps that read one input, with what LoRA adds to them, and their gradients, in memory that is handed in."""

from collections.abc import Sequence
from typing import Any

import torch

from whet.backends.on_torch.layers import is_plain_lora


class Linears:
    """y_k = x W_k^T + bias_k + scale_k (x A_k^T) B_k^T for the maps k of one input; W and bias are frozen.

    x (T, in), W (out, in), A (r, in), B (out, r). Products with A are one product for all maps, R wide, where R is the sum of
    the ranks; each map's product adds into its result.
    """

    def __init__(self, modules: Sequence[Any]) -> None:
        self.modules = list(modules)
        self.adapted = [is_plain_lora(module) for module in modules]
        self.bases = [module.base_layer if lora else module for module, lora in zip(modules, self.adapted, strict=True)]
        ranks = [len(a) for a, _ in self._pairs()]
        self.rank = sum(ranks)
        self.widths = [base.weight.shape[0] for base in self.bases]
        self.num_in = self.bases[0].weight.shape[1]
        ends = [sum(ranks[: number + 1]) for number in range(len(ranks))]
        spans = iter([slice(end - rank, end) for end, rank in zip(ends, ranks, strict=True)])
        self.spans = [next(spans) if lora else None for lora in self.adapted]
        """The columns of x A^T that belong to each map; None where there is no adapter."""

    def _pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        lora = [module for module, is_adapted in zip(self.modules, self.adapted, strict=True) if is_adapted]
        return [(module.lora_A["default"].weight, module.lora_B["default"].weight) for module in lora]

    def trained(self) -> list[torch.Tensor]:
        """A and B of each map that has an adapter, in turn."""
        return [weight for pair in self._pairs() for weight in pair]

    def is_served(self) -> bool:
        """Whether these are plain linear layers in fp32, frozen but for their adapters."""
        plain = all(type(base) is torch.nn.Linear for base in self.bases)
        frozen = [weight for base in self.bases for weight in base.parameters()]
        numbers = all(weight.dtype == torch.float32 for weight in (*frozen, *self.trained()))
        return plain and numbers and not any(w.requires_grad for w in frozen) and all(w.requires_grad for w in self.trained())

    def _joined_a(self) -> torch.Tensor:
        each = [a for a, _ in self._pairs()]
        return each[0] if len(each) == 1 else torch.cat(each)

    def forward(
        self, x_TI: torch.Tensor, outs: Sequence[torch.Tensor], small_TR: torch.Tensor | None, add_TO: torch.Tensor | None = None
    ) -> None:
        """Fill `outs`, one for each map, and small_TR = x A^T. add_TO: what is added to the one map's result."""
        if small_TR is not None:
            torch.mm(x_TI, self._joined_a().T, out=small_TR)
        for module, base, span, out_TO in zip(self.modules, self.bases, self.spans, outs, strict=True):
            added = base.bias if add_TO is None else add_TO
            if added is None:
                torch.mm(x_TI, base.weight.T, out=out_TO)
            else:
                torch.addmm(added, x_TI, base.weight.T, out=out_TO)
            if add_TO is not None and base.bias is not None:
                out_TO.add_(base.bias)
            if small_TR is not None and span is not None:
                out_TO.addmm_(small_TR[:, span], module.lora_B["default"].weight.T, alpha=module.scaling["default"])

    def backward(
        self,
        x_TI: torch.Tensor,
        grads: Sequence[torch.Tensor | None],
        small_TR: torch.Tensor | None,
        dsmall_TR: torch.Tensor | None,
        into_TI: torch.Tensor | None,
    ) -> list[torch.Tensor | None]:
        """Fill `into_TI`, which may be x itself, with the gradient of x; gives those of `trained()`.

        grads: the gradient of each map's result, None where it is nothing. dsmall_TR: room for that of x A^T.
        """
        found: list[torch.Tensor | None] = []
        if small_TR is not None and dsmall_TR is not None:
            for module, span, g_TO in zip(self.modules, self.spans, grads, strict=True):
                if span is None:
                    continue
                if g_TO is None:
                    dsmall_TR[:, span] = 0
                    found += [None, None]
                    continue
                scale, part_TR = module.scaling["default"], dsmall_TR[:, span]
                torch.mm(g_TO, module.lora_B["default"].weight, out=part_TR)
                part_TR.mul_(scale)
                # Written this way round the product is up to twice as fast.
                found += [part_TR, (small_TR[:, span].T @ g_TO).mul_(scale).T]
            da_RI = dsmall_TR.T @ x_TI
            for number, span in enumerate(span for span in self.spans if span is not None):
                found[2 * number] = None if found[2 * number] is None else da_RI[span]
        if into_TI is not None:
            is_first = True
            for base, g_TO in zip(self.bases, grads, strict=True):
                if g_TO is not None:
                    into_TI = torch.mm(g_TO, base.weight, out=into_TI) if is_first else into_TI.addmm_(g_TO, base.weight)
                    is_first = False
            if dsmall_TR is not None:
                into_TI.addmm_(dsmall_TR, self._joined_a())
        return found
