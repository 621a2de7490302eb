"""Passes over packs: how rows are split changes nothing, activations are computed again where asked, nothing runs below."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import PACKS, TREE, assert_close, enliven, ids_of, plain_copy, plain_gradients, random_model, take_gradients
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.backends.base import DeviceSettings, LoraSettings, OptimizerSettings, Pack, Segment
from whet.backends.on_torch.backend import TorchBackend
from whet.models.base_model import BaseModel, open_base

PREFIX = ids_of(11, 20)
ROWS = tuple(Segment(ids_of(num, 30 + num), learnt) for num, learnt in ((3, 1), (17, 4), (6, 5), (25, 9), (2, 1), (9, 3)))


def joined(rows: Sequence[Segment], *, is_shared: bool = True) -> Pack:
    """Rows as one pack: behind the prefix, or each with a copy of its own."""
    if is_shared:
        return Pack(PREFIX, tuple(rows))
    return Pack((), tuple(Segment(PREFIX + row.ids, row.num_learnt) for row in rows))


def split(numbers: Sequence[int], *, is_shared: bool = True) -> list[Pack]:
    """The rows in packs, given the number of each row's pack."""
    groups = [[row for row, number in zip(ROWS, numbers, strict=True) if number == chosen] for chosen in sorted(set(numbers))]
    return [joined(group, is_shared=is_shared) for group in groups]


def opened(base: BaseModel, adapter: LoraSettings | None = None, **device: object) -> TorchBackend:
    backend = TorchBackend(base, OptimizerSettings(), DeviceSettings(**device))
    backend.attach(adapter or LoraSettings(rank=4))
    enliven(backend.model)
    return backend


def by_parts(backend: TorchBackend) -> TorchBackend:
    """With layers that run part by part, as a hook sees them."""
    if backend.passes.fused is not None:
        backend.passes.fused.is_at_work = False
    return backend


def trained(backend: TorchBackend) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backend.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def small(small_base: BaseModel) -> TorchBackend:
    return opened(small_base)


@pytest.fixture(scope="module")
def wanted(small: TorchBackend) -> tuple[float, dict[str, torch.Tensor]]:
    return plain_gradients(plain_copy(small), [joined(ROWS)])


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, 3), min_size=len(ROWS), max_size=len(ROWS)), is_shared=st.booleans())
def test_any_partition_has_the_loss_and_gradient_of_rows_one_by_one(
    small: TorchBackend, wanted: tuple[float, dict[str, torch.Tensor]], numbers: list[int], is_shared: bool
) -> None:
    packs = split(numbers, is_shared=is_shared)
    assert small.passes.loss(packs, "packed") == pytest.approx(wanted[0], rel=1e-5)
    loss, num_computed = small.passes.backward(packs, "packed", 1.0)
    assert loss == pytest.approx(wanted[0], rel=1e-5)
    assert_close(take_gradients(small.model), wanted[1])
    # The prefix is computed once for all packs that follow each other, or once a row.
    assert num_computed == sum(len(row.ids) for row in ROWS) + len(PREFIX) * (1 if is_shared else len(ROWS))


SPLITS = {
    "one pack": split([0] * 6),
    "a pack a row": split(range(6)),
    "some packs": split([0, 1, 0, 2, 2, 1]),
    "no prefix": split([0] * 6, is_shared=False),
    "a pack a row, no prefix": split(range(6), is_shared=False),
}


def test_updates_do_not_depend_on_how_rows_are_split(small_base: BaseModel) -> None:
    found = {}
    for name, packs in SPLITS.items():
        backend = opened(small_base)
        results = [backend.update(packs, 1e-4) for _ in range(3)]
        found[name] = ([(r.loss_sum, r.gradient_norm, r.num_learnt) for r in results], trained(backend))
    figures, weights = found["one pack"]
    assert figures[0][0] != pytest.approx(figures[2][0], rel=1e-4)
    for other_figures, other in found.values():
        for got, one in zip(other_figures, figures, strict=True):
            assert got == pytest.approx(one, rel=1e-5)
        assert_close(other, weights, 1e-6)


