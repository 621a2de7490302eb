"""The vocabulary head at learnt tokens only, in chunks, so that logits never take more than a set memory."""

from typing import Any

import torch


def find_head(model: torch.nn.Module) -> torch.nn.Module | None:
    """The head, where the model's logits are plainly head(hidden); None where it does more (caps, scales, a bias of its own)."""
    head = model.get_output_embeddings()
    if hasattr(head, "modules_to_save"):  # PEFT's wrapper of a head that is trained whole
        head = head.modules_to_save[head.active_adapter]
    if type(head) is not torch.nn.Linear:
        return None
    ids = torch.arange(4, device=head.weight.device)[None]
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        # A trained head in fp32 over a bf16 base passes through PEFT's casts.
        is_plain = head.weight.dtype == hidden.dtype and torch.equal(head(hidden), whole)
        return head if is_plain else None


def head_losses(hidden_NH: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor, logits_bytes: int) -> torch.Tensor:
    """(N,) cross entropies in nats, fp32. Gradients are made with them where they are asked for, so logits are never kept."""
    rows = max(1, logits_bytes // (8 * head.weight.shape[0]))  # fp32 logits and their gradient
    return _HeadLoss.apply(hidden_NH, head.weight, head.bias, target_N, rows)


class _HeadLoss(torch.autograd.Function):
    """Cross entropy of head(hidden), a chunk of rows at a time.

    A loss's gradient by its logits is softmax - one-hot, known in the forward pass; the backward pass scales it. So it serves
    where each loss has the same weight in what is differentiated: a sum, or a sum over a constant.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH, weight_VH, bias_V, target_N, num_rows):
        losses_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_NH.device)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dhidden_NH = torch.empty_like(hidden_NH) if wants_hidden else None
        dweight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if wants_weight else None
        dbias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
        for start in range(0, len(target_N), num_rows):
            logits_nV = powers_nV = slope_nV = None  # the last chunk's go before the next one's are made
            part = slice(start, start + num_rows)
            x_nH, target_n = hidden_NH[part], target_N[part]
            logits_nV = torch.nn.functional.linear(x_nH, weight_VH, bias_V).float()
            wanted_n1, most_n1 = logits_nV.gather(1, target_n[:, None]), logits_nV.amax(1, keepdim=True)
            powers_nV = logits_nV.sub_(most_n1).exp_()
            sum_n1 = powers_nV.sum(1, keepdim=True)
            losses_N[part] = (sum_n1.log() + most_n1 - wanted_n1)[:, 0]
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            slope_nV = powers_nV.div_(sum_n1)
            slope_nV[torch.arange(len(target_n), device=slope_nV.device), target_n] -= 1
            slope_nV = slope_nV.to(x_nH.dtype)
            if wants_hidden:
                torch.mm(slope_nV, weight_VH, out=dhidden_NH[part])
            if wants_weight:
                dweight_VH += (slope_nV.T @ x_nH).float()
            if wants_bias:
                dbias_V += slope_nV.sum(0).float()
        ctx.save_for_backward(dhidden_NH, dweight_VH, dbias_V)
        ctx.dtype = weight_VH.dtype
        return losses_N

    @staticmethod
    def backward(ctx: Any, grad_N):
        dhidden_NH, dweight_VH, dbias_V = ctx.saved_tensors
        scale = grad_N[0]
        return (
            None if dhidden_NH is None else dhidden_NH * scale.to(dhidden_NH.dtype),
            None if dweight_VH is None else (dweight_VH * scale).to(ctx.dtype),
            None if dbias_V is None else (dbias_V * scale).to(ctx.dtype),
            None,
            None,
        )
