"""What a device does for whet: ids in, ids out; micro-batches, adapter settings, and the Backend protocol."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import Field, model_validator

from whet.config import Settings


class LoraSettings(Settings):
    """The low-rank adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    """Rank r of the update B A."""
    alpha: float = Field(default=32.0, gt=0)
    """Strength: the update is scaled by alpha / rank."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool = False
    """Learn the length of each weight's rows apart from their direction (Liu et al. 2024, arXiv 2402.09353)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is zeroed in training. Rows of a pack share the mask of their shared prefix."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers to adapt; all-linear takes every one but the head."""
    last_layers: int | None = Field(default=None, ge=1)
    """Adapt the last n layers only; null adapts all."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Other ranks for some layers: the end of a module's name, or a regular expression, to its rank."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other strengths for some layers, named in the same way."""
    save_modules: tuple[str, ...] = ()
    """Modules that are trained whole and saved with the adapter, such as embed_tokens and lm_head (where they are tied, one
    stands for both). New tokens of the tokenizer need them."""


class FullSettings(Settings):
    """Full fine-tuning: the base's own weights are trained, and the adapter folder holds a whole model."""

    last_layers: int | None = Field(default=None, ge=1)
    """Train the last n layers only, and neither embedding, last norm nor head; null trains all weights."""


class OptimizerSettings(Settings):
    """The optimiser and the clipping before it."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "lion", "muon"] = "adamw"
    """adamw: Loshchilov & Hutter 2019, arXiv 1711.05101; adamw_8bit: its moments in 8 bits (Dettmers et al. 2021, arXiv
    2110.02861), paged: between a CUDA card and its host; adafactor: Shazeer & Stern 2018, arXiv 1804.04235, without relative
    steps; lion: Chen et al. 2023, arXiv 2302.06675; muon: Jordan 2024, matrices only, the rest by adamw."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the trained matrices (not of vectors), a step and unit of learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment; Muon's momentum."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is larger."""
    b_ratio: float = Field(default=1.0, gt=0)
    """Learning rate of the adapter's B, and of DoRA's lengths, over that of its A (LoRA+: Hayou et al. 2024, arXiv
    2402.12354)."""


class DeviceSettings(Settings):
    """Where and how a base is computed."""

    kind: Literal["auto", "cpu", "cuda", "mlx"] = "auto"
    """auto takes a CUDA card where there is one, MLX on Apple machines that have it, else the CPU."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers that the base computes in; the trained weights and the optimiser stay in fp32. auto: bf16 (fp16 on older cards)
    on CUDA, bf16 on Apple's GPU, fp32 on a CPU."""
    quantize: Literal["nf4", "int8"] | None = None
    """Hold the base's linear layers in 4 bits (NF4, double quantisation: Dettmers et al. 2023, arXiv 2305.14314) or 8 bits.
    On MLX int8 only; for 4 bits name a folder that mlx_lm.convert quantised."""
    logits_mb: int = Field(default=64, ge=1)
    """Most memory in MiB that the logits of learnt tokens take at a time."""
    checkpoint_activations: bool = False
    """Keep each layer's input only and compute the rest again in the backward pass: less memory, about a third more time."""
    shard: bool = False
    """Spread the frozen base's layers over the processes that train together, for a base that one card can't hold; a process
    that works alone holds it whole."""
    frozen_cache_mb: int = Field(default=0, ge=0)
    """Room in MiB for the outputs of frozen lower layers (last_layers), which are then computed once a run; rows that find no
    room are computed every time. A run that is taken up again then agrees to rounding, not bit for bit."""
    frozen_cache_on_disk: bool = False
    """Hold them in a temporary file instead of in memory."""

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        if self.frozen_cache_on_disk and not self.frozen_cache_mb:
            raise ValueError("frozen_cache_on_disk does nothing without frozen_cache_mb")
        return self


@dataclass(frozen=True, slots=True)
class Segment:
    """Ids of a pack that stand behind its prefix, or behind an earlier segment; how many of the last ones are learnt.

    A segment that others stand behind learns nothing, and the first id of a segment is never learnt.
    """

    ids: tuple[int, ...]
    num_learnt: int
    parent: int = -1
    """Number of the segment that this one stands behind; -1 is the pack's prefix."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A tree of ids: every row is the path from the prefix to a leaf. Together they are one packed row, or many padded ones.

    Segments stand in preorder: a segment comes before those that stand behind it, and those before its next sibling. The
    prefix is never learnt. Packs that follow each other with an equal prefix have it computed once.
    """

    prefix: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that a packed row computes, its prefix included."""
        return len(self.prefix) + sum(len(segment.ids) for segment in self.segments)

    @property
    def leaves(self) -> list[int]:
        """Numbers of the segments that end a row."""
        inner = {segment.parent for segment in self.segments}
        return [number for number in range(len(self.segments)) if number not in inner]

    def row(self, leaf: int) -> tuple[int, ...]:
        """The ids of the row that ends in a segment."""
        path, at = [], leaf
        while at >= 0:
            path.append(self.segments[at].ids)
            at = self.segments[at].parent
        return (*self.prefix, *(token for ids in reversed(path) for token in ids))

    @property
    def num_padded(self) -> int:
        """Tokens that padded rows compute, the padding included."""
        lengths = [len(self.row(leaf)) for leaf in self.leaves]
        return len(lengths) * max(lengths, default=0)

    @property
    def num_learnt(self) -> int:
        return sum(segment.num_learnt for segment in self.segments)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """A step whose mean loss a learnt token (nats) or gradient norm is larger is not taken."""

    loss: float = math.inf
    gradient_norm: float = math.inf


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step gives back."""

    loss_sum: float
    """Summed cross entropy over the learnt tokens, in nats."""
    num_learnt: int
    gradient_norm: float
    """Norm of the gradient of the mean loss a learnt token, before clipping."""
    num_computed: int = 0
    """Tokens that the device computed: shared prefixes once, the padding of padded rows included."""
    is_taken: bool = True
    """Whether the weights were changed: not where loss or gradient are no number, or beyond the limits."""


