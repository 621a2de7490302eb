"""Writes the stories260K model (a real Llama of 260,032 parameters, in llama2.c's layout) as a transformers folder."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TEMPLATE = (
    "{{- bos_token -}}{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
    "{{- message['content'] + eos_token -}}{%- else -%}{{- message['content'] + '\\n' -}}{%- endif -%}{%- endfor -%}"
)


def stories_folder(source: Path, folder: Path) -> Path:
    """The folder, written from stories260K.bin and tok512.bin below `source`."""
    folder.mkdir(parents=True)
    sizes, weights = read_weights(source / "stories260K.bin")
    dim, hidden, layers, heads, kv_heads, vocabulary, length = sizes
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": length, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 1, "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(read_pieces(source / "tok512.bin")), ensure_ascii=False))
    # Its training wrote <s> between stories and </s> nowhere.
    marks = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def read_weights(path: Path) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Sizes and named tensors. llama2.c rotates neighbours, transformers halves: the rows of q and k are reordered."""
    raw = path.read_bytes()
    sizes = struct.unpack("<7i", raw[:28])
    dim, hidden, layers, heads, kv_heads, vocabulary, _ = sizes
    kv = dim * kv_heads // heads
    numbers, at = np.frombuffer(raw, "<f4", offset=28), 0

    def take(*shape: int) -> Any:
        nonlocal at
        at += int(np.prod(shape))
        return np.ascontiguousarray(numbers[at - int(np.prod(shape)) : at].reshape(shape))

    def to_halves(rows: Any, num: int) -> Any:
        return np.ascontiguousarray(rows.reshape(num, -1, 2, dim).swapaxes(1, 2).reshape(rows.shape))

    found = {"model.embed_tokens.weight": take(vocabulary, dim)}
    stacked = {
        "input_layernorm": take(layers, dim), "self_attn.q_proj": take(layers, dim, dim), "self_attn.k_proj": take(layers, kv, dim),
        "self_attn.v_proj": take(layers, kv, dim), "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim), "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden), "mlp.up_proj": take(layers, hidden, dim),
    }  # fmt: skip
    for name, stack in stacked.items():
        for layer in range(layers):
            num = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            found[f"model.layers.{layer}.{name}.weight"] = (
                to_halves(stack[layer], num) if num else np.ascontiguousarray(stack[layer])
            )
    found["model.norm.weight"] = take(dim)
    return sizes, found


def read_pieces(path: Path) -> list[tuple[str, float]]:
    """Pieces and scores in the order of their ids, written as SentencePiece writes them."""
    raw, at, found = path.read_bytes(), 4, []
    while at < len(raw):
        score, length = struct.unpack_from("<fi", raw, at)
        found.append((raw[at + 8 : at + 8 + length].decode(), score))
        at += 8 + length
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return [
        (names[number] if number < len(names) else piece.replace(" ", "▁"), score) for number, (piece, score) in enumerate(found)
    ]


def tokenizer_json(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    """A tokenizer.json of SentencePiece's BPE, with every cut of a piece into two as a merge, the best piece first."""
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    plain = sorted(pieces[259:], key=lambda piece: -piece[1])
    cuts = [
        sorted(
            ((piece[:at], piece[at:]) for at in range(1, len(piece))), key=lambda cut: (ids.get(cut[0], 0), ids.get(cut[1], 0))
        )
        for piece, _ in plain
    ]
    merges = [[left, right] for all_cuts in cuts for left, right in all_cuts if left in ids and right in ids]
    marks = ["<unk>", "<s>", "</s>"]
    plain_mark = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, "content": mark, **plain_mark} for number, mark in enumerate(marks)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": ids, "merges": merges},
    }  # fmt: skip
