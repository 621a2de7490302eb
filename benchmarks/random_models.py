"""Random Qwen2 models of the training benchmarks, each with a fresh LoRA adapter that every system starts from."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.models.base_model import EMBEDDED_PATH


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2 model with tied embeddings."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's linear maps: query, key, value, output, gate, up, down."""
        kv = self.kv_heads * self.head_size
        square, narrow, wide = (self.hidden, self.hidden), (self.hidden, kv), (self.hidden, self.intermediate)
        return (square, narrow, narrow, square, wide, wide, wide[::-1])

    @property
    def num_parameters(self) -> int:
        """Weights of the matrices: embeddings once, norms and biases left out."""
        return self.vocabulary * self.hidden + self.layers * sum(n * m for n, m in self.linears)


# Ids of the workloads' tokenizers stay below 8,192: the larger vocabularies are there for the work that the head makes of them.
SHAPES = {
    "A": Shape(hidden=512, layers=8, heads=8, kv_heads=2, intermediate=1536, vocabulary=32_000),
    "B": Shape(hidden=512, layers=12, heads=8, kv_heads=2, intermediate=1792, vocabulary=151_936),
    "tiny": Shape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocabulary=8_192),
}
# Qwen2.5's own shapes, for a card.
CARD_SHAPES = {
    "3B": Shape(hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11_008, vocabulary=151_936),
    "7B": Shape(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18_944, vocabulary=152_064),
}
POSITIONS = 4096


def dtype_on(device: str) -> str:
    """Numbers that a device computes in here: fp32 on a CPU, bf16 on a card."""
    return "float32" if device == "cpu" else "bfloat16"


def make_model(shape: Shape, folder: Path, device: str = "cpu") -> None:
    """Write `model` and `adapter` into a folder: random weights, and a LoRA of rank 16 on all linear layers with B = 0."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype_on(device)))
    try:
        with torch.device(device):
            model = transformers.Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_PATH / name, folder / "model" / name)
    make_adapter(model, folder / "adapter")


def make_adapter(model: Any, folder: Path) -> None:
    """Write a fresh LoRA of a model: A random, B = 0."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", bias="none", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder, save_embedding_layers=False)


def adapt_model(folder: Path) -> None:
    """Write `adapter` beside the `model` of a folder."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder / "model"), dtype="float32", local_files_only=True)
    make_adapter(model, folder / "adapter")
