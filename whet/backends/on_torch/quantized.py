"""Bases whose linear layers are held in 4 or 8 bits by bitsandbytes, computed so that rows and gradients stay exact."""

import logging
from typing import Any, Literal

import torch

from whet.errors import InputError, MissingExtraError

# It speaks of kernels that it would fetch from a hub, which whet never does.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
INT8_STEPS = 127.0  # bitsandbytes' int8 codes run from -127 to 127 over a row's largest absolute weight


def quantization(kind: Literal["nf4", "int8"], dtype: torch.dtype) -> Any:
    """What transformers is told to quantise a base with while it loads; the head and the embeddings are left as they are."""
    require_bitsandbytes(f"device.quantize={kind}")
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def require_bitsandbytes(purpose: str) -> None:
    """MissingExtraError where bitsandbytes is not installed."""
    try:
        import bitsandbytes  # noqa: F401 (its presence is what counts)
    except ImportError:
        raise MissingExtraError("bitsandbytes", "quantized", purpose) from None


def quantized_by(config: dict[str, Any]) -> str:
    """How a base was quantised before it came to us, by its config.json; empty if it was not."""
    found = config.get("quantization_config")
    if not found:
        return ""
    return str(found.get("quant_method") or "bitsandbytes") if isinstance(found, dict) else "an unknown method"


def check_stored_quantization(folder: str, config: dict[str, Any], wanted: str | None) -> bool:
    """Whether a base is stored quantised; refused where it can't be loaded so, or is to be quantised once more."""
    method = quantized_by(config)
    if not method:
        return False
    if method != "bitsandbytes":
        raise InputError(
            folder,
            f"is stored quantised by {method}, which whet does not load",
            "Take the base that it was made from, and set device.quantize to nf4 or int8",
        )
    if wanted:
        raise InputError("device.quantize", f"{folder} is stored quantised already", "Leave device.quantize out for this base")
    require_bitsandbytes("a base stored in 4 or 8 bits")
    return True


def make_exact(model: Any, dtype: torch.dtype) -> None:
    """Mend what bitsandbytes' layers do behind a trainer's back; called once, after loading.

    4 bits: on CPUs with AVX512-BF16 a layer in evaluation mode repacks its weights in place at the first input without a
    gradient, rounds their scales to bf16, and from then on passes no gradient to its input. 8 bits: LLM.int8
    also rounds the activations, and takes out columns by what the other rows of a batch hold, so that a row's result depends
    on its neighbours; here only the weights are in 8 bits, the product is that of `dtype`.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype, module.compute_type_is_set = dtype, True
        elif isinstance(module, bnb.nn.Linear8bitLt):
            module.forward = _Int8Forward(module)


class _Int8Forward:
    """The forward of an 8-bit layer: x times the weights that its codes and scales stand for."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        y = _Int8Product.apply(x, layer.weight.data, scales)
        return y if layer.bias is None else y + layer.bias.to(y.dtype)


class _Int8Product(torch.autograd.Function):
    """x W^T with W made from its codes in both passes, so that no layer's W is kept in full."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes_OI: torch.Tensor, scales_O: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(codes_OI, scales_O)
        return x @ dequantize(codes_OI, scales_O, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        codes_OI, scales_O = ctx.saved_tensors
        return gradient @ dequantize(codes_OI, scales_O, gradient.dtype), None, None


def dequantize(codes_OI: torch.Tensor, scales_O: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weights (O, I) that int8 codes and the largest absolute weight of each row stand for."""
    # In fp32 first: a scale rounded to bf16 would shift a whole row.
    return (codes_OI * (scales_O / INT8_STEPS)[:, None]).to(dtype)
