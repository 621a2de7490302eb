"""Will it fit, and how long will it take: memory, arithmetic and time of a run from sizes alone, and what to change."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
from whet.models.architecture import Sizes, num_parameters, read_sizes
from whet.train.memory import IN_FRONT, Batch, Memory, Setup, memory_of, trained_by, trims_last

if TYPE_CHECKING:  # the loop asks this file what to do when memory runs out
    from whet.train.loop import TrainSettings

GB = 10**9
MARGIN = 1.2  # recommended over least memory: fragments of the allocator, rows longer than those seen
LEAST_TOKENS = 256  # packs are not made smaller than this to fit
OUT_OF_MEMORY_SHARE = 0.7  # of the peak that was planned; what to come down to when memory ran out all the same
# Share of the matrix rate that a whole step is taken to reach: guesses until docs/benchmarks.md has a quiet measurement.
EFFICIENCY = {"cpu": 0.7, "cuda": 0.4, "mlx": 0.4}


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run may be done."""

    name: str
    kind: Literal["cpu", "cuda", "mlx"]
    memory: int
    """Bytes that it has."""
    rate: float | None
    """Floating-point operations a second of its matrix products; None where that is not known."""
    is_measured: bool = False
    """Whether the rate was measured here; else it is the maker's dense bf16 figure with fp32 sums."""


