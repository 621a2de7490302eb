"""Several processes train what one trains alone: weights, losses, states; also where the base is spread over them."""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ranks_at_work
import torch
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st
from ranks_at_work import FAILS_WITH, HALF, STEPS, answers, open_at, train, weights_of
from safetensors.torch import load_file

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings, Pack, Segment
from whet.backends.on_torch.backend import TorchBackend
from whet.backends.on_torch.ranks import Ranks, _buckets
from whet.backends.on_torch.sharding import check_trainable, load_sharded
from whet.backends.on_torch.shares import deal, spread
from whet.cli import devices
from whet.errors import InputError
from whet.models.base_model import open_base

pytestmark = pytest.mark.end_to_end

WAYS = ("plain", "shard", "recomputed")
# Sums in another order differ in the last digit, and AdamW divides by what little some gradients are.
CLOSE = 1e-5


@dataclass
class Trained:
    base: Path
    alone: TorchBackend
    numbers: list[Any]
    weights: dict[str, torch.Tensor]
    out: Path
    failure: devices.RankFailedError
    said: str

    def rank(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / f"rank-{number}.json").read_text())
        return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same steps by one process and by two, which share one start for all their ways: starting is what takes time."""
    out = tmp_path_factory.mktemp("ranks")
    base = random_model(out / "base", "Qwen2", tie_word_embeddings=True, hidden_size=32, intermediate_size=51)
    half = out / "half"
    half.mkdir()
    alone = open_at(base)
    numbers, weights = train(alone, range(STEPS), half), weights_of(alone)
    said = pytest.MonkeyPatch()
    lines: list[str] = []
    with said.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(devices, "print", lambda *words, **_: lines.extend(words), raising=False)
        command = (sys.executable, ranks_at_work.__file__)
        with pytest.raises(devices.RankFailedError) as failed:
            devices.launch(2, [str(base), str(half), str(out)], command)
    return Trained(base, alone, numbers, weights, out, failed.value, "\n".join(lines))


def differ(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_give_the_weights_of_one(way: str, trained: Trained) -> None:
    found = load_file(trained.out / f"{way}.safetensors")
    assert differ(found, trained.weights) < CLOSE
    start = open_at(trained.base)
    assert differ(weights_of(start), trained.weights) > 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_all_see_the_same_numbers_as_one(way: str, trained: Trained) -> None:
    first, second = trained.rank(0), trained.rank(1)
    for key in (way, f"{way}-answers", f"{way}-taken-up", f"{way}-layout"):
        assert first[key] == second[key]
    for ours, wanted in zip(first[way], trained.numbers, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-5)
    assert "packed" in first[f"{way}-layout"]
    assert first[f"{way}-answers"] == answers(trained.alone)


@pytest.mark.parametrize("way", WAYS)
def test_a_state_goes_from_two_processes_to_one_and_back(way: str, trained: Trained) -> None:
    assert differ(load_file(trained.out / f"{way}-taken-up.safetensors"), trained.weights) < CLOSE
    alone = open_at(trained.base)
    alone.load_state(trained.out / f"{way}-half")
    train(alone, range(HALF, STEPS))
    assert differ(weights_of(alone), trained.weights) < CLOSE


def test_the_adapter_of_a_spread_base_is_a_plain_one(trained: Trained) -> None:
    loss = trained.alone.loss(ranks_at_work.packs_of(1))
    other = open_at(trained.base)
    other.attach(trained.out / "shard-adapter")
    assert other.loss(ranks_at_work.packs_of(1)) == pytest.approx(loss, rel=1e-5)


def test_a_spread_base_is_held_in_parts(trained: Trained) -> None:
    (held, whole), (held_too, _) = trained.rank(0)["shard-held"], trained.rank(1)["shard-held"]
    assert held + held_too == whole
    assert max(held, held_too) < 0.55 * whole
    assert trained.rank(0)["plain-held"][0] == whole


def test_gradients_are_summed_and_what_nobody_computed_stays_none(trained: Trained) -> None:
    for rank in range(2):
        found = trained.rank(rank)["exchange"]
        assert found["gradients"] == [[3.0] * 6, None, [1.0] * 6, None]
        assert found["any"] == [True, False]
        assert found["sums"] == [0.2, 1.0]
        assert found["first"] == [0.1, 0.0]
        assert "do not agree on the rank: 0, 1" in found["disagreement"]


def test_one_that_fails_ends_all_and_is_named(trained: Trained) -> None:
    assert trained.failure.exit_code == FAILS_WITH
    assert "process 1" in str(trained.failure)
    assert "process 1: no more of this" in trained.said


def rows_of(packs: list[Pack]) -> Counter[tuple[tuple[int, ...], int]]:
    return Counter((pack.row(leaf), pack.segments[leaf].num_learnt) for pack in packs for leaf in pack.leaves)


segments = st.lists(st.tuples(st.integers(2, 40), st.booleans()), min_size=1, max_size=8)


@st.composite
def some_packs(draw: st.DrawFn) -> list[Pack]:
    """Packs of rows and of pairs of rows behind a shared piece, behind one of three prefixes."""
    packs = []
    for number in range(draw(st.integers(1, 6))):
        tree: list[Segment] = []
        for length, is_pair in draw(segments):
            ids = tuple(range(100 * number, 100 * number + length))
            parent = -1
            if is_pair:
                parent = len(tree)
                tree += [Segment(ids[:3], 0), Segment((*ids, 7), 1, parent)]
            tree.append(Segment(ids, 1, parent))
        packs.append(Pack(((), (1, 2, 3), tuple(range(30)))[draw(st.integers(0, 2))], tuple(tree)))
    return packs


@given(some_packs(), st.integers(1, 5))
def test_every_row_goes_to_one_process(packs: list[Pack], count: int) -> None:
    for divide in (spread, deal):
        shares = divide(packs, count)
        assert len(shares) == count
        assert sum(map(rows_of, shares), Counter()) == rows_of(packs)
        assert shares == divide(packs, count)
    sizes = [len(share) for share in deal(packs, count)]
    assert sizes[0] - sizes[-1] <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(st.lists(st.integers(4, 12), min_size=16, max_size=40), st.integers(2, 4))
def test_one_large_pack_keeps_all_processes_busy(lengths: list[int], count: int) -> None:
    pack = Pack((1, 2, 3, 4), tuple(Segment(tuple(range(length)), 1) for length in lengths))
    loads = [sum(piece.num_tokens - 4 for piece in share) for share in spread([pack], count)]
    assert max(loads) <= 1.75 * sum(lengths) / count
    assert min(map(len, deal([pack], count))) > 0


@pytest.mark.parametrize("room", [1, 100, 10**6])
def test_buckets_hold_every_gradient_in_order_and_no_more_than_their_room(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.backends.on_torch.ranks.BUCKET_BYTES", room)
    gradients = [
        torch.zeros(size, dtype=kind)
        for size, kind in ((3, torch.float32), (9, torch.float32), (5, torch.float64), (1, torch.float32))
    ]
    buckets = list(_buckets(gradients))
    assert [id(one) for bucket in buckets for one in bucket] == [id(one) for one in gradients]
    assert all(len(bucket) == 1 or sum(one.nbytes for one in bucket) <= room for bucket in buckets)
    assert all(len({one.dtype for one in bucket}) == 1 for bucket in buckets)


def test_what_a_spread_base_cannot_do_is_refused(trained: Trained) -> None:
    for adapter in (FullSettings(), LoraSettings(dora=True), trained.base):
        with pytest.raises(InputError, match=r"device\.shard"):
            check_trainable(adapter)
    for settings in (DeviceSettings(shard=True, quantize="nf4"), DeviceSettings(shard=True, frozen_cache_mb=8)):
        with pytest.raises(InputError, match=r"device\.shard"):
            load_sharded(open_base(trained.base), settings, torch.float32, torch.device("cpu"), Ranks())


def test_one_process_alone_holds_a_spread_base_whole(trained: Trained) -> None:
    alone = TorchBackend(open_base(trained.base), OptimizerSettings(), DeviceSettings(kind="cpu", shard=True))
    assert not alone.is_sharded
