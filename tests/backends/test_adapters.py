"""Adapters and full fine-tuning on torch: put on, trained, saved, read back, taken off again bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_model

from whet.backends.base import FullSettings, LoraSettings
from whet.backends.on_torch.adapters import (
    adapt,
    adapt_fully,
    load_adapter,
    load_full,
    num_rows,
    remove_adapter,
    save_adapter,
    save_full,
)
from whet.backends.on_torch.load import load_model
from whet.backends.on_torch.targets import is_tied
from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base

CPU = torch.device("cpu")
FP32 = torch.float32
IDS = torch.randint(3, 8000, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def own_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("bases") / "base"
    return open_base(random_model(folder, "Qwen2", tie_word_embeddings=request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return open_base(random_model(tmp_path_factory.mktemp("bases") / "base", "Qwen2", tie_word_embeddings=True))


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(before: dict[str, torch.Tensor], model: Any) -> bool:
    after = dict(model.named_parameters())
    return before.keys() == after.keys() and all(
        torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before
    )


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def loss(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, labels=IDS).loss
    return found


def train(model: Any, steps: int = 2, rate: float = 0.5) -> float:
    optimizer = torch.optim.SGD(trained(model).values(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return loss(model).item()


KINDS = {
    "plain": LoraSettings(rank=4),
    "last": LoraSettings(rank=4, last_layers=1),
    "dora": LoraSettings(rank=4, dora=True, rslora=True),
    "embedding": LoraSettings(rank=4, save_modules=("embed_tokens",)),
    "head": LoraSettings(rank=4, save_modules=("lm_head",)),
    "norm": LoraSettings(rank=4, targets=("q_proj",), save_modules=("norm",)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_adapter_comes_back_and_leaves_the_base_as_it_was(own_base: BaseModel, dtype: torch.dtype, tmp_path: Path) -> None:
    model = load_model(own_base, dtype, CPU)
    before, tied = bits(model), is_tied(model)
    start = loss(model).item()
    for name, settings in KINDS.items():
        if dtype == torch.bfloat16 and not settings.save_modules:
            continue  # what PEFT itself keeps in fp32
        peft = adapt(model, settings)
        assert {weight.dtype for weight in trained(peft).values()} == {torch.float32}
        assert loss(peft).item() == pytest.approx(start, rel=1e-2 if dtype == torch.bfloat16 else 1e-5), name
        reached = train(peft)
        assert reached != start
        names = trained(peft).keys()
        (folder := tmp_path / name).mkdir()
        save_adapter(peft, folder)
        assert remove_adapter(peft, num_rows(model)) is model
        assert same(before, model), name
        assert is_tied(model) == tied
        again = load_adapter(model, folder)
        assert trained(again).keys() == names
        assert loss(again).item() == reached, name
        remove_adapter(again, num_rows(model))
        assert same(before, model)


def test_the_settings_become_pefts(qwen: BaseModel) -> None:
    settings = LoraSettings(
        rank=4, alpha=8, rslora=True, dropout=0.1, last_layers=1, rank_pattern={"q_proj": 2}, alpha_pattern={r"mlp\..*": 3.0}
    )
    peft = adapt(load_model(qwen, FP32, CPU), settings)
    layers = {name: module for name, module in peft.named_modules() if hasattr(module, "lora_A")}
    assert len(layers) == 7
    assert all(".layers.1." in name for name in layers)
    for name, layer in layers.items():
        rank = 2 if name.endswith("q_proj") else 4
        alpha = 3.0 if ".mlp." in name else 8.0
        assert layer.r["default"] == rank
        assert layer.scaling["default"] == pytest.approx(alpha / rank**0.5)
        assert layer.lora_dropout["default"].p == 0.1


def test_all_linear_leaves_the_head_alone(own_base: BaseModel) -> None:
    names = trained(adapt(load_model(own_base, FP32, CPU), LoraSettings(rank=2)))
    assert len(names) == 2 * 7 * 2
    assert not any("lm_head" in name or "embed" in name for name in names)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LoraSettings(targets=("qproj",)), r"targets: 'qproj' matches no linear layer.*Did you mean .*q_proj"),
        (LoraSettings(targets=("q_proj", "xyz")), r"'xyz' matches no linear layer.*This base has: .*down_proj"),
        (LoraSettings(targets=("embed_tokens",)), r"'embed_tokens' matches no linear layer"),
        (LoraSettings(targets=("lm_head",)), r"lm_head is tied"),
        (LoraSettings(targets=("q_proj",), save_modules=("q_proj",)), r"'q_proj' matches no linear layer"),
        (LoraSettings(last_layers=3), r"last_layers: is 3, and this base has 2 layers"),
        (LoraSettings(rank_pattern={"q_prj": 4}), r"rank_pattern: 'q_prj' matches no adapted layer.*q_proj"),
        (LoraSettings(targets=("v_proj",), alpha_pattern={"q_proj": 4}), r"alpha_pattern: 'q_proj' matches no adapted layer"),
        (LoraSettings(rank_pattern={".*_proj": 4, "q_proj": 2}), r"'q_proj' decides for no layer"),
        (LoraSettings(rank_pattern={"(": 4}), r"'.*\(.*' is no regular expression"),
        (LoraSettings(save_modules=("embed_token",)), r"'embed_token' matches no module with weights.*embed_tokens"),
        (LoraSettings(save_modules=("rotary_emb",)), r"'rotary_emb' matches no module with weights"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings: LoraSettings, words: str, qwen: BaseModel) -> None:
    model = load_model(qwen, FP32, CPU)
    before = bits(model)
    with pytest.raises(InputError, match=words):
        adapt(model, settings)
    assert same(before, model)


def test_tied_weights_are_trained_as_one(qwen: BaseModel) -> None:
    for names in (("embed_tokens",), ("lm_head",)):
        peft = adapt(load_model(qwen, FP32, CPU), LoraSettings(rank=2, targets=("q_proj",), save_modules=names))
        model = peft.get_base_model()
        train(peft)
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
        whole = [weight for weight in trained(peft).values() if weight.shape == (8192, 64)]
        assert len(whole) == 1


def test_equal_adapters_are_equal_bytes(qwen: BaseModel, tmp_path: Path) -> None:
    found = []
    for name in "ab":
        torch.manual_seed(3)
        (folder := tmp_path / name).mkdir()
        save_adapter(adapt(load_model(qwen, FP32, CPU), LoraSettings(rank=2)), folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(config["target_modules"])
        found.append([(folder / file).read_bytes() for file in ("adapter_config.json", "adapter_model.safetensors")])
    assert found[0] == found[1]


def test_an_adapter_that_does_not_fit_is_refused(qwen: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (folder := tmp_path / "a").mkdir()
    save_adapter(adapt(load_model(qwen, FP32, CPU), LoraSettings(rank=2)), folder)
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors, told = load_file(weights), json.loads(config.read_text())
    first = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, weights)
    with pytest.raises(InputError, match=f"1 tensor does not match this base, such as {first}"):
        load_adapter(load_model(qwen, FP32, CPU), folder)
    save_file(tensors, weights)
    config.write_text(json.dumps(told | {"init_lora_weights": "pissa"}))
    with pytest.raises(InputError, match="starts from pissa, which rewrites the base"):
        load_adapter(load_model(qwen, FP32, CPU), folder)
    config.write_text(json.dumps({"peft_type": "IA3", "task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}))
    with pytest.raises(InputError, match="whet runs LoRA adapters"):
        load_adapter(load_model(qwen, FP32, CPU), folder)


def test_new_tokens_are_trained_or_refused(own_base: BaseModel, tmp_path: Path) -> None:
    model = load_model(own_base, FP32, CPU)
    before, rows = bits(model), num_rows(model)
    wanted = ("embed_tokens",) if is_tied(model) else ("embed_tokens", "lm_head")
    words = rf"the tokenizer has {rows + 3} entries .* 3 tokens have no weights.*save_modules=\[{', '.join(wanted)}\]"
    for names in ((), ("norm",), wanted[:-1]):
        with pytest.raises(InputError, match=words):
            adapt(model, LoraSettings(rank=2, save_modules=names), rows + 3)
    assert same(before, model)

    state = torch.get_rng_state()
    peft = adapt(model, LoraSettings(rank=2, targets=("q_proj",), save_modules=wanted), rows + 3)
    assert num_rows(model) == model.config.vocab_size == rows + 3
    mean = before["model.embed_tokens.weight"].mean(0)
    assert torch.equal(model.get_input_embeddings().weight[rows:].detach(), mean.expand(3, -1))
    assert not torch.equal(torch.get_rng_state(), state)  # A was drawn
    ids = torch.cat([IDS, torch.tensor([[rows], [rows + 2]])], dim=1)
    optimizer = torch.optim.SGD(trained(peft).values(), 0.5)
    peft(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    reached = peft(input_ids=ids, labels=ids).loss.item()
    (folder := tmp_path / "a").mkdir()
    save_adapter(peft, folder)
    remove_adapter(peft, rows)
    assert same(before, model)
    assert model.config.vocab_size == rows
    again = load_adapter(model, folder)
    assert again(input_ids=ids, labels=ids).loss.item() == reached
    remove_adapter(again, rows)
    assert same(before, model)


def test_full_fine_tuning_makes_a_base(own_base: BaseModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = adapt_fully(load_model(own_base, FP32, CPU), FullSettings())
    assert len(trained(model)) == len(dict(model.named_parameters()))
    reached = train(model, rate=0.05)
    (folder := tmp_path / "full").mkdir()
    save_full(model, own_base, folder)
    made = open_base(folder)
    assert made.config == own_base.config | {"dtype": "float32"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (own_base.folder / name).read_bytes()
    again = load_full(own_base, folder, FP32, CPU)
    assert same(bits(model), again)
    assert loss(again).item() == reached
    assert not trained(again)
    assert loss(AutoModelForCausalLM.from_pretrained(folder, dtype=FP32)).item() == reached


def test_full_fine_tuning_of_the_last_layers(qwen: BaseModel) -> None:
    model = adapt_fully(load_model(qwen, FP32, CPU), FullSettings(last_layers=1))
    assert trained(model)
    assert all(".layers.1." in name for name in trained(model))
    with pytest.raises(InputError, match=r"train.full.last_layers: is 3"):
        adapt_fully(model, FullSettings(last_layers=3))
    with pytest.raises(InputError, match=r"needs the base's weights in fp32"):
        adapt_fully(load_model(qwen, torch.bfloat16, CPU), FullSettings())


def test_a_model_of_another_shape_is_no_adapter(qwen: BaseModel, tmp_path: Path) -> None:
    other = random_model(tmp_path / "other", "Qwen2", num_hidden_layers=3, tie_word_embeddings=True)
    with pytest.raises(InputError, match="num_hidden_layers is 3, not 2"):
        load_full(qwen, other, FP32, CPU)


@pytest.mark.parametrize("family", ["GPT2", "Phi", "GPTNeoX"])
def test_other_families_are_adapted(family: str, tmp_path: Path) -> None:
    model = load_model(open_base(gpt2(tmp_path / "m") if family == "GPT2" else random_model(tmp_path / "m", family)), FP32, CPU)
    before = bits(model)
    peft = adapt(model, LoraSettings(rank=2, last_layers=1))
    names = trained(peft)
    assert names
    assert all(".1." in name for name in names)
    train(peft)
    remove_adapter(peft, num_rows(model))
    assert same(before, model)


def gpt2(folder: Path) -> Path:
    """A model whose linear layers hold their weights transposed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=8192, n_embd=32, n_layer=2, n_head=2, n_positions=64)).save_pretrained(folder)
    return folder