# A card's GB are taken as 10**9 bytes, which leaves a little for what else is on it. Rates: NVIDIA's data sheets.
CARDS = (
    Machine("8 GB (RTX 4060)", "cuda", 8 * GB, 30e12),
    Machine("12 GB (RTX 3060)", "cuda", 12 * GB, 25e12),
    Machine("16 GB (RTX 4060 Ti)", "cuda", 16 * GB, 44e12),
    Machine("24 GB (RTX 4090)", "cuda", 24 * GB, 165e12),
    Machine("40 GB (A100)", "cuda", 40 * GB, 312e12),
    Machine("80 GB (H100)", "cuda", 80 * GB, 989e12),
    Machine("141 GB (H200)", "cuda", 141 * GB, 989e12),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What a run's data ask for. Means are a row; a row's tokens are its prompt's and answer's."""

    num_rows: int
    """Rows of an epoch."""
    num_valid: int
    tokens: float
    learnt: float
    prefix: int
    """Tokens that all rows begin with alike."""
    longest: int
    """Tokens of the longest row."""
    is_sample: bool = False
    """Whether the means were taken over some of the rows only."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations of one optimiser step, and what it computes."""

    flops: float
    computed: float
    """Tokens that go through the layers: shared prefixes once a pack."""
    learnt: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A run on one machine."""

    machine: Machine
    memory: Memory
    seconds: float | None
    """Of the whole run; None where the data or the rate are not known."""
    tokens_per_s: float | None
    """Computed tokens a second."""
    changes: str | None
    """Override words with which it fits: empty where it fits as it is, None where nothing tried makes it fit."""
    changed: Memory | None
    """The memory with those changes."""

    @property
    def is_fitting(self) -> bool:
        return self.memory.peak <= self.machine.memory


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `whet plan` says."""

    sizes: Sizes
    num_parameters: int
    num_trained: int
    setup: Setup
    work: Work | None
    steps: int | None
    arithmetic: Arithmetic
    fits: tuple[Fit, ...]
    """This machine first, then the named cards."""


def setup_of(train: "TrainSettings", device: DeviceSettings, kind: Literal["cpu", "cuda", "mlx"]) -> Setup:
    """What a recipe's sections say about memory and time, on a kind of device."""
    return Setup(train.adapter, train.optimizer, device, train.tokens_per_batch, train.examples_per_step, train.epochs, kind)


def batch_of(setup: Setup, work: Work | None) -> Batch:
    """The largest micro-batch: as many tokens as one may have, or as a step has; a longer row stands alone."""
    if work is None:
        return Batch(setup.tokens_per_batch, 0, setup.tokens_per_batch)
    in_step = work.prefix + setup.examples_per_step * (work.tokens - work.prefix)
    num_tokens = max(work.longest, min(setup.tokens_per_batch, int(in_step)))
    rows = max(1.0, (num_tokens - work.prefix) / max(1.0, work.tokens - work.prefix))
    return Batch(num_tokens, work.prefix, min(num_tokens, int(rows * work.learnt) + 1))


def arithmetic_of(sizes: Sizes, setup: Setup, work: Work | None) -> Arithmetic:
    """One step's operations, counted. A product of (m, k) and (k, n) is 2 m k n; a backward pass through a weight is as much
    again for the input's gradient and, where it is trained, as much for its own.
    """
    if work is None:
        work = Work(
            setup.examples_per_step, 0, float(setup.tokens_per_batch), setup.tokens_per_batch / 4, 0, setup.tokens_per_batch
        )
    trained = trained_by(sizes, setup.adapter)
    own = work.tokens - work.prefix
    packs = max(1.0, setup.examples_per_step * own / max(1.0, setup.tokens_per_batch - work.prefix))
    computed = packs * work.prefix + setup.examples_per_step * own
    learnt = setup.examples_per_step * work.learnt
    pairs = packs * work.prefix**2 / 2 + setup.examples_per_step * (own * work.prefix + own**2 / 2)
    weights = sum(linear.num_weights for linear in sizes.linears) + sizes.expert_weights_used
    upper = sizes.layers - trained.first_layer
    layer = 2 * computed * weights + 4 * sizes.query_width * pairs
    head = 2 * learnt * sizes.hidden * sizes.vocabulary
    forward = sizes.layers * layer + head
    # Attention's backward pass is five products for the forward pass's two.
    backward = upper * (2 * computed * weights + 10 * sizes.query_width * pairs) + head
    if isinstance(setup.adapter, FullSettings):
        backward += upper * 2 * computed * weights + (head if "lm_head" in trained.names else 0)
    else:
        forward += 2 * computed * trained.total
        backward += 4 * computed * trained.total
    if setup.device.checkpoint_activations:
        backward += upper * layer
    if trims_last(sizes, setup.kind):
        behind = sum(linear.num_weights for linear in sizes.linears if linear.name not in IN_FRONT) + sizes.expert_weights_used
        passes = (3 if isinstance(setup.adapter, FullSettings) else 2) + setup.device.checkpoint_activations
        forward -= 2 * passes * (computed - learnt) * behind
    return Arithmetic(forward + backward, computed, learnt)


def num_steps(setup: Setup, work: Work, max_steps: int | None) -> int:
    """Optimiser steps of a run that is not stopped early."""
    per_epoch = -(-work.num_rows // setup.examples_per_step)
    return min(max(1, round(setup.epochs * per_epoch)), max_steps or 10**12)


def plan(sizes: Sizes, setup: Setup, work: Work | None, machines: Sequence[Machine], max_steps: int | None = None) -> Plan:
    """The plan of a run on machines, this one first. Nothing is loaded."""
    steps = num_steps(setup, work, max_steps) if work else None
    return Plan(
        sizes,
        num_parameters(sizes).total,
        trained_by(sizes, setup.adapter).total,
        setup,
        work,
        steps,
        arithmetic_of(sizes, setup, work),
        tuple(_fit(sizes, replace(setup, kind=machine.kind), work, machine, steps) for machine in machines),
    )


def _fit(sizes: Sizes, setup: Setup, work: Work | None, machine: Machine, steps: int | None) -> Fit:
    memory = memory_of(sizes, setup, batch_of(setup, work))
    fitted = make_fit(sizes, setup, work, machine.memory)
    used = fitted[1] if fitted else setup
    arithmetic = arithmetic_of(sizes, used, work)
    speed = machine.rate * EFFICIENCY[machine.kind] / arithmetic.flops if machine.rate else None  # steps a second
    return Fit(
        machine,
        memory,
        steps / speed if speed and steps else None,
        arithmetic.computed * speed if speed else None,
        fitted[0] if fitted else None,
        memory_of(sizes, used, batch_of(used, work)) if fitted and fitted[0] else None,
    )


def make_fit(sizes: Sizes, setup: Setup, work: Work | None, memory: float) -> tuple[str, Setup] | None:
    """The first combination of changes whose peak is within `memory` bytes, as override words and as a setup.

    Changes are added in the order of LEVERS, the mildest first; then each one is taken back as far as it fits without.
    """
    chosen: dict[str, tuple[str, Callable[[Setup], Setup]]] = {}

    def built() -> Setup:
        made = setup
        for _, change in chosen.values():
            made = change(made)
        return made

    def is_fitting() -> bool:
        made = built()
        return memory_of(sizes, made, batch_of(made, work)).peak <= memory

    levers = {name: list(levels) for name, levels in _levers(sizes, setup, work)}
    for name, levels in levers.items():
        for level in levels:
            if is_fitting():
                break
            chosen[name] = level
    if not is_fitting():
        return None
    for name in [name for name in levers if name in chosen]:
        last = chosen.pop(name)
        milder = iter(levers[name])
        while not is_fitting():
            chosen[name] = next(milder, last)
    ordered = [chosen[name][0] for name in levers if name in chosen]
    return " ".join(ordered), built()


Level = tuple[str, Callable[[Setup], Setup]]


def _levers(sizes: Sizes, setup: Setup, work: Work | None) -> Iterator[tuple[str, Iterator[Level]]]:
    """What may be changed to save memory, in the order in which it is tried, each from its mildest level on."""
    # What whet would refuse is not advised: the words are for `whet train RECIPE` as they stand.
    yield "tokens_per_batch", _fewer_tokens(setup, max(LEAST_TOKENS, work.longest if work else 0))
    device, optimizer, adapter = setup.device, setup.optimizer, setup.adapter
    if not device.checkpoint_activations:
        yield "checkpoint_activations", iter([_device_level("checkpoint_activations", True)])
    is_mlx = "mlx" in (setup.kind, device.kind)
    if isinstance(adapter, LoraSettings) and (bits := _quantizable(sizes, device, adapter, is_mlx)):
        yield "quantize", iter([_device_level("quantize", bits)])
    if optimizer.name == "adamw" and not is_mlx:
        eight_bit = optimizer.model_copy(update={"name": "adamw_8bit"})
        yield "optimizer", iter([("train.optimizer.name=adamw_8bit", lambda s: replace(s, optimizer=eight_bit))])
    if isinstance(adapter, LoraSettings):
        ranks = [rank for rank in (32, 16, 8, 4) if rank < adapter.rank]
        yield "rank", (_adapter_level("rank", rank) for rank in ranks)
    have = adapter.last_layers or sizes.layers
    counts = [sizes.layers // part for part in (2, 4, 8) if 0 < sizes.layers // part < have]
    way = "lora" if isinstance(adapter, LoraSettings) else "full"
    # A pattern may name a layer that is then no longer adapted.
    if isinstance(adapter, FullSettings) or not (adapter.rank_pattern or adapter.alpha_pattern):
        yield "last_layers", (_adapter_level("last_layers", count, way) for count in counts)
    if isinstance(adapter, FullSettings):
        yield "method", iter([_adapter_instead(adapter, device)])


def _quantizable(sizes: Sizes, device: DeviceSettings, adapter: LoraSettings, is_mlx: bool) -> str | None:
    """The fewest bits that the base may be told to be held in; None where it may not, or is already."""
    is_whole = any(module.rpartition(".")[2] not in ("embed_tokens", "lm_head") for module in adapter.save_modules)
    if sizes.stored_bytes or device.shard or is_whole or (is_mlx and adapter.dora):
        return None
    bits = "int8" if is_mlx else "nf4"
    return bits if device.quantize != bits else None


def _adapter_instead(adapter: FullSettings, device: DeviceSettings) -> Level:
    """An adapter for full fine-tuning, without what goes with the latter alone: all layers are adapted then."""
    words = ["train.method=lora"]
    changed: dict[str, Any] = {}
    if adapter.last_layers is not None:
        words.append("train.full.last_layers=null")
    if device.frozen_cache_mb:
        words.append("device.frozen_cache_mb=0")
        changed["frozen_cache_mb"] = 0
    if device.frozen_cache_on_disk:
        words.append("device.frozen_cache_on_disk=false")
        changed["frozen_cache_on_disk"] = False

    def change(setup: Setup) -> Setup:
        return replace(setup, adapter=LoraSettings(), device=setup.device.model_copy(update=changed))

    return " ".join(words), change


def _fewer_tokens(setup: Setup, least: int) -> Iterator[Level]:
    tokens = setup.tokens_per_batch // 2
    while tokens >= least:
        yield f"train.tokens_per_batch={tokens}", lambda s, tokens=tokens: replace(s, tokens_per_batch=tokens)  # type: ignore[misc]
        tokens //= 2


def _device_level(name: str, value: Any) -> Level:
    words = f"device.{name}={str(value).lower()}"
    return words, lambda setup: replace(setup, device=setup.device.model_copy(update={name: value}))


def _adapter_level(name: str, value: int, way: str = "lora") -> Level:
    def change(setup: Setup) -> Setup:
        return replace(setup, adapter=setup.adapter.model_copy(update={name: value}))

    return f"train.{way}.{name}={value}", change


def lower(sizes: Sizes, setup: Setup, memory: int, work: Work | None = None) -> str:
    """What to change after the device ran out of memory, as a sentence with override words. memory: bytes that the device has.

    The plan may have said that it fits: then the run is brought well below what was planned.
    """
    planned = memory_of(sizes, setup, batch_of(setup, work)).peak
    target = min(memory / MARGIN, planned * OUT_OF_MEMORY_SHARE)
    made = make_fit(sizes, setup, work, target)
    if made is None:
        made = make_fit(sizes, setup, work, min(memory, planned * 0.95))
    if made is None or not made[0]:
        return "Take a smaller base, or a device with more memory"
    peak = memory_of(sizes, made[1], batch_of(made[1], work)).peak
    return f"Set {made[0]}: the peak is planned at {peak / GB:.1f} GB then, of {memory / GB:.1f} GB"


# Sizes of the models of the field's table, from the config.json that Qwen2.5 was published with (one shape, three sizes).
_QWEN = {"model_type": "qwen2", "max_position_embeddings": 32768}
FIELD_MODELS: dict[str, dict[str, Any]] = {
    "3B": _QWEN
    | {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2}
    | {"intermediate_size": 11008, "vocab_size": 151936, "tie_word_embeddings": True},
    "7B": _QWEN
    | {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    | {"intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
    "14B": _QWEN
    | {"hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8}
    | {"intermediate_size": 13824, "vocab_size": 152064, "tie_word_embeddings": False},
}
FIELD_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class FieldRow:
    """Memory of training one size of model in one way, in bytes."""

    model: str
    way: Literal["full", "LoRA", "QLoRA"]
    minimum: int
    recommended: int


def field_table() -> list[FieldRow]:
    """Least and recommended memory of 3B, 7B and 14B models on a card.

    bf16 (trained in full: fp32), AdamW, LoRA of rank 16 on all linear layers, packs of FIELD_TOKENS tokens, activations
    checkpointed; recommended is MARGIN times the least.
    """
    plain, quantized = DeviceSettings(checkpoint_activations=True), DeviceSettings(checkpoint_activations=True, quantize="nf4")
    ways: dict[Literal["full", "LoRA", "QLoRA"], tuple[LoraSettings | FullSettings, DeviceSettings]] = {
        "full": (FullSettings(), plain),
        "LoRA": (LoraSettings(), plain),
        "QLoRA": (LoraSettings(), quantized),
    }
    rows = []
    for model, config in FIELD_MODELS.items():
        sizes = read_sizes(config)
        for way, (adapter, device) in ways.items():
            setup = Setup(adapter, OptimizerSettings(), device, FIELD_TOKENS, 16, kind="cuda")
            peak = memory_of(sizes, setup, batch_of(setup, None)).peak
            rows.append(FieldRow(model, way, peak, int(peak * MARGIN)))
    return rows
