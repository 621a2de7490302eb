"""Bytes that training takes, by part: weights, what is trained, its gradients and optimiser, activations, logits, caches.

Every constant that measurements may correct stands at the top of this file.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
from whet.errors import InputError
from whet.models.architecture import INT8_BYTES, NF4_BYTES, Linear, Parameters, Sizes, num_parameters

Dtype = Literal["fp32", "bf16", "fp16"]
MIB = 2**20
DTYPE_BYTES: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
BLOCK_8BIT = 256  # weights that share one 32-bit scale in an 8-bit optimiser (bitsandbytes)
SMALL_8BIT = 4096  # tensors below this size keep 32-bit moments there
# Resident memory of a process that has imported torch, transformers and peft and run one product; of a CUDA context.
RUNTIME_BYTES = {"cpu": 455 * MIB, "cuda": 600 * MIB, "mlx": 300 * MIB}
# What one logit takes: fp32 where the base computes so, its gradient in the same place; else both in 16 bits beside it.
LOGIT_BYTES = {"fp32": 4, "bf16": 8, "fp16": 8}
# What the C library's allocator keeps of freed blocks, as a share of all layers' activations, kept and checkpointed; a card's
# allocator reuses its own.
FRAGMENTS = {"cpu": (1.1, 0.8), "cuda": (0.0, 0.0), "mlx": (0.0, 0.0)}
FRAGMENTS_FUSED = 0.35  # the same where layers are fused: their blocks are kept and used again, not freed
FUSED = ("qwen2", "qwen3", "llama", "mistral", "ernie4_5")  # families whose layers train as one function
HEAD_INPUT_COPIES = 2  # the hidden vectors of learnt tokens, and their gradient
HEAD_GRADIENT_COPIES = 2  # of a trained head: the sum over chunks, and one chunk's
# Temporaries of the optimiser for its largest tensor, in bytes a number; fused AdamW and bitsandbytes need none.
SCRATCH_BYTES = {"adafactor": 12, "muon": 10}


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor that the forward pass keeps a token and layer for the backward pass."""

    name: str
    width: Callable[[Sizes], int]
    """Numbers a token."""
    read_by: tuple[str, ...] = ()
    """Linear layers whose adapter or weight gradient reads it; empty: the layer's own backward pass needs it anyway."""
    is_fp32: bool = False
    is_behind: bool = False
    """Stands behind the attention: the last layer keeps it for learnt tokens only (`trims_last`)."""
    is_computed_again: bool = False
    """A fused layer does not keep it (`fuses`)."""


def _inner(sizes: Sizes) -> int:
    return sizes.intermediate * max(1, sizes.experts_used)


def _gated(sizes: Sizes) -> int:
    """What stands before the product of gate and up; where the gate is no SiLU its activation is kept too."""
    if sizes.family == "phi":
        return _inner(sizes)
    return _inner(sizes) * (3 if sizes.family.startswith("gemma") else 2)


KEPT_PER_TOKEN: tuple[Kept, ...] = (
    Kept("layer input", lambda s: s.hidden),
    Kept("normalised input", lambda s: s.hidden, ("q_proj", "k_proj", "v_proj", "qkv_proj"), is_computed_again=True),
    Kept("queries", lambda s: s.query_width),
    Kept("keys and values", lambda s: 2 * s.kv_width),
    Kept("log-sum-exp", lambda s: s.heads, is_fp32=True),
    Kept("attention output", lambda s: s.query_width),
    Kept("input of the MLP", lambda s: s.hidden, is_behind=True),
    Kept("its norm", lambda s: s.hidden, ("gate_proj", "up_proj", "gate_up_proj", "fc1"), is_behind=True, is_computed_again=True),
    Kept("gate and up", _gated, is_behind=True),
    Kept("their product", _inner, ("down_proj", "fc2"), is_behind=True, is_computed_again=True),
)
IN_FRONT = ("q_proj", "k_proj", "v_proj", "qkv_proj")  # linear layers that stand before the attention
# The gradients that stand at once while the widest part of a layer is walked backward, beyond what it has let go by then:
# those of gate, up and product less the product itself, and those of the layer's output and of its norm.
BACKWARD_PER_TOKEN: Callable[[Sizes], int] = lambda s: 2 * _inner(s) + 2 * s.hidden  # noqa: E731 (a constant)


