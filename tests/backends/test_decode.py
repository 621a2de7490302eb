"""Decoding as packed rows: the ids of transformers' generate, one row at a time, whatever else is in flight."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import enliven, ids_of, plain_copy, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_decoding import END, MARGIN, Toy, assert_same, margin_at, plain_generated, renewed

from whet.backends.base import Ask, DeviceSettings, Generated, LoraSettings, OptimizerSettings
from whet.backends.on_torch import decode
from whet.backends.on_torch.backend import TorchBackend
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Qwen3": {},
    "Llama": {},
    "Mistral window": {"sliding_window": 24},
    "Gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "Gemma3Text": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
    "Phi": {},
    "Ernie4_5": {},
    "Granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
}


def opened(base: BaseModel, **device: Any) -> tuple[TorchBackend, Any]:
    """A backend with a living adapter, and the same weights in plain transformers and PEFT."""
    backend = TorchBackend(base, OptimizerSettings(), DeviceSettings(**device))
    backend.attach(LoraSettings(rank=4))
    enliven(backend.model)
    assert backend.row_layout == "packed", backend.layout_reason
    return backend, plain_copy(backend)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TorchBackend, Any]:
    name = request.param
    return opened(open_base(random_model(tmp_path_factory.mktemp("families") / "m", name.split()[0], **FAMILIES[name])))


@pytest.fixture(scope="module")
def small(small_base: BaseModel) -> tuple[TorchBackend, Any]:
    return opened(small_base)


def some_asks(guided: bool = True) -> list[Ask]:
    """Prompts with two shared prefixes, one of them longer than a window, some alone, and one of a single id."""
    shared, other = ids_of(40, 1), ids_of(19, 2)
    asks = [Ask((*shared, *ids_of(1 + 5 * n, 3 + n)), 1 + 3 * n) for n in range(6)]
    asks += [Ask((*other, *ids_of(4, 20 + n)), 9) for n in range(12)]
    asks += [Ask(shared[:1], 6), Ask(ids_of(30, 40), 12), Ask(shared, 5), Ask(ids_of(33, 41), 1)]
    if guided:
        asks += [Ask((*shared, *ids_of(3 + n, 50 + n)), 6 + 5 * n, Toy(n)) for n in range(5)]
    return asks


def test_many_families_answer_as_plain_transformers(family: tuple[TorchBackend, Any]) -> None:
    backend, model = family
    asks = some_asks()
    wanted = [plain_generated(model, ask) for ask in renewed(asks)]
    assert any(one.num_own for one in wanted)
    assert_same(model, asks, dict(backend.generate(asks, [END])), wanted)
    assert len({prefix.ids for prefix in backend.decoder.prefixes}) >= 2


def test_ids_are_those_of_transformers_generate(small: tuple[TorchBackend, Any]) -> None:
    import transformers

    backend, model = small
    asks = some_asks(guided=False)
    got = dict(backend.generate(asks, [END]))
    for number, ask in enumerate(asks):
        config = transformers.GenerationConfig(do_sample=False, max_new_tokens=ask.max_tokens, eos_token_id=END, pad_token_id=0)
        wanted = model.generate(torch.tensor([ask.ids]), generation_config=config)[0, len(ask.ids) :].tolist()
        made = [*got[number].ids, *([END] if got[number].is_ended else [])]
        if made != wanted:
            at = next(at for at, (a, b) in enumerate(zip(made, wanted, strict=False)) if a != b)
            assert margin_at(model, ask, made[:at]) < MARGIN


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_stream_is_taken_as_there_is_room(most: int, small: tuple[TorchBackend, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, model = small
    monkeypatch.setattr(decode, "MOST_AT_ONCE", {"cpu": most})
    backend.decoder = None
    asks, taken = some_asks(), []

    def stream() -> Iterator[Ask]:
        for number, ask in enumerate(asks):
            taken.append(number)
            yield ask

    got: dict[int, Generated] = {}
    for number, generated in backend.generate(stream(), [END]):
        assert len(taken) - len(got) <= most
        got[number] = generated
    backend.decoder = None
    assert_same(model, asks, got, [plain_generated(model, ask) for ask in renewed(asks)])


def test_caches_keep_to_their_memory(small: tuple[TorchBackend, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers, two groups of 16 numbers: 512 bytes a token. Room for three of the longest, and still for one that is too long."""
    backend, model = small
    monkeypatch.setattr(decode, "CACHE_BYTES", {"cpu": 512 * 150})
    backend.decoder = None
    asks = [*some_asks(), Ask(ids_of(200, 60), 4)]
    got, sizes = {}, []
    for number, generated in backend.generate(asks, [END]):
        got[number] = generated
        own = backend.decoder.own
        sizes.append((sum(t.numel() * t.itemsize for pair in own.layers.values() for t in pair), own.num_slots))
    backend.decoder = None
    assert all(size <= 512 * 150 or slots == 1 for size, slots in sizes)
    assert_same(model, asks, got, [plain_generated(model, ask) for ask in renewed(asks)])


