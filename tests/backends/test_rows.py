"""Packed rows against plain transformers rows: the same loss, the same gradients, on several families."""

import math
from pathlib import Path

import pytest
import torch
from conftest import copy_base, random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whet.backends.base import LoraSettings, OptimizerSettings, Pack, Segment
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.rows import learnt_log_probabilities, packed_row, padded_rows
from whet.models.base_model import BaseModel, open_base


def plain_loss_and_gradients(backend: TorchBackend, pack: Pack) -> tuple[float, dict[str, torch.Tensor]]:
    """The reference: each row by itself through transformers with labels, no padding, no mask, nothing of ours."""
    model = backend.model
    total = torch.zeros(())
    for segment in pack.segments:
        ids = torch.tensor([[*pack.prefix, *segment.ids]])
        labels = ids.clone()
        labels[:, : ids.shape[1] - segment.num_learnt] = -100
        total = total + model(input_ids=ids, labels=labels).loss * segment.num_learnt
    total.backward()
    return total.item(), take_gradients(model)


def take_gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def assert_same(backend: TorchBackend, pack: Pack) -> None:
    backend.model.eval()
    wanted_loss, wanted = plain_loss_and_gradients(backend, pack)
    for rows in (packed_row(pack, backend.device), padded_rows(pack, backend.device, 0)):
        loss = -learnt_log_probabilities(backend.model, rows).sum()
        loss.backward()
        assert loss.item() == pytest.approx(wanted_loss, rel=1e-5)
        got = take_gradients(backend.model)
        assert got.keys() == wanted.keys()
        assert got
        # Some tensors get no gradient but rounding (a query that sees one token), so none is held to less than a tenth of all.
        whole = torch.stack([gradient.norm() for gradient in wanted.values()]).norm().item()
        for name, gradient in wanted.items():
            assert (got[name] - gradient).norm().item() <= 1e-5 * max(gradient.norm().item(), 0.1 * whole), name


def trained_backend(base: BaseModel) -> TorchBackend:
    """A backend whose adapter is not at its zero start, so that every gradient is alive."""
    backend = TorchBackend(base, OptimizerSettings())
    backend.attach(LoraSettings(rank=4))
    generator = torch.Generator().manual_seed(1)
    for parameter in backend.model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return backend


PACK = Pack(
    (5, 6, 7, 8, 9, 300),
    (
        Segment((10, 11, 12, 13), 2),
        Segment((10, 400, 12), 1),
        Segment((7, 8, 9, 10, 11, 12, 13, 14, 900), 5),
        Segment((77, 78), 2),
    ),
)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma"])
def test_packed_equals_plain_transformers(family: str, tmp_path: Path) -> None:
    extra = {"sliding_window": None} if family == "Mistral" else {}
    backend = trained_backend(open_base(random_model(tmp_path / family, family, **extra)))
    assert backend.row_layout == "packed"
    assert_same(backend, PACK)


@pytest.fixture(scope="module")
def embedded(base: BaseModel) -> TorchBackend:
    return trained_backend(base)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_packed_equals_plain_on_the_embedded_base(embedded: TorchBackend, data: st.DataObject) -> None:
    ids = st.integers(3, 8191)
    prefix = data.draw(st.lists(ids, min_size=1, max_size=20))
    rows = data.draw(st.lists(st.lists(ids, min_size=1, max_size=24), min_size=1, max_size=6))
    segments = tuple(Segment(tuple(row), data.draw(st.integers(1, len(row)))) for row in rows)
    assert_same(embedded, Pack(tuple(prefix), segments))


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("Mistral", {"sliding_window": 8}),
        ("Gemma2", {"sliding_window": 8}),
        ("Gemma3Text", {"sliding_window": 8}),
    ],
)
def test_sliding_attention_falls_back_to_padded_rows_and_says_so(family: str, extra: dict[str, int], tmp_path: Path) -> None:
    backend = trained_backend(open_base(random_model(tmp_path / family, family, **extra)))
    assert backend.row_layout == "padded"
    assert "slid" in backend.layout_reason
    assert "padded" in backend.check_layout([PACK])
    wanted, _ = plain_loss_and_gradients(backend, PACK)
    loss, count = backend.loss(PACK)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert count == PACK.num_learnt


