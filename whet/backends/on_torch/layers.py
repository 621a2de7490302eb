"""Layers that keep less and pass over memory less often than those they stand in for; used where they give the same numbers."""

import types
from collections.abc import Callable
from typing import Any

import torch

SAME = 1e-6  # largest difference, relative to the largest value, at which a norm is taken for the plain one


def speed_up(model: torch.nn.Module) -> None:
    """Replace the forward functions of a model's plain LoRA layers, RMS norms and MLPs gated by SiLU. Weights and names stay."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and "forward" not in vars(module):
            shift = shift_of(module)
            if shift is not None:
                module.forward = types.MethodType(_norm_forward(epsilon_of(module), shift), module)
        elif is_plain_lora(module):
            module.forward = types.MethodType(_lora_forward, module)
        elif "forward" not in vars(module) and _is_gated_by_silu(module):
            module.forward = types.MethodType(_gated_forward, module)


def is_plain_lora(module: torch.nn.Module) -> bool:
    """Whether a module is PEFT's LoRA over an unquantised linear layer, with one adapter and neither dropout nor DoRA."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear or module.active_adapters != ["default"]:
        return False
    is_dropping = type(module.lora_dropout["default"]) is not torch.nn.Identity
    return not (is_dropping or module.merged or module.lora_variant or module.lora_B["default"].bias is not None)


def _lora_forward(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    base = self.base_layer
    a, b = self.lora_A["default"].weight, self.lora_B["default"].weight
    return _LoraLinear.apply(x, base.weight, base.bias, a, b, self.scaling["default"])


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T, and its gradients, as matrix products that add into their results.

    x (..., in), W (out, in), A (r, in), B (out, r).
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, a, b, scale):
        x_TI = x.reshape(-1, x.shape[-1])
        a_low, b_low = a.to(x.dtype), b.to(x.dtype)
        small_TR = (x_TI @ a_low.T).mul_(scale)
        y_TO = torch.nn.functional.linear(x_TI, weight, bias).addmm_(small_TR, b_low.T)
        ctx.save_for_backward(x_TI, weight, bias, a, b, small_TR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad):
        x_TI, weight, bias, a, b, small_TR = ctx.saved_tensors
        g_TO = grad.reshape(-1, grad.shape[-1])
        gb_TR = (g_TO @ b.to(g_TO.dtype)).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (g_TO @ weight).addmm_(gb_TR, a.to(g_TO.dtype)).view(ctx.shape)
        dweight = g_TO.T @ x_TI if ctx.needs_input_grad[1] else None
        dbias = g_TO.sum(0) if bias is not None and ctx.needs_input_grad[2] else None
        da = (gb_TR.T @ x_TI).to(a.dtype) if ctx.needs_input_grad[3] else None
        db = (g_TO.T @ small_TR).to(b.dtype) if ctx.needs_input_grad[4] else None
        return dx, dweight, dbias, da, db, None


def _is_gated_by_silu(module: torch.nn.Module) -> bool:
    """Whether a module is down(silu(gate(x)) * up(x)), by what it computes."""
    if not all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    weight = next(module.gate_proj.parameters())
    width = getattr(module.gate_proj, "in_features", 0)
    if weight.dtype != torch.float32 or not width:
        return False  # by numbers of fewer bits nothing can be told apart
    x = torch.linspace(-3, 2, 2 * width, device=weight.device).view(1, 2, width)
    was_training = module.training
    with torch.no_grad():
        module.eval()
        wanted, got = module(x), _gated_forward(module, x)
        module.train(was_training)
    return bool((got - wanted).abs().max() <= SAME * wanted.abs().max())


def _gated_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = self.gate_proj(x), self.up_proj(x)
    return self.down_proj(_GatedSilu.apply(gate, up) if torch.is_grad_enabled() else torch.nn.functional.silu(gate).mul_(up))


class _GatedSilu(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202). Keeps gate and up; the activation is computed again."""

    @staticmethod
    def forward(ctx: Any, gate, up):
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad):
        gate, up = ctx.saved_tensors
        dup = torch.nn.functional.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), dup


def epsilon_of(norm: torch.nn.Module) -> float:
    return float(next((value for name in ("variance_epsilon", "eps") if (value := getattr(norm, name, None)) is not None), 0.0))


def shift_of(norm: torch.nn.Module) -> float | None:
    """0 where the norm scales by its weight, 1 where by 1 + weight (Gemma), None where it does something else."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, torch.nn.Parameter) or weight.ndim != 1 or weight.dtype != torch.float32:
        return None
    # One row of small values: an epsilon that is not the one found shows there alone.
    sizes_21 = torch.tensor([[1.0], [1e-3]], device=weight.device)
    x = torch.linspace(-3, 2, 2 * weight.numel(), device=weight.device).view(2, -1) * sizes_21
    with torch.no_grad():
        wanted = norm(x)
        for shift in (0.0, 1.0):
            got = _RmsNorm.apply(x, weight, epsilon_of(norm), shift)
            if got.shape == wanted.shape and ((got - wanted).abs().amax(-1) <= SAME * wanted.abs().amax(-1)).all():
                return shift
    return None


def _norm_forward(epsilon: float, shift: float) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            scale = _scale(x, epsilon)
            return (x * scale).mul_(self.weight + shift if shift else self.weight)
        return _RmsNorm.apply(x, self.weight, epsilon, shift)

    return forward


def _scale(x: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1 / rms(x) over the last dimension."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]).add_(epsilon).rsqrt_()


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * (weight + shift) over the last dimension H (Zhang & Sennrich 2019, arXiv 1910.07467). Keeps x and 1 / rms."""

    @staticmethod
    def forward(ctx: Any, x, weight, epsilon, shift):
        scale = _scale(x, epsilon)
        ctx.save_for_backward(x, weight, scale)
        ctx.shift = shift
        return (x * scale).mul_(weight + shift if shift else weight)

    @staticmethod
    def backward(ctx: Any, grad):
        x, weight, scale = ctx.saved_tensors
        dweight = None
        if ctx.needs_input_grad[1]:
            dweight = (grad * x * scale).flatten(0, -2).sum(0)
        g = grad * (weight + ctx.shift if ctx.shift else weight)
        # d(x s) = s (g - x s^2 mean(g x))
        along = torch.linalg.vecdot(g, x).unsqueeze_(-1).mul_(scale * scale / -x.shape[-1])
        return g.addcmul_(x, along).mul_(scale), dweight, None, None
