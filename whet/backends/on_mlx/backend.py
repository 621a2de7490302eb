"""The MLX backend: an mlx-lm model with a LoRA adapter, on Apple's GPU or, slowly, on a CPU."""

import hashlib
import math
import os
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

# Everything is read from folders; a stray look-up on a hub would hang a laptop without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from whet.backends.base import (
    Ask,
    DeviceSettings,
    FullSettings,
    Generated,
    LoraSettings,
    OptimizerSettings,
    Pack,
    StepLimits,
    StepResult,
)
from whet.backends.on_mlx.adapter import MlxAdapter, load_adapter, make_adapter, refuse_renamed, remove_adapter, save_adapter
from whet.backends.on_mlx.generation import Decoder
from whet.backends.on_mlx.held import Held
from whet.backends.on_mlx.load import load_model
from whet.backends.on_mlx.optimizer import AdapterOptimizer, clip
from whet.backends.on_mlx.rows import Rows, learnt_losses, packed_row, padded_rows
from whet.backends.padded import relative_difference
from whet.errors import InputError, WhetError
from whet.models.base_model import BaseModel
from whet.storage import read_json, write_json

LAYOUT_TOLERANCE = 1e-5  # relative difference of loss and gradient norm above which rows are padded
ROUNDED_TOLERANCE = 0.05  # the same for bases that compute in 16 bits
MEMORY_SIGNS = ("out of memory", "insufficient memory", "unable to allocate", "attempting to allocate", "allocate memory")
STATE, COUNTS = "state.safetensors", "state.json"