def test_the_self_test_finds_a_model_that_ignores_the_mask(embedded: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    import whet.backends.on_torch.backend as module

    def leaking(pack: Pack, device: torch.device) -> object:
        rows = packed_row(pack, device)
        rows.mask[:] = torch.ones_like(rows.mask).tril()  # every segment sees the ones before it
        return rows

    monkeypatch.setattr(module, "packed_row", leaking)
    backend = TorchBackend(embedded.base, OptimizerSettings())
    backend.attach(LoraSettings(rank=2))
    assert "padded" in backend.check_layout([PACK])
    assert backend.row_layout == "padded"


def test_update_does_not_depend_on_how_rows_are_split_in_packs(base: BaseModel) -> None:
    states = []
    one_by_one = [Pack(PACK.prefix, (segment,)) for segment in PACK.segments]
    for packs in ([PACK], one_by_one):
        backend = TorchBackend(base, OptimizerSettings())
        backend.attach(LoraSettings(rank=2), seed=3)
        result = backend.update(packs, 1e-3)
        assert result.num_learnt == PACK.num_learnt
        states.append((result.loss_sum, result.gradient_norm))
    assert states[0] == pytest.approx(states[1], rel=1e-5)


def test_log_likelihoods_are_those_of_transformers(embedded: TorchBackend) -> None:
    for value, segment in zip(embedded.log_likelihoods(PACK), PACK.segments, strict=True):
        ids = torch.tensor([[*PACK.prefix, *segment.ids]])
        with torch.no_grad():
            logs = embedded.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        wanted = sum(logs[at - 1, ids[0, at]].item() for at in range(ids.shape[1] - segment.num_learnt, ids.shape[1]))
        assert math.isclose(value, wanted, rel_tol=1e-5)


def test_generate_in_a_batch_equals_one_by_one(embedded: TorchBackend, chat) -> None:
    prompts = [
        chat.tokenizer.encode(f"<|im_start|>user\n抄录下文：{text}<|im_end|>\n<|im_start|>assistant\n")
        for text in ("洪武三年", "以王安石為參知政事，司馬光為翰林學士", "卒")
    ]
    together = embedded.generate(prompts, 24, [chat.end_id])
    alone = [embedded.generate([prompt], 24, [chat.end_id])[0] for prompt in prompts]
    assert together == alone
    short = embedded.generate(prompts, 1, [chat.end_id])
    assert all(len(made.ids) <= 1 for made in short)


def test_what_a_folder_says_of_generation_changes_no_answer(embedded: TorchBackend, chat, tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"do_sample": true, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}')
    other = TorchBackend(open_base(folder), OptimizerSettings())
    plain = TorchBackend(embedded.base, OptimizerSettings())
    prompts = [chat.tokenizer.encode("<|im_start|>user\n天下天下天下天下天下天下天下天下<|im_end|>\n<|im_start|>assistant\n")]
    assert other.generate(prompts, 32, [chat.end_id]) == plain.generate(prompts, 32, [chat.end_id])


def test_a_model_that_gives_every_column_is_read_at_the_right_ones(embedded: TorchBackend) -> None:
    rows = packed_row(PACK, embedded.device)

    def without_choice(logits_to_keep: torch.Tensor, **inputs: object) -> object:
        return embedded.model(**inputs)

    with torch.no_grad():
        wanted = learnt_log_probabilities(embedded.model, rows)
        assert torch.allclose(learnt_log_probabilities(without_choice, rows), wanted, rtol=1e-5)


def test_adapter_round_trip(base: BaseModel, tmp_path: Path) -> None:
    backend = trained_backend(base)
    loss, _ = backend.loss(PACK)
    state = backend.state()
    backend.save_adapter(tmp_path)
    other = TorchBackend(base, OptimizerSettings())
    other.attach(tmp_path)
    assert other.loss(PACK)[0] == pytest.approx(loss, rel=1e-6)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    other.attach(LoraSettings(rank=2))  # a fresh adapter replaces the old one without a trace
    assert other.loss(PACK)[0] == pytest.approx(TorchBackend(base, OptimizerSettings()).loss(PACK)[0], rel=1e-6)
