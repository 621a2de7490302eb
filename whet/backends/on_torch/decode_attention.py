"""Attention of new tokens of many sequences, packed in one row: each sees its prefix, its own cache, and those before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whet.backends.on_torch.attention import attend_block, merge
from whet.backends.on_torch.decode_cache import OwnKeys, SharedPrefix

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class Together:
    """Tokens of m sequences that attend to their own caches in one call, Q of each."""

    columns_mQ: torch.Tensor | slice
    """Their columns of the packed row; a slice where there is one token of each, in the order of the slots."""
    slots_m: torch.Tensor | slice
    """Neighbours are read in their places, others are gathered."""
    sees_mQL: torch.Tensor
    """0 where a token sees a place of its slot, else -inf."""
    is_real_S: torch.Tensor | None = None
    """Which of the m * Q tokens are no padding (a repeated column); None where all are."""


@dataclass(frozen=True)
class DecodeSight:
    """What a decoding forward pass hands to every attention layer. T new tokens in a packed row."""

    own: OwnKeys
    slot_T: torch.Tensor
    place_T: torch.Tensor
    """Slot of each token's sequence, and the token's place in it."""
    positions_T: torch.Tensor
    longest: int
    """Tokens of the longest sequence, its prefix included."""
    blocks: tuple[Together, ...]
    shared: tuple[tuple[SharedPrefix, torch.Tensor | None], ...]
    """Prefixes with the columns that see them; None for all."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """(1, T, H, D) of query (1, H, T, D), key and value (1, G, T, D)."""
        self.own.write(layer, key, value, self.slot_T, self.place_T)
        keys, values = self.own.layers[layer]
        q_THD = query[0].transpose(0, 1)
        if window is not None and self.longest <= window:
            window = None
        if window is not None or softcap is not None:
            return self._attend_whole(layer, q_THD, keys, values, scale, window, softcap)[None]
        out_THD, lse_TH = _attend_own(q_THD, keys, values, self.blocks, scale)
        for prefix, columns in self.shared:
            k, v = (t.transpose(1, 2) for t in prefix.keys.seen[layer])
            if columns is None:
                merge(out_THD, lse_TH, *attend_block(q_THD[None], k, v, False, scale))
            else:
                out, lse = out_THD[columns], lse_TH[columns]
                merge(out, lse, *attend_block(q_THD[None, columns], k, v, False, scale))
                out_THD.index_copy_(0, columns, out)
        return out_THD[None]

    def _attend_whole(
        self,
        layer: int,
        q_THD: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Each token over its prefix and its own cache at once: where a window cuts into the prefix, or scores are capped."""
        out_THD = torch.empty_like(q_THD)
        length = int(self.place_T.max()) + 1
        place_L = torch.arange(length, device=q_THD.device)
        whole = torch.arange(len(q_THD), device=q_THD.device)
        with_prefix = [(prefix, whole if columns is None else columns) for prefix, columns in self.shared]
        lone = torch.ones(len(q_THD), dtype=torch.bool, device=q_THD.device)
        for _, columns in with_prefix:
            lone[columns] = False
        for prefix, columns in [*with_prefix, (None, lone.nonzero()[:, 0])]:
            if not len(columns):
                continue
            slots_t, places_t = self.slot_T[columns], self.place_T[columns]
            sees_tK = place_L[None] <= places_t[:, None]
            k, v = keys[slots_t, :, :length], values[slots_t, :, :length]
            position_tK = (self.positions_T[columns] - places_t)[:, None] + place_L
            if prefix is not None:
                before = [t.expand(len(columns), -1, -1, -1) for t in prefix.keys.seen[layer]]
                k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
                num = before[0].shape[2]
                position_tK = torch.cat([torch.arange(num, device=k.device).expand(len(columns), -1), position_tK], 1)
                sees_tK = torch.cat([sees_tK.new_ones(len(columns), num), sees_tK], 1)
            if window is not None:
                sees_tK = sees_tK & (self.positions_T[columns][:, None] - position_tK < window)
            q_tGhD = q_THD[columns].unflatten(1, (k.shape[1], -1))
            scores = q_tGhD @ k.transpose(2, 3) * scale
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            shares = scores.masked_fill(~sees_tK[:, None, None], -torch.inf).softmax(-1, dtype=torch.float32)
            out_THD[columns] = (shares.to(v.dtype) @ v).flatten(1, 2)
        return out_THD


