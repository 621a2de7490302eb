"""Adapters as GGUF: llama.cpp's logits with them are PEFT's, whatever ranks and strengths the layers have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ids_of, random_model

from whet.errors import InputError
from whet.export.gguf_adapter import write_gguf_adapter
from whet.export.gguf_write import write_gguf
from whet.models.base_model import open_base
from whet.models.gguf_file import read_gguf
from whet.models.lora import read_lora

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 32},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2, "k_proj": 8}, "alpha_pattern": {"v_proj": 40}},
}


@pytest.mark.parametrize(("kind", "family"), [("plain", "Qwen2"), ("rsLoRA", "Phi3"), ("patterns", "Llama")])
def test_llama_cpp_computes_what_peft_computes(kind: str, family: str, tmp_path: Path, llama: Any, write_peft: Any) -> None:
    base = open_base(random_model(tmp_path / "m", family))
    made, folder = write_peft(base.folder, size=0.2, **KINDS[kind])
    ids = [*ids_of(40, 3)]
    with torch.no_grad():
        wanted = made(torch.tensor([ids])).logits[0].numpy()
        with made.disable_adapter():
            bare = made(torch.tensor([ids])).logits[0].numpy()
    written = write_gguf_adapter(base, read_lora(folder), tmp_path / "a.gguf")
    llama.open(write_gguf(base, tmp_path / "m.gguf", "f32").path, written.path, num_context=64)
    moved, largest = float(np.abs(wanted - bare).max()), float(np.abs(llama.logits(ids, 0) - wanted).max())
    assert moved > 0.3
    assert largest < 5e-4 * moved


def test_the_file_says_the_strength(tmp_path: Path, write_peft: Any) -> None:
    base = open_base(random_model(tmp_path / "m", "Llama"))
    written = write_gguf_adapter(base, read_lora(write_peft(base.folder, **KINDS["plain"])[1]), tmp_path / "a.gguf")
    found = read_gguf(written.path)
    assert (found.text("general.type"), found.text("adapter.type"), found.fields["adapter.lora.alpha"]) == (
        "adapter",
        "lora",
        32.0,
    )
    assert len(found.tensors) == 2 * 2 * 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, r"learnt lengths \(DoRA\)"),
        ({"modules_to_save": ["lm_head"]}, "whole tensors"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
    ],
)
def test_what_an_adapter_of_gguf_can_not_hold_is_refused(settings: Any, words: str, tmp_path: Path, write_peft: Any) -> None:
    base = open_base(random_model(tmp_path / "m", "Qwen2"))
    _, folder = write_peft(base.folder, **({"target_modules": ["q_proj"]} | settings))
    with pytest.raises(InputError, match=words):
        write_gguf_adapter(base, read_lora(folder), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()