@dataclass(frozen=True, slots=True)
class Setup:
    """What of a recipe decides about memory and time."""

    adapter: LoraSettings | FullSettings
    optimizer: OptimizerSettings
    device: DeviceSettings
    tokens_per_batch: int
    examples_per_step: int
    epochs: float = 1.0
    kind: Literal["cpu", "cuda", "mlx"] = "cpu"
    """Where it runs; DeviceSettings may leave that open."""

    @property
    def dtype(self) -> Dtype:
        """The numbers that the base computes in, with `auto` resolved; weights that are trained themselves are held in fp32."""
        chosen = self.device.dtype
        is_plain = self.kind == "cpu" or isinstance(self.adapter, FullSettings)
        return chosen if chosen != "auto" else ("fp32" if is_plain else "bf16")


@dataclass(frozen=True, slots=True)
class Batch:
    """The largest micro-batch: its tokens (the prefix included), those of the prefix, and those that are learnt."""

    num_tokens: int
    num_prefix: int
    num_learnt: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part. `logits`, `backward` and `update` never stand at once: the peak holds the largest of them."""

    runtime: int
    """Libraries, or the card's context."""
    weights: int
    adapter: int
    """What is trained, in fp32; under full fine-tuning it is part of the weights, and this is 0."""
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass of the largest micro-batch keeps."""
    cache: int
    """The shared prefix's keys and values in frozen layers, their gradients in trained ones; outputs of frozen layers."""
    logits: int
    backward: int
    """What the backward pass of one layer needs beyond that."""
    update: int
    """What the optimiser needs while it steps."""
    fragments: int
    """What the allocator keeps of freed blocks."""

    @property
    def steady(self) -> int:
        """What stands between two steps."""
        return self.runtime + self.weights + self.adapter + self.optimizer + self.cache + self.fragments

    @property
    def peak(self) -> int:
        step = self.gradients + max(self.activations + max(self.logits, self.backward), self.update)
        return self.steady + step


@dataclass(frozen=True, slots=True)
class Trained:
    """The tensors that are trained: how many numbers each holds and its two sides (1 where it has one side only)."""

    shapes: tuple[tuple[int, int], ...]
    names: frozenset[str]
    """Ends of the names of the linear layers that are adapted or trained."""
    first_layer: int
    """The lowest layer that the backward pass enters."""
    lora_width: int = 0
    """Numbers a token that all adapters of a layer keep between A and B (an average over layers)."""
    input_width: int = 0
    """Numbers a token of all adapted layers' inputs together (an average over layers)."""

    @property
    def total(self) -> int:
        return sum(a * b for a, b in self.shapes)


