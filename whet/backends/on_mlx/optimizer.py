"""The optimiser over an adapter's tensors: mlx's own, with LoRA+ rates, and its state as plain tensors."""

from collections.abc import Mapping

import mlx.core as mx
from mlx import optimizers

from whet.backends.base import OptimizerSettings
from whet.errors import InputError

REFUSED = {
    "adamw_8bit": "holds its state in 8 bits, which MLX has not",
    "paged_adamw_8bit": "holds its state in 8 bits, which MLX has not",
    "adafactor": "is computed by MLX in another variant than by torch",
    "muon": "is computed by MLX in another variant than by torch",
}


class AdapterOptimizer:
    """mlx optimisers over a flat dict of tensors: one for each rate (LoRA+) and weight decay."""

    def __init__(self, settings: OptimizerSettings, tensors: Mapping[str, mx.array]) -> None:
        if settings.name in REFUSED:
            raise InputError(
                "train.optimizer.name",
                f"{settings.name} {REFUSED[settings.name]}",
                "Set it to adamw or lion, or train with torch",
            )
        if settings.name == "lion" and settings.epsilon != OptimizerSettings.model_fields["epsilon"].default:
            raise InputError("train.optimizer.epsilon", "lion has no use for it", "Leave it out")
        self.max_gradient_norm = settings.max_gradient_norm
        groups: dict[tuple[float, float], list[str]] = {}
        for name, tensor in tensors.items():
            is_vector = tensor.ndim == 1  # DoRA's magnitudes: not decayed, and as fast as B, as on torch
            ratio = settings.b_ratio if is_vector or name.endswith(".lora_b") else 1.0
            groups.setdefault((ratio, 0.0 if is_vector else settings.weight_decay), []).append(name)
        self.groups = [(ratio, names, _open(settings, decay)) for (ratio, decay), names in sorted(groups.items())]
        for _, names, optimizer in self.groups:
            optimizer.init({name: tensors[name] for name in names})

    def step(
        self, gradients: Mapping[str, mx.array], tensors: Mapping[str, mx.array], learning_rate: float
    ) -> dict[str, mx.array]:
        """The tensors after one step; gradients are clipped already."""
        moved: dict[str, mx.array] = {}
        for ratio, names, optimizer in self.groups:
            optimizer.learning_rate = learning_rate * ratio
            moved |= optimizer.apply_gradients({name: gradients[name] for name in names}, {name: tensors[name] for name in names})
        mx.eval(moved, [optimizer.state for _, _, optimizer in self.groups])
        return moved

    def state(self) -> dict[str, mx.array]:
        """All that the next step depends on, by `optimizer.GROUP.WHAT` and `optimizer.NAME.MOMENT`."""
        tensors = {}
        for number, (_, names, optimizer) in enumerate(self.groups):
            tensors[f"optimizer.{number}.step"] = optimizer.state["step"]
            tensors |= {f"optimizer.{name}.{moment}": value for name in names for moment, value in optimizer.state[name].items()}
        return tensors

    def put(self, tensors: Mapping[str, mx.array]) -> None:
        """Put back what `state` gave."""
        for number, (_, names, optimizer) in enumerate(self.groups):
            optimizer.state["step"] = tensors[f"optimizer.{number}.step"]
            for name in names:
                for moment in optimizer.state[name]:
                    optimizer.state[name][moment] = tensors[f"optimizer.{name}.{moment}"]


def clip(gradients: Mapping[str, mx.array], max_norm: float) -> tuple[dict[str, mx.array], float]:
    """Gradients scaled down to a norm, and the norm that they had."""
    clipped, norm = optimizers.clip_grad_norm(dict(gradients), max_norm)
    return clipped, float(norm.item())


def _open(settings: OptimizerSettings, decay: float) -> optimizers.Optimizer:
    betas = [settings.beta1, settings.beta2]
    if settings.name == "lion":
        return optimizers.Lion(0.0, betas, decay)
    # mlx leaves the bias of the moments in by default; the paper and torch correct it.
    return optimizers.AdamW(0.0, betas, settings.epsilon, decay, bias_correction=True)
