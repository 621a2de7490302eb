"""Models that answer the prompts of the extraction benchmark: the embedded base, briefly trained, and the same one grown."""

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from random_models import Shape
from workloads import make_workload

from whet.backends.base import LoraSettings, OptimizerSettings
from whet.backends.open import open_backend
from whet.models.base_model import EMBEDDED_PATH, open_base
from whet.train.batches import pack_rows

STEPS, QUICK_STEPS, ROWS, RATE, SEED = 60, 20, 32, 3e-3, 0
# About 45 M parameters; ids of the tokenizer stay below 8,192, the rest is there for the work that the head makes of it.
LARGER = Shape(hidden=512, layers=12, heads=8, kv_heads=2, intermediate=1792, vocabulary=16_384)


def train_adapter(data: Path, folder: Path, steps: int = STEPS) -> Path:
    """An adapter that answers the long and the short instruction in the trained format; made once, kept in `folder`."""
    told = hashlib.sha256(json.dumps([steps, ROWS, RATE, SEED]).encode()).hexdigest()[:12]
    done = folder / f"adapter-{told}"
    if (done / "adapter_config.json").is_file():
        return done
    rows = []
    for name in ("a", "b"):
        rows += make_workload(name, steps * ROWS // 2, 0, data, folder / "tokenizer", seed=1).train
    backend = open_backend(open_base("embedded"), OptimizerSettings())
    backend.attach(LoraSettings(rank=16), seed=SEED)
    random.Random(SEED).shuffle(rows)
    for step in range(steps):
        result = backend.update(pack_rows(rows[step * ROWS : (step + 1) * ROWS], 4096), RATE * (1 - step / steps))
        if step % 10 == 0:
            print(
                f"training an adapter to ask: step {step} of {steps}, loss {result.loss_sum / result.num_learnt:.3f}", flush=True
            )
    done.mkdir(parents=True)
    backend.save_adapter(done)
    return done


def merge_adapter(adapter: Path, folder: Path) -> Path:
    """The embedded base with an adapter added in, as a model folder in fp32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(EMBEDDED_PATH), dtype=torch.float32, local_files_only=True)
    PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(folder)
    _copy_tokenizer(folder)
    return folder


def grow(small: Path, folder: Path, shape: Shape = LARGER) -> Path:
    """A larger Qwen2 that says what a small one says: random weights, and zeros where they would change what it says.

    The small model's channels come first. What is new is never read into them: output and down projections of new heads,
    units and layers are 0 there, and every norm is made smaller by what the 0 channels take from its mean square.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(SEED)
    old: Any = AutoModelForCausalLM.from_pretrained(str(small), dtype=torch.float32, local_files_only=True)
    before, width, size = old.config, old.config.hidden_size, shape.head_size
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=before.max_position_embeddings, tie_word_embeddings=True, rms_norm_eps=before.rms_norm_eps,
        rope_parameters=before.rope_parameters, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    new: Any = Qwen2ForCausalLM(config)
    assert size == width // before.num_attention_heads and shape.kv_heads == before.num_key_value_heads
    ratio = (width / shape.hidden) ** 0.5
    # Heads of one group of keys stay neighbours.
    most, few = shape.heads // shape.kv_heads, before.num_attention_heads // before.num_key_value_heads
    heads = [group * most + number for group in range(shape.kv_heads) for number in range(few)]
    rows = torch.tensor([head * size + at for head in heads for at in range(size)])
    with torch.no_grad():
        new.model.embed_tokens.weight.zero_()
        new.model.embed_tokens.weight[: before.vocab_size, :width] = old.model.embed_tokens.weight
        new.model.norm.weight.fill_(1.0)[:width] = old.model.norm.weight * ratio
        for number, layer in enumerate(new.model.layers):
            for made in (layer.self_attn.o_proj, layer.mlp.down_proj):
                made.weight.zero_()
            if number >= before.num_hidden_layers:
                continue
            its = old.model.layers[number]
            layer.input_layernorm.weight[:width] = its.input_layernorm.weight * ratio
            layer.post_attention_layernorm.weight[:width] = its.post_attention_layernorm.weight * ratio
            for name in ("q_proj", "k_proj", "v_proj"):
                to, of = getattr(layer.self_attn, name), getattr(its.self_attn, name)
                at = rows if name == "q_proj" else torch.arange(len(of.weight))
                to.weight[at, :width] = of.weight
                to.bias[at] = of.bias
            layer.self_attn.o_proj.weight[:width, rows] = its.self_attn.o_proj.weight
            units = before.intermediate_size
            for name in ("gate_proj", "up_proj"):
                getattr(layer.mlp, name).weight[:units, :width] = getattr(its.mlp, name).weight
            layer.mlp.down_proj.weight[:width, :units] = its.mlp.down_proj.weight
    new.save_pretrained(folder)
    _copy_tokenizer(folder)
    return folder


def _copy_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_PATH / name, folder / name)
