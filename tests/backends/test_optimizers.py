"""Optimisers against the libraries' own and against their written formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from whet.backends.base import LoraSettings, OptimizerSettings
from whet.backends.on_torch.adapters import adapt
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.optimizers import make_optimizer, set_rate
from whet.errors import InputError
from whet.models.base_model import BaseModel

RATE, STEPS = 3e-3, 4


class Small(torch.nn.Module):
    """Two matrices and two vectors, with names as PEFT gives them; the larger matrix fills 8-bit blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.Module()
        layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(128, 64, bias=False)})
        layer.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(4, 16, bias=False)})
        self.q_proj, self.norm = layer, torch.nn.LayerNorm(16)

    def get_input_embeddings(self) -> None:
        return None

    get_output_embeddings = get_input_embeddings


def run(settings: OptimizerSettings) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Weights before, gradients of each step, weights after."""
    model = Small()
    optimizer = make_optimizer(model, settings)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    gradients = []
    for step in range(STEPS):
        torch.manual_seed(step)
        gradients.append({name: torch.randn_like(weight) for name, weight in model.named_parameters()})
        for name, weight in model.named_parameters():
            weight.grad = gradients[-1][name].clone()
        set_rate(optimizer, RATE * (step + 1))
        optimizer.step()
    return before, gradients, {name: weight.detach() for name, weight in model.named_parameters()}


def adamw(name: str, p: torch.Tensor, gradients: list[torch.Tensor], settings: OptimizerSettings) -> torch.Tensor:
    """Algorithm 2 of arXiv 1711.05101, in double."""
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    decay = settings.weight_decay if p.ndim > 1 else 0.0
    ratio = settings.b_ratio if "lora_B" in name or p.ndim == 1 else 1.0
    for step, g in enumerate(gradients, 1):
        rate = RATE * step * ratio
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g * g
        update = (m / (1 - settings.beta1**step)) / ((v / (1 - settings.beta2**step)).sqrt() + settings.epsilon)
        p = p - rate * (update + decay * p)
    return p


def lion(name: str, p: torch.Tensor, gradients: list[torch.Tensor], settings: OptimizerSettings) -> torch.Tensor:
    """Algorithm 2 of arXiv 2302.06675, in double."""
    m = torch.zeros_like(p)
    for step, g in enumerate(gradients, 1):
        decay = settings.weight_decay if p.ndim > 1 else 0.0
        update = torch.sign(settings.beta1 * m + (1 - settings.beta1) * g)
        p = p - RATE * step * (update + decay * p)
        m = settings.beta2 * m + (1 - settings.beta2) * g
    return p


def adafactor(name: str, p: torch.Tensor, gradients: list[torch.Tensor], settings: OptimizerSettings) -> torch.Tensor:
    """Algorithm 4 of arXiv 1804.04235 with a rate from outside, in double."""
    row: Any = 0.0
    column: Any = 0.0
    for step, g in enumerate(gradients, 1):
        decay_rate, squared = 1 - step**-0.8, g * g + 1e-30
        if p.ndim > 1:
            row = decay_rate * row + (1 - decay_rate) * squared.mean(1, keepdim=True)
            column = decay_rate * column + (1 - decay_rate) * squared.mean(0, keepdim=True)
            second = row * column / row.mean()
        else:
            second = row = decay_rate * row + (1 - decay_rate) * squared
        update = g / second.sqrt()
        update = update / max(1.0, update.square().mean().sqrt().item())
        decay = settings.weight_decay if p.ndim > 1 else 0.0
        p = p - RATE * step * decay * p - RATE * step * update
    return p


Formula = Callable[[str, torch.Tensor, list[torch.Tensor], OptimizerSettings], torch.Tensor]


@pytest.mark.parametrize(
    ("settings", "formula"),
    [
        (OptimizerSettings(weight_decay=0.1, beta1=0.8, beta2=0.95, epsilon=1e-6), adamw),
        (OptimizerSettings(b_ratio=16.0, weight_decay=0.01), adamw),
        (OptimizerSettings(name="lion", weight_decay=0.1), lion),
        (OptimizerSettings(name="adafactor", weight_decay=0.1), adafactor),
    ],
    ids=["adamw", "lora+", "lion", "adafactor"],
)
def test_updates_are_those_of_the_paper(settings: OptimizerSettings, formula: Formula) -> None:
    if settings.name == "lion":
        pytest.importorskip("bitsandbytes", reason="lion is bitsandbytes'")
    before, gradients, after = run(settings)
    for name, start in before.items():
        expected = formula(name, start.double(), [step[name].double() for step in gradients], settings)
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=2e-6, msg=name)


def test_8_bit_moments_follow_the_full_ones() -> None:
    pytest.importorskip("bitsandbytes", reason="adamw_8bit is bitsandbytes'")
    settings = OptimizerSettings(name="adamw_8bit", weight_decay=0.1)
    before, gradients, after = run(settings)
    for name, start in before.items():
        expected = adamw(name, start.double(), [step[name].double() for step in gradients], settings)
        moved, off = (expected - start).abs().mean(), (after[name] - expected).abs().mean()
        # Weights of less than 4096 numbers keep full moments.
        assert off < (0.05 if start.numel() >= 4096 else 1e-4) * moved, name


def test_muon_turns_a_gradient_into_an_orthogonal_step() -> None:
    settings = OptimizerSettings(name="muon", beta1=0.95)
    model = Small()
    optimizer = make_optimizer(model, settings)
    weight = model.q_proj.lora_A["default"].weight
    before = weight.detach().clone()
    vector = model.norm.weight.detach().clone()
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    u, _, v = torch.linalg.svd(weight.grad, full_matrices=False)
    set_rate(optimizer, RATE)
    optimizer.step()
    step = (before - weight.detach()) / (RATE * 0.2 * max(weight.shape) ** 0.5)
    # Five Newton-Schulz iterations in bf16 leave singular values between about 0.7 and 1.2.
    found = u.T @ step @ v.T
    assert 0.6 < found.diagonal().min() <= found.diagonal().max() < 1.3
    assert (found - torch.diag(found.diagonal())).abs().max() < 0.05
    # Vectors go by AdamW, whose first step is the rate in the gradient's direction.
    torch.testing.assert_close(model.norm.weight.detach(), vector - RATE * model.norm.weight.grad.sign(), rtol=1e-4, atol=1e-6)


def test_lora_plus_groups_are_pefts(base: BaseModel) -> None:
    from peft.optimizers import create_loraplus_optimizer

    for dora in (False, True):
        peft = adapt(load_model(base, torch.float32, torch.device("cpu")), LoraSettings(rank=2, dora=dora))
        ours = make_optimizer(peft, OptimizerSettings(b_ratio=8.0))
        set_rate(ours, RATE)
        theirs = create_loraplus_optimizer(peft, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=8.0)
        rates = [
            {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
            for optimizer in (ours, theirs)
        ]
        assert rates[0] == rates[1]
        assert set(rates[0].values()) == {RATE, 8 * RATE}


def test_every_weight_is_in_one_group() -> None:
    for name in ("adamw", "adafactor", "muon"):
        model = Small()
        optimizer = make_optimizer(model, OptimizerSettings(name=name, weight_decay=0.1, b_ratio=2.0))  # type: ignore[arg-type]
        held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
        assert sorted(held) == sorted(id(weight) for weight in model.parameters())
        for group in optimizer.param_groups:
            assert {weight.ndim > 1 for weight in group["params"]} == {group["weight_decay"] == 0.1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (OptimizerSettings(name="adafactor", beta1=0.5), r"optimizer.beta1: adafactor has no use for it"),
        (OptimizerSettings(name="adafactor", epsilon=1e-6), r"optimizer.epsilon: adafactor"),
        (OptimizerSettings(name="lion", epsilon=1e-6), r"optimizer.epsilon: lion"),
        (OptimizerSettings(name="paged_adamw_8bit"), r"pages between a CUDA card and its host, and this device is cpu"),
    ],
)
def test_a_setting_without_use_is_refused(settings: OptimizerSettings, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_optimizer(Small(), settings)


def test_b_ratio_needs_an_adapter_and_weights_need_fp32() -> None:
    plain = torch.nn.Linear(4, 4)
    with pytest.raises(InputError, match="no adapter's B"):
        make_optimizer(plain, OptimizerSettings(b_ratio=4.0))
    with pytest.raises(InputError, match=r"trained weights are torch.bfloat16"):
        make_optimizer(plain.bfloat16(), OptimizerSettings())
    with pytest.raises(InputError, match="no weight to train"):
        make_optimizer(plain.requires_grad_(False), OptimizerSettings())
