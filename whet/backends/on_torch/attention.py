"""Attention over a packed row's tree: every block of queries and keys that see each other whole is one mask-free call."""

from dataclasses import dataclass, field
from typing import Any

import torch

from whet.backends.on_torch.rows import Bucket, Tree

NAME = "whet_packed"
aten = torch.ops.aten


@dataclass
class PrefixKeys:
    """Keys and values of a prefix by layer, computed once for all the packs that stand behind it.

    The packs attend to detached copies, whose gradients are gathered until `backward` sends them through the prefix at once.
    Shapes (1, H, P, D).
    """

    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Take a layer's keys and values. A layer that is computed a second time, for its activations, is known already."""
        if layer not in self.kept:
            self.kept[layer] = (key, value)
            self.seen[layer] = tuple(t.detach().requires_grad_(t.requires_grad) for t in (key, value))

    def backward(self) -> None:
        """Send the gathered gradients through the prefix."""
        pairs = [pair for layer in self.kept for pair in zip(self.kept[layer], self.seen[layer], strict=True)]
        pairs = [(kept, seen.grad) for kept, seen in pairs if seen.grad is not None]
        if pairs:
            torch.autograd.backward([kept for kept, _ in pairs], [gradient for _, gradient in pairs])


@dataclass(frozen=True)
class Sight:
    """What a packed forward pass hands to every attention layer."""

    tree: Tree
    positions_T: torch.Tensor
    longest: int
    """Tokens of the longest row, from its first position on."""
    prefix: PrefixKeys | None = None
    """Seen by every token of the row."""
    filling: PrefixKeys | None = None
    """Takes this row's keys and values."""
    wanted: torch.Tensor | None = None
    """(N,) the columns whose outputs are read behind the last layer; None where all may be."""
    last_filled: int | None = None
    """The layer that is asked for keys and values alone: nothing behind them is read."""


def attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    whet_sight: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention interface of transformers. query (1, H, T, D), key and value (1, H or fewer, T, D); gives (1, T, H, D).

    A window that some row outgrows, or a cap on the scores, takes a mask of all tokens by all keys. whet_sight: a Sight, or what
    attends in its own way, as decoding does.
    """
    assert whet_sight is not None, "a packed forward pass says who sees whom"
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if not isinstance(whet_sight, Sight):
        return whet_sight.attend(module.layer_idx, query, key, value, scale, sliding_window, softcap), None
    if whet_sight.filling is not None:
        whet_sight.filling.keep(module.layer_idx, key, value)
        if module.layer_idx == whet_sight.last_filled:
            return torch.zeros_like(query).transpose(1, 2), None
    prefix_key, prefix_value = whet_sight.prefix.seen[module.layer_idx] if whet_sight.prefix else (None, None)
    window = sliding_window if sliding_window is not None and whet_sight.longest > sliding_window else None
    if window is None and softcap is None:
        return _TreeAttention.apply(query, key, value, prefix_key, prefix_value, whet_sight.tree, scale), None
    if prefix_key is not None:
        key, value = torch.cat([prefix_key, key], 2), torch.cat([prefix_value, value], 2)
    return _attend_masked(query, key, value, _visible(whet_sight, key.shape[2], window), scale, softcap), None


def _visible(sight: Sight, num_keys: int, window: int | None) -> torch.Tensor:
    """(T, K) booleans: which keys each token sees. Keys of a prefix that was computed apart come first."""
    num_tokens, num_prefix = sight.tree.num_tokens, num_keys - sight.tree.num_tokens
    device = sight.positions_T.device
    column_T = torch.arange(num_tokens, device=device)
    sees_TT = (column_T[None, :] <= column_T[:, None]) & (column_T[:, None] < sight.tree.ends(device)[None, :])
    sees_TK = torch.cat([sees_TT.new_ones(num_tokens, num_prefix), sees_TT], 1)
    if window is not None:
        positions_K = torch.cat([torch.arange(num_prefix, device=device), sight.positions_T])
        sees_TK &= sight.positions_T[:, None] - positions_K[None, :] < window
    return sees_TK


def _attend_masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sees_TK: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    if softcap is None:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, sees_TK, scale=scale, enable_gqa=True)
        return out.transpose(1, 2)
    key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * (scale / softcap)) * softcap
    shares = scores.masked_fill(~sees_TK, -torch.inf).softmax(-1, dtype=torch.float32).to(query.dtype)
    return (shares @ value).transpose(1, 2)


class _TreeAttention(torch.autograd.Function):
    """Softmax attention whose blocks are computed apart and merged by their log-sum-exps.

    Each query's keys are those of its own leaf (causal) and of every segment above it (whole), so its softmax is the merge of
    one partial softmax a block. The backward pass of a block needs only the merged output and log-sum-exp (as in
    FlashAttention-2, Dao 2023, arXiv 2307.08691, and ring attention, Liu et al. 2023, arXiv 2310.01889).
    """

    @staticmethod
    def forward(ctx, query, key, value, prefix_key, prefix_value, tree: Tree, scale: float):
        q_THD, k_TGD, v_TGD = (t[0].transpose(0, 1) for t in (query, key, value))
        out = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        lse_TH = torch.empty(q_THD.shape[:2], dtype=torch.float32, device=q_THD.device)
        attend_tree(q_THD, k_TGD, v_TGD, (prefix_key, prefix_value), tree, scale, out, lse_TH)
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, out, lse_TH)
        ctx.tree, ctx.scale = tree, scale
        return out[None]

    @staticmethod
    def backward(ctx, grad_out):
        query, key, value, prefix_key, prefix_value, out, lse_TH = ctx.saved_tensors
        tokens = [t[0].transpose(0, 1) for t in (query, key, value)]
        parts = tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in tokens)
        prefix = (prefix_key, prefix_value)
        dprefix = attend_tree_back(grad_out[0], *tokens, prefix, out, lse_TH, tree=ctx.tree, scale=ctx.scale, into=parts)
        return *(part.transpose(0, 1)[None] for part in parts), *dprefix, None, None


PrefixPair = tuple[torch.Tensor | None, torch.Tensor | None]


def attend_tree(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    prefix: PrefixPair,
    tree: Tree,
    scale: float,
    out_THD: torch.Tensor,
    lse_TH: torch.Tensor,
) -> None:
    """Fill the outputs and log-sum-exps of a packed row. prefix: keys and values (1, G, P, D) that every token sees, or None."""
    for bucket in tree.leaves:
        o, lse = attend_block(*(_gather(t, bucket) for t in (q_THD, k_TGD, v_TGD)), True, scale)
        _scatter(out_THD, o, bucket)
        _scatter(lse_TH, lse, bucket)
    for start, end, _ in tree.inner:
        o, lse = attend_block(q_THD[None, start:end], k_TGD[None, start:end], v_TGD[None, start:end], True, scale)
        out_THD[start:end], lse_TH[start:end] = o[0], lse[0]
    for start, end, last in tree.seen:
        merge(
            out_THD[end:last],
            lse_TH[end:last],
            *attend_block(q_THD[None, end:last], k_TGD[None, start:end], v_TGD[None, start:end], False, scale),
        )
    if prefix[0] is not None and prefix[1] is not None:
        keys, values = (t.transpose(1, 2) for t in prefix)
        merge(out_THD, lse_TH, *attend_block(q_THD[None], keys, values, False, scale))


def attend_tree_back(
    g_THD: torch.Tensor,
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    prefix: PrefixPair,
    out_THD: torch.Tensor,
    lse_TH: torch.Tensor,
    *,
    tree: Tree,
    scale: float,
    into: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> PrefixPair:
    """Fill `into` with the gradients of q, k and v, given those of the outputs; gives the prefix's."""
    dq, dk, dv = into
    for bucket in tree.leaves:
        gathered = [_gather(t, bucket) for t in (g_THD, q_THD, k_TGD, v_TGD, out_THD, lse_TH)]
        # A zero gradient at the padding keeps it out of all sums.
        gathered[0].flatten(0, 1).index_fill_(0, bucket.empty, 0)
        for whole, part in zip(into, _attend_back(*gathered, True, scale), strict=True):
            _scatter(whole, part, bucket)
    for start, end, _ in tree.inner:
        own = slice(start, end)
        parts = _attend_back(*(t[None, own] for t in (g_THD, q_THD, k_TGD, v_TGD, out_THD, lse_TH)), True, scale)
        dq[own], dk[own], dv[own] = parts[0][0], parts[1][0], parts[2][0]
    for start, end, last in tree.seen:
        own, below = slice(start, end), slice(end, last)
        g, q, out, lse = (t[None, below] for t in (g_THD, q_THD, out_THD, lse_TH))
        parts = _attend_back(g, q, k_TGD[None, own], v_TGD[None, own], out, lse, False, scale)
        dq[below] += parts[0][0]
        dk[own] += parts[1][0]
        dv[own] += parts[2][0]
    if prefix[0] is None or prefix[1] is None:
        return None, None
    keys, values = (t.transpose(1, 2) for t in prefix)
    parts = _attend_back(g_THD[None], q_THD[None], keys, values, out_THD[None], lse_TH[None], False, scale)
    dq += parts[0][0]
    return parts[1].transpose(1, 2), parts[2].transpose(1, 2)


