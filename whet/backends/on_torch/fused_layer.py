"""A decoder layer of Llama's kind as one function whose gradients are written out: it keeps little and passes memory seldom.

x2 = x + O attention(rotated(Q n), rotated(K n), V n), n = norm(x); y = x2 + down(silu(gate m) * up m), m = norm(x2).
"""

from dataclasses import dataclass
from typing import Any

import torch

from whet.backends.on_torch.attention import PrefixPair, Sight, attend_tree, attend_tree_back
from whet.backends.on_torch.buffers import Buffers
from whet.backends.on_torch.fused_linear import Linears
from whet.backends.on_torch.layers import epsilon_of, shift_of

aten = torch.ops.aten
Grads = list[torch.Tensor | None]


class Norm:
    """x / rms(x) * (weight + shift) over the last dimension, in memory that is handed in."""

    def __init__(self, module: Any) -> None:
        self.module, self.epsilon, self.shift = module, epsilon_of(module), shift_of(module)

    @property
    def weight(self) -> torch.Tensor:
        return self.module.weight + self.shift if self.shift else self.module.weight

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        """1 / rms(x)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return norm.square_().div_(x.shape[-1]).add_(self.epsilon).rsqrt_()

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Fill `out`; gives 1 / rms(x)."""
        scale = self.scale(x)
        self.again(x, scale, out)
        return scale

    def again(self, x: torch.Tensor, scale: torch.Tensor, out: torch.Tensor) -> None:
        """Fill `out`, given 1 / rms(x)."""
        torch.mul(x, scale, out=out).mul_(self.weight)

    def backward(self, g: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, add: torch.Tensor | None) -> torch.Tensor:
        """The gradient of x, and `add` with it, in the place of g."""
        g.mul_(self.weight)
        # d(x s) = s (g - x s^2 mean(g x))
        g.addcmul_(x, torch.linalg.vecdot(g, x).unsqueeze_(-1).mul_(scale * scale / -x.shape[-1]))
        return g.mul_(scale) if add is None else torch.addcmul(add, g, scale, out=g)


@dataclass
class Kept:
    """What the forward pass keeps for the backward pass; T tokens, N of which go on behind the attention."""

    x_TH: torch.Tensor
    cos_T1D: torch.Tensor
    sin_T1D: torch.Tensor
    prefix: PrefixPair
    sight: Sight
    wanted_N: torch.Tensor | None
    scale_T1: torch.Tensor
    q_TQ: torch.Tensor | None
    """As attention sees it; before its norm where there is one."""
    k_TK: torch.Tensor
    v_TK: torch.Tensor
    small_TR: torch.Tensor | None
    head_scales: tuple[torch.Tensor, torch.Tensor] | None = None
    out_TQ: torch.Tensor | None = None
    lse_TH: torch.Tensor | None = None
    small_o_NR: torch.Tensor | None = None
    x2_NH: torch.Tensor | None = None
    scale2_N1: torch.Tensor | None = None
    small_gated_NR: torch.Tensor | None = None
    gate_NI: torch.Tensor | None = None
    up_NI: torch.Tensor | None = None
    small_down_NR: torch.Tensor | None = None


