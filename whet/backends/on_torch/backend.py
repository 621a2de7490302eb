"""The torch backend: a transformers model with what is trained on it, on CPU or CUDA, alone or with other processes."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from whet.backends.base import (
    Ask,
    DeviceSettings,
    FullSettings,
    Generated,
    LoraSettings,
    OptimizerSettings,
    Pack,
    Segment,
    StepLimits,
    StepResult,
)
from whet.backends.on_torch import adapters, generation, sharding
from whet.backends.on_torch.decode import Decoder
from whet.backends.on_torch.device import choose_device, choose_dtype, memory_named, peak_memory, release
from whet.backends.on_torch.held import Held
from whet.backends.on_torch.layers import speed_up
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.optimizers import make_optimizer, set_rate
from whet.backends.on_torch.passes import Passes
from whet.backends.on_torch.ranks import Ranks, lost_named
from whet.backends.on_torch.recompute import compute_again, computed_again
from whet.backends.on_torch.state import load_state, save_state
from whet.backends.on_torch.steps import Steps
from whet.backends.on_torch.targets import decoder_layers
from whet.backends.padded import relative_difference
from whet.backends.replies import unheld
from whet.errors import InputError, WhetError
from whet.models.base_model import BaseModel

LAYOUT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}  # of loss and gradient norm, relative
NO_LIMITS = StepLimits()


class TorchBackend:
    """One base on one device, with at most one adapter."""

    def __init__(self, base: BaseModel, optimizer: OptimizerSettings, device: DeviceSettings | None = None) -> None:
        self.base, self.settings, self.optimizer_settings = base, device or DeviceSettings(), optimizer
        self.ranks = Ranks()
        self.rank, self.num_ranks = self.ranks.rank, self.ranks.count
        self.device = choose_device(self.settings, self.ranks.local)
        self.dtype = choose_dtype(self.settings, self.device)
        self.ranks.open(self.device)
        self.is_sharded = self.settings.shard and self.num_ranks > 1
        self.pad_id = _pad_id(base)
        self.peft: Any = None
        self.held: Held | None = None
        self.is_full = False
        self.optimizer: torch.optim.Optimizer | None = None
        self.steps = Steps(0, is_scaled=False)
        self.passes: Any = None
        self.decoder: Decoder | None = None
        self.decoded: tuple[tuple[int, int], ...] = ()
        self.row_layout: Literal["packed", "padded"] = "packed"
        self.layout_reason = self.layout_fault = ""
        with memory_named(self.device):
            self.model = self._load_base()
            self.num_rows = adapters.num_rows(self.model)
            self._make_ready()

    def attach(self, adapter: LoraSettings | FullSettings | Path | None, seed: int = 0) -> None:
        with memory_named(self.device):
            self._detach()
            if adapter is None:
                return
            if isinstance(adapter, Path):
                self.ranks.wait()  # rank 0 may just have written it
            if self.is_sharded:
                sharding.check_trainable(adapter)
            torch.manual_seed(seed)
            if isinstance(adapter, LoraSettings):
                self.peft = adapters.adapt(self.model, adapter, _num_tokens(self.base))
            elif isinstance(adapter, FullSettings):
                self.model, self.is_full = adapters.adapt_fully(self.model, adapter), True
            elif not (adapter / "adapter_config.json").is_file():
                self.model = self.passes = None  # the two need not fit at once
                self.model = adapters.load_full(self.base, adapter, self.dtype, self.device, self.settings.quantize)
                self.model, self.is_full = adapters.adapt_fully(self.model, FullSettings()), True
            else:
                self.peft = adapters.load_adapter(self.model, adapter)
            self.steps = Steps(seed, is_scaled=self.dtype == torch.float16)
            self._make_ready()
            if self.settings.frozen_cache_mb and self.passes.frozen is None:
                raise InputError(
                    "device.frozen_cache_mb", "has nothing to hold: this model has no frozen lower layers", "Set it to 0"
                )

    def hold(self, adapters: Mapping[str, Path]) -> None:
        with memory_named(self.device):
            self._detach()
            self.ranks.wait()
            self.held = Held(self.model, adapters)
            self.peft = self.held.peft
            self._make_ready()

    def save_adapter(self, folder: Path) -> None:
        if self.rank != 0:
            return
        if self.is_full:
            adapters.save_full(self.model, self.base, folder)
        else:
            adapters.save_adapter(self._adapter(), folder)

    def check_layout(self, packs: Sequence[Pack]) -> str:
        if self.row_layout == "padded":
            return f"rows are padded: {self.layout_reason}"
        sample = _sample(packs)
        # One row at a time, and of each as little kept as can be: the check must not take more memory than the training.
        alone = [Pack((), (Segment(pack.row(leaf), pack.segments[leaf].num_learnt),)) for pack in sample for leaf in pack.leaves]
        try:
            with memory_named(self.device):
                loss_a, norm_a = self._measure(sample, "packed")
                self.passes.let_go()
                with computed_again(self.model):
                    loss_b, norm_b = self._measure(alone, "padded")
                release(self.device)
            loss_off, norm_off = relative_difference(loss_a, loss_b), relative_difference(norm_a, norm_b)
            words = f"loss differs by {loss_off:.1e}, gradient norm by {norm_off:.1e} (relative)"
            is_same = max(loss_off, norm_off) <= LAYOUT_TOLERANCE[self.dtype]
        except (RuntimeError, TypeError, NotImplementedError) as error:
            words, is_same = f"they do not run here ({str(error).splitlines()[0][:120]})", False
        if self.ranks.any_of(not is_same):
            # For as long as this base is open: what is read back later is computed in the same way.
            self.layout_fault = f"packed rows gave other values: {words}"
            self.row_layout, self.layout_reason = "padded", self.layout_fault
            return f"rows are padded: {self.layout_reason}"
        return f"rows are packed; against padded rows {words}{self._fused_words()}"

    def _fused_words(self) -> str:
        """How many layers train as one function each; nothing where none could."""
        fused = self.passes.fused
        return "" if fused is None else f"; {fused.count} of {len(decoder_layers(self.model)[1])} layers are fused"

    def update(self, packs: Sequence[Pack], learning_rate: float, limits: StepLimits = NO_LIMITS) -> StepResult:
        optimizer = self._optimizer()
        num_learnt = sum(pack.num_learnt for pack in packs)
        self.decoder = None  # its caches give way to the training's activations
        self._prepare(is_training=True)
        while True:
            with memory_named(self.device):
                loss_sum, num_computed, norm = self._gradients(packs, num_learnt)
            # fp16 alone: the step is computed again, so that none is lost.
            if math.isfinite(norm) or not math.isfinite(loss_sum) or not self.steps.overflow():
                break
            optimizer.zero_grad(set_to_none=True)
        is_taken = math.isfinite(loss_sum) and math.isfinite(norm)
        is_taken = is_taken and loss_sum <= limits.loss * num_learnt and norm <= limits.gradient_norm
        if is_taken:
            set_rate(optimizer, learning_rate)
            with memory_named(self.device):
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.steps.done()
        return StepResult(loss_sum, num_learnt, norm, num_computed, is_taken)

    def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
        self._prepare(is_training=False)
        with memory_named(self.device):
            own, num_idle = self.ranks.share(packs, is_in_step=self.is_sharded)
            with lost_named():
                found = self.passes.loss(own, self.row_layout, num_idle)
            (total,) = self.ranks.sum_numbers(found)
        return total, sum(pack.num_learnt for pack in packs)

    @torch.no_grad()
    def log_likelihoods(self, pack: Pack, adapter: str | None = None) -> list[float]:
        self._prepare(is_training=False)
        self._use(adapter)
        with memory_named(self.device):
            losses_N, rows = self.passes.losses(pack, self.row_layout)
        sums = torch.zeros(len(pack.segments), dtype=torch.float64, device=self.device)
        sums.index_add_(0, rows.segment_N, -losses_N.double())
        return [float(sums[leaf]) for leaf in pack.leaves]

    def generate(self, asks: Iterable[Ask], end_ids: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        self._prepare(is_training=False)
        asks = generation.refuse_empty(asks)
        with memory_named(self.device):
            if self.row_layout == "packed":
                yield from self._decoder().generate(asks, frozenset(end_ids))
            else:
                self.passes.attend_by(self.passes.plain_attention)
                yield from generation.generate(self.model, asks, frozenset(end_ids), self.pad_id, self.device, self._use)
            self._use(None)

    def digests(self) -> dict[str, str]:
        named = [(name, p.detach().cpu().contiguous()) for name, p in self.model.named_parameters() if p.requires_grad]
        return {name: hashlib.sha256(p.view(torch.uint8).numpy()).hexdigest() for name, p in named}

    def save_state(self, folder: Path) -> None:
        if self.rank == 0:
            save_state(folder, self.model, self._optimizer(), self.steps)

    def load_state(self, folder: Path) -> None:
        load_state(folder, self.model, self._optimizer(), self.steps)
        self.ranks.check_same("the step", self.steps.count)

    def peak_memory(self) -> int:
        return peak_memory(self.device)

    def _load_base(self) -> Any:
        if self.is_sharded:
            return sharding.load_sharded(self.base, self.settings, self.dtype, self.device, self.ranks)
        return load_model(self.base, self.dtype, self.device, self.settings.quantize)

    def _detach(self) -> None:
        """Back to the bare base, bit for bit."""
        self.passes.close()
        if self.is_full:
            self.model = self.passes = None  # before the base is loaded again: both need not fit
            self.model, self.is_full = self._load_base(), False
        elif self.peft is not None:
            self.model, self.peft = adapters.remove_adapter(self.peft, self.num_rows), None
        elif self.held is None:
            return
        self.optimizer = self.held = None
        self._make_ready()

    def _make_ready(self) -> None:
        """What follows from the model as it stands now: fast layers, passes, the layout of rows."""
        self.decoder = None
        speed_up(self.model)
        self.model.eval()
        if self.settings.checkpoint_activations:
            compute_again(self.model)
        if self.is_sharded:
            sharding.check_whole(self.model)
        self.passes = Passes(self.model, self.device, self.pad_id, self.settings, is_sharded=self.is_sharded)
        self.layout_reason = self.passes.unpackable or self.layout_fault
        self.row_layout = "padded" if self.layout_reason else "packed"

    def _prepare(self, *, is_training: bool, is_dropping: bool = True) -> None:
        """Whether activations are computed twice and the adapter drops out, and the random numbers of that."""
        self.model.eval()
        if not is_training:
            self.passes.let_go()
            return
        torch.manual_seed(self.steps.random_seed(self.rank))
        for name, module in self.model.named_modules():
            # The adapter's own dropout alone: a base's is part of what it was trained with, not of what it is.
            # The second are transformers' layers, which compute activations twice only where they are told that they train.
            if (is_dropping and "lora_dropout" in name) or getattr(module, "gradient_checkpointing", False):
                module.training = True

    def _gradients(self, packs: Sequence[Pack], num_learnt: int) -> tuple[float, int, float]:
        """Fill the gradients of the mean loss over all ranks, clipped. Gives loss sum, computed tokens, norm before clipping."""
        weights, scale = self._trained(), self.steps.scale
        own, num_idle = self.ranks.share(packs, is_in_step=self.is_sharded)
        with lost_named():  # a layer that is spread is exchanged while it is computed
            found = self.passes.backward(own, self.row_layout, scale / num_learnt, num_idle)
        loss_sum, num_computed = self.ranks.sum_numbers(*found)
        self.ranks.sum_gradients(weights)
        if scale != 1:
            for weight in weights:
                if weight.grad is not None:
                    weight.grad.div_(scale)
        norm = torch.nn.utils.clip_grad_norm_(weights, self.optimizer_settings.max_gradient_norm).item()
        return loss_sum, int(num_computed), norm

    def _measure(self, packs: Sequence[Pack], layout: Literal["packed", "padded"]) -> tuple[float, float]:
        """Mean loss and gradient norm of packs in a layout; nothing is changed."""
        self._prepare(is_training=True, is_dropping=False)
        num_learnt = sum(pack.num_learnt for pack in packs)
        try:
            # A process holds a part of a sharded weight only, so there they stay as they are.
            with _alive([] if self.passes.is_sharded else self._trained()):
                total, _ = self.passes.backward(packs, layout, self.steps.scale / num_learnt)
            norms = [p.grad.norm() for p in self._trained() if p.grad is not None]
            norm = torch.stack(norms).norm().item() / self.steps.scale if norms else 0.0
        finally:  # a layout that fails midway must leave nothing to the first step
            for parameter in self._trained():
                parameter.grad = None
        return total / num_learnt, norm

    def _decoder(self) -> Decoder:
        """Made when first needed, with what it holds of the prefixes that it saw; anew where weights have changed."""
        weights = tuple((p.data_ptr(), p._version) for p in self.model.parameters())
        if self.decoder is None or self.decoded != weights:
            self.decoder, self.decoded = Decoder(self.passes, self.held), weights
        return self.decoder

    def _use(self, adapter: str | None) -> None:
        """Let one of the held adapters work."""
        if self.held is not None:
            self.held.use(adapter)
        elif adapter is not None:
            raise unheld(adapter, ())

    def _optimizer(self) -> torch.optim.Optimizer:
        """Made when first needed: what only answers has none."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.model, self.optimizer_settings)
        return self.optimizer

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _adapter(self) -> Any:
        if self.peft is None:
            raise WhetError("", "there is no adapter on this base", "Attach one first")
        return self.peft