@settings(max_examples=15)
@given(st.data())
def test_any_asks_are_answered_as_one_by_one(small: tuple[TorchBackend, Any], data: st.DataObject) -> None:
    backend, model = small
    shared = [ids_of(data.draw(st.integers(0, 60)), seed) for seed in range(2)]
    asks = [
        Ask(
            (*data.draw(st.sampled_from(shared)), *ids_of(data.draw(st.integers(1, 12)), 7 + data.draw(st.integers(0, 3)))),
            data.draw(st.integers(4, 12)),
            Toy(data.draw(st.integers(0, 9))) if data.draw(st.booleans()) else None,
        )
        for _ in range(data.draw(st.integers(1, 6)))
    ]
    backend._decoder().most = data.draw(st.integers(1, 5))
    wanted = [plain_generated(model, ask) for ask in renewed(asks)]
    assert_same(model, asks, dict(backend.generate(asks, [END])), wanted)


def test_prompts_without_an_id_are_refused(small: tuple[TorchBackend, Any]) -> None:
    with pytest.raises(InputError, match="without tokens"):
        list(small[0].generate([Ask((), 3)], [END]))


def test_no_asks_are_no_answers(small: tuple[TorchBackend, Any]) -> None:
    assert list(small[0].generate([], [END])) == []


def test_weights_that_change_change_the_answers(small_base: BaseModel) -> None:
    backend, model = opened(small_base)
    asks = [Ask((*ids_of(40, 1), *ids_of(3, n)), 8) for n in range(6)]
    before = dict(backend.generate(asks, [END]))
    enliven(backend.model, 5)
    after = dict(backend.generate(asks, [END]))
    assert before != after
    assert_same(plain_copy(backend), asks, after, [plain_generated(plain_copy(backend), ask) for ask in asks])
    assert_same(model, asks, before, [plain_generated(model, ask) for ask in asks])


def test_samples_depend_on_their_seed_alone(small: tuple[TorchBackend, Any]) -> None:
    backend, _ = small
    prompt = ids_of(20, 1)
    asks = [Ask(prompt, 12, None, None, 1.0, seed % 3) for seed in range(9)] + [Ask(prompt, 12, Toy(1), None, 2.0, 4)]
    together = dict(backend.generate(asks, [END]))
    assert [together[n].ids for n in range(3)] == [together[n].ids for n in range(3, 6)]
    assert len({together[n].ids for n in range(3)}) == 3
    for number in (0, 2, 9):
        (alone,) = backend.generate(renewed(asks[number : number + 1]), [END])
        assert alone[1].ids == together[number].ids


def test_samples_have_the_shares_of_the_model(small: tuple[TorchBackend, Any]) -> None:
    """Two ids that a guide leaves: as often as their probabilities at that temperature say."""
    backend, model = small
    prompt = ids_of(20, 1)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, 11, 12]])).logits[0, -1]
    a = int(logits.argmax())
    b = int((logits - logits[a] + 1.5).abs().argmin())

    class TwoIds(Toy):
        def allowed(self) -> list[int]:
            return [a, b]

        def take(self, token: int, left: int) -> tuple[int, ...]:
            self.is_ended = True
            return (token, END)

    num = 600
    asks = [Ask(prompt, 4, TwoIds(0), None, 2.0, seed) for seed in range(num)]
    made = [generated for _, generated in backend.generate(asks, [END])]
    share = float(torch.softmax(logits[[a, b]] / 2.0, 0)[0])
    num_a = sum(generated.ids[-1] == a for generated in made)
    assert 0.05 < share < 0.95
    assert abs(num_a - num * share) < 4 * (num * share * (1 - share)) ** 0.5
    # What is told is the probability at a temperature of 1.
    logs = logits[[a, b]].log_softmax(0).tolist()
    for generated in made:
        assert generated.log_probs == pytest.approx((0.0, 0.0, logs[0 if generated.ids[-1] == a else 1], 0.0), abs=1e-4)


def test_padded_models_answer_the_same(small_base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, model = opened(small_base)
    backend.row_layout, backend.layout_reason = "padded", "for a test"
    asks = some_asks()
    assert_same(model, asks, dict(backend.generate(asks, [END])), [plain_generated(model, ask) for ask in renewed(asks)])
    sampled = [Ask(ids_of(20, 1), 12, None, None, 1.0, seed) for seed in range(3)]
    padded = dict(backend.generate(sampled, [END]))
    backend.row_layout = "packed"
    packed = dict(backend.generate(sampled, [END]))
    assert [padded[n].ids for n in range(3)] == [packed[n].ids for n in range(3)]


def test_bf16_answers(small_base: BaseModel) -> None:
    backend, _ = opened(small_base, dtype="bf16")
    asks = some_asks()
    together = dict(backend.generate(asks, [END]))
    assert sorted(together) == list(range(len(asks)))
    exact = dict(opened(small_base)[0].generate(renewed(asks), [END]))
    firsts = [(together[n].log_probs[0], exact[n].log_probs[0]) for n in exact if exact[n].ids[:1] == together[n].ids[:1]]
    assert len(firsts) >= len(asks) // 2
    for got, wanted in firsts:
        assert got == pytest.approx(wanted, abs=0.3)