class MlxBackend:
    """One base on this machine's MLX device, with at most one adapter."""

    def __init__(self, base: BaseModel, optimizer: OptimizerSettings, device: DeviceSettings = DeviceSettings()) -> None:  # noqa: B008 (frozen)
        self.base, self.optimizer_settings, self.settings = base, optimizer, device
        self.rank, self.num_ranks = 0, 1
        with _memory_named():
            loaded = load_model(base, device)
        self.loaded, self.model = loaded, loaded.model
        self.layout_reason = loaded.unpackable
        self.row_layout: Literal["packed", "padded"] = "padded" if loaded.unpackable else "packed"
        self.adapter: MlxAdapter | None = None
        self.optimizer: AdapterOptimizer | None = None
        self.seed = self.num_updates = 0
        self.held = Held(self.model, {})

    def attach(self, adapter: LoraSettings | FullSettings | Path | None, seed: int = 0) -> None:
        if isinstance(adapter, FullSettings):
            raise InputError(
                "train", "full fine-tuning is not done on MLX", "Train a LoRA adapter, or use torch (device.kind=cpu)"
            )
        if self.adapter is not None:
            remove_adapter(self.model, self.adapter)
        self.held.put(None)
        self.adapter, self.optimizer, self.held = None, None, Held(self.model, {})
        self.seed, self.num_updates = seed, 0
        mx.reset_peak_memory()
        if adapter is None:
            return
        refuse_renamed(self.model, self.loaded.shapes, self.base.folder)
        with _memory_named():
            if isinstance(adapter, LoraSettings):
                self.adapter = make_adapter(self.model, adapter, seed, self.base.folder.name)
            else:
                self.adapter = load_adapter(self.model, adapter)
            self.optimizer = AdapterOptimizer(self.optimizer_settings, self.adapter.tensors())

    def hold(self, adapters: Mapping[str, Path]) -> None:
        self.attach(None)
        if adapters:
            refuse_renamed(self.model, self.loaded.shapes, self.base.folder)
        with _memory_named():
            self.held = Held(self.model, adapters)

    def save_adapter(self, folder: Path) -> None:
        save_adapter(self._adapter(), folder)

    def check_layout(self, packs: Sequence[Pack]) -> str:
        if self.row_layout == "padded":
            return f"rows are padded: {self.layout_reason}"
        # A pack of one segment can't show that segments see each other.
        sample = sorted(packs, key=lambda pack: (len(pack.segments) < 2, pack.num_padded))[:2]
        try:
            with _memory_named():
                (loss_a, norm_a), (loss_b, norm_b) = self._measure(sample, "packed"), self._measure(sample, "padded")
        except (TypeError, AttributeError, ValueError) as error:
            self.row_layout, self.layout_reason = "padded", f"mlx-lm's {self.base.model_type} takes no packed rows ({error})"
            return f"rows are padded: {self.layout_reason}"
        loss_off, norm_off = relative_difference(loss_a, loss_b), relative_difference(norm_a, norm_b)
        figures = f"loss differs by {loss_off:.1e}, gradient norm by {norm_off:.1e} (relative)"
        if max(loss_off, norm_off) > self._tolerance():
            self.row_layout, self.layout_reason = "padded", f"packed rows gave other values: {figures}"
            return f"rows are padded: {self.layout_reason}"
        return f"rows are packed; against padded rows {figures}"

    def update(self, packs: Sequence[Pack], learning_rate: float, limits: StepLimits = StepLimits()) -> StepResult:  # noqa: B008 (frozen)
        adapter = self._adapter()
        assert self.optimizer is not None
        num_learnt = sum(pack.num_learnt for pack in packs)
        with self._dropout(adapter), _memory_named():
            loss_sum, gradients = self._gradients(packs, self.row_layout, num_learnt)
            gradients, norm = clip(gradients, self.optimizer.max_gradient_norm)
        self.num_updates += 1
        is_taken = (
            math.isfinite(loss_sum)
            and math.isfinite(norm)
            and loss_sum <= limits.loss * num_learnt
            and norm <= limits.gradient_norm
        )
        if is_taken:
            adapter.put(self.optimizer.step(gradients, adapter.tensors(), learning_rate))
        num_computed = sum(pack.num_tokens if self.row_layout == "packed" else pack.num_padded for pack in packs)
        return StepResult(loss_sum, num_learnt, norm, num_computed, is_taken)

    def loss(self, packs: Sequence[Pack]) -> tuple[float, int]:
        total = 0.0
        for pack in packs:
            with _memory_named():
                total += float(np.array(self._losses(self._rows(pack, self.row_layout))).sum(dtype=np.float64))
        return total, sum(pack.num_learnt for pack in packs)

    def log_likelihoods(self, pack: Pack, adapter: str | None = None) -> list[float]:
        # Only training compares packed with padded rows. Segments of one id can't see each other; longer ones are not trusted.
        self.held.put(adapter)
        layout = self.row_layout if all(len(segment.ids) == 1 for segment in pack.segments) else "padded"
        rows = self._rows(pack, layout)
        with _memory_named():
            losses_N = np.array(self._losses(rows)).astype(np.float64)
        sums = np.bincount(rows.segment_N, losses_N, len(pack.segments))
        return [-float(sums[leaf]) for leaf in pack.leaves]

    def generate(self, asks: Iterable[Ask], end_ids: Sequence[int]) -> Iterator[tuple[int, Generated]]:
        decoder = Decoder(self.loaded)
        for number, ask in enumerate(asks):
            if not ask.ids:
                raise InputError("", "a prompt without tokens can't be continued", "Give it a message")
            self._refuse_long(len(ask.ids) + ask.max_tokens)
            self.held.put(ask.adapter)
            with _memory_named():
                made = decoder.generated(number, ask, frozenset(end_ids))
            yield number, made

    def digests(self) -> dict[str, str]:
        if self.adapter is None:
            return {}
        return {name: hashlib.sha256(np.array(tensor).tobytes()).hexdigest() for name, tensor in self.adapter.tensors().items()}

    def save_state(self, folder: Path) -> None:
        tensors = self._adapter().tensors()
        assert self.optimizer is not None
        try:
            save_file({name: np.array(value) for name, value in (tensors | self.optimizer.state()).items()}, folder / STATE)
        except (SafetensorError, OSError) as error:
            raise InputError(
                str(folder), f"the state can't be written ({error})", "Free some space or choose another place"
            ) from None
        write_json(folder / COUNTS, {"backend": "mlx", "seed": self.seed, "num_updates": self.num_updates})

    def load_state(self, folder: Path) -> None:
        adapter = self._adapter()
        assert self.optimizer is not None
        counts = read_json(folder / COUNTS)
        if not isinstance(counts, dict) or counts.get("backend") != "mlx":
            raise InputError(str(folder), "holds no state of an MLX training", "Resume it on the device that wrote it")
        try:
            stored = load_file(folder / STATE)
        except (SafetensorError, OSError) as error:
            raise InputError(str(folder), f"its state can't be read ({error})", "Take an earlier checkpoint") from None
        wanted = adapter.tensors() | self.optimizer.state()
        odd = [name for name in wanted.keys() | stored.keys() if name not in wanted or name not in stored]
        odd += [name for name in wanted.keys() & stored.keys() if tuple(wanted[name].shape) != stored[name].shape]
        if odd:
            raise InputError(
                str(folder),
                f"{len(odd)} tensors do not match this training, such as {sorted(odd)[0]}",
                "Resume with the settings that it was begun with",
            )
        arrays = {name: mx.array(value) for name, value in stored.items()}
        adapter.put({name: arrays[name] for name in adapter.tensors()})
        self.optimizer.put(arrays)
        self.seed, self.num_updates = int(counts["seed"]), int(counts["num_updates"])

    def peak_memory(self) -> int:
        if mx.default_device() != mx.Device(mx.cpu):
            return int(mx.get_peak_memory())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _losses(self, rows: Rows) -> mx.array:
        return learnt_losses(self.model, self.loaded.head, rows, self.settings.logits_mb * 2**20 // 4)

    def _gradients(
        self, packs: Sequence[Pack], layout: Literal["packed", "padded"], num_learnt: int
    ) -> tuple[float, dict[str, mx.array]]:
        """Summed loss of packs, and the gradient of its mean over the learnt tokens, by tensor."""
        adapter = self._adapter()
        total, summed = 0.0, {name: mx.zeros_like(tensor) for name, tensor in adapter.tensors().items()}
        for pack in packs:
            rows = self._rows(pack, layout)
            loss, tree = nn.value_and_grad(self.model, lambda rows=rows: self._losses(rows).sum() / num_learnt)()
            found = dict(tree_flatten(tree))
            summed = {name: tensor + found[name] for name, tensor in summed.items()}
            mx.eval(loss, summed)  # one pack's activations at a time
            total += float(loss.item()) * num_learnt
        return total, summed

    def _measure(self, packs: Sequence[Pack], layout: Literal["packed", "padded"]) -> tuple[float, float]:
        """Mean loss and gradient norm of packs in a layout; nothing is changed."""
        num_learnt = sum(pack.num_learnt for pack in packs)
        loss_sum, gradients = self._gradients(packs, layout, num_learnt)
        return loss_sum / num_learnt, clip(gradients, math.inf)[1]

    def _rows(self, pack: Pack, layout: Literal["packed", "padded"]) -> Rows:
        self._refuse_long(max(len(pack.row(leaf)) for leaf in pack.leaves))
        return packed_row(pack) if layout == "packed" else padded_rows(pack)

    def _refuse_long(self, num_tokens: int) -> None:
        most = self.loaded.max_exact
        if most is not None and num_tokens > most:
            raise InputError(
                str(self.base.folder),
                f"a row takes {num_tokens} tokens, this model's attention slides over {most}, and mlx-lm leaves the window out",
                f"Lower train.max_length to {most}, or use torch (device.kind=cpu)",
            )

    def _tolerance(self) -> float:
        numbers = {layer.dtype for _, layer in tree_flatten(self.model.parameters())}
        return ROUNDED_TOLERANCE if numbers & {mx.bfloat16, mx.float16} else LAYOUT_TOLERANCE

    @contextmanager
    def _dropout(self, adapter: MlxAdapter) -> Iterator[None]:
        """Within, the adapter's dropout is on; its masks are a function of seed and step, so that a resume has the same."""
        if adapter.dropout == 0:
            yield
            return
        mx.random.seed(int(np.random.SeedSequence([self.seed, self.num_updates]).generate_state(1, np.uint64)[0]))
        for layer in adapter.layers.values():
            layer.dropout.train()
        try:
            yield
        finally:
            for layer in adapter.layers.values():
                layer.dropout.eval()

    def _adapter(self) -> MlxAdapter:
        if self.adapter is None:
            raise WhetError("", "there is no adapter on this base", "Attach one first")
        return self.adapter


@contextmanager
def _memory_named() -> Iterator[None]:
    """Out of memory becomes one line with the setting to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = str(error).lower()
        if isinstance(error, RuntimeError) and not any(sign in words for sign in MEMORY_SIGNS):
            raise
        raise InputError("mlx", "out of memory", "Lower train.tokens_per_batch, or take a smaller base") from None
