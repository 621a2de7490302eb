"""Steps of the MLX backend: the optimiser against torch's, the loop over both backends, limits, resume to the bit."""

# ruff: noqa: E402 (what follows the skip needs mlx)
from collections.abc import Callable
from pathlib import Path

import pytest

for name in ("mlx", "mlx_lm"):
    pytest.importorskip(name, reason="MLX is an extra of its own: pip install 'whet[mlx]'")

import mlx.core as mx
import numpy as np
import torch

from whet.backends.base import DeviceSettings, LoraSettings, OptimizerSettings, Pack, Segment, StepLimits
from whet.backends.on_mlx.backend import MlxBackend
from whet.backends.on_mlx.optimizer import AdapterOptimizer, clip
from whet.errors import InputError
from whet.models.adapter import open_adapter
from whet.models.base_model import BaseModel
from whet.train.encode import Row
from whet.train.loop import Training, TrainSettings

pytestmark = pytest.mark.end_to_end

PACK = Pack((5, 6, 7, 300), (Segment((10, 11, 12), 2), Segment((10, 400), 0), Segment((7, 8, 9), 2, 1), Segment((14, 33), 1, 1)))


@pytest.mark.parametrize("b_ratio", [1.0, 4.0])
def test_five_steps_follow_torch(b_ratio: float) -> None:
    chosen = OptimizerSettings(weight_decay=0.1, b_ratio=b_ratio)
    generator = np.random.default_rng(0)
    shapes = {"x.lora_a": (6, 3), "x.lora_b": (3, 5), "x.m": (5,)}
    tensors = {name: mx.array(generator.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}
    theirs = {name: torch.nn.Parameter(torch.tensor(np.array(tensor))) for name, tensor in tensors.items()}
    groups = [
        {"params": [theirs["x.lora_a"]], "ratio": 1.0},
        {"params": [theirs["x.lora_b"]], "ratio": b_ratio},
        {"params": [theirs["x.m"]], "ratio": b_ratio, "weight_decay": 0.0},
    ]
    torch_optimizer = torch.optim.AdamW(groups, betas=(chosen.beta1, chosen.beta2), eps=chosen.epsilon, weight_decay=0.1)
    ours = AdapterOptimizer(chosen, tensors)
    for rate in (1e-2, 3e-2, 2e-2, 2e-2, 1e-2):
        found = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(found[name])
        wanted_norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5).item()
        for group in torch_optimizer.param_groups:
            group["lr"] = rate * group["ratio"]
        torch_optimizer.step()
        gradients, norm = clip({name: mx.array(value) for name, value in found.items()}, 0.5)
        assert norm == pytest.approx(wanted_norm, rel=1e-6)
        tensors = ours.step(gradients, tensors, rate)
        for name, parameter in theirs.items():
            assert np.abs(np.array(tensors[name]) - parameter.detach().numpy()).max() <= 2e-6


def test_the_loop_gives_the_losses_that_it_gives_over_torch(
    tiny: BaseModel, tmp_path: Path, peft_folder: Callable[..., Path]
) -> None:
    from whet.backends.on_torch.backend import TorchBackend

    folder = peft_folder(tiny.folder)
    rows = [Row(f"e{n}", f"f:{n}", (5, 6, 7, 8 + n % 2, 40 + n), (300 + n, 7 * n + 1, 2), False) for n in range(8)]
    settings = TrainSettings(epochs=2, examples_per_step=4, validate_every=2, tokens_per_batch=64, learning_rate=1e-2)
    results = []
    for backend in (TorchBackend(tiny, OptimizerSettings()), MlxBackend(tiny, OptimizerSettings())):
        backend.attach(folder)
        out = tmp_path / type(backend).__name__
        results.append(Training(backend, tiny, rows, rows[:3], settings, out).run(lambda progress: None))
        open_adapter(out / "adapter", tiny)
    theirs, ours = results
    assert (ours.ended, ours.steps, ours.best_step) == (theirs.ended, theirs.steps, theirs.best_step)
    for mine, wanted in ((ours.train_curve, theirs.train_curve), (ours.valid_curve, theirs.valid_curve)):
        assert [step for step, _ in mine] == [step for step, _ in wanted]
        assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in wanted], rel=1e-4)
    assert ours.train_curve[-1][1] < 0.9 * ours.train_curve[0][1]


@pytest.mark.parametrize("optimizer", [OptimizerSettings(b_ratio=2.0), OptimizerSettings(name="lion")])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_training_is_the_same_to_the_bit(
    optimizer: OptimizerSettings, dropout: float, tmp_path: Path, tiny: BaseModel
) -> None:
    settings = LoraSettings(rank=2, targets=("v_proj",), dropout=dropout)
    backend = MlxBackend(tiny, optimizer)
    backend.attach(settings, seed=1)
    backend.update([PACK], 1e-2)
    backend.save_state(tmp_path)
    results = [backend.update([PACK], 1e-2) for _ in range(2)]
    wanted = backend.digests()
    backend.attach(settings, seed=1)
    backend.load_state(tmp_path)
    mx.random.seed(99)
    assert [backend.update([PACK], 1e-2) for _ in range(2)] == results
    assert backend.digests() == wanted
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(InputError, match="do not match"):
        backend.attach(LoraSettings(rank=3, targets=("v_proj",)))
        backend.load_state(tmp_path)


def test_a_step_does_not_depend_on_how_rows_are_packed_nor_on_what_saves_memory(tiny: BaseModel) -> None:
    alone = [Pack((), (Segment(PACK.row(leaf), PACK.segments[leaf].num_learnt),)) for leaf in PACK.leaves]
    results = []
    for packs, device in (
        ([PACK], DeviceSettings()),
        (alone, DeviceSettings()),
        ([PACK], DeviceSettings(checkpoint_activations=True)),
    ):
        backend = MlxBackend(tiny, OptimizerSettings(), device)
        backend.attach(LoraSettings(rank=2), seed=3)
        taken = [backend.update(packs, 1e-2) for _ in range(2)]
        results.append([value for result in taken for value in (result.loss_sum, result.gradient_norm)])
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_steps_beyond_the_limits_are_not_taken(tiny: BaseModel) -> None:
    backend = MlxBackend(tiny, OptimizerSettings())
    backend.attach(LoraSettings(rank=2, targets=("v_proj",)))
    start = backend.digests()
    for limits in (StepLimits(loss=1e-3), StepLimits(gradient_norm=1e-6)):
        result = backend.update([PACK], 1e-2, limits)
        assert not result.is_taken
        assert backend.digests() == start
    assert backend.update([PACK], 1e-2, StepLimits(1e3, 1e6)).is_taken
