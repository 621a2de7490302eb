"""The MLX backend against transformers and PEFT on the same rows: loss, gradients, steps, answers; and its own state."""

# ruff: noqa: E402 (what follows the skip needs mlx)
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for name in ("mlx", "mlx_lm"):
    pytest.importorskip(name, reason="MLX is an extra of its own: pip install 'whet[mlx]'")

import mlx.core as mx
import numpy as np
import torch
from conftest import copy_base, random_model

from whet.backends.base import Ask, DeviceSettings, FullSettings, LoraSettings, OptimizerSettings, Pack, Segment
from whet.backends.on_mlx.backend import MlxBackend
from whet.backends.on_mlx.rows import PackedRow
from whet.errors import InputError, WhetError
from whet.models.base_model import BaseModel, open_base

PACK = Pack(
    (5, 6, 7, 8, 9, 300),
    (
        Segment((10, 11, 12, 13), 2),
        Segment((10, 400), 0),
        Segment((7, 8, 9), 0, 1),
        Segment((14, 900, 33), 2, 2),
        Segment((15, 16), 1, 2),
        Segment((77, 78, 1000, 5, 6), 4, 1),
    ),
)
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e4, "factor": 2.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 16}}),
    ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 777.0}}),
    ("Qwen3", {}),
    ("Mistral", {"sliding_window": 64}),
    ("Gemma3Text", {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
]  # fmt: skip


def gradients(backend: MlxBackend, packs: list[Pack], layout: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Summed loss, and its gradients by PEFT's names and in PEFT's shapes."""
    from whet.models.mlx_adapter import peft_name, turned

    loss, found = backend._gradients(packs, layout, 1)
    return loss, {peft_name(name): np.array(turned(name, value)) for name, value in found.items()}


def assert_near(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], share: float = 1e-4) -> None:
    def plain(name: str) -> str:
        return name.removesuffix(".weight") if "magnitude" in name else name

    wanted = {plain(name): value for name, value in wanted.items()}
    assert got.keys() == wanted.keys()
    assert got
    # Some tensors get no gradient but rounding, so none is held to less than a tenth of all.
    whole = float(np.sqrt(sum((value**2).sum() for value in wanted.values())))
    for name, value in wanted.items():
        assert np.linalg.norm(got[name] - value) <= share * max(float(np.linalg.norm(value)), 0.1 * whole), name


@pytest.mark.parametrize(("family", "extra"), FAMILIES)
def test_loss_and_gradients_are_those_of_torch(
    family: str, extra: dict[str, Any], tmp_path: Path, peft_folder: Callable[..., Path], reference: Any
) -> None:
    path = random_model(tmp_path / family, family, **extra)
    folder = peft_folder(path)
    wanted_loss, wanted = reference(path, folder, PACK)
    backend = MlxBackend(open_base(path), OptimizerSettings())
    backend.attach(folder)
    assert backend.row_layout == "packed"
    for layout in ("packed", "padded"):
        loss, got = gradients(backend, [PACK], layout)
        assert loss == pytest.approx(wanted_loss, rel=1e-5)
        assert_near(got, wanted)
    assert backend.check_layout([PACK]).startswith("rows are packed")
    assert backend.loss([PACK]) == (pytest.approx(wanted_loss, rel=1e-5), PACK.num_learnt)
    assert -sum(backend.log_likelihoods(PACK)) == pytest.approx(wanted_loss, rel=1e-5)


@pytest.mark.parametrize("written", [{"rope_theta": None}, {"rope_theta": 1e6}])
def test_the_rotary_base_is_read_where_transformers_writes_it(
    written: dict[str, Any], tmp_path: Path, peft_folder: Callable[..., Path], reference: Any
) -> None:
    path = copy_base(tmp_path / "m", **written, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    folder = peft_folder(path)
    backend = MlxBackend(open_base(path), OptimizerSettings())
    backend.attach(folder)
    assert backend.loss([PACK])[0] == pytest.approx(reference(path, folder, PACK)[0], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 2, r".*\.1\.mlp\.up_proj": 3}, "alpha_pattern": {"layers.0.mlp.*": 5}},
        {"target_modules": ["v_proj", "mlp.down_proj"], "layers_to_transform": [1]},
    ],
)
def test_an_adapter_of_peft_is_taken_whole_and_given_back_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path, peft_folder: Callable[..., Path], reference: Any
) -> None:
    from safetensors.numpy import load_file

    path = random_model(tmp_path / "m", "Qwen2")
    folder = peft_folder(path, **settings)
    wanted_loss, wanted = reference(path, folder, PACK)
    backend = MlxBackend(open_base(path), OptimizerSettings())
    backend.attach(folder)
    loss, got = gradients(backend, [PACK], "packed")
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert_near(got, wanted)
    backend.save_adapter(tmp_path)
    ours, theirs = (load_file(at / "adapter_model.safetensors") for at in (tmp_path, folder))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert reference(path, tmp_path, PACK)[0] == wanted_loss  # PEFT reads the folder, its config too, as its own
    digests = backend.digests()
    backend.attach(tmp_path)
    assert backend.digests() == digests


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(rank=4, alpha=6),
        LoraSettings(rank=2, rslora=True, last_layers=1, rank_pattern={"o_proj": 3}, alpha_pattern={"mlp.*": 1.5}),
        LoraSettings(rank=2, dora=True, targets=("q_proj", "down_proj")),
    ],
)
def test_a_trained_adapter_gives_peft_the_same_logits(settings: LoraSettings, tmp_path: Path, open_peft: Any) -> None:
    path = random_model(tmp_path / "m", "Qwen3")
    backend = MlxBackend(open_base(path), OptimizerSettings())
    bare = backend.loss([PACK])[0]
    backend.attach(settings, seed=3)
    assert backend.loss([PACK])[0] == pytest.approx(bare, rel=1e-6)  # B is zero
    start = backend.digests()
    for _ in range(2):
        assert backend.update([PACK], 0.02).is_taken
    moved = backend.digests()
    assert all(moved[name] != start[name] for name in moved)
    backend.save_adapter(tmp_path)
    ids = list(PACK.row(3))
    with torch.no_grad():
        wanted = open_peft(path, tmp_path)(input_ids=torch.tensor([ids])).logits[0].numpy()
    assert np.abs(np.array(backend.model(mx.array([ids]))[0]) - wanted).max() <= 3e-5 * np.abs(wanted).max()
    backend.attach(None)
    assert backend.loss([PACK])[0] == bare  # the base is untouched
    backend.attach(settings, seed=3)
    assert backend.digests() == start
    backend.attach(settings, seed=4)
    assert backend.digests() != start


def test_the_head_runs_in_pieces_with_the_same_gradients(tiny: BaseModel) -> None:
    from whet.backends.on_mlx.rows import learnt_losses, packed_row

    backend = MlxBackend(tiny, OptimizerSettings())
    backend.attach(LoraSettings(rank=2))
    _, wanted = gradients(backend, [PACK], "packed")
    whole = learnt_losses(backend.model, backend.loaded.head, packed_row(PACK), 10**9)
    sizes = []
    head = backend.loaded.head
    assert head is not None

    def watched(hidden_ND: mx.array) -> mx.array:
        sizes.append(hidden_ND.shape[0])
        return head(hidden_ND)

    backend._losses = lambda rows: learnt_losses(backend.model, watched, rows, 2 * 8192)  # type: ignore[method-assign]
    _, got = gradients(backend, [PACK], "packed")
    assert max(sizes) == 2
    assert_near(got, wanted, 1e-5)
    assert np.allclose(np.array(backend._losses(packed_row(PACK))), np.array(whole), rtol=1e-5)


def test_the_self_test_finds_a_row_whose_segments_see_each_other(tiny: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(self: PackedRow, num_tokens: int, **_: Any) -> mx.array:
        return mx.tril(mx.ones((num_tokens, num_tokens), dtype=mx.bool_))

    monkeypatch.setattr(PackedRow, "make_mask", leaking)
    backend = MlxBackend(tiny, OptimizerSettings())
    backend.attach(LoraSettings(rank=2))
    assert "packed rows gave other values" in backend.check_layout([PACK])
    assert backend.row_layout == "padded"


def test_a_model_that_takes_no_packed_rows_gets_padded_ones(tiny: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_lm.models import cache

    wanted = MlxBackend(tiny, OptimizerSettings()).loss([PACK])[0]
    with monkeypatch.context() as patched:
        patched.delattr(PackedRow, "update_and_fetch")
        backend = MlxBackend(tiny, OptimizerSettings())
        backend.attach(LoraSettings(rank=2))
        assert "takes no packed rows" in backend.check_layout([PACK])
        assert backend.loss([PACK])[0] == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(cache, "make_prompt_cache", lambda model: [cache.ArraysCache(2) for _ in model.layers])
    backend = MlxBackend(tiny, OptimizerSettings())
    assert (backend.row_layout, "ArraysCache" in backend.layout_reason) == ("padded", True)
    backend.attach(LoraSettings(rank=2))
    assert backend.check_layout([PACK]).startswith("rows are padded")
    assert backend.loss([PACK])[0] == pytest.approx(wanted, rel=1e-5)
    assert backend.update([PACK], 1e-3).num_computed == PACK.num_padded


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "../qwen2"}, "no model type that can be"),
        ({"model_type": "rope_utils"}, "mlx-lm can't load it"),
        ({"num_hidden_layers": 7}, "mlx-lm can't load it"),
        ({"num_attention_heads": 3}, "mlx-lm can't load it"),
    ],
)
def test_a_folder_that_can_not_be_a_model_is_named(config: dict[str, Any], words: str, tmp_path: Path) -> None:
    base = open_base(copy_base(tmp_path / "m", **config))
    with pytest.raises(InputError, match=words):
        MlxBackend(base, OptimizerSettings())


def test_broken_weights_are_named_before_mlx_reads_them(tmp_path: Path) -> None:
    base = open_base(copy_base(tmp_path / "m"))
    path = tmp_path / "m" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="is no safetensors file"):
        MlxBackend(base, OptimizerSettings())


def test_layers_that_the_folder_names_otherwise_take_no_adapter(tiny: BaseModel) -> None:
    backend = MlxBackend(tiny, OptimizerSettings())
    name = "model.layers.1.mlp.up_proj.weight"
    backend.loaded.shapes[name] = backend.loaded.shapes[name][::-1]
    with pytest.raises(InputError, match="would fit no other tool"):
        backend.attach(LoraSettings(rank=2))


def test_greedy_answers_are_those_of_transformers(base: BaseModel, chat: Any) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
    texts = ("洪武三年", "以王安石為參知政事")
    prompts = [chat.tokenizer.encode(f"<|im_start|>user\n抄录下文：{t}<|im_end|>\n<|im_start|>assistant\n") for t in texts]
    replies = MlxBackend(base, OptimizerSettings()).generate([Ask(tuple(prompt), 8) for prompt in prompts], [chat.end_id])
    for prompt, (_, made) in zip(prompts, replies, strict=True):
        config = transformers.GenerationConfig(do_sample=False, max_new_tokens=8, eos_token_id=chat.end_id, pad_token_id=0)
        wanted = model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        assert [*made.ids, *([chat.end_id] if made.is_ended else [])] == wanted


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_trains(bits: int, tmp_path: Path) -> None:
    from mlx import nn
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    path = random_model(tmp_path / "m", "Llama")
    model, config = load_model(path)
    model, config = quantize_model(model, config, group_size=32, bits=bits)
    folder = tmp_path / "q"
    save_model(folder, model)
    save_config(config, folder / "config.json")
    backend = MlxBackend(open_base(folder), OptimizerSettings())
    backend.attach(LoraSettings(rank=4))
    assert backend.adapter is not None
    assert all(isinstance(layer.linear, nn.QuantizedLinear) for layer in backend.adapter.layers.values())
    assert backend.check_layout([PACK]).startswith("rows are packed")
    losses = [backend.update([PACK], 5e-3).loss_sum for _ in range(4)]
    assert losses[-1] < losses[0]
    # By other means: the same weights unpacked, in layers that are not quantised, give the same loss.
    loss = backend.loss([PACK])[0]
    backend.save_adapter(tmp_path)
    for layer in backend.adapter.layers.values():
        packed = layer.linear
        layer.linear = nn.Linear(*reversed(packed.scales.shape), bias=False)
        layer.linear.weight = mx.dequantize(packed.weight, packed.scales, packed.biases, 32, bits)
    assert backend.loss([PACK])[0] == pytest.approx(loss, rel=1e-4)


def test_int8_on_loading(tmp_path: Path) -> None:
    path = random_model(tmp_path / "m", "Llama")
    plain = MlxBackend(open_base(path), OptimizerSettings()).loss([PACK])[0]
    backend = MlxBackend(open_base(path), OptimizerSettings(), DeviceSettings(quantize="int8"))
    assert backend.loss([PACK])[0] == pytest.approx(plain, rel=0.05)
    assert backend.loss([PACK])[0] != plain
    backend.attach(LoraSettings(rank=2))
    assert backend.update([PACK], 1e-3).is_taken


def test_a_window_that_mlx_lm_leaves_out_limits_the_rows(tmp_path: Path) -> None:
    backend = MlxBackend(open_base(random_model(tmp_path / "m", "Mistral", sliding_window=8)), OptimizerSettings())
    assert backend.loss([Pack((), (Segment((1, 2, 3, 4, 5, 6, 7, 8), 2),))])[1] == 2
    with pytest.raises(InputError, match="leaves the window out"):
        backend.loss([PACK])
    with pytest.raises(InputError, match="leaves the window out"):
        list(backend.generate([Ask((1, 2, 3), 8)], [2]))


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (DeviceSettings(quantize="nf4"), "mlx_lm.convert"),
        (DeviceSettings(dtype="fp16"), "loss scaling"),
        (DeviceSettings(frozen_cache_mb=9), "is not done on MLX"),
    ],
)
def test_a_device_setting_that_would_do_nothing_is_refused(device: DeviceSettings, words: str, base: BaseModel) -> None:
    with pytest.raises(InputError, match=words):
        MlxBackend(base, OptimizerSettings(), device)


def test_what_is_not_done_is_refused(tiny: BaseModel, tmp_path: Path, peft_folder: Callable[..., Path]) -> None:
    backend = MlxBackend(tiny, OptimizerSettings())
    for adapter, words in (
        (FullSettings(), "full fine-tuning"),
        (LoraSettings(save_modules=("lm_head",)), "save_modules"),
        (LoraSettings(targets=("v_proj", "c_attn")), "no layer is named c_attn"),
        (LoraSettings(last_layers=3), "has 2 layers"),
        (LoraSettings(rank_pattern={"c_attn": 2}), "decides for no adapted layer"),
        (LoraSettings(rank_pattern={"[": 2}), "no regular expression"),
        (LoraSettings(alpha_pattern={".*": 2.0, "q_proj": 3.0}), "q_proj decides for no adapted layer"),
    ):
        with pytest.raises(InputError, match=words):
            backend.attach(adapter)
    folder = peft_folder(tiny.folder, target_modules=["q_proj", "lm_head"])
    with pytest.raises(InputError, match="adapts lm_head"):
        backend.attach(folder)
    folder = peft_folder(tiny.folder, target_modules=["q_proj"])
    config = json.loads((folder / "adapter_config.json").read_text())
    for change, words in (
        ({"bias": "lora_only"}, "uses bias"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"lora_bias": True}, "uses lora_bias"),
        ({"init_lora_weights": "pissa"}, "uses init_lora_weights"),
        ({"peft_type": "IA3"}, "no LoRA adapter"),
        ({"r": 3}, "do not match"),
        ({"use_dora": True}, "do not match"),
        ({"r": None}, "no rank"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=words):
            backend.attach(folder)
        assert backend.digests() == {}
    with pytest.raises(WhetError, match="no adapter"):
        backend.save_adapter(tmp_path)
    for name in ("adamw_8bit", "adafactor", "muon"):
        with pytest.raises(InputError, match=name):
            MlxBackend(tiny, OptimizerSettings(name=name)).attach(LoraSettings(rank=2))
