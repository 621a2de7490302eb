"""Sizes of a model read from its config.json alone: every linear layer by name, and the number of parameters by part."""

from dataclasses import dataclass
from typing import Any

from whet.errors import InputError

# What a config leaves out has the value of the model's class in transformers. Published configs of Gemma do leave out much.
_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "gemma": {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216, "vocab_size": 256000, **_GEMMA},
    "gemma3_text": {"hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216, "vocab_size": 262208, **_GEMMA},
    "phi3": {},
    "phi": {},
    "ernie4_5": {"num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True},
    "mixtral": {"num_key_value_heads": 8},
    "qwen3_moe": {"num_key_value_heads": 4},
}
# 4 bits a weight, an 8-bit scale a block of 64, a 32-bit scale of scales a 256 blocks (arXiv 2305.14314, section 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
NF4_PLAIN_BYTES = 0.5 + 4 / 64  # without the second quantisation a 32-bit scale a block
INT8_BYTES = 1.0  # and one 32-bit scale a row
EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: y = W x + b, W of shape (num_out, num_in)."""

    name: str
    """The end of its module's name, as adapters name their targets."""
    num_in: int
    num_out: int
    has_bias: bool = False

    @property
    def num_weights(self) -> int:
        return self.num_in * self.num_out

    @property
    def num_parameters(self) -> int:
        return self.num_weights + self.num_out * self.has_bias


@dataclass(frozen=True, slots=True)
class Sizes:
    """What memory and time of a decoder follow from. All counts are numbers, not bytes."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    is_tied: bool
    """Whether the head is the embedding matrix."""
    linears: tuple[Linear, ...]
    """The linear layers of one layer, in the order of the forward pass; experts are none of them."""
    norms: int
    """Parameters of the norms of one layer."""
    final_norm: int
    """Parameters of the norm before the head."""
    has_head_bias: bool = False
    experts: int = 0
    """Experts of a layer; 0 in a dense model."""
    experts_used: int = 0
    """Experts that a token passes through."""
    expert_parameters: int = 0
    """Parameters of all experts and the router of one layer."""
    is_estimate: bool = False
    """Whether this family is not known and was taken to be built like Llama."""
    max_positions: int = 2048
    stored_bytes: float = 0.0
    """Bytes a weight of the linear layers where the base is stored in 4 or 8 bits; 0 where it is not quantised."""

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head_dim

    @property
    def expert_weights_used(self) -> int:
        """Weights of one layer's experts that a token is multiplied with."""
        return 3 * self.hidden * self.intermediate * self.experts_used

    @property
    def head(self) -> Linear:
        return Linear("lm_head", self.hidden, self.vocabulary, self.has_head_bias)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Number of parameters by part."""

    embedding: int
    """Of the input embedding, which is the head too where they are tied."""
    head: int
    """Of the head alone; 0 where it is tied."""
    linears: int
    """Of the linear layers, their biases included."""
    experts: int
    norms: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.linears + self.experts + self.norms


def num_parameters(sizes: Sizes) -> Parameters:
    """Parameters of the whole model, by part; exact for the families in DEFAULTS."""
    return Parameters(
        embedding=sizes.vocabulary * sizes.hidden,
        head=(0 if sizes.is_tied else sizes.head.num_weights) + sizes.vocabulary * sizes.has_head_bias,
        linears=sizes.layers * sum(linear.num_parameters for linear in sizes.linears),
        experts=sizes.layers * sizes.expert_parameters,
        norms=sizes.layers * sizes.norms + sizes.final_norm,
    )


def read_sizes(config: dict[str, Any], place: str = "config.json") -> Sizes:
    """The sizes in a config.json. InputError where a size is missing or no number, or the model is no plain decoder.

    Whether the base is stored quantised is read too; ways that whet does not load are refused. The text part of a Gemma 3
    config is read; a family that is not known is taken for Llama's and marked as an estimate.
    """
    stored_bytes = _stored_bytes(config.get("quantization_config"), place)
    nested = config.get("text_config")
    if isinstance(nested, dict):
        kind = config.get("model_type")
        config = {"model_type": f"{kind}_text" if kind in ("gemma3",) else kind, **nested}
    family = str(config.get("model_type", ""))
    reader = _Reader({**DEFAULTS.get(family, {}), **{k: v for k, v in config.items() if v is not None}}, place)
    hidden, heads = reader.number("hidden_size"), reader.number("num_attention_heads")
    kv_heads = reader.number("num_key_value_heads", heads)
    head_dim = reader.number("head_dim", hidden // heads)
    intermediate = reader.number("moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size")
    num_experts = next((reader.number(key) for key in EXPERT_KEYS if reader.config.get(key)), 0)
    _refuse_mixed_layers(reader, family, num_experts)
    linears = _attention(family, reader, hidden, heads * head_dim, kv_heads * head_dim)
    if not num_experts:
        linears += _mlp(family, reader, hidden, intermediate)
    norms, final_norm = _norms(family, hidden, head_dim, reader.has("qk_layernorm"))
    return Sizes(
        family=family,
        hidden=hidden,
        layers=reader.number("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocabulary=reader.number("vocab_size"),
        is_tied=reader.has("tie_word_embeddings"),
        linears=linears,
        norms=norms,
        final_norm=final_norm,
        has_head_bias=family == "phi",
        experts=num_experts,
        experts_used=reader.number("num_experts_per_tok", 2) if num_experts else 0,
        expert_parameters=num_experts * (3 * hidden * intermediate + hidden),
        is_estimate=family not in DEFAULTS,
        max_positions=reader.number("max_position_embeddings", 2048),
        stored_bytes=stored_bytes,
    )


def _stored_bytes(found: Any, place: str) -> float:
    """Bytes a linear layer's weight by a config's quantization_config: bitsandbytes' or, without a method's name, MLX's."""
    if not found:
        return 0.0
    keys = found if isinstance(found, dict) else {}
    method = keys.get("quant_method") or "bitsandbytes"
    if not keys or method != "bitsandbytes":
        what = f"is stored quantised by {method}" if keys else "is stored quantised in an unknown way"
        raise InputError(
            place, f"{what}, which whet does not load", "Take the base that it was made from, and set device.quantize"
        )
    if keys.get("load_in_4bit"):
        return NF4_BYTES if keys.get("bnb_4bit_use_double_quant") else NF4_PLAIN_BYTES
    if keys.get("load_in_8bit"):
        return INT8_BYTES
    bits, group = keys.get("bits"), keys.get("group_size")
    if bits in (2, 3, 4, 5, 6, 8) and isinstance(group, int) and group > 0:
        return float(bits / 8 + 4 / group)  # a group's scale and bias in 16 bits each
    raise InputError(place, "its quantization_config says no number of bits that is known here")


class _Reader:
    """A config whose numbers are checked before they are believed."""

    def __init__(self, config: dict[str, Any], place: str) -> None:
        self.config, self.place = config, place

    def number(self, key: str, default: int | None = None) -> int:
        value = self.config.get(key, default)
        if value is None:
            raise InputError(self.place, f"says no {key}", "Is it the config.json of a causal language model?")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise InputError(self.place, f"{key} is {value!r}, not a number of things")
        return value

    def has(self, key: str) -> bool:
        return bool(self.config.get(key, False))


def _refuse_mixed_layers(reader: _Reader, family: str, num_experts: int) -> None:
    sparse_step = reader.config.get("decoder_sparse_step", 1)
    if family == "qwen3_moe" and (sparse_step != 1 or reader.config.get("mlp_only_layers")):
        raise InputError(reader.place, "mixes layers with and without experts, which is not counted here")
    if num_experts and family not in ("mixtral", "qwen3_moe"):
        raise InputError(reader.place, f"has experts of a kind that is not counted here ({family})")


def _attention(family: str, reader: _Reader, hidden: int, query: int, keys: int) -> tuple[Linear, ...]:
    if family == "phi3":
        return (Linear("qkv_proj", hidden, query + 2 * keys), Linear("o_proj", query, hidden))
    bias = reader.has("attention_bias") or reader.has("use_bias") or family in ("qwen2", "phi")
    is_out_biased = bias and family != "qwen2"
    return (
        Linear("q_proj", hidden, query, bias),
        Linear("k_proj", hidden, keys, bias),
        Linear("v_proj", hidden, keys, bias),
        Linear("dense" if family == "phi" else "o_proj", query, hidden, is_out_biased),
    )


def _mlp(family: str, reader: _Reader, hidden: int, intermediate: int) -> tuple[Linear, ...]:
    if family == "phi":
        return (Linear("fc1", hidden, intermediate, True), Linear("fc2", intermediate, hidden, True))
    if family == "phi3":
        return (Linear("gate_up_proj", hidden, 2 * intermediate), Linear("down_proj", intermediate, hidden))
    bias = reader.has("mlp_bias") or reader.has("use_bias")
    return (
        Linear("gate_proj", hidden, intermediate, bias),
        Linear("up_proj", hidden, intermediate, bias),
        Linear("down_proj", intermediate, hidden, bias),
    )


def _norms(family: str, hidden: int, head_dim: int, has_qk_norm: bool) -> tuple[int, int]:
    """Parameters of one layer's norms, and of the last norm."""
    if family == "phi":  # one LayerNorm with weight and bias, and two more over the heads where asked for
        return 2 * hidden + (4 * head_dim if has_qk_norm else 0), 2 * hidden
    on_heads = 2 * head_dim if family in ("qwen3", "qwen3_moe", "gemma3_text") else 0
    around = 4 if family in ("gemma2", "gemma3_text") else 2
    return around * hidden + on_heads, hidden