def _attend_own(
    q_THD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, blocks: Sequence[Together], scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp (T, H, fp32) of each token over its own cache."""
    if all(isinstance(block.columns_mQ, slice) for block in blocks):
        found = [_attend_together(q_THD[block.columns_mQ, None], keys, values, block, scale) for block in blocks]
        outs, lses = zip(*found, strict=True)
        return (torch.cat(outs)[:, 0], torch.cat(lses)[:, 0]) if len(blocks) > 1 else (outs[0][:, 0], lses[0][:, 0])
    out_THD = torch.empty_like(q_THD)
    lse_TH = torch.empty(q_THD.shape[:2], dtype=torch.float32, device=q_THD.device)
    for block in blocks:
        at_S = block.columns_mQ.flatten()
        out_SHD, lse_SH = (t.flatten(0, 1) for t in _attend_together(q_THD[block.columns_mQ], keys, values, block, scale))
        if block.is_real_S is not None:
            at_S, out_SHD, lse_SH = (t[block.is_real_S] for t in (at_S, out_SHD, lse_SH))
        out_THD.index_copy_(0, at_S, out_SHD)
        lse_TH.index_copy_(0, at_S, lse_SH)
    return out_THD, lse_TH


def _attend_together(
    q_mQHD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, block: Together, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    length = block.sees_mQL.shape[-1]
    k, v = keys[block.slots_m, :, :length], values[block.slots_m, :, :length]
    if q_mQHD.device.type == "cpu":
        return _attend_masked(q_mQHD, k, v, block.sees_mQL, scale)
    num_groups, num_queries = k.shape[1], q_mQHD.shape[1]
    # The heads that share keys stand in the place of more queries.
    q = (q_mQHD * scale).unflatten(2, (num_groups, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores = (q @ k.transpose(2, 3)).float().unflatten(2, (-1, num_queries)).add_(block.sees_mQL[:, None, None])
    most = scores.amax(-1, keepdim=True)
    powers = scores.sub_(most).exp_()
    sums = powers.sum(-1, keepdim=True)
    out = (powers.to(v.dtype).flatten(2, 3) @ v).unflatten(2, (-1, num_queries)) / sums
    lse = sums.log_().add_(most)[..., 0]
    # (m, G, h, Q, ...) to (m, Q, H, ...)
    return out.to(v.dtype).permute(0, 3, 1, 2, 4).flatten(2, 3), lse.permute(0, 3, 1, 2).flatten(2, 3)


def _attend_masked(
    q_mQHD: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees_mQL: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """By the CPU's flash kernel, which takes the mask; k and v (m, G, L, D)."""
    mask_m1QL = sees_mQL[:, None]
    if q_mQHD.shape[1] == 1:  # the heads that share keys stand in the place of queries
        num_shared = q_mQHD.shape[2] // k.shape[1]
        q = q_mQHD[:, 0].unflatten(1, (-1, num_shared))
        out, lse = FLASH(q, k, v, 0.0, False, attn_mask=mask_m1QL.expand(-1, 1, num_shared, -1), scale=scale)
        return out.flatten(1, 2)[:, None], lse.flatten(1, 2)[:, None]
    out, lse = FLASH(q_mQHD.transpose(1, 2), k, v, 0.0, False, attn_mask=mask_m1QL, scale=scale)
    return out.transpose(1, 2), lse.transpose(1, 2)
