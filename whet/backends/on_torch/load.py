"""Loads a transformers model from its folder, whole or in fewer bits, offline, without running code from it."""

import logging
import os
from typing import Any, Literal

# Everything is read from folders; a stray look-up on a hub would hang a laptop without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from whet.backends.on_torch.quantized import check_stored_quantization, make_exact, quantization
from whet.errors import InputError
from whet.models.base_model import BaseModel

# It warns of kernels for the CPU that it would fetch, and peft opens it wherever it is installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def load_model(base: BaseModel, dtype: torch.dtype, device: torch.device, quantize: Literal["nf4", "int8"] | None = None) -> Any:
    """The causal language model of a folder on a device, frozen, in evaluation mode.

    quantize: hold its linear layers, all but the head, in 4 or 8 bits; what they compute is in `dtype`.
    """
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    is_quantized = check_stored_quantization(str(base.folder), base.config, quantize) or quantize is not None
    # Quantised layers can't be moved as others can: they are made on the device.
    extra: dict[str, Any] = {"device_map": {"": device}} if is_quantized else {}
    if quantize:
        extra["quantization_config"] = quantization(quantize, dtype)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(base.folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **extra,
        )
    except (SafetensorError, ValueError, OSError, KeyError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "out of memory" in str(error).lower():
            raise
        raise InputError(
            str(base.folder),
            f"transformers can't load it ({str(error).splitlines()[0][:200]})",
            "It must be a causal language model that transformers supports",
        ) from None
    model.requires_grad_(False)
    # generate() takes from the folder what a call leaves open: a penalty for repetition, say, that training knows nothing of.
    model.generation_config = transformers.GenerationConfig()
    if is_quantized:
        make_exact(model, dtype)
        return model.eval()
    return model.to(device).eval()
