"""Decoding on MLX: the ids of plain transformers, shared beginnings computed once, guides kept, adapters by name."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm")

import mlx.core as mx
import numpy as np
import torch
from conftest import TREE, ids_of, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_decoding import END, Toy, assert_same, plain_generated, renewed

from whet.backends.base import Ask, Generated, LoraSettings, OptimizerSettings
from whet.backends.on_mlx import generation
from whet.backends.on_mlx.backend import MlxBackend
from whet.backends.on_mlx.generation import _barred, _num_common
from whet.backends.replies import allowed_table
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base

FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen2": {},
    "Llama": {"tie_word_embeddings": False},
    "Gemma2": {
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 5.0,
        "sliding_window": 4096,
    },
    "Gemma3Text": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]},
}


def opened(base: BaseModel) -> tuple[MlxBackend, Any]:
    """A backend, and the same model in plain transformers."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    return MlxBackend(base, OptimizerSettings()), model.eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[MlxBackend, Any]:
    return opened(open_base(random_model(tmp_path_factory.mktemp("generation") / "m", "Qwen2")))


def some_asks() -> list[Ask]:
    """Prompts with a shared beginning, shorter and longer than a window, some with a guide, and one of a single id."""
    shared = ids_of(40, 1)
    asks = [Ask((*shared, *ids_of(1 + 5 * n, 3 + n)), 2 + 3 * n, Toy(n) if n > 1 else None) for n in range(5)]
    return [
        *asks,
        Ask(shared[:1], 4),
        Ask(shared[:20], 3),
        Ask(shared, 3),
        Ask((*ids_of(9, 8), *shared), 5),
        Ask(shared[:21], 12),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_and_log_probabilities_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    backend, model = opened(open_base(random_model(tmp_path / "m", family, **FAMILIES[family])))
    asks = some_asks()
    wanted = [plain_generated(model, ask) for ask in renewed(asks)]
    assert any(one.num_own for one in wanted)
    assert_same(model, asks, dict(backend.generate(asks, [END])), wanted)


def test_what_prompts_begin_with_is_computed_once(small: tuple[MlxBackend, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, model = small
    computed: list[int] = []
    plain = type(backend.model).__call__

    def counting(self: Any, ids_BT: mx.array, *args: Any, **others: Any) -> mx.array:
        computed.append(ids_BT.shape[1])
        return plain(self, ids_BT, *args, **others)

    monkeypatch.setattr(type(backend.model), "__call__", counting)
    monkeypatch.setattr(generation, "TOKENS_AT_ONCE", 16)
    shared = ids_of(50, 1)
    asks = [Ask((*shared, *ids_of(4, 2 + n)), 1) for n in range(6)]
    got = dict(backend.generate(asks, [END]))
    # All of the first prompt, then what each has of its own; the last id of a prompt goes with the reply.
    assert sum(computed) == 54 + 5 * 4
    assert max(computed) == 16
    monkeypatch.undo()
    assert_same(model, asks, got, [plain_generated(model, ask) for ask in asks])


@pytest.mark.parametrize("num", [255, 256, 257])
def test_a_prompt_that_fills_its_buffer_is_kept_as_it_was(num: int, small: tuple[MlxBackend, Any]) -> None:
    """mlx-lm's caches grow in steps of 256 tokens; what a reply writes behind a prompt must not reach the next one."""
    backend, model = small
    ids = ids_of(num + 1, 1)
    asks = [Ask(ids, 3), Ask(ids, 3), Ask(ids[:-3], 6), Ask((*ids[:-1], 77), 3)]
    assert_same(model, asks, dict(backend.generate(asks, [END])), [plain_generated(model, ask) for ask in asks])


def test_what_a_guide_forces_takes_one_pass(small: tuple[MlxBackend, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = small
    passes: list[int] = []
    logits = generation.Decoder._logits

    def counting(self: Any, new: tuple[int, ...], cache: Any) -> mx.array:
        passes.append(len(new))
        return logits(self, new, cache)

    monkeypatch.setattr(generation.Decoder, "_logits", counting)
    asks = [Ask(ids_of(12, n), 24, Toy(n)) for n in range(4)]
    got = dict(backend.generate(asks, [END]))
    assert passes.count(3) > 4  # an id with the two that it forces, or the last of the prompt with the first two
    assert sum(passes) < sum(len(one.ids) + 1 for one in got.values()) + len(asks)
    assert all(len(one.log_probs) == len(one.ids) + one.is_ended for one in got.values())


def test_a_reply_that_its_guide_writes_alone_needs_no_pass(
    small: tuple[MlxBackend, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(Toy):
        def begin(self, left: int) -> tuple[int, ...]:
            self.is_ended, self.num_own = True, 0
            return (9, END)

    monkeypatch.setattr(generation.Decoder, "_computed", lambda *_: pytest.fail("computed"))
    assert dict(small[0].generate([Ask((5, 6), 4, Closed(1))], [END])) == {0: Generated((9,), True, (0.0, 0.0), 0)}
    assert dict(small[0].generate([Ask((5, 6), 0)], [END])) == {0: Generated((), False)}


def test_asks_are_taken_one_at_a_time(small: tuple[MlxBackend, Any]) -> None:
    taken: list[int] = []

    def stream() -> Iterator[Ask]:
        for number in range(4):
            taken.append(number)
            yield Ask(ids_of(9, number), 2)

    for num_given, (number, _) in enumerate(small[0].generate(stream(), [END])):
        assert number == num_given
        assert len(taken) == num_given + 1


def test_samples_are_those_of_the_other_backend(small: tuple[MlxBackend, Any]) -> None:
    from whet.backends.on_torch.backend import TorchBackend

    asks = [Ask((*ids_of(20, 1), n), 10, temperature=1.5, seed=n) for n in range(5, 9)]
    asks += [Ask(ids_of(12, n), 16, Toy(n), temperature=0.7, seed=n) for n in range(3)]
    got = dict(small[0].generate(asks, [END]))
    again = dict(small[0].generate(renewed(asks), [END]))
    wanted = dict(TorchBackend(small[0].base, OptimizerSettings()).generate(renewed(asks), [END]))
    assert got == again
    assert [got[n].ids for n in range(len(asks))] == [wanted[n].ids for n in range(len(asks))]
    for number in got:
        assert got[number].log_probs == pytest.approx(wanted[number].log_probs, abs=1e-3)
    greedy = dict(small[0].generate([Ask(ask.ids, ask.max_tokens) for ask in asks[:4]], [END]))
    assert [got[n].ids for n in range(4)] != [greedy[n].ids for n in range(4)]


def test_a_prompt_without_tokens_is_refused(small: tuple[MlxBackend, Any]) -> None:
    with pytest.raises(InputError, match="without tokens"):
        list(small[0].generate([Ask((), 4)], [END]))


def test_layers_with_another_memory_are_computed_anew(small: tuple[MlxBackend, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, model = small
    monkeypatch.setattr(generation, "_keeps_all", lambda *_: False)
    monkeypatch.setattr(generation.Prompt, "__init__", lambda *_: pytest.fail("kept"))
    asks = some_asks()[:4]
    assert_same(model, asks, dict(backend.generate(asks, [END])), [plain_generated(model, ask) for ask in renewed(asks)])


KINDS = ({"r": 4, "lora_alpha": 9}, {"r": 2, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], "use_dora": True})


def test_each_ask_is_answered_by_its_adapter_alone(tmp_path: Path, peft_folder: Callable[..., Path], open_peft: Any) -> None:
    path = random_model(tmp_path / "m", "Qwen2")
    folders = {}
    for number, kind in enumerate(KINDS):
        folders[f"a.{number}"] = tmp_path / f"a{number}"
        shutil.copytree(peft_folder(path, **kind), folders[f"a.{number}"])
    backend, bare = opened(open_base(path))
    backend.attach(LoraSettings(rank=2), seed=1)
    backend.hold(folders)
    assert backend.digests() == {}
    shared = ids_of(40, 1)
    asks = [
        Ask((*shared, *ids_of(3 + n, 5 + n)), 6, Toy(n) if n % 2 else None, name) for n in range(3) for name in (*folders, None)
    ]
    models = {name: open_peft(path, folder).eval() for name, folder in folders.items()}
    for folder in folders.values():
        shutil.rmtree(folder)  # they are read once
    got = dict(backend.generate(asks, [END]))
    replies = set()
    for name in (*folders, None):
        numbers = [number for number, ask in enumerate(asks) if ask.adapter == name]
        own = [asks[number] for number in numbers]
        model = models[name] if name else bare
        wanted = [plain_generated(model, ask) for ask in renewed(own)]
        assert_same(model, own, {at: got[number] for at, number in enumerate(numbers)}, wanted)
        replies.add(tuple(one.ids for one in wanted))
    assert len(replies) == 3
    alone = MlxBackend(open_base(path), OptimizerSettings())
    assert backend.log_likelihoods(TREE) == pytest.approx(alone.log_likelihoods(TREE), rel=1e-6)
    assert backend.log_likelihoods(TREE, "a.0") != pytest.approx(alone.log_likelihoods(TREE), rel=1e-3)
    for fails in (
        lambda: list(backend.generate([Ask((5, 6), 3, adapter="x")], [END])),
        lambda: backend.log_likelihoods(TREE, "x"),
    ):
        with pytest.raises(InputError, match=r"no adapter named 'x' here\. These are held: a\.0, a\.1"):
            fails()
    backend.attach(None)
    assert backend.log_likelihoods(TREE) == pytest.approx(alone.log_likelihoods(TREE), rel=1e-6)
    with pytest.raises(InputError, match="None is held"):
        list(backend.generate([Ask((5, 6), 3, adapter="a.0")], [END]))


def test_an_attached_adapter_answers_and_a_folder_that_is_none_leaves_the_base_bare(
    tmp_path: Path, peft_folder: Callable[..., Path], open_peft: Any
) -> None:
    path = random_model(tmp_path / "m", "Qwen2")
    folder = peft_folder(path)
    backend, bare = opened(open_base(path))
    backend.attach(folder)
    asks = some_asks()[:4]
    model = open_peft(path, folder).eval()
    assert_same(model, asks, dict(backend.generate(asks, [END])), [plain_generated(model, ask) for ask in renewed(asks)])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError):
        backend.hold({"a": folder, "none": tmp_path / "none"})
    asks = renewed(asks)
    assert_same(bare, asks, dict(backend.generate(asks, [END])), [plain_generated(bare, ask) for ask in renewed(asks)])


@given(st.integers(1, 200), st.integers(0, 2**32), st.integers(0, 200))
@settings(max_examples=30)
def test_a_mask_bars_what_its_words_do(num_ids: int, seed: int, num_bits: int) -> None:
    words = np.random.default_rng(seed).integers(-(2**31), 2**31, -(-num_bits // 32) or 1).astype(np.int32)
    wanted = allowed_table([words], num_ids)[0]
    assert (np.array(_barred(words, num_ids)) == 0).tolist() == wanted.astype(bool).tolist()


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_beginning_is_found(a: list[int], b: list[int]) -> None:
    num = _num_common(tuple(a), tuple(b))
    assert a[:num] == b[:num]
    assert num == min(len(a), len(b)) or a[num] != b[num]