def trained_by(sizes: Sizes, adapter: LoraSettings | FullSettings) -> Trained:
    """What an adapter trains on a model. InputError where its targets name no layer of it."""
    first = max(0, sizes.layers - (adapter.last_layers or sizes.layers))
    if isinstance(adapter, FullSettings):
        return _whole(sizes, first, adapter.last_layers is None)
    found = [(name, linear) for name, linear in _modules(sizes, first) if _is_target(name, adapter.targets)]
    if not found:
        known = ", ".join(linear.name for linear in sizes.linears)
        raise InputError("train.lora.targets", "names no linear layer of this model", f"It has: {known}")
    shapes: list[tuple[int, int]] = []
    width = 0
    for name, linear in found:
        rank = _of_pattern(adapter.rank_pattern, name, adapter.rank)
        width += rank
        shapes += [(rank, linear.num_in), (linear.num_out, rank)]
        if adapter.dora:
            shapes.append((linear.num_out, 1))
    for module in adapter.save_modules:
        if module.rpartition(".")[2] in ("embed_tokens", "lm_head"):
            shapes.append((sizes.vocabulary, sizes.hidden))
            first = 0 if "embed" in module else first
        shapes += [(linear.num_out, linear.num_in) for name, linear in _modules(sizes, 0) if _is_target(name, (module,))]
    layers = sizes.layers - first
    inputs = sum(linear.num_in for _, linear in found)
    return Trained(tuple(shapes), frozenset(linear.name for _, linear in found), first, width // layers, inputs // layers)


def _whole(sizes: Sizes, first: int, is_all: bool) -> Trained:
    layers = sizes.layers - first
    shapes = [(linear.num_out, linear.num_in) for _ in range(layers) for linear in sizes.linears]
    shapes += [(linear.num_out, 1) for _ in range(layers) for linear in sizes.linears if linear.has_bias]
    shapes += [(sizes.norms, 1)] * layers
    if sizes.expert_parameters:
        shapes += [(sizes.expert_parameters // sizes.hidden, sizes.hidden)] * layers
    if is_all:
        shapes += [(sizes.vocabulary, sizes.hidden)] * (1 if sizes.is_tied else 2) + [(sizes.final_norm, 1)]
        shapes += [(sizes.vocabulary, 1)] * sizes.has_head_bias
    names = {linear.name for linear in sizes.linears} | ({"lm_head"} if is_all else set())
    return Trained(tuple(shapes), frozenset(names), first)


def _modules(sizes: Sizes, first: int) -> Iterator[tuple[str, Linear]]:
    """Linear layers by their full names, from a layer on; the head last."""
    mlp = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2")
    for layer in range(first, sizes.layers):
        for linear in sizes.linears:
            yield f"model.layers.{layer}.{'mlp' if linear.name in mlp else 'self_attn'}.{linear.name}", linear
    yield "lm_head", sizes.head


def _is_target(name: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return name != "lm_head"
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _of_pattern(pattern: dict[str, int], name: str, default: int) -> int:
    """A layer's own rank, found as PEFT finds it: the first key that matches the end of its name."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def memory_of(sizes: Sizes, setup: Setup, batch: Batch) -> Memory:
    """Bytes by part of training a model with a setup, for its largest micro-batch."""
    trained = trained_by(sizes, setup.adapter)
    is_full = isinstance(setup.adapter, FullSettings)
    number = DTYPE_BYTES[setup.dtype]
    kept, whole, backward = _activations(sizes, setup, trained, batch)
    share = FRAGMENTS[setup.kind][setup.device.checkpoint_activations]
    if fuses(sizes, setup) and trained.first_layer == 0:  # frozen layers run part by part
        share = FRAGMENTS_FUSED
    # Of the trained layers the gradients of the prefix's keys and values, of the frozen ones those themselves.
    prefix = 2 * sizes.kv_width * batch.num_prefix * number * sizes.layers
    has_cache = trained.first_layer and setup.epochs > 1 and not setup.device.frozen_cache_on_disk
    frozen = setup.device.frozen_cache_mb * MIB if has_cache else 0
    return Memory(
        runtime=RUNTIME_BYTES[setup.kind],
        weights=_weight_bytes(sizes, setup, trained.total if is_full else 0),
        adapter=0 if is_full else 4 * trained.total,
        gradients=4 * trained.total,
        optimizer=_optimizer_bytes(setup.optimizer.name, trained, sizes.vocabulary),
        activations=int(kept),
        cache=prefix + frozen,
        logits=_logit_bytes(sizes, setup, trained, batch.num_learnt),
        backward=int(backward),
        update=_update_bytes(setup.optimizer.name, trained),
        fragments=int(whole * share),
    )


def trims_last(sizes: Sizes, kind: str) -> bool:
    """Whether the last layer runs at learnt tokens only, but for its keys, values and attention (backends/on_torch/trimming.py).
    Not where MLP and attention stand side by side (Phi) or have norms behind them (Gemma 2 and 3).
    """
    return kind != "mlx" and sizes.family != "phi" and not sizes.family.startswith(("gemma2", "gemma3"))


def fuses(sizes: Sizes, setup: Setup) -> bool:
    """Whether layers train as one function that keeps less, in memory that stays (backends/on_torch/fused.py)."""
    adapter, device = setup.adapter, setup.device
    is_plain = isinstance(adapter, LoraSettings) and not adapter.dropout and not adapter.dora
    is_here = setup.kind == "cpu" and setup.dtype == "fp32" and not device.checkpoint_activations
    return is_plain and is_here and not is_quantized(sizes, setup) and sizes.family in FUSED and not sizes.experts_used


def is_quantized(sizes: Sizes, setup: Setup) -> bool:
    """Whether the base's linear layers are held in 4 or 8 bits, as stored or by the recipe."""
    return bool(sizes.stored_bytes or setup.device.quantize)


def _weight_bytes(sizes: Sizes, setup: Setup, num_trained: int) -> int:
    """Bytes of the base; trained weights are held in fp32."""
    counted: Parameters = num_parameters(sizes)
    number = DTYPE_BYTES[setup.dtype]
    weights = sizes.layers * sum(linear.num_weights for linear in sizes.linears)
    rows = sizes.layers * sum(linear.num_out for linear in sizes.linears)
    plain = counted.total - weights - num_trained
    if is_quantized(sizes, setup) and not num_trained:
        each = sizes.stored_bytes or (NF4_BYTES if setup.device.quantize == "nf4" else INT8_BYTES)
        return int(weights * each) + (4 * rows if each == INT8_BYTES else 0) + plain * number
    return (counted.total - num_trained) * number + num_trained * 4


def _optimizer_bytes(name: str, trained: Trained, vocabulary: int) -> int:
    """Bytes of the moments."""
    numbers = trained.total
    match name:
        case "adamw":
            return 8 * numbers
        case "adamw_8bit" | "paged_adamw_8bit":
            return sum(8 * a * b if a * b < SMALL_8BIT else 2 * (a * b + 4 * -(-a * b // BLOCK_8BIT)) for a, b in trained.shapes)
        case "adafactor":  # Shazeer & Stern 2018, arXiv 1804.04235: a row's and a column's means of each matrix
            return sum(4 * (a + b) if min(a, b) > 1 else 4 * a * b for a, b in trained.shapes)
        case "lion":
            return 4 * numbers
        case "muon":  # one moment of a hidden matrix; AdamW's two for vectors, the embedding and the head
            return sum((4 if min(a, b) > 1 and a != vocabulary else 8) * a * b for a, b in trained.shapes)
    raise AssertionError(f"no size is known for the optimiser {name}")


def _update_bytes(name: str, trained: Trained) -> int:
    """Temporaries of a step, one tensor at a time."""
    return SCRATCH_BYTES.get(name, 0) * max(a * b for a, b in trained.shapes)


def _logit_bytes(sizes: Sizes, setup: Setup, trained: Trained, num_learnt: int) -> int:
    """The head's memory: a chunk of logits, the vectors that it reads, and the gradient of its weights where it is trained."""
    at_once = min(num_learnt, max(1, setup.device.logits_mb * MIB // (LOGIT_BYTES[setup.dtype] * sizes.vocabulary)))
    inputs = num_learnt * sizes.hidden * DTYPE_BYTES[setup.dtype] * HEAD_INPUT_COPIES
    weights = 4 * HEAD_GRADIENT_COPIES * sizes.head.num_weights if "lm_head" in trained.names else 0
    return at_once * sizes.vocabulary * LOGIT_BYTES[setup.dtype] + inputs + weights


def _activations(sizes: Sizes, setup: Setup, trained: Trained, batch: Batch) -> tuple[float, float, float]:
    """Bytes that the forward pass keeps, that it would keep without checkpoints, and that one layer's backward pass adds."""
    number, is_fused = DTYPE_BYTES[setup.dtype], fuses(sizes, setup)
    each = [
        (kept, kept.width(sizes) * (4 if kept.is_fp32 else number))
        for kept in KEPT_PER_TOKEN
        if (not kept.read_by or trained.names.intersection(kept.read_by)) and not (is_fused and kept.is_computed_again)
    ]
    per_token = sum(size for _, size in each)
    behind = sum(size for kept, size in each if kept.is_behind) if trims_last(sizes, setup.kind) else 0
    per_token += trained.lora_width * number
    if isinstance(setup.adapter, LoraSettings) and setup.adapter.dropout > 0:
        per_token += trained.input_width * (number + 1)  # what is left of each input, and the mask
    layers = sizes.layers - trained.first_layer
    whole = kept = per_token * layers
    if setup.device.checkpoint_activations:
        kept = min(kept, sizes.hidden * number * layers + per_token)
    backward = batch.num_tokens * BACKWARD_PER_TOKEN(sizes) * number
    if is_quantized(sizes, setup):  # one layer's weights as they are computed with
        backward += max((linear.num_weights for linear in sizes.linears), default=0) * number
    ends = 2 * sizes.hidden * number  # what stands before the first layer and behind the last one
    less = (batch.num_tokens - batch.num_learnt) * behind
    kept_less = 0 if setup.device.checkpoint_activations else less
    return batch.num_tokens * (kept + ends) - kept_less, batch.num_tokens * (whole + ends) - less, backward
