"""Makes the optimiser of a run over a model's trained weights: kept libraries' own, with groups for LoRA+ and weight decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from whet.backends.base import OptimizerSettings
from whet.backends.on_torch.quantized import require_bitsandbytes
from whet.errors import InputError

PLACE = "train.optimizer"
# Settings that an optimiser has no use for; given all the same, they are refused.
UNUSED = {"adafactor": ("beta1", "beta2", "epsilon"), "lion": ("epsilon",)}
Group = dict[str, Any]
Named = tuple[str, torch.nn.Parameter]


def make_optimizer(model: Any, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimiser of all weights of a model that require gradients, at rate 0 until `set_rate`.

    Each group's `ratio` times the learning rate is its rate. LoRA+ (b_ratio): B, and as in PEFT every vector, goes by
    b_ratio, the rest by 1. Weight decay leaves out vectors: norms, biases and DoRA's lengths.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not named:
        raise InputError("train", "there is no weight to train on this model", "Look at the adapter's targets")
    _check(named, settings)
    makers: dict[str, Callable[[list[Named], OptimizerSettings], torch.optim.Optimizer]] = {
        "adamw": _adamw,
        "adamw_8bit": _adamw_8bit,
        "paged_adamw_8bit": _adamw_8bit,
        "adafactor": _adafactor,
        "lion": _lion,
    }
    if settings.name == "muon":
        return _muon(model, named, settings)
    return makers[settings.name](named, settings)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["ratio"]


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimisers, each over weights of its own, as one: their groups and states are the joint one's too."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


def _groups(named: Iterable[Named], settings: OptimizerSettings) -> list[Group]:
    """Weights by rate and by decay, groups without a weight left out."""
    found: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, weight in named:
        is_fast = ".lora_B." in name or ".lora_embedding_B." in name or weight.ndim == 1
        decay = settings.weight_decay if weight.ndim > 1 else 0.0
        found.setdefault((settings.b_ratio if is_fast else 1.0, decay), []).append(weight)
    return [
        {"params": weights, "ratio": ratio, "weight_decay": decay, "lr": 0.0} for (ratio, decay), weights in sorted(found.items())
    ]


def _check(named: list[Named], settings: OptimizerSettings) -> None:
    fields = type(settings).model_fields
    for field in UNUSED.get(settings.name, ()):
        if getattr(settings, field) != fields[field].default:
            raise InputError(f"{PLACE}.{field}", f"{settings.name} has no use for it", "Leave it out")
    if settings.b_ratio != 1.0 and not any(".lora_B." in name for name, _ in named):
        raise InputError(f"{PLACE}.b_ratio", "there is no adapter's B to be trained faster", "Leave it out")
    other = sorted({str(weight.dtype) for _, weight in named} - {"torch.float32"})
    if other:
        raise InputError("device.dtype", f"trained weights are {', '.join(other)}, and small steps would be lost", "Load in fp32")


def _adamw(named: list[Named], settings: OptimizerSettings) -> torch.optim.Optimizer:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(_groups(named, settings), lr=0.0, betas=betas, eps=settings.epsilon, fused=True)


def _adamw_8bit(named: list[Named], settings: OptimizerSettings) -> torch.optim.Optimizer:
    is_paged = settings.name.startswith("paged")
    device = named[0][1].device.type
    if is_paged and device != "cuda":
        raise InputError(f"{PLACE}.name", f"{settings.name} pages between a CUDA card and its host, and this device is {device}",
                         "Take adamw_8bit or adamw")  # fmt: skip
    require_bitsandbytes(f"{PLACE}.name={settings.name}")
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    made: torch.optim.Optimizer = (PagedAdamW8bit if is_paged else AdamW8bit)(
        _groups(named, settings), lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon
    )
    return made


def _adafactor(named: list[Named], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Shazeer & Stern 2018, arXiv 1804.04235, at the recipe's rate: relative steps would not move B, which starts at zero."""
    from transformers.optimization import Adafactor

    # Adafactor's decay is written p -= rate * decay * p, decoupled as AdamW's.
    return Adafactor(_groups(named, settings), lr=0.0, scale_parameter=False, relative_step=False, warmup_init=False)


def _lion(named: list[Named], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Chen et al. 2023, arXiv 2302.06675."""
    require_bitsandbytes(f"{PLACE}.name=lion")
    from bitsandbytes.optim import Lion

    made: torch.optim.Optimizer = Lion(_groups(named, settings), lr=0.0, betas=(settings.beta1, settings.beta2))
    return made


def _muon(model: Any, named: list[Named], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Muon (Jordan 2024) for hidden matrices, momentum beta1; AdamW for vectors, embeddings and the head, as its author says.

    Steps have the size of AdamW's (Liu et al. 2025, arXiv 2502.16982), so both go by one learning rate.
    """
    outer = {id(weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None
             for weight in module.parameters()}  # fmt: skip
    inner = [(name, weight) for name, weight in named if weight.ndim == 2 and id(weight) not in outer]
    rest = [(name, weight) for name, weight in named if weight.ndim != 2 or id(weight) in outer]
    if not inner:
        raise InputError(f"{PLACE}.name", "muon trains matrices, and there is none among the trained weights", "Take adamw")
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            _groups(inner, settings), lr=0.0, momentum=settings.beta1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
    ]
    if rest:
        parts.append(_adamw(rest, settings))
    return JoinedOptimizer(parts)
