"""A training state that is saved and read back goes on with the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model
from safetensors.torch import load_file, save_file

from whet.backends.base import FullSettings, LoraSettings, OptimizerSettings
from whet.backends.on_torch.adapters import adapt, adapt_fully
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.optimizers import make_optimizer, set_rate
from whet.backends.on_torch.state import load_state, save_state
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base

METHODS: dict[str, LoraSettings | FullSettings] = {
    "lora": LoraSettings(rank=8),
    "dora": LoraSettings(rank=8, dora=True, last_layers=1),
    "embedding": LoraSettings(rank=8, targets=("q_proj", "v_proj"), save_modules=("embed_tokens",)),
    "full": FullSettings(),
}
OPTIMIZERS = ("adamw", "adamw_8bit", "adafactor", "lion", "muon")


@pytest.fixture(scope="module")
def own_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("bases") / "base"
    return open_base(random_model(folder, "Qwen2", tie_word_embeddings=True, num_hidden_layers=2, hidden_size=32))


def fresh(base: BaseModel, method: LoraSettings | FullSettings, name: str, seed: int = 0) -> tuple[Any, torch.optim.Optimizer]:
    model = load_model(base, torch.float32, torch.device("cpu"))
    torch.manual_seed(seed)
    model = adapt(model, method) if isinstance(method, LoraSettings) else adapt_fully(model, method)
    ratio = 4.0 if isinstance(method, LoraSettings) else 1.0
    settings = OptimizerSettings(name=name, weight_decay=0.01, b_ratio=ratio)  # type: ignore[arg-type]
    return model, make_optimizer(model, settings)


def train(model: Any, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = torch.randint(3, 8000, (1, 8), generator=torch.Generator().manual_seed(step))
        model(input_ids=ids, labels=ids).loss.backward()
        set_rate(optimizer, 1e-3 * (step + 1))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("full", name) for name in OPTIMIZERS),
        ("lora", "adamw"),
        ("lora", "muon"),
        ("dora", "adamw"),
        ("embedding", "adamw_8bit"),
    ],
)
def test_a_run_goes_on_with_the_same_bits(method: str, name: str, own_base: BaseModel, tmp_path: Path) -> None:
    if name in ("adamw_8bit", "lion"):
        pytest.importorskip("bitsandbytes", reason=f"{name} is bitsandbytes'")
    model, optimizer = fresh(own_base, METHODS[method], name)
    train(model, optimizer, range(2))
    save_state(tmp_path, model, optimizer)
    at_save = {key: value.clone() for key, value in weights(model).items()}
    train(model, optimizer, range(2, 4))

    other, again = fresh(own_base, METHODS[method], name, seed=1)
    load_state(tmp_path, other, again)
    assert all(torch.equal(at_save[key], value) for key, value in weights(other).items())
    train(other, again, range(2, 4))
    assert all(torch.equal(value, weights(other)[key]) for key, value in weights(model).items())
    # The test can fail: without the optimiser's state the weights end elsewhere.
    assert any(not torch.equal(at_save[key], value) for key, value in weights(model).items())
    if name == "adamw_8bit" and method == "full":
        assert any(tensor.dtype == torch.uint8 for tensor in load_file(tmp_path / "state.safetensors").values())


def test_the_state_matters(own_base: BaseModel, tmp_path: Path) -> None:
    model, optimizer = fresh(own_base, METHODS["lora"], "adamw")
    train(model, optimizer, range(2))
    save_state(tmp_path, model, optimizer)
    other, again = fresh(own_base, METHODS["lora"], "adamw")
    load_state(tmp_path, other, again)
    again.state.clear()
    train(model, optimizer, range(2, 3))
    train(other, again, range(2, 3))
    assert any(not torch.equal(value, weights(other)[key]) for key, value in weights(model).items())


def test_a_state_before_the_first_step(own_base: BaseModel, tmp_path: Path) -> None:
    model, optimizer = fresh(own_base, METHODS["lora"], "adamw")
    save_state(tmp_path, model, optimizer)
    train(model, optimizer, range(2))
    other, again = fresh(own_base, METHODS["lora"], "adamw", seed=1)
    load_state(tmp_path, other, again)
    assert not again.state
    train(other, again, range(2))
    assert all(torch.equal(value, weights(other)[key]) for key, value in weights(model).items())


def test_the_loss_scale_is_kept(own_base: BaseModel, tmp_path: Path) -> None:
    model, optimizer = fresh(own_base, METHODS["lora"], "adamw")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**9, growth_interval=7)
    save_state(tmp_path, model, optimizer, scaler)
    other = torch.amp.GradScaler("cpu")
    load_state(tmp_path, model, optimizer, other)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 2.0**9
    with pytest.raises(InputError, match="loss scale was True when it was saved, and is False"):
        load_state(tmp_path, model, optimizer)


def test_what_does_not_fit_is_named(own_base: BaseModel, tmp_path: Path) -> None:
    model, optimizer = fresh(own_base, METHODS["lora"], "adamw")
    train(model, optimizer, range(1))
    save_state(tmp_path, model, optimizer)
    path = tmp_path / "state.safetensors"
    tensors, facts = load_file(path), (tmp_path / "state.json").read_text()
    name = next(key for key in tensors if key.endswith("exp_avg"))

    def refused(changed: dict[str, torch.Tensor], words: str, facts: str = facts) -> None:
        save_file(changed, path)
        (tmp_path / "state.json").write_text(facts)
        before = {key: value.clone() for key, value in weights(model).items()}
        with pytest.raises(InputError, match=words):
            load_state(tmp_path, model, optimizer)
        assert all(torch.equal(before[key], value) for key, value in weights(model).items())

    refused({key: value for key, value in tensors.items() if key != name}, f"{name} is missing")
    refused(tensors | {"weight/odd": torch.zeros(1)}, "weight/odd has no place")
    refused(tensors | {name: torch.zeros(3)}, rf"{name} is \['torch.float32', \[3\]\]")
    refused(tensors | {name: tensors[name].half()}, rf"{name} is \['torch.float16'")
    without = {key: value for key, value in tensors.items() if key != name}
    told = json.loads(facts)
    del told["tensors"][name]
    refused(without, f"{name} is missing", json.dumps(told))
    refused(tensors, "not JSON", facts[:-20])
    refused(tensors, "no state of a training run", "[]")
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "state.json").write_text(facts)
    with pytest.raises(InputError, match="can't be read"):
        load_state(tmp_path, model, optimizer)


def test_another_run_is_refused(own_base: BaseModel, tmp_path: Path) -> None:
    model, optimizer = fresh(own_base, METHODS["lora"], "adamw")
    train(model, optimizer, range(1))
    save_state(tmp_path, model, optimizer)
    with pytest.raises(InputError, match=r"optimiser was \['AdamW'\] .* is \['Adafactor'\]"):
        load_state(tmp_path, *fresh(own_base, METHODS["lora"], "adafactor"))
    with pytest.raises(InputError, match="optimiser's params was"):
        load_state(tmp_path, *fresh(own_base, METHODS["lora"].model_copy(update={"targets": ("q_proj",)}), "adamw"))
    other, fresh_one = fresh(own_base, LoraSettings(rank=4), "adamw")
    with pytest.raises(InputError, match=r"is \['torch.float32', \[8, \d+\]\], not \['torch.float32', \[4, \d+\]\]"):
        load_state(tmp_path, other, fresh_one)
    assert not fresh_one.state
