"""Guessed ids change how many passes a reply takes, and nothing else."""

from collections.abc import Sequence
from typing import Any

import pytest
from conftest import enliven, ids_of, plain_copy
from hypothesis import given
from hypothesis import strategies as st
from plain_decoding import END, Toy, assert_same, plain_generated, renewed

from whet.backends.base import Ask, Generated, LoraSettings, OptimizerSettings
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.drafts import LONGEST, MOST, Copier, Drafts
from whet.models.base_model import BaseModel


class Repeating(Toy):
    """Leaves one id at a time, of five that come round and round."""

    def begin(self, left: int) -> tuple[int, ...]:
        return ()

    def allowed(self) -> list[int]:
        return [(20, 22, 23, 25, 26)[self.num_taken % 5]]

    def take(self, token: int, left: int) -> tuple[int, ...]:
        assert token in self.allowed()
        self.num_taken += 1
        self.is_ended = left == 1
        return (END,) if self.is_ended else (token,)


@pytest.fixture(scope="module")
def opened(small_base: BaseModel) -> tuple[TorchBackend, Any]:
    backend = TorchBackend(small_base, OptimizerSettings())
    backend.attach(LoraSettings(rank=4))
    enliven(backend.model)
    return backend, plain_copy(backend)


def answered(backend: TorchBackend, asks: Sequence[Ask]) -> tuple[dict[int, Generated], int]:
    """Replies, and the passes that they took behind their prompts."""
    decoder, passes = backend._decoder(), []
    step = type(decoder)._step
    decoder._step = lambda: (passes.append(1), step(decoder))[1]  # type: ignore[method-assign]
    found = dict(backend.generate(asks, [END]))
    del decoder._step
    return found, len(passes)


def test_a_right_draft_saves_passes_and_wrong_ones_change_nothing(opened: tuple[TorchBackend, Any]) -> None:
    backend, model = opened
    prompts = [ids_of(9 + n, n) for n in range(4)]
    wanted = [plain_generated(model, Ask(prompt, 24)) for prompt in prompts]
    taken = {}
    for name in ("none", "right", "wrong", "half"):
        right = [one.ids for one in wanted]
        drafts = {"none": [()] * 4, "right": right, "wrong": right[1:] + right[:1]}
        drafts["half"] = [ids[:9] + ids_of(6, 77) + ids[9:] for ids in right]
        asks = [Ask(prompt, 24, draft=draft) for prompt, draft in zip(prompts, drafts[name], strict=True)]
        backend.decoder = None
        got, taken[name] = answered(backend, asks)
        assert_same(model, asks, got, wanted)
    assert taken["right"] < taken["half"] <= taken["none"] <= 24
    assert taken["right"] < 24 / 2


def test_a_reply_that_repeats_itself_is_copied_from_itself(opened: tuple[TorchBackend, Any]) -> None:
    backend, _ = opened
    backend.decoder = None
    got, num = answered(backend, [Ask(ids_of(12, 3), 60, Repeating(0))])
    assert got[0].ids == tuple((20, 22, 23, 25, 26)[at % 5] for at in range(59))
    assert num < 30


def test_guides_are_kept_to_while_ids_are_tried(opened: tuple[TorchBackend, Any]) -> None:
    backend, model = opened
    asks = [Ask(ids_of(9 + n, n), 20 + n, Toy(n)) for n in range(6)]
    wanted = [plain_generated(model, ask) for ask in renewed(asks)]
    backend.decoder = None
    drafted = [Ask(a.ids, a.max_tokens, Toy(a.guide.salt), draft=one.ids) for a, one in zip(asks, wanted, strict=True)]
    assert_same(model, drafted, dict(backend.generate(drafted, [END])), wanted)


def test_samples_take_no_guesses(opened: tuple[TorchBackend, Any]) -> None:
    backend, _ = opened
    asks = [Ask(ids_of(9, 1), 16, temperature=1.0, seed=seed) for seed in range(3)]
    backend.decoder = None
    plain, num = answered(backend, asks)
    drafted, num_drafted = answered(backend, [Ask(a.ids, 16, None, None, 1.0, a.seed, plain[0].ids) for a in asks])
    assert plain == drafted
    assert num == num_drafted == 16


def test_wrong_guesses_are_soon_left_alone() -> None:
    drafts, copier = Drafts("cpu"), Copier(range(100))
    sizes = []
    for at in range(40):
        guess = drafts.guess(copier, [at], 4, 50)
        sizes.append(len(guess))
        if guess:
            drafts.learn(copier, len(guess), 0)
    assert sizes[0] > 0
    assert sizes[-1] == 0
    fresh = Drafts("cpu")
    sure = []
    for at in range(40):
        guess = fresh.guess(copier := Copier(range(100)), [at], 4, 50)
        fresh.learn(copier, len(guess), len(guess))
        sure.append(len(guess))
    assert sure[-1] > sure[0]
    assert sure[-1] <= MOST


def test_many_in_flight_leave_less_room_for_guesses() -> None:
    drafts = Drafts("cpu")
    sizes = [len(drafts.guess(Copier(range(100)), [5], num, 50)) for num in (1, 4, 16, 64)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == 0
    assert not drafts.is_worth_a_look(64)
    assert drafts.is_worth_a_look(1)
    assert len(drafts.guess(Copier(range(100)), [5], 1, 3)) == 2


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_what_is_found_stands_behind_the_longest_end(source: list[int], reply: list[int]) -> None:
    copier = Copier(source)
    for num in range(1, len(reply) + 1):
        ids = reply[:num]
        kind, found = copier.find(ids)

        def places(text: list[int], length: int, ids: list[int] = ids) -> list[int]:
            return [end for end in range(length, len(text)) if text[end - length : end] == ids[-length:]]

        lengths = [length for length in range(1, min(LONGEST, num) + 1) if places(source, length) or places(ids, length)]
        if not lengths:
            assert (kind, found) == (None, ())
            continue
        assert kind is not None
        place, length = kind
        assert length == lengths[-1]
        text = source if place == "source" else ids
        assert any(tuple(text[end : end + MOST]) == found for end in places(text, length))
        assert (place == "source") == bool(places(source, length))
