"""What the GGUF format asks of each model family: its name there, its fields, and how its tensors are laid out."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.models.architecture import Sizes, read_sizes

Array = NDArray[np.float32]
Change = Callable[[Array], Array]
_QUERY = re.compile(r"\.self_attn\.q_proj\.(weight|bias)$")
_KEY = re.compile(r"\.self_attn\.k_proj\.(weight|bias)$")


@dataclass(slots=True)
class Layout:
    """How one model is written as GGUF."""

    arch: str
    """The family's name in the format (general.architecture)."""
    sizes: Sizes
    fields: dict[str, Any]
    """Fields below the family's name; floats, ints, texts and lists."""
    extra: dict[str, Array] = field(default_factory=dict)
    """Tensors that the model folder does not hold but the format wants."""
    notes: list[str] = field(default_factory=list)
    """Where the file does less than the model."""

    def change(self, name: str) -> Change | None:
        """What is done to a tensor of this name (of the model folder); None where nothing."""
        if self.arch == "llama":
            heads = self.sizes.heads if _QUERY.search(name) else self.sizes.kv_heads if _KEY.search(name) else 0
            if heads:
                return lambda array: interleave_halves(array, heads)
        if self.arch == "gemma3" and name.endswith("norm.weight"):
            # Gemma multiplies by 1 + weight, the format by the weight.
            return lambda array: array + np.float32(1)
        return None


def interleave_halves(array: Array, heads: int) -> Array:
    """Rows of each head from (first half, second half) to pairs: the format rotates neighbours where transformers rotates halves.

    Takes (rows, ...) with rows = heads * head size. Holds for a weight, its bias, and the B of its adapter.
    """
    shape = array.shape
    return np.ascontiguousarray(array.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape))


def read_layout(config: Mapping[str, Any], place: str) -> Layout:
    """How the model of a config.json is written; InputError for families and settings that the format can't say rightly."""
    kind = str(config.get("model_type", ""))
    if kind not in _ARCHES:
        known = ", ".join(sorted(_ARCHES))
        raise InputError(
            place,
            f"is of the family {kind or 'unknown'!r}, which whet does not write as GGUF",
            f"Families that it writes: {known}. Any other: whet export hf, then llama.cpp's own converter",
        )
    sizes = read_sizes(dict(config), place)
    if sizes.stored_bytes:
        raise InputError(place, "its weights are quantised already", "Fuse the adapter into the unquantised base first")
    layout = Layout(_ARCHES[kind], sizes, {})
    layout.fields |= {
        "context_length": sizes.max_positions,
        "embedding_length": sizes.hidden,
        "block_count": sizes.layers,
        "feed_forward_length": sizes.intermediate,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_dim,
        "attention.value_length": sizes.head_dim,
    }
    if kind == "phi":
        layout.fields["attention.layer_norm_epsilon"] = float(config.get("layer_norm_eps", 1e-5))
        if config.get("qk_layernorm"):
            raise InputError(place, "norms its queries and keys, which GGUF does not know of phi models")
    else:
        layout.fields["attention.layer_norm_rms_epsilon"] = float(config.get("rms_norm_eps", 1e-6))
    if kind == "ernie4_5" and config.get("use_bias"):
        raise InputError(place, "has biases in its feed-forward layers, which GGUF does not know of Ernie models")
    _check_activation(config, kind, place)
    _add_rope(layout, config, kind, place)
    if kind == "gemma3_text":
        _add_gemma(layout, config, place)
    else:
        _limit_window(layout, config, kind)
    return layout


_ARCHES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3", "phi3": "phi3",
    "phi": "phi2", "ernie4_5": "ernie4_5",
}  # fmt: skip
_ACTIVATIONS = {"gemma3_text": ("gelu_pytorch_tanh",), "phi": ("gelu_new", "gelu_pytorch_tanh")}