class Guide(Protocol):
    """What one reply may become, in ids: a state that moves as ids are taken. Knows no device.

    `left` is always the budget in ids, the end id included, before the call's own ids are counted.
    """

    is_ended: bool
    """Whether the end id was taken: nothing follows."""
    num_own: int | None
    """Ids that the model chose before closing was forced; None as long as it was not."""

    def begin(self, left: int) -> tuple[int, ...]:
        """Ids that stand at the reply's start whatever the model says. Called once. InputError where `left` holds no reply."""
        ...

    def mask(self) -> Any:
        """(ceil(V / 32),) int32 numpy words: bit v % 32 of word v // 32 is set where id v may come next (the end id too)."""
        ...

    def take(self, token: int, left: int) -> tuple[int, ...]:
        """Take an id that the mask allows. Gives the ids that stand now: that id and those that must follow it; where it would
        leave too few ids to close the reply, other ids instead, which close it. The end id is among them when it is reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One sequence to be continued."""

    ids: tuple[int, ...]
    """The prompt."""
    max_tokens: int
    """Most new ids, the end id included."""
    guide: Guide | None = None
    adapter: str | None = None
    """Name of a loaded adapter; None is the one that is attached, or the bare base where none is."""
    temperature: float = 0.0
    seed: int = 0
    draft: tuple[int, ...] = ()
    """Ids that the reply is likely to repeat pieces of (the source), to be tried ahead. They change the speed only."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Ids that were generated, the end-of-turn id left out, and whether one was reached."""

    ids: tuple[int, ...]
    is_ended: bool
    log_probs: tuple[float, ...] = ()
    """Of each id and, where one was reached, of the end id: under the guide's mask, at a temperature of 1; 0 where there was no
    choice. Empty where the backend gives none."""
    num_own: int | None = None
    """Ids before the guide forced the reply to be closed; None where it did not."""


class Backend(Protocol):
    """A base on a device, with at most one adapter attached. Knows no text.

    Over several processes (ranks) every method is called by all of them with the same arguments and gives all the same.
    """

    row_layout: Literal["packed", "padded"]
    """How micro-batches are computed; padded where this model's attention can't be packed."""
    layout_reason: str
    """Why rows are padded; empty where they are packed."""
    rank: int
    """Number of this process among those that train together; 0 writes the files."""
    num_ranks: int

    def attach(self, adapter: LoraSettings | FullSettings | Path | None, seed: int = 0) -> None:
        """Put a fresh adapter on the base, load one from its folder, or leave it bare. Replaces the one that was there."""
        ...

    def hold(self, adapters: Mapping[str, Path]) -> None:
        """Load adapters beside each other on the bare base, by name, for asks that name them. Replaces what was there; for
        answering only.
        """
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout into an existing folder; after full fine-tuning, the whole model."""
        ...

    def check_layout(self, packs: Sequence[Pack]) -> str:
        """Compare packed with padded rows on a sample, loss and gradient norm; fall back to padded rows where they differ.
        Gives a sentence with the figures.
        """
        ...

    def update(self, packs: Sequence[Pack], learning_rate: float, limits: StepLimits = StepLimits()) -> StepResult:
        """One optimiser step over micro-batches: losses summed over learnt tokens, divided once by their number."""
        ...

    def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
        """Summed loss and learnt tokens of packs, without gradients."""
        ...

    def generate(self, asks: Iterable[Ask], end_ids: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        """Continue each prompt until an end id or its limit. Gives (number of the ask, what was generated), as they get ready.

        Asks are taken as there is room, so a corpus can stream through; nobody else may use the backend meanwhile.
        """
        ...

    def log_likelihoods(self, pack: Pack, adapter: str | None = None) -> list[float]:
        """For each leaf the summed log-probability of its learnt ids, in nats. adapter: the name of one that is held."""
        ...

    def digests(self) -> dict[str, str]:
        """A hash of each trained tensor by its name: tells whether weights moved, or are the same bits."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write all that the next update depends on (weights, optimiser, loss scale) into an existing folder, as safetensors
        and JSON.
        """
        ...

    def load_state(self, folder: Path) -> None:
        """Put back what `save_state` wrote: the next update gives the same bits. Call after `attach` with the same settings."""
        ...

    def peak_memory(self) -> int:
        """Most bytes that the device held since the adapter was attached; on a CPU those of the whole process."""
        ...