def _gather(t_TX: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    """(n, L, ...) of a bucket's tokens."""
    return t_TX.index_select(0, bucket.at_S).unflatten(0, (bucket.num_leaves, -1))


def _scatter(into_TX: torch.Tensor, from_nLX: torch.Tensor, bucket: Bucket) -> None:
    """Put a bucket's tokens in their places of the packed row, in place."""
    into_TX.index_copy_(0, bucket.at_M, from_nLX.flatten(0, 1).index_select(0, bucket.slot_M))


def merge(out_SHD: torch.Tensor, lse_SH: torch.Tensor, o_1SHD: torch.Tensor, lse_1SH: torch.Tensor) -> None:
    """Take another block's partial softmax into `out` and `lse`, in place."""
    whole_SH = torch.logaddexp(lse_SH, lse_1SH[0])
    weight_SH1, other_SH1 = (lse_SH - whole_SH).exp_()[..., None], (lse_1SH[0] - whole_SH).exp_()[..., None]
    if out_SHD.dtype == torch.float32:
        out_SHD.mul_(weight_SH1).addcmul_(o_1SHD[0], other_SH1)
    else:
        out_SHD.copy_(out_SHD * weight_SH1 + o_1SHD[0] * other_SH1)
    lse_SH.copy_(whole_SH)


def attend_block(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (b, S, H, D) and log-sum-exp (b, S, H, fp32) of queries (b, S, H, D) over keys and values (b, K, G, D)."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    if q.device.type == "cpu":
        o, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, is_causal, scale=scale)
    else:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        if q.dtype == torch.float32:
            o, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, is_causal, scale=scale)
            lse = lse[..., : q.shape[2]]  # padded to a multiple of 32
        else:
            o, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal, False, scale=scale)
    return o.transpose(1, 2), lse.transpose(1, 2)


def _attend_back(
    g: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, given that of the merged output, that output and its log-sum-exp; shapes as in `attend_block`."""
    g, q, k, v, out, lse = (t.transpose(1, 2) for t in (g, q, k, v, out, lse))
    if q.device.type == "cpu":
        parts = aten._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, out, lse, 0.0, is_causal, scale=scale)
    else:
        parts = _attend_back_on_cuda(g, q, k, v, out, lse, is_causal, scale)
    return tuple(part.transpose(1, 2) for part in parts)


def _attend_back_on_cuda(g, q, k, v, out, lse, is_causal: bool, scale: float) -> list[torch.Tensor]:
    num_shared, lse = q.shape[1] // k.shape[1], lse.contiguous()
    k, v = (t.repeat_interleave(num_shared, dim=1) for t in (k, v))
    none = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the random state of a dropout that is off
    if q.dtype == torch.float32:
        width = -(-lse.shape[-1] // 32) * 32
        lse = torch.nn.functional.pad(lse, (0, width - lse.shape[-1]), value=torch.inf)
        dq, dk, dv, _ = aten._scaled_dot_product_efficient_attention_backward(
            g, q, k, v, None, out, lse, none[0], none[1], 0.0, [True, True, True, False], is_causal, scale=scale
        )
    else:
        dq, dk, dv = aten._scaled_dot_product_flash_attention_backward(
            g, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, is_causal, none, none[0], scale=scale
        )
    dk, dv = (t.unflatten(1, (-1, num_shared)).sum(2) for t in (dk, dv))
    return [dq, dk, dv]


def register() -> None:
    """Make the packed attention known to transformers under NAME; it needs no mask."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend_packed)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
