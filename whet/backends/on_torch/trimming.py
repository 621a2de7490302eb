"""The last layer where something is learnt: the other tokens give it keys and values, and nothing else of them is ever read."""

import functools
from typing import Any

import torch

from whet.backends.on_torch.forwards import exchange
from whet.backends.on_torch.targets import decoder_layers


class LastLayer:
    """A decoder's last layer whose output projection, MLP and norms run at chosen tokens only.

    Serves layers of the form x + attention(norm(x)), then x + mlp(norm(x)), whatever stands in them: whether a layer is one
    is found by comparing bits. The choice travels with the pass (`Sight.wanted`), so that a layer whose activations are
    computed a second time makes the same one.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.inner = layer.forward
        self.wanted: torch.Tensor | None = None
        self.hook = layer.self_attn.o_proj.register_forward_pre_hook(self._choose)
        self.way_back = exchange(layer, self._forward)

    def _choose(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        return inputs if self.wanted is None else (inputs[0].index_select(1, self.wanted), *inputs[1:])

    def _forward(self, _: Any, hidden_1TH: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        wanted = getattr(named.get("whet_sight"), "wanted", None)
        if wanted is None:
            return self.inner(hidden_1TH, *rest, **named)
        run = functools.partial(self.trimmed, **named)
        if getattr(self.layer, "gradient_checkpointing", False) and self.layer.training:
            # transformers computes the plain forward function a second time; this one stands in its place.
            run = functools.partial(self.layer._gradient_checkpointing_func, run)
        return run(hidden_1TH, wanted, *rest)

    def trimmed(self, hidden_1TH: torch.Tensor, wanted_N: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """(1, N, H) outputs at the columns `wanted_N`."""
        layer, self.wanted = self.layer, wanted_N
        try:
            attended = layer.self_attn(layer.input_layernorm(hidden_1TH), *rest, **named)[0]
        finally:
            self.wanted = None
        hidden_1NH = hidden_1TH.index_select(1, wanted_N) + attended
        return hidden_1NH + layer.mlp(layer.post_attention_layernorm(hidden_1NH))

    def undo(self) -> None:
        """Let the layer be as it was."""
        self.hook.remove()
        self.way_back()


def open_last_layer(model: Any) -> LastLayer | None:
    """The last layer of a model, ready to be trimmed; None where it is built in another way."""
    layer = decoder_layers(model)[1][-1]
    parts = ("self_attn", "input_layernorm", "post_attention_layernorm", "mlp")
    if not all(hasattr(layer, part) for part in parts) or not hasattr(layer.self_attn, "o_proj"):
        return None
    last = LastLayer(layer)
    if not _is_same(model, last):
        last.undo()
        return None
    return last


@torch.no_grad()
def _is_same(model: Any, last: LastLayer) -> bool:
    """Whether the trimmed layer, asked for every token, gives the plain one's bits."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def compare(_: Any, hidden_1TH: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        whole = last.inner(hidden_1TH, *rest, **named)
        every_T = torch.arange(hidden_1TH.shape[1], device=hidden_1TH.device)
        seen.append((whole, last.trimmed(hidden_1TH, every_T, *rest, **named)))
        return whole

    way_back = exchange(last.layer, compare)
    try:
        ids = torch.arange(5, 9, device=model.get_input_embeddings().weight.device)[None]
        model.get_decoder()(input_ids=ids, use_cache=False)
    except (TypeError, IndexError, AttributeError):
        return False
    finally:
        way_back()
    return bool(seen) and all(a.shape == b.shape and torch.equal(a, b) for a, b in seen)