def _check_activation(config: Mapping[str, Any], kind: str, place: str) -> None:
    found = config.get("hidden_activation") or config.get("hidden_act")
    allowed = _ACTIVATIONS.get(kind, ("silu", "swish"))
    if found is not None and found not in allowed:
        raise InputError(place, f"computes with {found}; runners of GGUF compute {kind} models with {allowed[0]}")


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings, as transformers 5 (rope_parameters) or older versions (rope_theta, rope_scaling) write them."""
    found = dict(config.get("rope_parameters") or {})
    if isinstance(found.get("full_attention"), dict):
        found = dict(found["full_attention"])
    scaling = config.get("rope_scaling")
    if not found and isinstance(scaling, dict):
        found = dict(scaling)
    found.setdefault("rope_theta", config.get("rope_theta"))
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    return found


def _add_rope(layout: Layout, config: Mapping[str, Any], kind: str, place: str) -> None:
    rope = rope_parameters(config)
    theta = float(rope["rope_theta"] or {"gemma3_text": 1e6, "ernie4_5": 5e5}.get(kind, 1e4))
    share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    share = float(share if share is not None else 0.5 if kind == "phi" else 1)
    num_rotated = int(layout.sizes.head_dim * share)
    layout.fields |= {"rope.dimension_count": num_rotated, "rope.freq_base": theta}
    scaling = str(rope["rope_type"])
    if scaling == "linear":
        layout.fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    elif scaling == "yarn":
        if rope.get("mscale") or rope.get("attention_factor") or not rope.get("original_max_position_embeddings"):
            raise InputError(place, "scales its positions by a kind of YaRN that is not written here")
        layout.fields |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(rope["factor"]),
            "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
        }
    elif scaling == "llama3":
        layout.extra["rope_freqs.weight"] = _llama3_factors(rope, theta, num_rotated)
    elif scaling == "longrope" and kind == "phi3":
        _add_longrope(layout, config, rope)
    elif scaling != "default":
        raise InputError(place, f"scales its positions by {scaling!r}, which is not written as GGUF here", "Use whet export hf")


def _llama3_factors(rope: Mapping[str, Any], theta: float, dim: int) -> Array:
    """By what Llama 3.1 divides each frequency (its release notes; transformers' modeling_rope_utils gives the same)."""
    old = float(rope["original_max_position_embeddings"])
    low, high = float(rope.get("low_freq_factor", 1)), float(rope.get("high_freq_factor", 4))
    turns = old * theta ** -(np.arange(0, dim, 2) / dim) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / float(rope["factor"]) + smooth)).astype(np.float32)


def _add_longrope(layout: Layout, config: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    old = int(rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"])
    scale = layout.sizes.max_positions / old
    attention = rope.get("attention_factor") or (math.sqrt(1 + math.log(scale) / math.log(old)) if scale > 1 else 1.0)
    layout.fields |= {"rope.scaling.original_context_length": old, "rope.scaling.attn_factor": float(attention)}
    for length in ("long", "short"):
        layout.extra[f"rope_factors_{length}.weight"] = np.asarray(rope[f"{length}_factor"], np.float32)


def _add_gemma(layout: Layout, config: Mapping[str, Any], place: str) -> None:
    sizes = layout.sizes
    scalar = float(config.get("query_pre_attn_scalar") or 256)
    # Runners take the number of layers for the 27B model, whose scale is another.
    wanted = sizes.hidden // sizes.heads if sizes.layers == 62 else sizes.head_dim
    if scalar != wanted:
        raise InputError(
            place, f"scales its attention by {scalar:g} ** -0.5; runners of GGUF take {wanted} for a model like this"
        )
    if config.get("attn_logit_softcapping") or config.get("use_bidirectional_attention"):
        raise InputError(place, "caps its attention or looks ahead, which GGUF's gemma3 does not")
    if cap := config.get("final_logit_softcapping"):
        layout.fields["final_logit_softcapping"] = float(cap)
    every = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    kinds = config.get("layer_types")
    is_local = [
        kinds[number] == "sliding_attention" if isinstance(kinds, list) else bool((number + 1) % every)
        for number in range(sizes.layers)
    ]
    layout.fields |= {
        "attention.sliding_window": int(config.get("sliding_window") or 4096),
        "attention.sliding_window_pattern": is_local,
    }
    parameters = config.get("rope_parameters") or {}
    local = parameters.get("sliding_attention", {}).get("rope_theta") or config.get("rope_local_base_freq") or 1e4
    layout.fields["rope.freq_base_swa"] = float(local)


def _limit_window(layout: Layout, config: Mapping[str, Any], kind: str) -> None:
    """A sliding window that the format's family does not know: texts within it are exact, so the file ends there."""
    window = config.get("sliding_window")
    if not window or (kind in ("qwen2", "qwen3") and not config.get("use_sliding_window")):
        return
    if window < layout.sizes.max_positions:
        layout.fields["context_length"] = int(window)
        layout.notes.append(
            f"attention looks back {window:,} tokens in the model and everywhere in runners of GGUF: the file is made for "
            f"{window:,} tokens, within which both are the same"
        )
