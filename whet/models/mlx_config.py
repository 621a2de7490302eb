"""What mlx-lm's models read in a config.json, where transformers 5 writes it elsewhere."""

from collections.abc import Mapping
from typing import Any

THETA: Mapping[str, float] = {
    **dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "phi", "phi3", "phimoe", "olmo2", "olmoe", "glm", "internlm2",
                     "internlm3", "bitnet", "seed_oss", "deepseek", "deepseek_v2", "deepseek_v3", "hunyuan_v1_dense"), 1e4),
    **dict.fromkeys(("qwen2", "qwen2_moe", "mixtral", "gemma3_text", "minicpm", "minicpm3"), 1e6),
    "cohere": 8e6, "cohere2": 5e4, "starcoder2": 1e5, "gpt_oss": 1.5e5, "nemotron": 1e4,
}  # fmt: skip
"""The base of the rotation that mlx-lm takes where a config's top level names none, by model_type (mlx-lm 0.32.2). Families that
read rope_parameters themselves (qwen3), or refuse a config without the entry (ernie4_5), are not here."""


def flat_entries(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 writes inside `rope_parameters`, as the entries of a config that mlx-lm's models read.

    mlx-lm would take its defaults in their place, without a word.
    """
    found = config.get("rope_parameters") or {}
    entries: dict[str, Any] = {}
    kinds = {kind: value for kind, value in found.items() if isinstance(value, dict) and kind.endswith("attention")}
    if kinds:
        sliding = kinds.get("sliding_attention", {})
        if "rope_theta" in sliding:
            entries["rope_local_base_freq"] = sliding["rope_theta"]
        found = kinds.get("full_attention", {})
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if found.get(name) is not None:
            entries[name] = found[name]
    kind = found.get("rope_type") or "default"
    if kind != "default":
        entries["rope_scaling"] = {**found, "type": kind}
    layers = config.get("layer_types") or ()
    if config.get("sliding_window_pattern") is None and "sliding_attention" in layers and "full_attention" in layers:
        entries["sliding_window_pattern"] = layers.index("full_attention") + 1  # _prove_layers looks whether that is a pattern
    return entries
