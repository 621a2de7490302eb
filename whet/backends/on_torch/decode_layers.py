"""A plain decoder's layers in few operations, as decoding on a CPU computes them: a step has few tokens and waits for calls."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import embedding, scaled_dot_product_attention, silu

from whet.backends.on_torch.attention import NAME, Sight, attend_packed
from whet.backends.on_torch.layers import epsilon_of, is_gated_by_silu, scale_of, shift_of
from whet.backends.on_torch.passes import Passes
from whet.backends.on_torch.products import Product, fits, is_served, linear_layers, product_of, whole

SAME = 1e-5  # largest difference to the model's own layers, relative to the largest value
PROBE = 13  # tokens that both are asked with


@dataclass(frozen=True)
class Norm:
    """x / rms(x) * weight."""

    weight: torch.Tensor
    epsilon: float

    def __call__(self, x_TH: torch.Tensor) -> torch.Tensor:
        return (x_TH * scale_of(x_TH, self.epsilon)).mul_(self.weight)


@dataclass(frozen=True)
class Layer:
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)). Of H query heads and G heads of keys, D wide."""

    before: Norm
    qkv: Product
    """The two halves of queries and keys are interleaved, so that a turn is a product of complex numbers."""
    num_heads: int
    num_groups: int
    width: int
    scale: float
    out: Product
    behind: Norm
    gate_up: Product
    down: Product

    def attended(self, x_TH: torch.Tensor, turn_T1d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (1, H, T, D), keys and values (1, G, T, D), turned to their positions."""
        made_TX = self.qkv(self.before(x_TH))
        num = self.num_heads + self.num_groups
        both_TXd = torch.view_as_complex(made_TX[:, : num * self.width].unflatten(1, (num, -1, 2)))
        both_XTD = torch.view_as_real(both_TXd * turn_T1d).flatten(2).transpose(0, 1)
        value_GTD = made_TX[:, num * self.width :].unflatten(1, (self.num_groups, -1)).transpose(0, 1)
        return both_XTD[None, : self.num_heads], both_XTD[None, self.num_heads :], value_GTD[None]

    def finished(self, x_TH: torch.Tensor, attended_1THD: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        x_TH = self.out.added_to(x_TH, attended_1THD[0].flatten(1))
        gate, up = self.gate_up(self.behind(x_TH)).chunk(2, -1)
        return self.down.added_to(x_TH, silu(gate).mul_(up))


@dataclass(frozen=True)
class DecodeLayers:
    """All layers, and what stands before and behind them."""

    embedded: torch.Tensor
    rotary: Any
    layers: tuple[Layer, ...]
    norm: Norm

    def __call__(self, ids_1T: torch.Tensor, positions_1T: torch.Tensor, sight: Any) -> torch.Tensor:
        """(T, hidden) outputs behind the last norm; of no use where a Sight asks for keys and values alone."""
        x_TH = embedding(ids_1T[0], self.embedded)
        cos_1TD, sin_1TD = self.rotary(x_TH[None], positions_1T)
        half = cos_1TD.shape[-1] // 2
        turn_T1d = torch.complex(cos_1TD[0, :, :half], sin_1TD[0, :, :half])[:, None]
        for number, layer in enumerate(self.layers):
            query, key, value = layer.attended(x_TH, turn_T1d)
            if isinstance(sight, Sight):
                if sight.filling is not None and sight.last_filled == number:
                    sight.filling.keep(number, key, value)
                    return x_TH
                at = SimpleNamespace(layer_idx=number)
                attended, _ = attend_packed(at, query, key, value, None, scaling=layer.scale, whet_sight=sight)  # type: ignore[arg-type]
            else:
                attended = sight.attend(number, query, key, value, layer.scale, None, None)
            x_TH = layer.finished(x_TH, attended)
        return self.norm(x_TH)


@torch.no_grad()
def open_decode_layers(passes: Passes) -> DecodeLayers | None:
    """The layers of a model; None where it is built in another way, or has no room for a second copy of its weights.

    Whether it is built so is found by comparing outputs, and by what it asks of its attention.
    """
    model = passes.model
    if passes.is_sharded or passes.head is None or passes.unpackable or not is_served(model):
        return None
    decoder = model.get_decoder()
    known = set(linear_layers(model, passes.head))
    if not fits([*known, passes.head]):
        return None
    probe = _Probe()
    ids_1T = torch.arange(PROBE)[None] % model.config.get_text_config().vocab_size
    positions_1T = 3 * torch.arange(PROBE)[None]
    try:
        passes.attend_by(NAME)
        wanted = decoder(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, whet_sight=probe).last_hidden_state[0]
        layers = tuple(_layer(layer, probe, number, known) for number, layer in enumerate(decoder.layers))
        found = DecodeLayers(decoder.embed_tokens.weight, decoder.rotary_emb, layers, _norm(decoder.norm))
        got = found(ids_1T, positions_1T, _Probe())
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError):
        return None
    is_same = got.shape == wanted.shape and bool((got - wanted).abs().max() <= SAME * wanted.abs().max())
    return found if is_same else None


class _Probe:
    """Attention of each token to those before it, which notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: dict[int, tuple[torch.Tensor, torch.Tensor, float]] = {}
        """Query, key and scale by layer."""

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
        if window is not None or softcap is not None:
            raise ValueError("another kind of attention")
        self.asked[layer] = query, key, scale
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True).transpose(1, 2)


def _layer(layer: Any, probe: _Probe, number: int, known: set[Any]) -> Layer:
    """ValueError where it is no plain layer."""
    query, key, scale = probe.asked[number]
    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if not set(parts) <= known or not is_gated_by_silu(mlp):
        raise ValueError("layers of another kind")
    width = query.shape[-1]
    turned = [_interleaved(whole(part), width) for part in parts[:2]]
    qkv, gate_up = product_of([*turned, whole(parts[2])]), product_of([whole(part) for part in parts[4:6]])
    out, down = product_of([whole(parts[3])]), product_of([whole(parts[6])])
    before, behind = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
    return Layer(before, qkv, query.shape[1], key.shape[1], width, scale, out, behind, gate_up, down)


def _interleaved(found: tuple[torch.Tensor, torch.Tensor | None], width: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias whose heads have the first half of their rows in the even places and the second half in the odd ones."""
    weight, bias = (None if t is None else t.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).flatten(0, 2) for t in found)
    assert weight is not None
    return weight, bias


def _norm(module: Any) -> Norm:
    shift = shift_of(module)
    if shift is None:
        raise ValueError("a norm of another kind")
    return Norm((module.weight + shift).detach(), epsilon_of(module))
