"""GGUF files as llama.cpp's converters write them, field by field through the gguf package: a model's and an adapter's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from whet.export.gguf_families import interleave_halves
from whet.models.base_model import EMBEDDED_PATH
from whet.models.lora import read_lora

TOKENIZER: dict[str, Any] = json.loads((EMBEDDED_PATH / "tokenizer.json").read_text())
TEMPLATE = (EMBEDDED_PATH / "chat_template.jinja").read_text()
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def names_of_tokens() -> tuple[list[str], list[int]]:
    """Tokens and kinds as llama.cpp's converter lists them: added ones by their flag, rows without a token padded."""
    rows = json.loads((EMBEDDED_PATH / "config.json").read_text())["vocab_size"]
    names, kinds = [f"[PAD{number}]" for number in range(rows)], [UNUSED] * rows
    for name, number in TOKENIZER["model"]["vocab"].items():
        names[number], kinds[number] = name, NORMAL
    for token in TOKENIZER["added_tokens"]:
        names[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    return names, kinds


def converted(
    path: Path,
    *,
    template: str | None = TEMPLATE,
    rename: dict[str, str] | None = None,
    swap: tuple[int, int] | None = None,
    eos: str = "<|im_end|>",
    bos: str = "",
    adds_bos: bool | None = None,
    rows: int | None = None,
    kind: str = "F16",
    arch: str = "qwen2",
) -> Path:
    """A model's file, field by field as llama.cpp's converter writes them, with two small tensors."""
    names, kinds = names_of_tokens()
    if swap:
        names[swap[0]], names[swap[1]] = names[swap[1]], names[swap[0]]
    names = [(rename or {}).get(name, name) for name in names]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("model")
    writer.add_name("m")
    writer.add_size_label("7M")
    writer.add_block_count(1)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in TOKENIZER["model"]["merges"]])
    writer.add_eos_token_id(names.index(eos))
    if bos:
        writer.add_bos_token_id(names.index(bos))
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    if template is not None:
        writer.add_chat_template(template)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, shape in (("token_embd.weight", (rows or len(names), 64)), ("blk.0.attn_q.weight", (64, 64))):
        writer.add_tensor(name, gguf.quantize(np.zeros(shape, np.float32), quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


Pair = tuple[Path, Path]


def write_pair(place: Path) -> Pair:
    """A Llama base and a PEFT-layout adapter of strength 20 for its q and v."""
    from conftest import random_model

    base, folder = random_model(place / "m", "Llama"), place / "adapter"
    folder.mkdir()
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        for name, rows in (("q_proj", 64), ("v_proj", 32)):
            start = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{start}.lora_A.weight"] = random.standard_normal((4, 64)).astype(np.float32)
            tensors[f"{start}.lora_B.weight"] = random.standard_normal((rows, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 4, "lora_alpha": 80, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        )
    )
    return base, folder


Matrix = Any
Turn = Callable[[str, Matrix, Matrix], tuple[Matrix, Matrix]]


def right(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """What llama.cpp's converter does: the rows of q and k are reordered, those of B with an adapter."""
    return a, interleave_halves(b, 4) if "attn_q" in name else b


def on_a(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """The order of the rows put on A, whose columns are what enters."""
    return (interleave_halves(a.T.copy(), 4).T.copy(), b) if "attn_q" in name else (a, b)


def not_at_all(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    return a, b


def adapter_file(path: Path, folder: Path, alpha: float | None, turn: Turn = right, layers: Sequence[int] = (0, 1), arch: str = "llama",
                 dtype: Any = np.float32) -> Path:  # fmt: skip
    """An adapter's file as llama.cpp's convert_lora_to_gguf.py writes it."""
    lora = read_lora(folder)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_name("a")
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for layer in layers:
        for theirs, name in (("q_proj", f"blk.{layer}.attn_q.weight"), ("v_proj", f"blk.{layer}.attn_v.weight")):
            found = lora.layers[f"model.layers.{layer}.self_attn.{theirs}"]
            a, b = turn(name, found.a.read(), found.b.read())
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a.astype(dtype)))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b.astype(dtype)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
