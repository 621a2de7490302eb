"""The head in chunks against torch's cross entropy over all rows at once, and the memory that its logits take."""

import weakref
from typing import Any

import pytest
import torch
from conftest import random_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from whet.backends.base import LoraSettings
from whet.backends.on_torch.adapters import adapt
from whet.backends.on_torch.head import Room, find_head, head_losses
from whet.backends.on_torch.load import load_model
from whet.models.base_model import BaseModel, open_base

CPU = torch.device("cpu")
NUM, WIDTH, VOCABULARY = 13, 24, 501
# Logits of a row and their gradient: in one place in fp32, else in two precisions.
ROW_BYTES = {torch.float32: 4 * VOCABULARY, torch.bfloat16: 8 * VOCABULARY}


def make_head(*, has_bias: bool, is_trained: bool, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(WIDTH, VOCABULARY, bias=has_bias, dtype=dtype).requires_grad_(is_trained)


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = 3 * torch.randn(NUM, WIDTH, generator=generator)
    return hidden.to(dtype).requires_grad_(), torch.randint(0, VOCABULARY, (NUM,), generator=generator)


@pytest.mark.parametrize("is_trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("num_rows", [1, 3, NUM - 1, NUM, 100])
def test_losses_and_gradients_are_those_of_cross_entropy(num_rows: int, has_bias: bool, is_trained: bool) -> None:
    head = make_head(has_bias=has_bias, is_trained=is_trained)
    hidden, target = make_inputs()
    exact = hidden.detach().double().requires_grad_()
    weights = [p.detach().double().requires_grad_() for p in head.parameters()]
    wanted = cross_entropy(torch.nn.functional.linear(exact, *weights), target, reduction="none")
    (wanted.sum() * 0.37).backward()

    losses = head_losses(hidden, head, target, num_rows * ROW_BYTES[torch.float32])
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-6, atol=1e-6)
    (losses.sum() * 0.37).backward()
    torch.testing.assert_close(hidden.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
    for parameter, reference in zip(head.parameters(), weights, strict=True):
        if is_trained:
            torch.testing.assert_close(parameter.grad.double(), reference.grad, rtol=1e-5, atol=1e-6)
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("wants_gradient", [True, False])
def test_a_head_in_bf16_is_as_near_as_bf16_is(wants_gradient: bool) -> None:
    head = make_head(has_bias=False, is_trained=False, dtype=torch.bfloat16)
    hidden, target = make_inputs(torch.bfloat16)
    exact = hidden.detach().double().requires_grad_()
    wanted = cross_entropy(exact @ head.weight.double().T, target, reduction="none")
    wanted.sum().backward()
    with torch.set_grad_enabled(wants_gradient):
        losses = head_losses(hidden, head, target, 4 * ROW_BYTES[torch.float32])
    assert losses.requires_grad == wants_gradient
    torch.testing.assert_close(losses.double(), wanted.detach(), rtol=1e-2, atol=1e-2)
    if wants_gradient:
        losses.sum().backward()
        assert (hidden.grad.double() - exact.grad).norm() <= 1e-2 * exact.grad.norm()


def test_logits_far_from_zero_do_not_overflow() -> None:
    head = make_head(has_bias=False, is_trained=False)
    hidden, target = make_inputs()
    with torch.no_grad():
        hidden *= 1000
    wanted = cross_entropy(hidden.detach().double() @ head.weight.double().T, target, reduction="none")
    losses = head_losses(hidden, head, target, ROW_BYTES[torch.float32])
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)
    losses.sum().backward()
    assert hidden.grad.isfinite().all()


class WideTensors(TorchDispatchMode):
    """Counts the bytes of all living tensors whose rows are as wide as the vocabulary."""

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.head = head.weight.data_ptr()
        self.living: list[weakref.ref[torch.Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 2 and tensor.shape[-1] == VOCABULARY:
                self.living.append(weakref.ref(tensor))
        kept = [tensor for ref in self.living if (tensor := ref()) is not None]
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        sizes.pop(self.head, None)  # the transposed head is as wide
        self.most = max(self.most, sum(sizes.values()))
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 3, NUM])
def test_logits_never_take_more_than_their_bytes(num_rows: int, dtype: torch.dtype) -> None:
    head = make_head(has_bias=False, is_trained=False, dtype=dtype)
    hidden, target = make_inputs(dtype)
    with WideTensors(head) as wide:
        head_losses(hidden, head, target, num_rows * ROW_BYTES[dtype] + 7).sum().backward()
    assert num_rows * VOCABULARY * dtype.itemsize <= wide.most <= num_rows * ROW_BYTES[dtype]
    with WideTensors(head) as wide, torch.no_grad():
        cross_entropy(hidden @ head.weight.T, target)
    assert wide.most >= 2 * NUM * VOCABULARY * dtype.itemsize  # what plain torch takes is counted


def test_one_room_serves_pass_after_pass() -> None:
    head, room = make_head(has_bias=True, is_trained=False), Room()
    places = set()
    for num in (5, 13, 2, 7):
        hidden, target = (part[:num] for part in make_inputs())
        wanted = cross_entropy(torch.nn.functional.linear(hidden, head.weight, head.bias), target, reduction="none")
        losses = head_losses(hidden, head, target, 4 * ROW_BYTES[torch.float32], room)
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
        assert room.block is not None
        assert len(room.block) <= 4
        places.add(room.block.data_ptr())
    assert len(places) <= 2  # it grew once, from 3 rows to 4
    room.clear()
    assert room.block is None


def test_a_row_is_computed_even_where_it_needs_more() -> None:
    head = make_head(has_bias=False, is_trained=False)
    hidden, target = make_inputs()
    wanted = cross_entropy(hidden @ head.weight.T, target, reduction="none")
    torch.testing.assert_close(head_losses(hidden, head, target, 1), wanted, rtol=1e-5, atol=1e-5)


def test_the_head_is_found_where_logits_are_a_plain_product(small_base: BaseModel) -> None:
    model = load_model(small_base, torch.float32, CPU)
    assert find_head(model) is model.lm_head
    trained = adapt(model, LoraSettings(rank=2, targets=("q_proj",), save_modules=("lm_head",))).get_base_model()
    found = find_head(trained)
    assert found is trained.lm_head.modules_to_save["default"]
    assert found.weight.requires_grad


def test_a_head_that_does_more_is_left_to_the_model(small_base: BaseModel, tmp_path: Any) -> None:
    model = load_model(small_base, torch.float32, CPU)

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.lm_head.__class__ = Doubled
    assert find_head(model) is None
    scaled = random_model(tmp_path / "m", "Granite", logits_scaling=2.0)
    assert find_head(load_model(open_base(scaled), torch.float32, CPU)) is None
    adapted = adapt(load_model(small_base, torch.float32, CPU), LoraSettings(rank=2, targets=("lm_head",))).get_base_model()
    assert find_head(adapted) is None
