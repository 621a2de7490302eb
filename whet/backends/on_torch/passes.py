"""Forward and backward passes over packs: each shared prefix once, the head at learnt tokens only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch

from whet.backends.base import DeviceSettings, Pack, Segment
from whet.backends.on_torch.attention import NAME, PrefixKeys, Sight, register
from whet.backends.on_torch.frozen import FrozenLayers, FrozenPrefix, open_frozen
from whet.backends.on_torch.fused import FusedLayers, open_fused
from whet.backends.on_torch.head import Room, find_head, head_losses
from whet.backends.on_torch.rows import Rows, packed_row, padded_rows
from whet.backends.on_torch.trimming import LastLayer, open_last_layer

PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}  # relative; rounding is far below it
Layout = Literal["packed", "padded"]


@dataclass(frozen=True)
class Part:
    """One micro-batch at work: its rows, and the prefix that was computed for them and their neighbours."""

    pack: Pack
    rows: Rows
    prefix: PrefixKeys | None = None
    filling: PrefixKeys | None = None
    """Takes the keys and values of these rows, which are a prefix."""
    num_before: int = 0
    """Tokens of the prefix that was computed just before, for this pack and those that follow."""

    @property
    def num_computed(self) -> int:
        return self.rows.ids_BT.numel() + self.num_before


class Passes:
    """A causal language model of transformers, and how packs go through it.

    is_sharded: every layer is gathered from all ranks for each pass, so all must make the same passes.
    """

    def __init__(
        self, model: Any, device: torch.device, pad_id: int, settings: DeviceSettings, *, is_sharded: bool = False
    ) -> None:
        register()
        self.is_sharded = is_sharded
        self.model, self.device, self.pad_id, self.logits_bytes = model, device, pad_id, settings.logits_mb << 20
        self.frozen: FrozenLayers | None = None
        self.last: LastLayer | None = None
        self.fused: FusedLayers | None = None
        self.plain_attention = model.config._attn_implementation
        self.head, self.room = find_head(model), Room()
        self.unpackable = self._probe()
        """Why this model's rows can't be packed; empty if they can."""
        if self.head is not None and not self.unpackable and not is_sharded:
            self.last = open_last_layer(model)
            if not settings.checkpoint_activations:  # what is computed again is kept by nobody, and made to be so by torch
                self.attend_by(NAME)
                self.fused = open_fused(model, is_last_trimmed=self.last is not None)
                self.attend_by(self.plain_attention)
            self.frozen = open_frozen(model, settings.frozen_cache_mb << 20, is_on_disk=settings.frozen_cache_on_disk)

    @torch.no_grad()
    def _probe(self) -> str:
        """Compare packed with padded rows on a small tree, whatever the model's attention claims to do."""
        if not getattr(self.model, "_supports_attention_backend", False):
            return "transformers can't exchange this model's attention"
        leaves = (Segment((9, 8, 7, 6), 3), Segment((5, 11), 0), Segment((12, 13, 14), 2, 1), Segment((15, 16), 1, 1))
        pack = Pack((5, 6, 7, 8), leaves)
        try:
            packed, padded = (self.losses(pack, layout)[0] for layout in ("packed", "padded"))
        except (RuntimeError, TypeError, NotImplementedError, KeyError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return f"packed attention does not run here ({str(error).splitlines()[0][:120]})"
        off = ((packed - padded).abs().max() / padded.abs().max()).item()
        kinds = ", ".join(sorted(set(getattr(self.model.config, "layer_types", None) or ())))
        return (
            ""
            if off <= PROBE_TOLERANCE[self.model.dtype]
            else f"packed rows gave losses that differ by {off:.1e} ({kinds} layers)"
        )

    def losses(self, pack: Pack, layout: Layout) -> tuple[torch.Tensor, Rows]:
        """(N,) cross entropies of one pack's learnt ids in nats, in the order of its segments, and where they stand."""
        part = self._part(pack, layout)
        return self._losses(part), part.rows

    def backward(self, packs: Sequence[Pack], layout: Layout, scale: float, num_idle: int = 0) -> tuple[float, int]:
        """Add scale * gradient of the summed loss to every trained tensor's gradient. Gives the loss sum and tokens computed.

        num_idle: passes to make besides, for other ranks' sake; they add nothing.
        """
        loss_sum, num_computed = 0.0, 0
        for prefix, parts in self._parts(packs, layout):
            for part in parts:
                loss = self._losses(part).sum()
                (loss * scale).backward()
                loss_sum += loss.item()
                num_computed += part.num_computed
            if prefix is not None:
                prefix.backward()
        for _ in range(num_idle):
            (self._losses(self._idle(layout)).sum() * 0).backward()
        return loss_sum, num_computed

    @torch.no_grad()
    def loss(self, packs: Sequence[Pack], layout: Layout, num_idle: int = 0) -> float:
        """Summed loss of packs, in nats."""
        for _ in range(num_idle):
            self._losses(self._idle(layout))
        return sum(self._losses(part).double().sum().item() for _, parts in self._parts(packs, layout) for part in parts)

    def _parts(self, packs: Sequence[Pack], layout: Layout) -> Iterator[tuple[PrefixKeys | None, Iterator[Part]]]:
        """Groups of packs behind an equal prefix, which is computed when its group is reached."""
        for ids, group in groupby(packs, key=lambda pack: pack.prefix):
            together = list(group)
            if self.is_sharded or layout == "padded" or not ids or len(together) == 1:
                yield None, (self._part(pack, layout) for pack in together)
            else:
                prefix = PrefixKeys()
                rows = packed_row(Pack(ids, ()), self.device)
                self._hidden(Part(Pack(ids, ()), rows, None, prefix))
                yield (
                    prefix,
                    (
                        Part(pack, packed_row(pack, self.device, is_prefix_apart=True), prefix, None, len(ids) * (number == 0))
                        for number, pack in enumerate(together)
                    ),
                )

    def _idle(self, layout: Layout) -> Part:
        return self._part(Pack((), (Segment((self.pad_id, self.pad_id), 1),)), layout)

    def _part(self, pack: Pack, layout: Layout) -> Part:
        is_packed = layout == "packed"
        return Part(pack, packed_row(pack, self.device) if is_packed else padded_rows(pack, self.device, self.pad_id))

    def _losses(self, part: Part) -> torch.Tensor:
        rows = part.rows
        if self.head is None:
            return self._losses_of_whole(part)
        hidden_NH = self._hidden(part).flatten(0, 1)
        if rows.tree is None or self.last is None:
            hidden_NH = hidden_NH.index_select(0, rows.row_N * rows.ids_BT.shape[1] + rows.at_N)
        return head_losses(hidden_NH, self.head, rows.target_N, self.logits_bytes, self.room)

    def _losses_of_whole(self, part: Part) -> torch.Tensor:
        """Through the model's own head, where it does more than a product. It runs at learnt columns only."""
        rows = part.rows
        columns_K, slot_N = torch.unique(rows.at_N, return_inverse=True)
        inputs = {**self._ids(part), **self._sight(part, part.prefix, part.filling)}
        logits_BKV = self.model(**inputs, logits_to_keep=columns_K).logits
        # A few models take no notice of logits_to_keep and give every column.
        slot_N = slot_N if logits_BKV.shape[1] == len(columns_K) else rows.at_N
        return torch.nn.functional.cross_entropy(logits_BKV[rows.row_N, slot_N].float(), rows.target_N, reduction="none")

    def _hidden(self, part: Part) -> torch.Tensor:
        """(B, T, H) outputs of the decoder; (1, N, H) at the learnt columns alone where the last layer can be trimmed to them."""
        decoder, frozen = self.model.get_decoder(), self.frozen
        if frozen is None or part.rows.tree is None:
            return decoder(**self._ids(part), **self._sight(part, part.prefix, part.filling)).last_hidden_state
        if part.filling is not None:
            below = self._frozen_prefix(part).hidden_1PH
        else:
            is_apart = part.prefix is not None
            below = frozen.store.read(part.pack, is_apart, self.device) if frozen.store else None
            if below is None:
                keys = frozen.prefixes[part.pack.prefix].keys if is_apart else None
                below = frozen.below(**self._ids(part), **self._sight(part, keys, None))
                if frozen.store:
                    frozen.store.write(part.pack, is_apart, below)
        ids = self._ids(part)
        del ids["input_ids"]
        return frozen.above(below, **ids, **self._sight(part, part.prefix, part.filling))

    def _frozen_prefix(self, part: Part) -> FrozenPrefix:
        """What the frozen layers make of a prefix: computed once for the run."""
        held = self.frozen.prefixes.get(part.pack.prefix)
        if held is None:
            keys = PrefixKeys()
            held = FrozenPrefix(keys, self.frozen.below(**self._ids(part), **self._sight(part, None, keys)))
            self.frozen.hold(part.pack.prefix, held)
        return held

    def _ids(self, part: Part) -> dict[str, Any]:
        return {"input_ids": part.rows.ids_BT, "position_ids": part.rows.positions_BT, "use_cache": False}

    def _sight(self, part: Part, prefix: PrefixKeys | None, filling: PrefixKeys | None) -> dict[str, Any]:
        """What tells attention who sees whom: a mask for padded rows, the tree for packed ones."""
        rows = part.rows
        self.attend_by(self.plain_attention if rows.tree is None else NAME)
        if rows.tree is None:
            return {"attention_mask": rows.mask_BT}
        # A prefix is read by its keys and values alone, but not every kernel takes no rows.
        wanted = (rows.at_N if len(rows.at_N) else rows.positions_BT.new_zeros(1)) if self.last is not None else None
        return {"whet_sight": Sight(rows.tree, rows.positions_BT[0], rows.longest, prefix, filling, wanted)}

    def let_go(self) -> None:
        """Free the memory that is kept from one training step to the next."""
        self.room.clear()
        if self.fused is not None:
            self.fused.buffers.clear()

    def close(self) -> None:
        """Leave the model as it was."""
        self.attend_by(self.plain_attention)
        if self.frozen is not None:
            self.frozen.undo()
        if self.fused is not None:
            self.fused.undo()
        if self.last is not None:
            self.last.undo()
        self.frozen = self.fused = self.last = None

    def attend_by(self, name: str) -> None:
        """Choose how transformers computes attention from now on."""
        if self.model.config._attn_implementation != name:
            self.model.set_attn_implementation(name)
