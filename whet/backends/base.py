"""What a device does for whet: ids in, ids out; micro-batches, adapter settings, and the Backend protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from whet.config import Settings


class LoraSettings(Settings):
    """The low-rank adapter (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=16, ge=1)
    """Rank r of the update B A."""
    alpha: float = Field(default=32.0, gt=0)
    """Strength: the update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is zeroed in training. More than 0 trains padded rows: a shared prefix would
    share one mask."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers to adapt; all-linear takes every one but the head."""


class OptimizerSettings(Settings):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) and the clipping before it."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay of the adapter's weights, a step and unit of learning rate."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the second moment."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """The gradient is scaled down to this norm where it is larger."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One example behind a shared prefix: its own ids, and how many of the last ones are learnt."""

    ids: tuple[int, ...]
    num_learnt: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Examples that begin with the same ids. Together they are one packed row, or as many padded rows.

    Each segment stands for the row `prefix + segment.ids`; its last `num_learnt` ids are learnt, so the prefix never is.
    """

    prefix: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that a packed row computes."""
        return len(self.prefix) + sum(len(segment.ids) for segment in self.segments)

    @property
    def num_padded(self) -> int:
        """Tokens that padded rows compute, the padding included."""
        return len(self.segments) * (len(self.prefix) + max((len(segment.ids) for segment in self.segments), default=0))

    @property
    def num_learnt(self) -> int:
        return sum(segment.num_learnt for segment in self.segments)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimiser step gives back."""

    loss_sum: float
    """Summed cross entropy over the learnt tokens, in nats."""
    num_learnt: int
    gradient_norm: float
    """Norm of the gradient of the mean loss a learnt token, before clipping."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Ids that were generated, the end-of-turn id left out, and whether one was reached."""

    ids: tuple[int, ...]
    is_ended: bool


class Backend(Protocol):
    """A base on a device, with at most one adapter attached. Knows no text."""

    row_layout: Literal["packed", "padded"]
    """How micro-batches are computed; padded where this model's attention can't be packed."""
    layout_reason: str
    """Why rows are padded; empty where they are packed."""

    def attach(self, adapter: LoraSettings | Path | None, seed: int = 0) -> None:
        """Put a fresh adapter on the base, load one from its folder, or leave it bare. Replaces the one that was there."""
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter in PEFT's layout into an existing folder."""
        ...

    def check_layout(self, packs: Sequence[Pack]) -> str:
        """Compare packed with padded rows on a sample, loss and gradient norm; fall back to padded rows where they differ.
        Gives a sentence with the figures.
        """
        ...

    def update(self, packs: Sequence[Pack], learning_rate: float) -> StepResult:
        """One optimiser step over micro-batches: losses summed over learnt tokens, divided once by their number."""
        ...

    def loss(self, pack: Pack) -> tuple[float, int]:
        """Summed loss and learnt tokens of one pack, without gradients."""
        ...

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int, end_ids: Sequence[int]) -> list[Generated]:
        """Greedy continuation of each prompt until an end id or the limit."""
        ...

    def log_likelihoods(self, pack: Pack) -> list[float]:
        """For each segment the summed log-probability of its learnt ids, in nats."""
        ...

    def state(self) -> dict[str, Any]:
        """The adapter's weights by name, copied off the device."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Put back weights that `state` gave."""
        ...
