"""Loads a transformers model and its PEFT adapter, offline, without running code from their folders."""

import os
import warnings
from pathlib import Path
from typing import Any

# Everything is read from folders; a stray look-up on a hub would hang a laptop without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from whet.backends.base import LoraSettings
from whet.errors import InputError
from whet.models.base_model import BaseModel


def load_model(base: BaseModel, dtype: torch.dtype, device: torch.device) -> Any:
    """The causal language model of a folder, frozen, in evaluation mode."""
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(base.folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (SafetensorError, ValueError, OSError, KeyError, RuntimeError) as error:
        raise InputError(
            str(base.folder),
            f"transformers can't load it ({str(error).splitlines()[0][:200]})",
            "It must be a causal language model that transformers supports",
        ) from None
    model.requires_grad_(False)
    # generate() takes from the folder what a call leaves open: a penalty for repetition, say, that training knows nothing of.
    model.generation_config = transformers.GenerationConfig()
    return model.to(device).eval()


def unpackable_because(config: dict[str, Any], attention: str = "sdpa") -> str:
    """Why a model's attention can't take a packed row's mask; empty if it can. attention: what transformers computes it by."""
    kinds = set(config.get("layer_types") or ())
    others = sorted(kinds - {"full_attention"})
    if others:
        return f"this model has {', '.join(others)} layers"
    window = config.get("sliding_window")
    # Qwen2 and Qwen3 name a window in every config and use it only where use_sliding_window says so.
    if window and config.get("use_sliding_window", True):
        return f"this model's attention slides over a window of {window} tokens"
    if config.get("model_type") in {"gemma3_text", "gemma3", "gemma2", "mamba", "mamba2", "rwkv", "bloom", "mpt", "falcon_mamba"}:
        return f"{config['model_type']} models do not attend through a plain mask"
    if attention != "sdpa":
        return f"transformers computes this model's attention by {attention}, which would add a mask of booleans to the scores"
    return ""


def adapt(model: Any, settings: LoraSettings) -> Any:
    """A fresh LoRA adapter on a model; A random, B zero, so that nothing changes before the first step."""
    from peft import LoraConfig, get_peft_model

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that transformers has renamed; not for our users to see.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            return get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise InputError("train.lora.targets", str(error).splitlines()[0][:160], f"This base has: {', '.join(names)}") from None


def load_adapter(model: Any, folder: Path) -> Any:
    """The adapter in a folder, put on a model; every tensor of the file must find its place and every place a tensor."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            loaded = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            str(folder),
            f"PEFT can't load this adapter ({str(error).splitlines()[0][:200]})",
            "Is it whole, and trained on this base?",
        ) from None
    wanted = set(get_peft_model_state_dict(loaded, save_embedding_layers=False))
    if stored != wanted:
        odd = sorted(stored ^ wanted)[:3]
        raise InputError(
            str(folder),
            f"{len(stored ^ wanted)} tensors do not match this base, such as {', '.join(odd)}",
            "It belongs to another base or another version of PEFT",
        )
    return loaded
