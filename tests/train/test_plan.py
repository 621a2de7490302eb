"""The plan: parts against brute force over real modules, what autograd keeps, and changes that do make it fit."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.base import DeviceSettings, FullSettings, LoraSettings, OptimizerSettings
from whet.config import apply_overrides, load
from whet.errors import InputError
from whet.models.architecture import read_sizes
from whet.recipe import Recipe
from whet.train.memory import Batch, Setup, Trained, _optimizer_bytes, memory_of, trained_by
from whet.train.plan import (
    CARDS,
    FIELD_MODELS,
    GB,
    MARGIN,
    Machine,
    Work,
    arithmetic_of,
    batch_of,
    field_table,
    lower,
    make_fit,
    plan,
    setup_of,
)

CONFIG: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SIZES = read_sizes(CONFIG)
SEVEN = read_sizes(FIELD_MODELS["7B"])
WORK = Work(10_000, 500, 300.0, 60.0, 120, 700)


def setup(adapter: LoraSettings | FullSettings | None = None, **changes: Any) -> Setup:
    """LoRA on a card, 2,048 tokens a pack."""
    given_ = {"optimizer": OptimizerSettings(), "device": DeviceSettings(), "tokens_per_batch": 2048, "examples_per_step": 16}
    return Setup(adapter or LoraSettings(), **(given_ | {"kind": "cuda"} | changes))


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{k: v for k, v in CONFIG.items() if k != "model_type"}))


@pytest.mark.integration
@pytest.mark.parametrize(
    "adapter",
    [
        LoraSettings(),
        LoraSettings(rank=4, targets=("q_proj", "down_proj")),
        LoraSettings(dora=True, last_layers=1),
        LoraSettings(rank_pattern={"v_proj": 2, r"layers\.1\.mlp\.up_proj": 64}),
    ],
)
def test_as_many_numbers_are_trained_as_peft_trains(adapter: LoraSettings, model: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    layers = None if adapter.last_layers is None else list(range(4 - adapter.last_layers, 4))
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    if targets == "all-linear":
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(
        r=adapter.rank,
        target_modules=targets,
        use_dora=adapter.dora,
        layers_to_transform=layers,
        rank_pattern=dict(adapter.rank_pattern),
    )
    adapted = inject_adapter_in_model(config, copy.deepcopy(model))
    wanted = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert trained_by(SIZES, adapter).total == wanted


@pytest.mark.integration
def test_all_weights_are_trained_in_full(model: Any) -> None:
    assert trained_by(SIZES, FullSettings()).total == sum(p.numel() for p in model.parameters())
    last = sum(p.numel() for p in model.model.layers[2:].parameters())
    assert trained_by(SIZES, FullSettings(last_layers=2)).total == last


def test_targets_that_name_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="names no linear layer"):
        trained_by(SIZES, LoraSettings(targets=("c_attn",)))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_the_optimisers_memory_is_what_it_holds_after_a_step(name: str) -> None:
    import torch

    from whet.backends.on_torch.optimizers import make_optimizer

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(48, 32), "b": torch.nn.Linear(32, 80, bias=False)})
    model.get_input_embeddings = model.get_output_embeddings = lambda: None  # type: ignore[method-assign,assignment]
    optimizer = make_optimizer(model, OptimizerSettings(name=name))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    states = itertools.chain.from_iterable(state.values() for state in optimizer.state.values())
    held = sum(value.numel() * value.element_size() for value in states if isinstance(value, torch.Tensor) and value.ndim)

    shapes = ((32, 48), (32, 1), (80, 32))
    assert _optimizer_bytes(name, Trained(shapes, frozenset(), 0), 512) == held


def test_weights_in_4_bits_take_what_the_paper_says() -> None:
    plain, held = (memory_of(SIZES, setup(device=device), Batch(1, 0, 1)).weights for device in (
        DeviceSettings(dtype="bf16"), DeviceSettings(dtype="bf16", quantize="nf4")))  # fmt: skip
    linear = SIZES.layers * sum(x.num_weights for x in SIZES.linears)
    # 4.127 bits a parameter (Dettmers et al. 2023, section 3), of the linear layers alone.
    assert plain - held == pytest.approx(linear * (16 - 4.127) / 8, rel=1e-3)


@pytest.mark.integration
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "by parts"])
def test_activations_are_what_the_forward_pass_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fused: bool) -> None:
    import torch
    from conftest import random_model

    from whet.backends.base import Pack, Segment
    from whet.backends.on_torch.fused_layer import FusedLayer
    from whet.backends.open import open_backend
    from whet.models.base_model import open_base

    folder = random_model(tmp_path / "m", "Qwen2", num_hidden_layers=4)
    base = open_base(folder)
    backend: Any = open_backend(base, OptimizerSettings(), DeviceSettings(kind="cpu"))
    backend.attach(LoraSettings())
    own = {p.untyped_storage().data_ptr() for p in backend.model.parameters()}
    kept: dict[int, Any] = {}
    backend.passes.fused.is_at_work = is_fused
    if not is_fused:
        monkeypatch.setattr("whet.train.memory.fuses", lambda *_: False)

    def keep(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inner = FusedLayer.forward

    def forward(*given: Any, **named: Any) -> Any:
        out, held = inner(*given, **named)
        for tensor in vars(held).values():
            if isinstance(tensor, torch.Tensor):
                keep(tensor)
        return out, held

    monkeypatch.setattr(FusedLayer, "forward", forward)
    pack = Pack((), tuple(Segment(tuple(range(3, 131)), 40) for _ in range(4)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _ = backend.passes.losses(pack, "packed")
    assert losses.requires_grad
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    planned = memory_of(read_sizes(base.config), setup(kind="cpu"), Batch(512, 0, 160)).activations
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.integration
def test_arithmetic_is_that_of_the_products(model: Any) -> None:
    """A full step against torch's own count, which leaves out attention off its fused kernels and elementwise work."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model.requires_grad_(True)
    ids = torch.randint(0, 512, (4, 32))
    with FlopCounterMode(display=False) as counter:
        model(ids).logits.sum().backward()
    products = sum(v for k, v in counter.get_flop_counts()["Global"].items() if "mm" in str(k))
    work = Work(4, 0, 32, 32, 0, 32)
    found = arithmetic_of(SIZES, setup(FullSettings(), tokens_per_batch=128, examples_per_step=4), work)
    attention = 14 * SIZES.query_width * 4 * 32**2 / 2 * SIZES.layers
    assert found.flops - attention == pytest.approx(products, rel=0.02)