@contextmanager
def _alive(weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within, tensors that are all zero hold small numbers: through a B as it is before the first step nothing reaches its A."""
    asleep = [weight for weight in weights if not weight.any()]
    try:
        for number, weight in enumerate(asleep):
            drawn = torch.Generator().manual_seed(number)
            weight.data.copy_(torch.randn(weight.shape, generator=drawn) * 0.02)
        yield
    finally:
        for weight in asleep:
            weight.data.zero_()


def _sample(packs: Sequence[Pack]) -> list[Pack]:
    """A few rows of two packs, short ones: a pack of one row can't show that rows see each other."""
    found = []
    for pack in packs:
        kept = pack.segments[:6]
        while kept and kept[-1].num_learnt == 0:  # those that stood behind it were cut off
            kept = kept[:-1]
        found.append(Pack(pack.prefix, kept) if kept else pack)
    sample = sorted(found, key=lambda pack: (-len(pack.segments), pack.num_tokens))[:2]
    # And the longest row by itself, for what only far positions, long leaves and windows show.
    pack, leaf = max(((pack, leaf) for pack in packs for leaf in pack.leaves), key=lambda at: len(at[0].row(at[1])))
    longest = Pack((), (Segment(pack.row(leaf), pack.segments[leaf].num_learnt),))
    # The first one twice: a prefix that neighbours share is computed apart.
    return [*sample[:1], *sample, longest]


def _num_tokens(base: BaseModel) -> int:
    """Entries of the folder's tokenizer."""
    from whet.text.tokenizer import Tokenizer

    return Tokenizer(base.folder).size


def _pad_id(base: BaseModel) -> int:
    """An id to fill rows with; masked everywhere, so any id of the vocabulary serves."""
    for key in ("pad_token_id", "eos_token_id"):
        value = base.config.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and value >= 0:
            return value
    return 0
