"""Several adapters on one base: each ask is answered as its adapter alone would, whoever else is in the batch."""

from pathlib import Path
from typing import Any

import pytest
from conftest import TREE, enliven, ids_of, random_model
from plain_decoding import END, Toy, assert_same, plain_generated, renewed

from whet.backends.base import Ask, DeviceSettings, Generated, LoraSettings, OptimizerSettings
from whet.backends.on_torch.backend import TorchBackend
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base

KINDS: dict[str, tuple[LoraSettings, ...]] = {
    "plain": (LoraSettings(rank=4), LoraSettings(rank=2, targets=("q_proj", "down_proj"), alpha=5.0)),
    "dora": (LoraSettings(rank=4), LoraSettings(rank=4, dora=True)),
    "embedding": (LoraSettings(rank=4, save_modules=("embed_tokens",)), LoraSettings(rank=2)),
}
NAMES = ("officials.v1", "events")


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return open_base(random_model(tmp_path_factory.mktemp("held") / "m", "Qwen2", tie_word_embeddings=False))


def write_adapters(base: BaseModel, kinds: tuple[LoraSettings, ...], folder: Path) -> dict[str, Path]:
    found = {}
    for number, (name, settings) in enumerate(zip(NAMES, kinds, strict=True)):
        backend = TorchBackend(base, OptimizerSettings())
        backend.attach(settings, seed=number)
        enliven(backend.model, number + 1)
        found[name] = folder / name
        found[name].mkdir(parents=True)
        backend.save_adapter(found[name])
    return found


def mixed_asks() -> list[Ask]:
    """The same prompts to each adapter and to the bare base, with and without a guide."""
    shared = ids_of(40, 1)
    return [
        Ask((*shared, *ids_of(3 + n, 5 + n)), 8 + n, Toy(n) if n % 2 else None, name) for n in range(6) for name in (*NAMES, None)
    ]


def alone(base: BaseModel, folder: Path | None, asks: list[Ask]) -> tuple[Any, list[Generated]]:
    from conftest import plain_copy

    backend = TorchBackend(base, OptimizerSettings())
    backend.attach(folder)
    model = plain_copy(backend)
    return model, [plain_generated(model, ask) for ask in renewed(asks)]


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_ask_is_answered_by_its_adapter_alone(kind: str, layout: Any, untied: BaseModel, tmp_path: Path) -> None:
    folders = write_adapters(untied, KINDS[kind], tmp_path)
    backend = TorchBackend(untied, OptimizerSettings())
    backend.attach(LoraSettings(rank=4))
    backend.hold(folders)
    assert backend.held.is_mixable == (kind == "plain")
    assert backend.digests() == {}
    backend.row_layout = layout
    asks = mixed_asks()
    got = dict(backend.generate(asks, [END]))
    replies = set()
    for name in (*NAMES, None):
        numbers = [number for number, ask in enumerate(asks) if ask.adapter == name]
        own = [asks[number] for number in numbers]
        model, wanted = alone(untied, folders.get(name), own)
        assert_same(model, own, {at: got[number] for at, number in enumerate(numbers)}, wanted)
        replies.add(tuple(one.ids for one in wanted))
    assert len(replies) == 3


def test_ranking_names_its_adapter(untied: BaseModel, tmp_path: Path) -> None:
    folders = write_adapters(untied, KINDS["plain"], tmp_path)
    backend = TorchBackend(untied, OptimizerSettings())
    backend.hold(folders)
    for name, folder in folders.items():
        single = TorchBackend(untied, OptimizerSettings())
        single.attach(folder)
        assert backend.log_likelihoods(TREE, name) == pytest.approx(single.log_likelihoods(TREE), rel=1e-5)
    bare = TorchBackend(untied, OptimizerSettings())
    assert backend.log_likelihoods(TREE) == pytest.approx(bare.log_likelihoods(TREE), rel=1e-5)


def test_a_name_that_is_not_held_is_refused_with_those_that_are(untied: BaseModel, tmp_path: Path) -> None:
    backend = TorchBackend(untied, OptimizerSettings())
    with pytest.raises(InputError, match=r"no adapter named 'x'.*None is held"):
        list(backend.generate([Ask((5, 6), 3, adapter="x")], [END]))
    backend.hold(write_adapters(untied, KINDS["plain"], tmp_path))
    with pytest.raises(InputError, match="events, officials"):
        list(backend.generate([Ask((5, 6), 3, adapter="x")], [END]))


def test_after_holding_the_base_is_as_it_was(untied: BaseModel, tmp_path: Path) -> None:
    folders = write_adapters(untied, KINDS["plain"], tmp_path)
    backend = TorchBackend(untied, OptimizerSettings())
    asks = [Ask((*ids_of(30, 1), n), 8) for n in range(5, 9)]
    bare, before = dict(backend.generate(asks, [END])), {n: p.clone() for n, p in backend.model.named_parameters()}
    backend.hold(folders)
    assert dict(backend.generate(asks, [END])) == bare
    backend.hold({})
    assert dict(backend.generate(asks, [END])) == bare
    backend.hold(folders)
    backend.attach(None)
    after = dict(backend.model.named_parameters())
    assert before.keys() == after.keys()
    assert all((before[name] == after[name]).all() for name in before)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no adapter"):
        backend.hold(folders | {"none": tmp_path / "none"})
    assert dict(backend.generate(asks, [END])) == bare


def test_adapters_stand_on_a_quantised_base(untied: BaseModel, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folders = write_adapters(untied, KINDS["plain"], tmp_path)
    settings = DeviceSettings(kind="cpu", quantize="int8")
    backend = TorchBackend(untied, OptimizerSettings(), settings)
    backend.hold(folders)
    asks = [ask for ask in mixed_asks() if ask.adapter]
    got = dict(backend.generate(asks, [END]))
    for name, folder in folders.items():
        single = TorchBackend(untied, OptimizerSettings(), settings)
        single.attach(folder)
        numbers = [number for number, ask in enumerate(asks) if ask.adapter == name]
        own = renewed([asks[number] for number in numbers])
        wanted = dict(single.generate([Ask(a.ids, a.max_tokens, a.guide) for a in own], [END]))
        for at, number in enumerate(numbers):
            assert got[number].ids == wanted[at].ids
            assert got[number].log_probs == pytest.approx(wanted[at].log_probs, abs=1e-4)
