"""Fast layers against those they stand in for: PEFT's LoRA and transformers' norms, values and gradients."""

import copy
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from whet.backends.on_torch.layers import is_plain_lora, speed_up

WIDTH = 24


class Two(nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 40), nn.Linear(40, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(dtype: torch.dtype = torch.float32, *, is_base_trained: bool = False, **settings: Any) -> nn.Module:
    """PEFT's model with random A and B."""
    torch.manual_seed(0)
    config = LoraConfig(**({"r": 3, "lora_alpha": 7, "target_modules": ["first", "second"]} | settings))
    model = get_peft_model(Two().to(dtype), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
        elif is_base_trained:
            parameter.requires_grad_(True)
    return model


def run(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output and gradients, that of the input too."""
    x = x.clone().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y.detach(), {"x": x.grad} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def num_replaced(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def assert_same(got: Any, wanted: Any, tolerance: float) -> None:
    assert (got[0] - wanted[0]).norm() <= tolerance * wanted[0].norm()
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        assert got[1][name].dtype == gradient.dtype
        assert got[1][name].shape == gradient.shape
        assert (got[1][name] - gradient).norm() <= tolerance * gradient.norm(), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"first": 5}, "alpha_pattern": {"second": 0.5}},
        {"target_modules": ["second"]},
        {"is_base_trained": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(9, WIDTH), (2, 5, WIDTH)], ids=str)
def test_lora_is_pefts(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    model = adapted(**settings)
    plain = copy.deepcopy(model)
    speed_up(model)
    assert num_replaced(model) == len(settings.get("target_modules", "12"))
    assert num_replaced(plain) == 0
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert_same(run(model, x), run(plain, x), 2e-6)


def test_lora_over_a_bf16_base_is_pefts_as_nearly_as_bf16_is() -> None:
    model = adapted(torch.bfloat16)
    plain = copy.deepcopy(model)
    speed_up(model)
    assert num_replaced(model) == 2
    x = torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    got, theirs = run(model, x), run(plain, x)
    plain.zero_grad()
    exact = run(plain.float(), x.float())
    assert got[0].dtype == torch.bfloat16
    assert {name: t.dtype for name, t in got[1].items()} == {name: t.dtype for name, t in theirs[1].items()}
    named = [(got[0], theirs[0], exact[0]), *((got[1][name], theirs[1][name], exact[1][name]) for name in exact[1])]
    for ours, pefts, true in named:
        assert (ours - true).norm() <= 2 * (pefts - true).norm() + 0.01 * true.norm()


def test_lora_without_gradients() -> None:
    model = adapted()
    plain = copy.deepcopy(model)
    speed_up(model)
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(model(x).sum(), [p for p in model.parameters() if p.requires_grad])  # x needs none


def _merged() -> nn.Module:
    model = adapted()
    model.merge_adapter()
    return model


def _second_adapter() -> nn.Module:
    model = adapted()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"]))
    model.set_adapter("other")
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: adapted(lora_dropout=0.1),
        lambda: adapted(use_dora=True),
        lambda: adapted(lora_bias=True, target_modules=["first"]),  # PEFT wants a base with a bias
        _merged,
        _second_adapter,
        Two,
    ],
    ids=["dropout", "dora", "bias", "merged", "second", "bare"],
)
def test_what_is_no_plain_lora_is_left(make: Any) -> None:
    model = make()
    plain = copy.deepcopy(model)
    speed_up(model)
    assert num_replaced(model) == 0
    assert not any(is_plain_lora(module) for module in model.modules())
    x = torch.randn(4, WIDTH)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_a_quantised_base_is_left() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantised layers are bitsandbytes'")

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = bitsandbytes.nn.Linear4bit(64, 64, bias=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(One(), LoraConfig(r=2, target_modules=["first"]))
    speed_up(model)
    assert num_replaced(model) == 0


class Shifted(LlamaRMSNorm):
    """A norm that does something else: it takes the mean away."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


class OddRMSNorm(nn.Module):
    """A norm whose epsilon has a name of its own; it counts where values are small only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.tiny = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.tiny))


class ShiftedRMSNorm(Shifted):
    """Named like the plain ones."""


def norm(kind: type[nn.Module], **named: Any) -> nn.Module:
    module = kind(WIDTH, **named)
    module.weight.data += 0.4 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
    return nn.Sequential(module)


@pytest.mark.parametrize(
    "make", [lambda: norm(LlamaRMSNorm, eps=1e-3), lambda: norm(GemmaRMSNorm, eps=1e-5)], ids=["llama", "gemma"]
)
@pytest.mark.parametrize("size", [1.0, 1e-3, 300.0])
def test_norms_are_transformers(make: Any, size: float) -> None:
    model = make()
    plain = copy.deepcopy(model)
    speed_up(model)
    assert num_replaced(model) == 1
    x = size * torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(4))
    # The gradient along x cancels, so that a little more is rounding.
    assert_same(run(model, x), run(plain, x), 5e-6)


@pytest.mark.parametrize("kind", [ShiftedRMSNorm, OddRMSNorm])
def test_a_norm_that_does_something_else_is_left(kind: type[nn.Module]) -> None:
    model = norm(kind)
    speed_up(model)
    assert num_replaced(model) == 0


def test_a_norm_in_bf16_is_left() -> None:
    """Its rounding is its own: transformers multiplies in bf16 what it measured in fp32."""
    model = norm(LlamaRMSNorm).bfloat16()
    speed_up(model)
    assert num_replaced(model) == 0


def test_speed_up_twice_is_speed_up_once() -> None:
    model = adapted()
    speed_up(model)
    speed_up(model)
    x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    assert_same(run(model, x), run(adapted(), x), 2e-6)