def test_the_field_table_grows_with_model_and_way() -> None:
    rows = {(row.model, row.way): row for row in field_table()}
    for model in FIELD_MODELS:
        assert rows[model, "QLoRA"].minimum < rows[model, "LoRA"].minimum < rows[model, "full"].minimum
        # 16 bytes a parameter is the floor of AdamW in fp32 (Rajbhandari et al. 2020, section 3.1).
        assert rows[model, "full"].minimum > 16 * {"3B": 3.08, "7B": 7.61, "14B": 14.7}[model] * 1e9
    for way in ("full", "LoRA", "QLoRA"):
        assert rows["3B", way].minimum < rows["7B", way].minimum < rows["14B", way].minimum
    assert all(row.recommended == int(row.minimum * MARGIN) for row in rows.values())


@given(
    tokens=st.integers(64, 8192),
    rank=st.sampled_from([4, 16, 64]),
    memory=st.integers(4, 200),
    is_full=st.booleans(),
    work=st.sampled_from([None, WORK]),
)
@settings(max_examples=30)
def test_changes_fit_and_none_of_them_is_for_nothing(
    tokens: int, rank: int, memory: int, is_full: bool, work: Work | None
) -> None:
    asked = setup(FullSettings() if is_full else LoraSettings(rank=rank), tokens_per_batch=tokens)
    made = make_fit(SEVEN, asked, work, memory * GB)
    if made is None:
        return
    words, changed = made
    assert memory_of(SEVEN, changed, batch_of(changed, work)).peak <= memory * GB
    fits_as_it_is = memory_of(SEVEN, asked, batch_of(asked, work)).peak <= memory * GB
    assert (words == "") == fits_as_it_is
    if words:
        assert changed != asked


@given(rank=st.integers(1, 64), tokens=st.integers(64, 4096), more=st.integers(0, 4096))
@settings(max_examples=20)
def test_more_tokens_or_rank_never_take_less(rank: int, tokens: int, more: int) -> None:
    def peak(rank: int, tokens: int) -> int:
        return memory_of(SIZES, setup(LoraSettings(rank=rank)), Batch(tokens, 0, tokens)).peak

    assert peak(rank, tokens) <= peak(rank, tokens + more) <= peak(rank + 1, tokens + more)


def test_each_card_is_told_what_makes_it_fit() -> None:
    found = plan(SEVEN, setup(tokens_per_batch=4096), WORK, CARDS)
    assert not found.fits[0].is_fitting
    assert "device.quantize=nf4" in (found.fits[0].changes or "")
    assert found.fits[-1].is_fitting
    assert found.fits[-1].changes == ""
    assert found.steps == 625
    full = plan(read_sizes(FIELD_MODELS["14B"]), setup(FullSettings()), None, CARDS)
    assert full.fits[0].changes is None
    assert full.steps is None
    assert full.fits[-1].seconds is None


