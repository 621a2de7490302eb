"""Sizes from a config: exactly the parameters and linear layers that transformers builds, for every family."""

import json
from pathlib import Path
from typing import Any

import pytest

from whet.errors import InputError
from whet.models.architecture import DEFAULTS, num_parameters, read_sizes

SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {}),
    ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 8}),
    ("Mistral", {"head_dim": 32}),
    ("Qwen2", {}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Qwen3", {"head_dim": 32}),
    ("Qwen3", {"attention_bias": True}),
    ("Gemma", {"head_dim": 32}),
    ("Gemma2", {"head_dim": 32, "attention_bias": True}),
    ("Gemma3Text", {"head_dim": 32}),
    ("Phi3", {}),
    ("Phi", {}),
    ("Phi", {"qk_layernorm": True}),
    ("Ernie4_5", {}),
    ("Ernie4_5", {"use_bias": True}),
    ("Mixtral", {"num_local_experts": 4}),
    ("Qwen3Moe", {"num_experts": 4, "moe_intermediate_size": 48, "head_dim": 32}),
]


def built(family: str, extra: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The config.json that transformers writes, and its model without storage."""
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(**(SMALL | extra))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return json.loads(config.to_json_string()), model


@pytest.mark.integration
@pytest.mark.parametrize(("family", "extra"), CASES)
def test_parameters_and_linear_layers_are_those_of_transformers(family: str, extra: dict[str, Any]) -> None:
    import torch

    config, model = built(family, extra)
    sizes = read_sizes(config)
    assert num_parameters(sizes).total == sum(p.numel() for p in model.parameters())
    found = {
        (name.rpartition(".")[2], module.in_features, module.out_features, module.bias is not None)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    }
    assert {(x.name, x.num_in, x.num_out, x.has_bias) for x in sizes.linears} == found
    assert not sizes.is_estimate


@pytest.mark.integration
@pytest.mark.parametrize("family", sorted(DEFAULTS))
def test_what_a_config_leaves_out_is_what_transformers_takes(family: str) -> None:
    import transformers

    config = transformers.CONFIG_MAPPING[family]()
    for key, value in DEFAULTS[family].items():
        assert getattr(config, key) == value


def test_the_published_models_have_their_published_sizes(qwen: dict[str, tuple[dict[str, Any], int]]) -> None:
    for config, total in qwen.values():
        assert num_parameters(read_sizes(config)).total == total


@pytest.fixture
def qwen() -> dict[str, tuple[dict[str, Any], int]]:
    """Config and number of parameters (model card) of published models."""
    seven = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    three = {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    seven |= {"model_type": "qwen2", "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}
    three |= {"model_type": "qwen2", "num_attention_heads": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return {"Qwen2.5-7B": (seven, 7_615_616_512), "Qwen2.5-3B": (three, 3_085_938_688)}


def test_the_text_part_of_gemma_3_is_read_with_what_it_leaves_out() -> None:
    # The config of gemma-3-4b-it says no more about its text part; 3,880,263,168 text parameters.
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    sizes = read_sizes({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert (sizes.family, sizes.heads, sizes.kv_heads, sizes.head_dim) == ("gemma3_text", 8, 4, 256)
    assert num_parameters(sizes).total == pytest.approx(3.88e9, rel=1e-3)


def test_an_unknown_family_is_an_estimate() -> None:
    assert read_sizes({**SMALL, "model_type": "newcomer"}).is_estimate


@pytest.mark.parametrize(
    ("keys", "bits"),
    [
        ({}, 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.127),  # arXiv 2305.14314
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),  # as there, without double quantisation
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"group_size": 64, "bits": 4}, 4.5),  # as mlx_lm.convert prints it
    ],
)
def test_how_a_base_is_stored_is_read(keys: dict[str, Any], bits: float) -> None:
    sizes = read_sizes({**SMALL, "model_type": "llama", "quantization_config": keys})
    assert sizes.stored_bytes * 8 == pytest.approx(bits, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": None}, "says no hidden_size"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "stored quantised by gptq"),
        ({"quantization_config": {"bits": 4}}, "says no number of bits"),
        ({"quantization_config": "nf4"}, "in an unknown way"),
        ({"model_type": "deepseek_v3", "n_routed_experts": 8}, "experts of a kind"),
        ({"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 8, "mlp_only_layers": [0]}, "mixes layers"),
    ],
)
def test_what_can_not_be_counted_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        read_sizes({**SMALL, "model_type": "llama", **change}, str(tmp_path))
