"""The torch backend: a transformers model with a PEFT adapter on CPU or CUDA."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from whet.backends.base import Generated, LoraSettings, OptimizerSettings, Pack, StepResult
from whet.backends.on_torch.load import adapt, load_adapter, load_model, unpackable_because
from whet.backends.on_torch.rows import Rows, learnt_log_probabilities, packed_row, padded_rows
from whet.errors import InputError, WhetError
from whet.models.base_model import BaseModel

LAYOUT_TOLERANCE = 1e-5  # relative difference of loss and gradient norm above which rows are padded
PROMPT_TOKENS_AT_ONCE = 24_000  # padded prompt tokens of one generation batch
MEMORY_SIGNS = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")  # CUDA's, torch's, cuBLAS's words


class TorchBackend:
    """One base on one device, with at most one adapter."""

    def __init__(self, base: BaseModel, optimizer: OptimizerSettings) -> None:
        self.base = base
        self.optimizer_settings = optimizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # bf16 halves memory where the hardware computes in it; CPUs of users mostly don't.
        self.dtype = torch.bfloat16 if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        with _memory_named(self.device):
            self.model = load_model(base, self.dtype, self.device)
        self.pad_id = _pad_id(base)
        self.layout_reason = unpackable_because(base.config, getattr(self.model.config, "_attn_implementation", "sdpa"))
        self.row_layout: Literal["packed", "padded"] = "padded" if self.layout_reason else "packed"
        self.peft: Any = None
        self.optimizer: torch.optim.Optimizer | None = None

    def attach(self, adapter: LoraSettings | Path | None, seed: int = 0) -> None:
        if self.peft is not None:
            self.model = self.peft.unload()
            self.peft = self.optimizer = None
            self.model.requires_grad_(False)
        if adapter is None:
            return
        torch.manual_seed(seed)
        if isinstance(adapter, LoraSettings):
            self.peft = adapt(self.model, adapter)
            if adapter.dropout > 0 and self.row_layout == "packed":
                self.row_layout, self.layout_reason = "padded", "dropout is on, and a shared prefix would share one mask"
        else:
            self.peft = load_adapter(self.model, adapter)
        settings = self.optimizer_settings
        self.optimizer = torch.optim.AdamW(
            self._trained(), lr=0.0, betas=(settings.beta1, settings.beta2), weight_decay=settings.weight_decay
        )

    def save_adapter(self, folder: Path) -> None:
        # Asking a hub whether the vocabulary changed is what the default would do.
        try:
            self._adapter().save_pretrained(str(folder), save_embedding_layers=False)
        except SafetensorError as error:
            raise InputError(
                str(folder.parent), f"the adapter can't be written ({error})", "Free some space or choose another place"
            ) from None

    def check_layout(self, packs: Sequence[Pack]) -> str:
        if self.row_layout == "padded":
            return f"rows are padded: {self.layout_reason}"
        # A pack of one segment can't show that segments see each other.
        fullest = sorted(packs, key=lambda pack: -len(pack.segments))[:2]
        sample = [Pack(pack.prefix, pack.segments[:4]) for pack in fullest]
        with _memory_named(self.device):
            (loss_a, norm_a), (loss_b, norm_b) = self._measure(sample, "packed"), self._measure(sample, "padded")
        loss_off, norm_off = _relative(loss_a, loss_b), _relative(norm_a, norm_b)
        figures = f"loss differs by {loss_off:.1e}, gradient norm by {norm_off:.1e} (relative)"
        tolerance = LAYOUT_TOLERANCE if self.dtype == torch.float32 else 0.05
        if max(loss_off, norm_off) > tolerance:
            self.row_layout, self.layout_reason = "padded", f"packed rows gave other values: {figures}"
            return f"rows are padded: {self.layout_reason}"
        return f"rows are packed; against padded rows {figures}"

    def update(self, packs: Sequence[Pack], learning_rate: float) -> StepResult:
        if self.optimizer is None:
            raise WhetError("", "there is no adapter to train", "Attach one first")
        num_learnt = sum(pack.num_learnt for pack in packs)
        self.model.eval()
        for name, module in self._adapter().named_modules():
            # The adapter's own dropout alone: a base's would be shared over a packed prefix.
            if "lora_dropout" in name:
                module.train()
        loss_sum = 0.0
        with _memory_named(self.device):
            for pack in packs:
                loss = -learnt_log_probabilities(self.model, self._rows(pack, self.row_layout)).sum()
                (loss / num_learnt).backward()
                loss_sum += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), self.optimizer_settings.max_gradient_norm).item()
        if math.isfinite(loss_sum) and math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss_sum, num_learnt, norm)

    @torch.no_grad()
    def loss(self, pack: Pack) -> tuple[float, int]:
        self.model.eval()
        with _memory_named(self.device):
            logs_N = learnt_log_probabilities(self.model, self._rows(pack, self.row_layout))
        return -logs_N.double().sum().item(), pack.num_learnt

    @torch.no_grad()
    def log_likelihoods(self, pack: Pack) -> list[float]:
        self.model.eval()
        # Only training compares packed with padded rows. Segments of one id can't see each other; longer ones are not trusted.
        layout = self.row_layout if all(len(segment.ids) == 1 for segment in pack.segments) else "padded"
        with _memory_named(self.device):
            rows = self._rows(pack, layout)
            logs_N = learnt_log_probabilities(self.model, rows).double()
        sums = torch.zeros(len(pack.segments), dtype=torch.float64, device=self.device).index_add_(0, rows.segment_N, logs_N)
        return [float(value) for value in sums]

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int, end_ids: Sequence[int]) -> list[Generated]:
        self.model.eval()
        results: dict[int, Generated] = {}
        # Prompts of like length together: less padding, and short replies don't wait for long ones.
        for batch in _batches(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), prompts):
            for number, made in zip(batch, self._generate([prompts[i] for i in batch], max_tokens, end_ids), strict=True):
                results[number] = made
        return [results[number] for number in range(len(prompts))]

    def state(self) -> dict[str, Any]:
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self._adapter(), save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def restore(self, state: dict[str, Any]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self._adapter(), state)

    @torch.no_grad()
    def _generate(self, prompts: list[Sequence[int]], max_tokens: int, end_ids: Sequence[int]) -> list[Generated]:
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad_id] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        # A config of our own: the one in the model's folder may sample, penalise or stop elsewhere.
        config = GenerationConfig(
            do_sample=False, max_new_tokens=max_tokens, eos_token_id=list(end_ids), pad_token_id=self.pad_id
        )
        with _memory_named(self.device):
            out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        ends, made = set(end_ids), []
        for row in out[:, width:].tolist():
            stop = next((at for at, token in enumerate(row) if token in ends), None)
            made.append(Generated(tuple(row[:stop]), stop is not None))
        return made

    def _measure(self, packs: Sequence[Pack], layout: Literal["packed", "padded"]) -> tuple[float, float]:
        """Mean loss and gradient norm of packs in a layout; nothing is changed."""
        self._adapter().eval()
        num_learnt = sum(pack.num_learnt for pack in packs)
        total = 0.0
        for pack in packs:
            loss = -learnt_log_probabilities(self.model, self._rows(pack, layout)).sum() / num_learnt
            loss.backward()
            total += loss.item()
        norms = [p.grad.norm() for p in self._trained() if p.grad is not None]
        norm = torch.stack(norms).norm().item() if norms else 0.0
        for parameter in self._trained():
            parameter.grad = None
        return total, norm

    def _rows(self, pack: Pack, layout: Literal["packed", "padded"]) -> Rows:
        return packed_row(pack, self.device) if layout == "packed" else padded_rows(pack, self.device, self.pad_id)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _adapter(self) -> Any:
        if self.peft is None:
            raise WhetError("", "there is no adapter on this base", "Attach one first")
        return self.peft


def _batches(order: list[int], prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Runs of `order` whose padded prompts hold at most PROMPT_TOKENS_AT_ONCE tokens."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * len(prompts[number]) > PROMPT_TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _pad_id(base: BaseModel) -> int:
    """An id to fill rows with; masked everywhere, so any id of the vocabulary serves."""
    for key in ("pad_token_id", "eos_token_id"):
        value = base.config.get(key)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int) and value >= 0:
            return value
    return 0


def _relative(a: float, b: float) -> float:
    """Relative difference; two values that are both zero do not differ, and a NaN differs from everything."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b), 1e-12)


@contextmanager
def _memory_named(device: torch.device) -> Iterator[None]:
    """Out of memory becomes one line with the setting to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        words = str(error).lower()
        # An "illegal memory access" is another thing.
        if isinstance(error, RuntimeError) and not any(sign in words for sign in MEMORY_SIGNS):
            raise
        raise InputError(str(device), "out of memory", "Lower train.tokens_per_batch, or take a smaller base") from None