# Sections of a recipe, the config's quantization_config, and the bytes that it is to fit in.
ADVISED: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "lora": ({}, {}, False),
    "rank": ({"lora": {"rank": 64}, "tokens_per_batch": 8192}, {}, False),
    "pattern": ({"lora": {"rank_pattern": {r"layers\.0\..*": 8}}}, {}, False),
    "whole modules": ({"lora": {"save_modules": ["down_proj"]}}, {}, False),
    "full": ({"method": "full"}, {}, False),
    "full, last layers": ({"method": "full", "full": {"last_layers": 20}}, {}, False),
    "full, cached": (
        {"method": "full", "full": {"last_layers": 20}}, {"frozen_cache_mb": 64, "frozen_cache_on_disk": True}, False),
    "mlx": ({}, {"kind": "mlx"}, False),
    "mlx, dora": ({"lora": {"dora": True}}, {"kind": "mlx"}, False),
    "sharded": ({}, {"shard": True}, False),
    "stored": ({}, {}, True),
}  # fmt: skip
STORED = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}


@pytest.mark.parametrize("case", ADVISED)
def test_what_is_advised_is_what_whet_takes(case: str) -> None:
    train, device, is_stored = ADVISED[case]
    raw = {"name": "x", "task": {"kind": "extraction", "fields": [{"name": "a"}]}, "train": train, "device": device,
           "data": {"sources": [{"reader": "inline", "path": "a", "tags": {"a": {"tag": "P"}}}]}}  # fmt: skip
    sizes = read_sizes(FIELD_MODELS["7B"] | ({"quantization_config": STORED} if is_stored else {}))
    recipe = load(Recipe, raw, {}, "test")
    assert recipe.train is not None
    asked = setup_of(recipe.train, recipe.device, "mlx" if recipe.device.kind == "mlx" else "cuda")
    seen = set()
    for memory in range(2, 160, 2):
        made = make_fit(sizes, asked, None, memory * GB)
        if made is None or not made[0]:
            continue
        seen.add(made[0])
        changed = copy.deepcopy(raw)
        apply_overrides(changed, {}, made[0].split())
        told = load(Recipe, changed, {}, "test")
        assert told.train is not None
        # The words say the same as the setup that was found to fit.
        assert setup_of(told.train, told.device, asked.kind) == made[1]
        _is_taken(told, is_stored, sizes.layers)
    assert seen


def _is_taken(recipe: Recipe, is_stored: bool, layers: int) -> None:
    """What the backends refuse of a recipe whose own settings they take."""
    train, device = recipe.train, recipe.device
    assert train is not None
    assert not (device.quantize and (is_stored or device.shard or train.method == "full"))
    assert not (device.quantize and "down_proj" in train.lora.save_modules)
    if device.frozen_cache_mb:
        assert train.adapter.last_layers
    if train.lora.rank_pattern:
        assert train.lora.last_layers in (None, layers)
    if device.kind == "mlx":
        assert device.quantize in (None, "int8")
        assert not (device.quantize and train.lora.dora)
        assert train.optimizer.name in ("adamw", "lion")


def test_an_adapter_instead_of_full_training_takes_back_what_is_for_full_training() -> None:
    made = make_fit(SEVEN, setup(FullSettings(last_layers=20)), None, 24 * GB)
    assert made is not None
    assert "train.method=lora train.full.last_layers=null" in made[0]


def test_a_base_that_is_stored_in_4_bits_takes_what_it_takes_with_quantize() -> None:
    batch = Batch(512, 0, 128)
    stored = memory_of(read_sizes(CONFIG | {"quantization_config": STORED}), setup(), batch)
    assert stored == memory_of(SIZES, setup(device=DeviceSettings(quantize="nf4")), batch)


def test_out_of_memory_is_told_a_setting_even_where_the_plan_had_fitted() -> None:
    asked = setup(tokens_per_batch=4096)
    assert "train.tokens_per_batch=" in lower(SEVEN, asked, 141 * GB)
    assert "smaller base" in lower(SEVEN, asked, 1 * GB)


def test_time_is_operations_over_rate() -> None:
    slow, fast = (Machine("m", "cpu", 64 * GB, rate) for rate in (1e11, 2e11))
    found = plan(SIZES, setup(), WORK, [slow, fast, Machine("m", "cpu", 64 * GB, None)])
    assert found.fits[0].seconds == pytest.approx(2 * (found.fits[1].seconds or 0))
    assert found.fits[2].seconds is None
