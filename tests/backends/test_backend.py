"""The torch backend: updates that are exact, repeatable and refused beyond limits; layouts that prove themselves."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PACKS, TREE, assert_close, copy_base, enliven, plain_copy, plain_gradients, random_model, take_gradients

from whet.backends.base import (
    Ask,
    DeviceSettings,
    FullSettings,
    LoraSettings,
    OptimizerSettings,
    Pack,
    StepLimits,
)
from whet.backends.on_torch import attention
from whet.backends.on_torch.backend import TorchBackend
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base
from whet.text.chat import Chat

LORA = LoraSettings(rank=4)


def opened(base: BaseModel, adapter: Any = LORA, optimizer: OptimizerSettings | None = None, **device: object) -> TorchBackend:
    backend = TorchBackend(base, optimizer or OptimizerSettings(), DeviceSettings(**device))
    backend.attach(adapter, seed=3)
    enliven(backend.model)
    return backend


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def trained(backend: TorchBackend) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in backend.model.named_parameters() if p.requires_grad}


def plain_update(backend: TorchBackend, packs: Any, rate: float, num_steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of AdamW with clipping over plain transformers: the written formula, torch's own optimiser."""
    model = plain_copy(backend)
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    told = backend.optimizer_settings
    optimizer = torch.optim.AdamW(
        weights.values(), rate, (told.beta1, told.beta2), told.epsilon, weight_decay=told.weight_decay, foreach=False
    )
    losses = []
    for _ in range(num_steps):
        total, gradients = plain_gradients(model, packs)
        for name, gradient in gradients.items():
            weights[name].grad = gradient / sum(pack.num_learnt for pack in packs)
        torch.nn.utils.clip_grad_norm_(weights.values(), told.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, {name: p.detach() for name, p in weights.items()}


@pytest.mark.parametrize("most", [1.0, 0.01], ids=["free", "clipped"])
def test_updates_are_those_of_plain_transformers(most: float, small_base: BaseModel) -> None:
    backend = opened(small_base, optimizer=OptimizerSettings(max_gradient_norm=most, weight_decay=0.1))
    losses, weights = plain_update(backend, PACKS, 3e-4, 3)
    results = [backend.update(PACKS, 3e-4) for _ in range(3)]
    assert [result.loss_sum for result in results] == pytest.approx(losses, rel=1e-5)
    assert losses[2] < 0.999 * losses[0]
    assert all(result.num_learnt == sum(pack.num_learnt for pack in PACKS) and result.is_taken for result in results)
    assert_close(trained(backend), weights, 1e-5)


def test_the_gradient_norm_is_that_of_the_mean_loss_before_clipping(small_base: BaseModel) -> None:
    backend = opened(small_base, optimizer=OptimizerSettings(max_gradient_norm=1e-3))
    _, gradients = plain_gradients(plain_copy(backend), PACKS)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert backend.update(PACKS, 1e-4).gradient_norm == pytest.approx(norm / sum(p.num_learnt for p in PACKS), rel=1e-5)


def test_the_same_seed_gives_the_same_bits(small_base: BaseModel) -> None:
    def run(seed: int, dropout: float) -> dict[str, str]:
        backend = TorchBackend(small_base, OptimizerSettings())
        backend.attach(LoraSettings(rank=4, dropout=dropout), seed=seed)
        torch.manual_seed(99)  # what others draw in between changes nothing
        for _ in range(2):
            backend.update(PACKS, 1e-2)
            torch.randn(3)
        return backend.digests()

    for dropout in (0.0, 0.3):
        first = run(0, dropout)
        assert first == run(0, dropout)
        assert set(first.values()).isdisjoint(run(1, dropout).values())


def test_dropout_trains_and_does_not_answer(small_base: BaseModel) -> None:
    plain = opened(small_base)
    backend = opened(small_base, LoraSettings(rank=4, dropout=0.5))
    assert same(trained(plain), trained(backend))
    assert backend.row_layout == "packed"
    # Without it an answer, a loss and the test of the layout are the same as those of an adapter that has none.
    assert backend.loss(PACKS)[0] == pytest.approx(plain.loss(PACKS)[0], rel=1e-5)
    assert backend.loss(PACKS) == backend.loss(PACKS)
    assert backend.check_layout(PACKS).startswith("rows are packed")
    first = backend.update(PACKS, 1e-2)
    assert first.loss_sum != pytest.approx(plain.loss(PACKS)[0], rel=1e-3)
    assert backend.update(PACKS, 1e-2).loss_sum != first.loss_sum
    before, _ = plain.loss(PACKS)
    for _ in range(4):
        backend.update(PACKS, 1e-2)
    assert backend.loss(PACKS)[0] < 0.9 * before


def test_rows_of_a_pack_share_the_mask_of_their_prefix(small_base: BaseModel) -> None:
    """Equal rows of one pack have equal keys of the prefix, but masks of their own behind it."""
    backend = opened(small_base, LoraSettings(rank=4, dropout=0.5, targets=("k_proj",)))
    leaf = TREE.segments[0]
    pack = Pack(TREE.prefix, (leaf, leaf))
    seen: list[torch.Tensor] = []
    backend.model.model.layers[0].self_attn.k_proj.register_forward_hook(lambda _, args, made: seen.append(made.detach()))
    backend.update([pack, pack], 1e-4)
    num, rest = len(TREE.prefix), len(leaf.ids)
    assert [made.shape[1] for made in seen] == [num, 2 * rest, 2 * rest]  # the prefix once for both packs
    assert not torch.equal(seen[1][:, :rest], seen[1][:, rest:])
    assert not torch.equal(seen[1], seen[2])
    seen.clear()
    backend.update([pack], 1e-4)
    assert [made.shape[1] for made in seen] == [num + 2 * rest]


@pytest.mark.parametrize("limits", [StepLimits(loss=1e-3), StepLimits(gradient_norm=1e-6)], ids=["loss", "norm"])
def test_an_update_beyond_the_limits_leaves_all_as_it_was(limits: StepLimits, small_base: BaseModel) -> None:
    backend, other = opened(small_base), opened(small_base)
    for one in (backend, other):
        one.update(PACKS, 1e-3)
    before = bits(backend.model)
    state = [
        {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in held.items()}
        for held in backend.optimizer.state.values()
    ]
    result = backend.update(PACKS, 1e-3, limits)
    assert not result.is_taken
    assert math.isfinite(result.loss_sum)
    assert same(bits(backend.model), before)
    for held, kept in zip(backend.optimizer.state.values(), state, strict=True):
        assert held.keys() == kept.keys()
        assert all(torch.equal(torch.as_tensor(held[key]), torch.as_tensor(kept[key])) for key in held)
    assert all(p.grad is None for p in backend.model.parameters())
    for one in (backend, other):  # the next one goes on as if it had not been
        one.update(PACKS, 1e-3)
    assert backend.digests() == other.digests()
    enough = StepLimits(result.loss_sum / result.num_learnt * 1.01, result.gradient_norm * 1.01)
    assert backend.update(PACKS, 1e-3, enough).is_taken


def test_a_loss_that_is_no_number_is_not_taken(small_base: BaseModel) -> None:
    backend = opened(small_base)
    name, weight = next((n, p) for n, p in backend.model.named_parameters() if p.requires_grad)
    weight.data[0, 0] = math.nan
    before = {n: t for n, t in backend.digests().items() if n != name}
    assert not backend.update(PACKS, 1e-3).is_taken
    assert {n: t for n, t in backend.digests().items() if n != name} == before
    assert not backend.optimizer.state


def test_bf16_trains(small_base: BaseModel) -> None:
    backend = opened(small_base, dtype="bf16")
    assert backend.row_layout == "packed", backend.layout_reason
    assert backend.check_layout(PACKS).startswith("rows are packed")
    assert {p.dtype for p in trained(backend).values()} == {torch.float32}
    exact = opened(small_base)
    losses = [(backend.update(PACKS, 1e-2).loss_sum, exact.update(PACKS, 1e-2).loss_sum) for _ in range(4)]
    for got, wanted in losses:
        assert got == pytest.approx(wanted, rel=0.02)
    assert losses[-1][0] < 0.85 * losses[0][0]


def test_fp16_halves_its_scale_where_gradients_overflow_and_loses_no_step(small_base: BaseModel) -> None:
    backend, exact = opened(small_base, dtype="fp16"), opened(small_base)
    assert backend.row_layout == "packed", backend.layout_reason
    assert backend.steps.is_scaled
    backend.steps.scale = 2.0**24
    losses = [(backend.update(PACKS, 1e-2), exact.update(PACKS, 1e-2)) for _ in range(4)]
    assert all(result.is_taken for result, _ in losses)
    assert 1 < backend.steps.scale < 2.0**24
    assert losses[0][0].loss_sum == pytest.approx(losses[0][1].loss_sum, rel=0.01)
    assert losses[0][0].gradient_norm == pytest.approx(losses[0][1].gradient_norm, rel=0.02)
    assert losses[-1][0].loss_sum < 0.85 * losses[0][0].loss_sum
    assert backend.steps.count == 4


def ignore_the_tree(*args: Any, whet_sight: Any = None, scaling: float | None = None, **_: Any) -> tuple[torch.Tensor, None]:
    """Attention that lets every segment see those before it."""
    _, query, key, value, _ = args
    if whet_sight.filling is not None:
        whet_sight.filling.keep(args[0].layer_idx, key, value)
    if whet_sight.prefix is not None:
        before = whet_sight.prefix.seen[args[0].layer_idx]
        key, value = (torch.cat(pair, 2) for pair in zip(before, (key, value), strict=True))
    num, num_keys = query.shape[2], key.shape[2]
    sees = torch.ones(num, num_keys, dtype=torch.bool).tril(num_keys - num)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, sees, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None


def test_attention_that_ignores_the_tree_is_found_when_a_base_is_opened(
    small_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "attend_packed", ignore_the_tree)
    backend = opened(small_base)
    assert backend.row_layout == "padded"
    assert "packed rows gave losses that differ by" in backend.layout_reason
    assert backend.check_layout(PACKS) == f"rows are padded: {backend.layout_reason}"
    losses, weights = plain_update(backend, PACKS, 1e-3, 2)
    results = [backend.update(PACKS, 1e-3) for _ in range(2)]
    assert [result.loss_sum for result in results] == pytest.approx(losses, rel=1e-5)
    assert results[0].num_computed == sum(pack.num_padded for pack in PACKS)
    assert_close(trained(backend), weights, 1e-5)
    monkeypatch.undo()
    attention.register()


def test_attention_that_ignores_the_tree_is_found_before_training(small_base: BaseModel) -> None:
    from transformers import AttentionInterface

    backend = opened(small_base)
    backend.passes.fused.is_at_work = False  # it would not ask transformers for its attention
    assert backend.row_layout == "packed"
    assert backend.check_layout(PACKS).startswith("rows are packed")
    AttentionInterface.register(attention.NAME, ignore_the_tree)
    try:
        before = bits(backend.model)
        said = backend.check_layout(PACKS)
        assert said.startswith("rows are padded: packed rows gave other values: loss differs by")
        assert (backend.row_layout, f"rows are padded: {backend.layout_reason}") == ("padded", said)
        assert backend.check_layout(PACKS) == said
        assert same(bits(backend.model), before)
        losses, weights = plain_update(backend, PACKS, 1e-3, 2)
        assert [backend.update(PACKS, 1e-3).loss_sum for _ in range(2)] == pytest.approx(losses, rel=1e-5)
        assert_close(trained(backend), weights, 1e-5)
    finally:
        attention.register()
    backend.attach(None)  # what is evaluated later is computed in the layout that was found right
    assert (backend.row_layout, f"rows are padded: {backend.layout_reason}") == ("padded", said)


def test_attention_that_does_not_run_backward_is_named(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel for this card")

    backend = opened(small_base)
    monkeypatch.setattr(attention, "_attend_back", fail)
    assert "they do not run here (no kernel for this card)" in backend.check_layout(PACKS)
    assert backend.update(PACKS, 1e-3).is_taken


def test_a_cache_that_would_hold_nothing_is_refused(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend(small_base, OptimizerSettings(), DeviceSettings(frozen_cache_mb=1))
    with pytest.raises(InputError, match=r"device\.frozen_cache_mb: has nothing to hold"):
        backend.attach(LoraSettings(rank=2, last_layers=2))
    backend = TorchBackend(small_base, OptimizerSettings(), DeviceSettings(frozen_cache_mb=1, frozen_cache_on_disk=True))
    backend.attach(LoraSettings(rank=2, last_layers=1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match=r"no room for device\.frozen_cache_mb \(No space left"):
        backend.update(PACKS, 1e-3)
    monkeypatch.undo()
    assert backend.update(PACKS, 1e-3).is_taken


def test_layers_that_drop_out_by_themselves_are_not_computed_twice(tmp_path: Path) -> None:
    folder = random_model(tmp_path / "m", "Qwen2", attention_dropout=0.1)
    with pytest.raises(InputError, match=r"would drop out \(attention_dropout\)"):
        TorchBackend(open_base(folder), OptimizerSettings(), DeviceSettings(checkpoint_activations=True))


@pytest.mark.parametrize("settings", [FullSettings(), FullSettings(last_layers=1)], ids=["all", "last"])
def test_full_fine_tuning_is_plain_transformers(settings: FullSettings, small_base: BaseModel) -> None:
    backend = TorchBackend(small_base, OptimizerSettings())
    before, losses = bits(backend.model), backend.loss(PACKS)
    backend.attach(settings)
    _, gradients = plain_gradients(plain_copy(backend), PACKS)
    backend.passes.backward(PACKS, backend.row_layout, 1.0)
    assert_close(take_gradients(backend.model), gradients)
    assert len(gradients) == sum(settings.last_layers is None or "layers.1." in name for name in before)
    assert backend.update(PACKS, 1e-3).is_taken
    assert not same(bits(backend.model), before)
    backend.attach(None)
    assert same(bits(backend.model), before)
    assert backend.loss(PACKS) == losses


def test_a_bare_base_is_the_base_bit_for_bit(small_base: BaseModel) -> None:
    backend = TorchBackend(small_base, OptimizerSettings())
    before, losses, scores = bits(backend.model), backend.loss(PACKS), backend.log_likelihoods(TREE)
    for adapter in (LORA, LoraSettings(rank=2, dora=True), LoraSettings(rank=2, save_modules=("lm_head",))):
        backend.attach(adapter)
        backend.update(PACKS, 1e-2)
        backend.update(PACKS, 1e-2)
        assert backend.loss(PACKS) != losses
        backend.attach(None)
        assert same(bits(backend.model), before)
        assert not backend.digests()
        assert (backend.loss(PACKS), backend.log_likelihoods(TREE)) == (losses, scores)
    plain = plain_copy(backend)
    with torch.no_grad():
        wanted = sum(
            -(plain(torch.tensor([row])).logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(row[1:])[:, None]))[-num:]
            .sum()
            .item()
            for pack in PACKS
            for row, num in ((pack.row(leaf), pack.segments[leaf].num_learnt) for leaf in pack.leaves)
        )
    assert losses == (pytest.approx(wanted, rel=1e-5), sum(pack.num_learnt for pack in PACKS))


def test_an_adapter_that_is_saved_answers_the_same(small_base: BaseModel, tmp_path: Path) -> None:
    backend = opened(small_base)
    backend.update(PACKS, 1e-2)
    backend.save_adapter(tmp_path)
    other = TorchBackend(small_base, OptimizerSettings())
    other.attach(tmp_path)
    assert other.digests() == backend.digests()
    assert other.loss(PACKS) == backend.loss(PACKS)


def test_log_likelihoods_are_those_of_transformers(small_base: BaseModel) -> None:
    backend = opened(small_base)
    plain = plain_copy(backend)
    for value, leaf in zip(backend.log_likelihoods(TREE), TREE.leaves, strict=True):
        row, num_learnt = torch.tensor([TREE.row(leaf)]), TREE.segments[leaf].num_learnt
        with torch.no_grad():
            logs = plain(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None])
        assert value == pytest.approx(logs[-num_learnt:].sum().item(), rel=1e-5)


@pytest.fixture(scope="module")
def embedded(base: BaseModel) -> TorchBackend:
    return TorchBackend(base, OptimizerSettings())


def test_what_a_folder_says_of_generation_changes_no_answer(embedded: TorchBackend, chat: Chat, tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"do_sample": true, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}')
    other = TorchBackend(open_base(folder), OptimizerSettings())
    prompt = chat.tokenizer.encode("<|im_start|>user\n天下天下天下天下天下天下天下天下<|im_end|>\n<|im_start|>assistant\n")
    asks = [Ask(tuple(prompt), 16)]
    assert list(other.generate(asks, [chat.end_id])) == list(embedded.generate(asks, [chat.end_id]))
