"""The device of this process: which it is, what numbers it computes in, how much it holds, and what it says when it is full."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from whet.backends.base import DeviceSettings
from whet.errors import InputError

MEMORY_SIGNS = ("out of memory", "not enough memory", "allocate memory", "alloc_failed")  # CUDA's, torch's, cuBLAS's words
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(settings: DeviceSettings, local_rank: int = 0) -> torch.device:
    """The device that the settings name; with several processes each has a card of its own."""
    has_card = torch.cuda.is_available()
    if settings.kind == "cuda" and not has_card:
        raise InputError("device.kind", "is cuda, and torch sees no card", "Install a CUDA build of torch, or set it to cpu")
    if settings.kind == "cpu" or not has_card:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InputError("--devices", f"there are {torch.cuda.device_count()} cards", "Ask for no more than that")
    return torch.device("cuda", local_rank)


def choose_dtype(settings: DeviceSettings, device: torch.device) -> torch.dtype:
    """The numbers that the base computes in. On a CPU fp32: it is exact everywhere, and few CPUs are faster at others."""
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def peak_memory(device: torch.device) -> int:
    """Most bytes that the device held, or on a CPU this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release(device: torch.device) -> None:
    """Give the system back what was freed. On a CPU glibc keeps it; other C libraries are let be."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


@contextmanager
def memory_named(device: torch.device) -> Iterator[None]:
    """Out of memory becomes one line with the setting to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        words = str(error).lower()
        # An "illegal memory access" is another thing.
        if isinstance(error, RuntimeError) and not any(sign in words for sign in MEMORY_SIGNS):
            raise
        raise InputError(str(device), "out of memory", "Lower train.tokens_per_batch, or take a smaller base") from None