def test_gradients_are_scaled_and_add_up(small: TorchBackend, wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    for packs in ([joined(ROWS[:2])], split([0, 0, 0, 1, 2, 2])[1:], [joined(ROWS[2:3])]):
        small.passes.backward(packs, "packed", 0.25)
    assert_close(take_gradients(small.model), {name: gradient / 4 for name, gradient in wanted[1].items()})


@contextmanager
def saved_tensors() -> Iterator[list[int]]:
    """Bytes of what autograd holds for the backward pass, weights included, by the time of holding."""
    sizes: list[int] = []

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        yield sizes


def test_activations_that_are_computed_again_give_the_same_gradients(small_base: BaseModel) -> None:
    found, held = [], []
    for is_again in (False, True):
        backend = by_parts(opened(small_base, checkpoint_activations=is_again))
        backend._prepare(is_training=True)
        with saved_tensors() as sizes:
            losses, _ = backend.passes.losses(TREE, "packed")
        held.append((len(sizes), sum(sizes)))
        del losses
        loss, _ = backend.passes.backward(PACKS, "packed", 1.0)
        found.append((loss, take_gradients(backend.model)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())
    assert found[0][1].keys() == found[1][1].keys()
    # Hardly anything is held but the layers' inputs.
    assert held[1][0] < held[0][0] / 4
    assert held[1][1] < held[0][1] / 4


def test_an_update_computes_activations_again_where_asked(small_base: BaseModel) -> None:
    counts = {}
    for is_again in (False, True):
        backend = by_parts(opened(small_base, checkpoint_activations=is_again))
        layer = backend.model.model.layers[1].mlp
        seen: list[int] = []
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        backend.update([joined(ROWS)], 1e-4)
        counts[is_again] = len(seen)
        seen.clear()
        backend.loss([joined(ROWS)])
        assert len(seen) == 1
    assert counts == {False: 1, True: 2}


@pytest.mark.parametrize("room_mb", [0, 1])
def test_nothing_flows_below_the_last_layers(room_mb: int, tmp_path: Path) -> None:
    base = open_base(random_model(tmp_path / "m", "Llama", num_hidden_layers=4))
    backend = by_parts(opened(base, LoraSettings(rank=4, last_layers=2), frozen_cache_mb=room_mb))
    layers = backend.model.model.layers
    needs: dict[int, bool] = {}
    num_runs = [0] * 4

    def note(number: int, hidden: torch.Tensor) -> None:
        needs[number] = needs.get(number, False) or hidden.requires_grad
        num_runs[number] += 1

    for number, layer in enumerate(layers):
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _, args, number=number: note(number, args[0]))
        if number < 2:
            layer.self_attn.q_proj.register_forward_pre_hook(lambda _, args: note(0, args[0]))
    layers[2].self_attn.q_proj.register_forward_pre_hook(lambda _, args: needs.update(lowest=args[0].requires_grad))
    loss, gradients = plain_gradients(plain_copy(backend), PACKS)
    runs = []
    for _ in range(2):
        assert backend.passes.backward(PACKS, "packed", 1.0)[0] == pytest.approx(loss, rel=1e-5)
        assert_close(take_gradients(backend.model), gradients)
        runs.append((num_runs[1], num_runs[3]))
    # The lowest adapted layer's input needs no gradient; behind its attention one is needed.
    assert needs == {0: False, 1: False, "lowest": False, 2: True, 3: True}
    # Where there is room what the frozen layers made of the rows is there the second time; else of the prefix alone.
    assert runs[0][1] * 2 == runs[1][1]
    assert runs[1][0] == (runs[0][0] if room_mb else 2 * runs[0][0] - 1)


def test_a_model_that_gives_every_column_is_read_at_the_right_ones(small: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small.passes, "head", None)
    loss, gradients = plain_gradients(plain_copy(small), [TREE])
    inner = small.model.forward
    monkeypatch.setattr(small.model, "forward", lambda logits_to_keep=0, **inputs: inner(**inputs))
    for layout in ("packed", "padded"):
        assert small.passes.backward([TREE], layout, 1.0)[0] == pytest.approx(loss, rel=1e-5)
        assert_close(take_gradients(small.model), gradients)