class FusedLayer:
    """One layer's maps and norms, and its two passes. `attention_scale` is what scores are multiplied by.

    is_paired: rotation turns neighbouring numbers (Ernie), not the halves of a head.
    """

    def __init__(self, layer: Any, attention_scale: float, *, is_paired: bool, buffers: Buffers) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.buffers, self.attention_scale, self.is_paired = buffers, attention_scale, is_paired
        self.number, self.head_dim = attention.layer_idx, attention.head_dim
        self.front = Linears([attention.q_proj, attention.k_proj, attention.v_proj])
        self.behind = Linears([attention.o_proj])
        self.gated = Linears([mlp.gate_proj, mlp.up_proj])
        self.down = Linears([mlp.down_proj])
        self.norm, self.norm2 = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        has_norms = hasattr(attention, "q_norm") and hasattr(attention, "k_norm")
        self.head_norms = (Norm(attention.q_norm), Norm(attention.k_norm)) if has_norms else None

    def trained(self) -> list[torch.Tensor]:
        return [weight for maps in (self.front, self.behind, self.gated, self.down) for weight in maps.trained()]

    def is_served(self) -> bool:
        """Whether all parts are of the kinds that this function knows."""
        norms = (self.norm, self.norm2, *(self.head_norms or ()))
        maps = (self.front, self.behind, self.gated, self.down)
        return all(part.is_served() for part in maps) and not any(n.shift is None or n.module.weight.requires_grad for n in norms)

    def forward(
        self,
        x_TH: torch.Tensor,
        cos_TD: torch.Tensor,
        sin_TD: torch.Tensor,
        prefix: PrefixPair,
        sight: Sight,
        *,
        is_trimmed: bool,
    ) -> tuple[torch.Tensor, Kept]:
        """(N, H) outputs, and what the backward pass needs.

        is_trimmed: outputs at the sight's wanted columns only; of a prefix, which is read by its keys and values, nothing.
        """
        take, give = self.buffers.take, self.buffers.give
        num, num_q = len(x_TH), self.front.widths[0]
        # Keys and values of a prefix outlive the pass, so they are no buffers.
        is_filling = sight.filling is not None
        q, k, v = (x_TH.new_empty(num, w) if is_filling and at else take(num, w) for at, w in enumerate(self.front.widths))
        n_TH, small = take(num, x_TH.shape[1]), self._small(self.front, num)
        scale_T1 = self.norm.forward(x_TH, n_TH)
        self.front.forward(n_TH, [q, k, v], small)
        give(n_TH)
        wanted = sight.wanted if is_trimmed else None
        kept = Kept(x_TH, cos_TD[:, None], sin_TD[:, None], prefix, sight, wanted, scale_T1, q, k, v, small)
        if self.head_norms is None:
            self._turn(kept, q, k)
        else:
            kept.head_scales = tuple(n.scale(self._heads(t)) for n, t in zip(self.head_norms, (q, k), strict=True))
        if is_filling and wanted is not None:
            return x_TH.new_zeros(len(wanted), x_TH.shape[1]), kept
        seen_q, seen_k = self._seen(kept)
        kept.out_TQ, kept.lse_TH = take(num, num_q), x_TH.new_empty(num, num_q // self.head_dim)
        q_THD, k_TGD, v_TGD, out_THD = (self._heads(t) for t in (seen_q, seen_k, v, kept.out_TQ))
        attend_tree(q_THD, k_TGD, v_TGD, prefix, sight.tree, self.attention_scale, out_THD, kept.lse_TH)
        self._unsee(seen_q, seen_k)
        return self._behind(kept), kept

    def keys_and_values(self, kept: Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, G, T, D) of a prefix."""
        q, k = self._seen(kept)
        key = k.clone() if self.head_norms else k
        self._unsee(q, k)
        return self._heads(key).transpose(0, 1)[None], self._heads(kept.v_TK).transpose(0, 1)[None]

    def backward(
        self, kept: Kept, dy_NH: torch.Tensor | None, dkeys: PrefixPair, *, is_first: bool
    ) -> tuple[torch.Tensor | None, PrefixPair, Grads]:
        """Gradients of x, of the prefix's keys and values, and of `trained()`.

        dy_NH: None where nothing behind the layer is read. dkeys: gradients of a prefix's own keys and values.
        is_first: nobody asks for the gradient of x.
        """
        take, give = self.buffers.take, self.buffers.give
        num = len(kept.x_TH)
        dx2_TH, found, dprefix = None, [None] * (len(self.trained()) - len(self.front.trained())), (None, None)
        parts: list[torch.Tensor | None] = [None, *(take(num, width) for width in self.front.widths[1:])]
        if dy_NH is None:
            for part in parts[1:]:
                part.zero_()
        else:
            dx2_TH, dout_TQ, found = self._behind_back(kept, dy_NH)
            parts[0] = take(num, self.front.widths[0])
            seen = self._seen(kept)
            heads = [self._heads(t) for t in (dout_TQ, *seen, kept.v_TK, kept.out_TQ, *parts)]
            tree, into = kept.sight.tree, (heads[5], heads[6], heads[7])
            dprefix = attend_tree_back(
                *heads[:4], kept.prefix, heads[4], kept.lse_TH, tree=tree, scale=self.attention_scale, into=into
            )
            self._unsee(*seen)
            give(dout_TQ, kept.out_TQ)
        for part, more in zip(parts[1:], dkeys, strict=True):
            if more is not None:
                self._heads(part).add_(more[0].transpose(0, 1))
        self._turn_back(kept, parts[0], parts[1])
        give(kept.q_TQ, *((kept.k_TK, kept.v_TK) if kept.sight.filling is None else ()))
        n_TH = torch.empty_like(kept.x_TH)  # becomes the gradient of x, which is autograd's
        self.norm.again(kept.x_TH, kept.scale_T1, n_TH)
        dsmall = self._small(self.front, num)
        found = self.front.backward(n_TH, parts, kept.small_TR, dsmall, None if is_first else n_TH) + found
        give(*parts, kept.small_TR, dsmall)
        if is_first:
            return None, dprefix, found
        return self.norm.backward(n_TH, kept.x_TH, kept.scale_T1, dx2_TH), dprefix, found

    def _behind(self, kept: Kept) -> torch.Tensor:
        """(N, H): output projection and MLP."""
        take, give = self.buffers.take, self.buffers.give
        wanted, x, out = kept.wanted_N, kept.x_TH, kept.out_TQ
        x, out = (x, out) if wanted is None else (x.index_select(0, wanted), out.index_select(0, wanted))
        num, width = x.shape
        kept.x2_NH, kept.small_o_NR = take(num, width), self._small(self.behind, num)
        self.behind.forward(out, [kept.x2_NH], kept.small_o_NR, x)
        m_NH = take(num, width)
        kept.scale2_N1 = self.norm2.forward(kept.x2_NH, m_NH)
        kept.gate_NI, kept.up_NI = (take(num, w) for w in self.gated.widths)
        kept.small_gated_NR = self._small(self.gated, num)
        self.gated.forward(m_NH, [kept.gate_NI, kept.up_NI], kept.small_gated_NR)
        give(m_NH)
        act_NI, y_NH = take(num, self.down.num_in), torch.empty_like(x)
        aten.silu.out(kept.gate_NI, out=act_NI).mul_(kept.up_NI)
        kept.small_down_NR = self._small(self.down, num)
        self.down.forward(act_NI, [y_NH], kept.small_down_NR, kept.x2_NH)
        give(act_NI)
        return y_NH

    def _behind_back(self, kept: Kept, dy_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Grads]:
        """Gradients by the residual stream (T, H) and by attention's output (T, Q), and of the weights behind it."""
        take, give = self.buffers.take, self.buffers.give
        num, gate, up = len(dy_NH), kept.gate_NI, kept.up_NI
        silu, act = take(num, self.down.num_in), take(num, self.down.num_in)
        aten.silu.out(gate, out=silu)
        torch.mul(silu, up, out=act)
        dsmall = self._small(self.down, num)
        of_down = self.down.backward(act, [dy_NH], kept.small_down_NR, dsmall, act)
        give(dsmall, kept.small_down_NR)
        up.mul_(act)
        act.mul_(silu)
        aten.silu_backward.grad_input(up, gate, grad_input=gate)
        give(silu, up)
        m_NH, dsmall = take(num, dy_NH.shape[1]), self._small(self.gated, num)
        self.norm2.again(kept.x2_NH, kept.scale2_N1, m_NH)
        of_gated = self.gated.backward(m_NH, [gate, act], kept.small_gated_NR, dsmall, m_NH)
        give(gate, act, dsmall, kept.small_gated_NR)
        dx2_NH = torch.empty_like(dy_NH)
        dx2_NH.copy_(self.norm2.backward(m_NH, kept.x2_NH, kept.scale2_N1, dy_NH))
        give(m_NH, kept.x2_NH)
        wanted, dsmall = kept.wanted_N, self._small(self.behind, num)
        out_NQ = kept.out_TQ if wanted is None else kept.out_TQ.index_select(0, wanted)
        dout_NQ = take(num, self.behind.num_in)
        of_out = self.behind.backward(out_NQ, [dx2_NH], kept.small_o_NR, dsmall, dout_NQ)
        give(dsmall, kept.small_o_NR)
        found = [*of_out, *of_gated, *of_down]
        if wanted is None:
            return dx2_NH, dout_NQ, found
        dout_TQ = take(len(kept.x_TH), self.behind.num_in).zero_().index_add_(0, wanted, dout_NQ)
        give(dout_NQ)
        return torch.zeros_like(kept.x_TH).index_add_(0, wanted, dx2_NH), dout_TQ, found

    def _small(self, maps: Linears, num: int) -> torch.Tensor | None:
        return self.buffers.take(num, maps.rank) if maps.rank else None

    def _heads(self, x_TX: torch.Tensor) -> torch.Tensor:
        """(T, heads, D)."""
        return x_TX.unflatten(1, (-1, self.head_dim))

    def _seen(self, kept: Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys as attention sees them; given back by `_unsee`."""
        if self.head_norms is None or kept.head_scales is None:
            return kept.q_TQ, kept.k_TK
        given = kept.q_TQ, kept.k_TK
        seen = tuple(self.buffers.take(*t.shape) for t in given)
        for norm, x, scale, out in zip(self.head_norms, given, kept.head_scales, seen, strict=True):
            norm.again(self._heads(x), scale, self._heads(out))
        self._turn(kept, *seen)
        return seen

    def _unsee(self, q: torch.Tensor, k: torch.Tensor) -> None:
        if self.head_norms is not None:
            self.buffers.give(q, k)

    def _turn(self, kept: Kept, *parts: torch.Tensor) -> None:
        for part in parts:
            rotate(self._heads(part), kept.cos_T1D, kept.sin_T1D, self.is_paired, is_back=False)

    def _turn_back(self, kept: Kept, dq: torch.Tensor | None, dk: torch.Tensor) -> None:
        """The gradients of queries and keys before rotation and norms, in the place of those behind."""
        norms, scales = self.head_norms or (None, None), kept.head_scales or (None, None)
        for part, x, norm, scale in zip((dq, dk), (kept.q_TQ, kept.k_TK), norms, scales, strict=True):
            if part is not None:
                rotate(self._heads(part), kept.cos_T1D, kept.sin_T1D, self.is_paired, is_back=True)
                if norm is not None:
                    norm.backward(self._heads(part), self._heads(x), scale, None)


def rotate(x_THD: torch.Tensor, cos_T1D: torch.Tensor, sin_T1D: torch.Tensor, is_paired: bool, *, is_back: bool) -> None:
    """Rotary embedding (Su et al. 2021, arXiv 2104.09864) in place, or its gradient.

    The first number of a pair becomes a cos - b sin, the second b cos + a sin. transformers repeats cos and sin for both halves.
    """
    half = x_THD.shape[-1] // 2
    a, b = (x_THD[..., 0::2], x_THD[..., 1::2]) if is_paired else (x_THD[..., :half], x_THD[..., half:])
    cos, sin = cos_T1D[..., :half], sin_T1D[..., :half]
    before, sign = a.clone(), 1 if is_back else -1
    a.mul_(cos).addcmul_(b, sin, value=sign)
    b.mul_(cos).addcmul_(before, sin, value=-sign)


@dataclass(frozen=True)
class Run:
    """One pass of one layer."""

    layer: FusedLayer
    sight: Sight
    is_trimmed: bool


class FusedFunction(torch.autograd.Function):
    """The layer to autograd. Inputs: x (1, T, H), cos and sin (1, T, D), a prefix's keys and values, the run, and `trained()`."""

    @staticmethod
    def forward(ctx: Any, x_1TH, cos_1TD, sin_1TD, prefix_key, prefix_value, run: Run, *_):
        layer, sight, prefix = run.layer, run.sight, (prefix_key, prefix_value)
        y_NH, kept = layer.forward(x_1TH[0], cos_1TD[0], sin_1TD[0], prefix, sight, is_trimmed=run.is_trimmed)
        ctx.set_materialize_grads(False)
        # Not save_for_backward: the buffers are written over as soon as the backward pass has read them.
        ctx.layer, ctx.kept = layer, kept
        return y_NH[None] if sight.filling is None else (y_NH[None], *layer.keys_and_values(kept))

    @staticmethod
    def backward(ctx: Any, dy_1NH, *dkeys):
        assert ctx.kept is not None, "a fused layer goes backward once"
        kept, ctx.kept = ctx.kept, None
        dy_NH = None if dy_1NH is None else dy_1NH[0].contiguous()
        dx_TH, dprefix, found = ctx.layer.backward(kept, dy_NH, dkeys or (None, None), is_first=not ctx.needs_input_grad[0])
        return None if dx_TH is None else dx_TH[None], None, None, *dprefix, None, *found
