"""Layers that train as one function each: found by comparing what they give, left as they are where they are built otherwise."""

import types
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from whet.backends.base import Pack, Segment
from whet.backends.on_torch.attention import Sight, attend_packed
from whet.backends.on_torch.buffers import Buffers
from whet.backends.on_torch.forwards import exchange
from whet.backends.on_torch.fused_layer import FusedFunction, FusedLayer, Run
from whet.backends.on_torch.rows import packed_row
from whet.backends.on_torch.targets import decoder_layers

SAME = 1e-5  # largest difference, relative to the largest value that a layer adds, at which it is taken for the plain one
PARTS = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
MAPS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass
class Asked:
    """What a layer asks of attention, seen in one pass."""

    scale: float
    window: int | None
    softcap: float | None


@dataclass
class FusedLayers:
    """A decoder's layers with another forward function where gradients are asked for, in packed rows."""

    buffers: Buffers = field(default_factory=Buffers)
    ways_back: list[Callable[[], None]] = field(default_factory=list)
    is_at_work: bool = True
    """Else the layers run part by part, where hooks see what passes."""

    @property
    def count(self) -> int:
        return len(self.ways_back)

    def replace(self, layer: Any, fused: FusedLayer, window: int | None, *, is_trimmed: bool) -> None:
        """Let a layer run as one function in training."""
        inner, has_trained = layer.forward, bool(fused.trained())

        def forward(_: Any, hidden_1TH: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            sight = named.get("whet_sight")
            is_training = self.is_at_work and torch.is_grad_enabled() and (hidden_1TH.requires_grad or has_trained) and not rest
            is_packed = isinstance(sight, Sight) and (window is None or sight.longest <= window)
            if not (is_training and is_packed):
                return inner(hidden_1TH, *rest, **named)
            return run_fused(fused, hidden_1TH, named["position_embeddings"], sight, is_trimmed=is_trimmed)

        self.ways_back.append(exchange(layer, forward))

    def undo(self) -> None:
        """Let the layers be as they were."""
        while self.ways_back:
            self.ways_back.pop()()
        self.buffers.clear()


def run_fused(
    fused: FusedLayer, hidden_1TH: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], sight: Sight, *, is_trimmed: bool
) -> torch.Tensor:
    """(1, T, H) outputs of a layer, at the wanted columns alone if it is trimmed."""
    prefix = sight.prefix.seen[fused.number] if sight.prefix else (None, None)
    made = FusedFunction.apply(hidden_1TH, *rotation, *prefix, Run(fused, sight, is_trimmed), *fused.trained())
    if sight.filling is None:
        return made
    out, key, value = made
    sight.filling.keep(fused.number, key, value)
    return out


def open_fused(model: Any, *, is_last_trimmed: bool) -> FusedLayers | None:
    """Fuse the layers of a model that can be; None where none can, or nothing is trained. In fp32 on a CPU alone.

    The model's attention must be the packed one.
    """
    _, stack = decoder_layers(model)
    layers = FusedLayers()
    if model.device.type != "cpu" or not any(p.requires_grad for p in stack.parameters()):
        return None
    for layer, fused, window in _served(model, stack, layers.buffers):
        layers.replace(layer, fused, window, is_trimmed=is_last_trimmed and layer is stack[-1])
    return layers if layers.count else None


@dataclass
class _Watch:
    """Stands for a sight: attends plainly, and notes what is asked."""

    sight: Sight
    asked: dict[int, Asked] = field(default_factory=dict)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        scale: float, window: int | None, softcap: float | None,
    ) -> torch.Tensor:  # fmt: skip
        self.asked[layer] = Asked(scale, window, softcap)
        stand_in = types.SimpleNamespace(layer_idx=layer)
        return attend_packed(
            stand_in, query, key, value, None, scaling=scale, sliding_window=window, softcap=softcap, whet_sight=self.sight
        )[0]


@torch.no_grad()
def _served(model: Any, stack: Any, buffers: Buffers) -> list[tuple[Any, FusedLayer, int | None]]:
    """Layers that fused give what they give plainly, each compared on its own input, with the window of its attention."""
    rows = packed_row(Pack((), (Segment((5, 6, 7, 8), 1),)), model.device)
    sight = Sight(rows.tree, rows.positions_BT[0], rows.longest)
    watch, found = _Watch(sight), []

    def compared(layer: Any) -> Callable[..., torch.Tensor]:
        inner = layer.forward

        def forward(_: Any, hidden_1TH: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            whole = inner(hidden_1TH, *rest, **named)
            asked = watch.asked.get(getattr(layer.self_attn, "layer_idx", -1))
            rotation = named.get("position_embeddings")
            if rest or asked is None or asked.softcap is not None or hidden_1TH.dtype != torch.float32 or rotation is None:
                return whole
            for is_paired in (False, True):
                fused = FusedLayer(layer, asked.scale, is_paired=is_paired, buffers=buffers)
                if fused.is_served() and _gives(fused, hidden_1TH, rotation, sight, whole):
                    found.append((layer, fused, asked.window))
                    break
            return whole

        return forward

    with ExitStack() as ways_back:
        for layer in filter(_has_parts, stack):
            ways_back.callback(exchange(layer, compared(layer)))
        # Far apart: some attention scales its queries by their positions, the first thousands by 1 (Ministral 3).
        farthest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or len(rows.ids_BT[0])
        positions_BT = torch.linspace(0, farthest - 1, rows.ids_BT.shape[1]).round().long()[None]
        model.get_decoder()(input_ids=rows.ids_BT, position_ids=positions_BT, use_cache=False, whet_sight=watch)
    return found


def _has_parts(layer: Any) -> bool:
    """Whether a layer's parts have the names that Llama's have."""
    if not all(hasattr(layer, part) for part in PARTS):
        return False
    has_maps = all(hasattr(getattr(layer, part), name) for part, names in MAPS.items() for name in names)
    return has_maps and hasattr(layer.self_attn, "layer_idx") and hasattr(layer.self_attn, "head_dim")


def _gives(
    fused: FusedLayer, hidden_1TH: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], sight: Sight, whole: torch.Tensor
) -> bool:
    if rotation[0].shape[-1] != fused.head_dim:
        return False
    try:
        got = run_fused(fused, hidden_1TH, rotation, sight, is_trimmed=False)
    except (RuntimeError, TypeError, IndexError):
        return False
    return bool((got - whole).abs().max() <= SAME * (whole - hidden_1TH).abs().max())
