"""Fusion: the fused folder is what PEFT's own merge makes, and what transformers computes with base and adapter."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_model
from safetensors.numpy import load_file, save_file

from export.conftest import logits, merged_by_peft, open_model
from whet.errors import InputError
from whet.export.fuse import Fused, fuse
from whet.models.adapter import open_adapter
from whet.models.base_model import open_base
from whet.models.weights import INDEX, read_weights

Write = Callable[..., tuple[Any, Path]]
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True},
    "Qwen2": {},
    "Qwen3": {"tie_word_embeddings": True},
    "Mistral": {},
    "Gemma3Text": {"layer_types": ["sliding_attention", "full_attention"]},
    "Phi3": {},
}


def fuse_folders(base: Path, adapter: Path, out: Path, **options: Any) -> Fused:
    opened = open_base(base)
    return fuse(opened, open_adapter(adapter, opened), out, **options)


def assert_same(out: Path, adapted: Any, tolerance: float = 1e-6) -> None:
    """Logits of the folder are those of base and adapter, and its weights those of PEFT's merge."""
    model = open_model(out)
    assert torch.allclose(logits(model), logits(adapted), atol=2e-4, rtol=1e-4)
    ours = model.state_dict()
    theirs = merged_by_peft(adapted)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max().item() <= tolerance * max(1.0, tensor.abs().max().item()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_folder_is_base_and_adapter(family: str, tmp_path: Path, write_peft: Write) -> None:
    base = random_model(tmp_path / "m", family, **FAMILIES[family])
    adapted, adapter = write_peft(base)
    fused = fuse_folders(base, adapter, tmp_path / "out")
    assert (fused.dtype, fused.unchanged) == ("F32", ())
    assert fused.num_changed == sum("lora_A" in name for name, _ in adapted.named_parameters())
    assert fused.share > 0.999
    assert fused.error < 1e-5
    assert_same(tmp_path / "out", adapted)


SETTINGS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True, "r": 9},
    "dora": {"use_dora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"v_proj": 2, r"layers\.1\..*up_proj": 6},
        "alpha_pattern": {"q_proj": 31, "layers.0.self_attn.v_proj": 3},
        "use_rslora": True,
    },
    "bias all": {"bias": "all", "target_modules": ["q_proj"]},
    "bias of adapted layers": {"bias": "lora_only", "target_modules": ["q_proj", "v_proj"]},
    "bias of B": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
    "saved norm": {"modules_to_save": ["input_layernorm"], "target_modules": ["q_proj"]},
    "saved embedding": {"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"]},
    "saved both": {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["q_proj"]},
    "saved tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True, "target_modules": ["q_proj"]},
    "adapted embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "adapted embedding, dora": {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True},
    "adapted head": {"target_modules": ["lm_head", "q_proj"]},
    "adapted tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
}
STAYS_TIED = {"saved tied", "adapted tied"}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    is_tied: bool = request.param
    return random_model(
        tmp_path_factory.mktemp("llama") / ("tied" if is_tied else "untied"), "Llama", attention_bias=True,
        tie_word_embeddings=is_tied, vocab_size=8192, hidden_size=32, intermediate_size=48,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*tie.*", "ignore:.*tying.*", "ignore:.*is_gradient_checkpointing.*")
@pytest.mark.parametrize("kind", SETTINGS)
def test_every_kind_of_adapter(kind: str, llama: Path, tmp_path: Path, write_peft: Write) -> None:
    is_tied = llama.name == "tied"
    adapted, adapter = write_peft(llama, **SETTINGS[kind])
    before = logits(adapted)
    fuse_folders(llama, adapter, tmp_path / "out")
    model = open_model(tmp_path / "out")
    assert torch.allclose(logits(model), before, atol=2e-4, rtol=1e-4)
    touches = any(word in kind for word in ("embedding", "head", "both", "tied"))
    assert model.config.tie_word_embeddings == (is_tied and (not touches or kind in STAYS_TIED))
    if not touches:
        assert_same(tmp_path / "out", adapted)


def test_transposed_weights_of_gpt2(tmp_path: Path, write_peft: Write) -> None:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=8192, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "m")
    for dora in (False, True):
        adapted, adapter = write_peft(tmp_path / "m", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, use_dora=dora)
        out = tmp_path / f"out{dora}"
        fuse_folders(tmp_path / "m", adapter, out)
        assert torch.allclose(logits(open_model(out)), logits(adapted), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*")
def test_new_tokens_of_whets_own_adapter(tmp_path: Path, small_base: Any) -> None:
    """The backend's own way to grow a vocabulary, on a tied and an untied base."""
    from whet.backends.base import LoraSettings
    from whet.backends.on_torch.adapters import adapt, save_adapter

    for is_tied in (False, True):
        base = random_model(tmp_path / f"m{is_tied}", "Qwen2", tie_word_embeddings=is_tied)
        saved = ("embed_tokens",) if is_tied else ("embed_tokens", "lm_head")
        model = adapt(open_model(base), LoraSettings(rank=2, save_modules=saved), 8195)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.02 * torch.randn_like(parameter) * (1 + ("lora_B" in name))
        folder, out = tmp_path / f"a{is_tied}", tmp_path / f"o{is_tied}"
        folder.mkdir()
        save_adapter(model, folder)
        fused = fuse_folders(base, folder, out)
        opened = open_model(out)
        assert opened.config.vocab_size == opened.get_input_embeddings().weight.shape[0] == 8195
        assert opened.config.tie_word_embeddings == is_tied
        assert torch.allclose(logits(opened), logits(model.eval()), atol=2e-4, rtol=1e-4)
        assert any("8195 rows" in note for note in fused.notes)


def test_shards_go_in_and_out(tmp_path: Path, write_peft: Write) -> None:
    random_model(tmp_path / "whole", "Llama")
    base = tmp_path / "m"
    open_model(tmp_path / "whole").save_pretrained(base, max_shard_size="300KB")
    assert (base / INDEX).is_file()
    adapted, adapter = write_peft(base)
    fused = fuse_folders(base, adapter, tmp_path / "out", max_shard_bytes=200_000)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert sorted(set(index["weight_map"].values())) == sorted(fused.files)
    assert len(fused.files) == 4
    assert index["metadata"]["total_size"] == sum(tensor.num_bytes for tensor in read_weights(tmp_path / "out").values())
    large = [path for path in fused.files if (tmp_path / "out" / path).stat().st_size > 202_000]
    assert all(len(load_file(tmp_path / "out" / name)) == 1 for name in large)
    assert_same(tmp_path / "out", adapted)


def test_bf16_is_kept_and_its_rounding_told(tmp_path: Path, write_peft: Write) -> None:
    random_model(tmp_path / "whole", "Llama")
    base = tmp_path / "m"
    open_model(tmp_path / "whole").to(torch.bfloat16).save_pretrained(base)
    adapted, adapter = write_peft(base, size=0.004)
    exact = merged_by_peft(adapted)
    fused = fuse_folders(base, adapter, tmp_path / "out")
    stored = open_model(tmp_path / "out", torch.bfloat16).state_dict()
    plain = open_model(base, torch.bfloat16).state_dict()
    assert all(torch.equal(stored[name], exact[name].to(torch.bfloat16)) for name in exact)
    changed = [name for name in exact if not torch.equal(exact[name], plain[name].float())]
    moved = sum((stored[name] != plain[name]).sum().item() for name in changed)
    change = torch.cat([(exact[name] - plain[name].float()).flatten() for name in changed])
    error = torch.cat([(exact[name] - stored[name].float()).flatten() for name in changed])
    assert fused.share == pytest.approx(moved / (change != 0).sum().item(), rel=1e-4)
    assert fused.error == pytest.approx((error.norm() / change.norm()).item(), rel=1e-4)
    assert fused.largest == pytest.approx(error.abs().max().item(), rel=1e-4)
    assert 0.02 < fused.share < 0.9
    wide = fuse_folders(base, adapter, tmp_path / "wide", dtype="fp32")
    assert (wide.dtype, wide.error < 1e-4) == ("F32", True)
    assert_same(tmp_path / "wide", adapted)
    assert open_model(tmp_path / "wide", "auto").dtype == torch.float32


def test_memory_is_that_of_some_rows(tmp_path: Path) -> None:
    """A base of 48 MB with tensors of 24 MB; what numpy holds is counted by tracemalloc."""
    base, adapter = tmp_path / "m", tmp_path / "a"
    base.mkdir()
    adapter.mkdir()
    generator = np.random.default_rng(0)
    (base / "config.json").write_text('{"model_type": "llama"}')
    names = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj")
    tensors = {f"{name}.weight": generator.standard_normal((1500, 4000), np.float32) for name in names}
    save_file(tensors, base / "model.safetensors")
    changes = {}
    for name in names:
        changes[f"base_model.model.{name}.lora_A.weight"] = generator.standard_normal((4, 4000), np.float32)
        changes[f"base_model.model.{name}.lora_B.weight"] = generator.standard_normal((1500, 4), np.float32)
    save_file(changes, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 2}))
    tracemalloc.start()
    fuse_folders(base, adapter, tmp_path / "out", max_shard_bytes=30_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24_000_000
    first = names[0]
    wanted = tensors[f"{first}.weight"] + 0.5 * (
        changes[f"base_model.model.{first}.lora_B.weight"] @ changes[f"base_model.model.{first}.lora_A.weight"]
    )
    assert np.abs(read_weights(tmp_path / "out")[f"{first}.weight"].read() - wanted).max() < 1e-5


@pytest.fixture
def pair(tmp_path: Path, write_peft: Write) -> tuple[Path, Path]:
    """A base and an adapter of two layers."""
    base = random_model(tmp_path / "m", "Llama", hidden_size=32, intermediate_size=48)
    return base, write_peft(base, target_modules=["q_proj"])[1]


def rewrite(adapter: Path, change: Callable[[dict[str, Any]], None], **config: Any) -> None:
    """Change an adapter's tensors and config."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    described = adapter / "adapter_config.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | config))


Q = "base_model.model.model.layers.0.self_attn.q_proj"
WRONG: list[tuple[str, Callable[[dict[str, Any]], Any], dict[str, Any]]] = [
    (r"layers\.7.*which this base has not", lambda t: t.update({n.replace("layers.0", "layers.7"): v for n, v in list(t.items())}), {}),
    (r"mystery.*left unused", lambda t: t.update(mystery=np.ones(3, np.float32)), {}),
    (r"q_proj\.weight, which nothing", lambda t: t.update({f"{Q}.weight": np.ones((32, 32), np.float32)}), {}),
    (r"as one pair", lambda t: t.pop(f"{Q}.lora_A.weight"), {}),
    (r"config says rank 8", lambda t: None, {"r": 8}),
    (r"is \[32, 32\] in this base, and the adapter was made for \[40, 32\]",
     lambda t: t.update({f"{Q}.lora_B.weight": np.ones((40, 4), np.float32)}), {}),
    (r"changes nothing: all of its 2 changes are zero",
     lambda t: t.update({n: v * 0 for n, v in t.items() if "lora_B" in n}), {}),
    (r"lacks its lengths", lambda t: None, {"use_dora": True}),
    (r"has lengths that", lambda t: t.update({f"{Q}.lora_magnitude_vector": np.ones(32, np.float32)}), {}),
    (r"infinite or no number", lambda t: t.update({f"{Q}.lora_B.weight": np.full((32, 4), np.nan, np.float32)}), {}),
    (r"trainable_token_indices, which whet does not know", lambda t: None, {"trainable_token_indices": [3]}),
    (r"starts from pissa", lambda t: None, {"init_lora_weights": "pissa_niter_4"}),
    (r"no regular expression", lambda t: None, {"rank_pattern": {"(": 4}}),
    (r"pattern that does not end", lambda t: None, {"rank_pattern": {"(.*?)" * 20 + r"(?=x)\3": 4}}),
    (r"gives no rank and strength", lambda t: None, {"r": "4"}),
    (r"holds I32, no floating", lambda t: t.update({f"{Q}.lora_B.weight": np.ones((32, 4), np.int32)}), {}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "change", "config"), WRONG, ids=[words[:20] for words, _, _ in WRONG])
def test_what_does_not_fit_is_refused(
    words: str, change: Callable[[dict[str, Any]], Any], config: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = pair
    rewrite(adapter, change, **config)
    with pytest.raises(InputError, match=words):
        fuse_folders(base, adapter, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".out", "out"))]


def test_a_change_that_rounding_takes_away_is_refused(tmp_path: Path, write_peft: Write) -> None:
    random_model(tmp_path / "whole", "Llama", hidden_size=32, intermediate_size=48)
    open_model(tmp_path / "whole").to(torch.bfloat16).save_pretrained(tmp_path / "m")
    _, adapter = write_peft(tmp_path / "m", size=2e-5, target_modules=["q_proj"])
    with pytest.raises(InputError, match=r"rounding takes all of it away.*--dtype fp32"):
        fuse_folders(tmp_path / "m", adapter, tmp_path / "out")


def test_a_pickled_adapter_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="pickle"):
        fuse_folders(base, adapter, tmp_path / "out")


def test_a_layer_that_is_not_changed_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    rewrite(adapter, lambda tensors: tensors.update({f"{Q}.lora_B.weight": np.zeros((32, 4), np.float32)}))
    fused = fuse_folders(base, adapter, tmp_path / "out")
    assert fused.unchanged == ("model.layers.0.self_attn.q_proj.weight",)
    assert "not changed by it" in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_is_whole_and_written_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nwords")
    (base / "generation_config.json").write_text('{"temperature": 0.5}')
    out, said = tmp_path / "out", []
    first = fuse_folders(base, adapter, out, say=said.append)
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert open_base(base).fingerprint in card
    assert open_adapter(adapter, open_base(base)).fingerprint in card
    written = (out / "model.safetensors").stat().st_mtime_ns
    assert fuse_folders(base, adapter, out, say=said.append) == first
    assert (out / "model.safetensors").stat().st_mtime_ns == written
    assert said[-1].endswith("holds this fusion already")
    fuse_folders(base, adapter, out, dtype="bf16")
    assert open_model(out, "auto").dtype == torch.bfloat16


def test_a_folder_with_other_things_is_left_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letters.txt").write_text("dear")
    for out in (tmp_path / "out", base, adapter):
        with pytest.raises(InputError, match="not empty, and was not written by an export"):
            fuse_folders(base, adapter, out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        fuse_folders(base, adapter, tmp_path / "file")


def test_a_model_that_was_trained_whole(tmp_path: Path, small_base: Any) -> None:
    from whet.backends.on_torch.adapters import save_full
    from whet.models.adapter import write_card

    half = tmp_path / "half"
    shutil.copytree(small_base.folder, half)
    open_model(small_base.folder).to(torch.bfloat16).save_pretrained(half)
    base = open_base(half)
    model = open_model(half)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.01 * torch.randn_like(parameter)
    (tmp_path / "full").mkdir()
    save_full(model, base, tmp_path / "full")
    write_card(tmp_path / "full", base, {})
    fused = fuse_folders(half, tmp_path / "full", tmp_path / "out")
    assert (fused.dtype, fused.num_changed) == ("BF16", fused.num_tensors)
    stored = open_model(tmp_path / "out", torch.bfloat16).state_dict()
    assert all(torch.equal(stored[name], tensor.to(torch.bfloat16)) for name, tensor in model.state_dict().items())


def test_adapters_own_template_is_taken_and_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = pair
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    fused = fuse_folders(base, adapter, tmp_path / "out")
    assert fused.notes == ("chat_template.jinja is the adapter's, which differs from the base's",)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
