"""The vocabulary head at learnt tokens only, in chunks, so that logits never take more than a set memory."""

from typing import Any

import torch

KEPT_BYTES = 64 << 20  # a larger place is not kept from pass to pass: it would stand beside the layers' gradients
CACHE_BYTES = 1 << 20  # of logits that are turned into gradients at a time: they stay in the second cache of a core


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


class Room:
    """The place of a chunk's logits, kept from pass to pass: the system clears every page that it gives out anew."""

    def __init__(self) -> None:
        self.block: torch.Tensor | None = None

    def take(self, rows: int, like_VH: torch.Tensor) -> torch.Tensor:
        """(rows, V) numbers of any value; nobody else may hold what was taken before."""
        width = len(like_VH)
        block = self.block
        if block is None or len(block) < rows or block.shape[1] != width or block.is_inference():
            self.block = None  # goes before the larger one comes
            self.block = like_VH.new_empty(rows, width)
        return self.block[:rows]

    def clear(self) -> None:
        """Let the block go."""
        self.block = None


def head_losses(
    hidden_NH: torch.Tensor, head: torch.nn.Linear, target_N: torch.Tensor, logits_bytes: int, room: Room | None = None
) -> torch.Tensor:
    """(N,) cross entropies in nats, fp32. Gradients are made with them where they are asked for, so logits are never kept."""
    # In fp32 the gradient takes the place of the logits; else both are held, in two precisions.
    each = 4 if hidden_NH.dtype == torch.float32 else 8
    most = max(1, logits_bytes // (each * head.weight.shape[0]))
    room = room if room is not None and logits_bytes <= KEPT_BYTES else Room()
    num_chunks = max(1, -(-len(target_N) // most))
    return _HeadLoss.apply(hidden_NH, head.weight, head.bias, target_N, -(-len(target_N) // num_chunks), room)


def _slopes(logits_nV: torch.Tensor, target_n: torch.Tensor) -> torch.Tensor:
    """(n,) cross entropies; their gradients by the logits take the logits' place."""
    losses_n = logits_nV.new_empty(len(target_n))
    # Pass after pass over a block, so that the processor's cache holds it.
    size = len(target_n) if logits_nV.is_cuda else max(1, CACHE_BYTES // (4 * logits_nV.shape[1]))
    for block_bV, target_b1, losses_b in zip(
        logits_nV.split(size), target_n[:, None].split(size), losses_n.split(size), strict=True
    ):
        wanted_b1, most_b1 = block_bV.gather(1, target_b1), block_bV.amax(1, keepdim=True)
        sum_b1 = block_bV.sub_(most_b1).exp_().sum(1, keepdim=True)
        block_bV.div_(sum_b1).scatter_add_(1, target_b1, torch.full_like(wanted_b1, -1))
        losses_b.copy_((sum_b1.log() + most_b1 - wanted_b1)[:, 0])
    return losses_n


class _HeadLoss(torch.autograd.Function):
    """Cross entropy of head(hidden), a chunk of rows at a time.

    A loss's gradient by its logits is softmax - one-hot, known in the forward pass; the backward pass scales it. So it serves
    where each loss has the same weight in what is differentiated: a sum, or a sum over a constant.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH, weight_VH, bias_V, target_N, num_rows, room: Room):
        losses_N = torch.empty(len(target_N), dtype=torch.float32, device=hidden_NH.device)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dhidden_NH = torch.empty_like(hidden_NH) if wants_hidden else None
        dweight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if wants_weight else None
        dbias_V = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
        for start in range(0, len(target_N), num_rows or 1):
            logits_nV = slope_nV = None  # the last chunk's go before the next one's are made
            part = slice(start, start + num_rows)
            x_nH, target_n = hidden_NH[part], target_N[part]
            if x_nH.dtype != torch.float32:
                logits_nV = torch.nn.functional.linear(x_nH, weight_VH, bias_V).float()
            elif bias_V is None:
                logits_nV = torch.mm(x_nH, weight_VH.T, out=room.take(len(x_nH), weight_VH))
            else:
                logits_nV = torch.addmm(bias_V, x_nH, weight_VH.T, out=room.take(len(x_nH), weight_VH))
            losses_N[part] = _slopes(logits_nV, target_n)
            if not (wants_hidden or wants_weight or wants_bias):
                continue
            slope_nV = logits_nV.to(x_nH.dtype)
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
        scale = grad_N[0] if len(grad_N) else grad_N.new_zeros(())
        return (
            None if dhidden_NH is None else dhidden_NH * scale.to(dhidden_NH.dtype),
            None if dweight_VH is None else (dweight_VH * scale).to(ctx.dtype),
            None if dbias_V is None else (dbias_V * scale).to(ctx.dtype),
            None,
            None,
            None,
        )
