"""A short calibration of this machine: what computes, how much memory it has, how fast it multiplies matrices."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from whet.backends.base import DeviceSettings
from whet.backends.on_torch.device import choose_dtype

SECONDS = 0.6  # of measured products; the first ones only warm up
MOST = 2048  # sides of the products on a CPU; larger ones are no faster there
MOST_CUDA = 8192


@dataclass(frozen=True, slots=True)
class Measured:
    """The device of this machine."""

    kind: str
    """cpu or cuda."""
    name: str
    memory: int
    """Bytes that it has in all."""
    rate: float
    """Floating-point operations a second of matrix products, a multiplication and an addition being two."""


def calibrate(
    dtype: Literal["auto", "fp32", "bf16", "fp16"], num_tokens: int, num_in: int, num_out: int, kind: str = "auto"
) -> Measured:
    """Measure products (num_tokens, num_in) x (num_in, num_out) in a dtype (`auto`: the one that whet would take), in less
    than two seconds. The best of several is taken: another process's load is no property of the machine.
    """
    is_cuda = kind in ("auto", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if is_cuda else "cpu")
    numbers = choose_dtype(DeviceSettings(dtype=dtype), device)
    rows, inner, columns = (min(side, MOST_CUDA if is_cuda else MOST) for side in (num_tokens, num_in, num_out))
    left = torch.randn(rows, inner, device=device).to(numbers)
    right = torch.randn(columns, inner, device=device).to(numbers)
    began = time.perf_counter()
    best = float("inf")
    while time.perf_counter() - began < SECONDS or best == float("inf"):
        best = min(best, _time(left, right))
    name = torch.cuda.get_device_name(device) if is_cuda else _cpu_name()
    memory = torch.cuda.get_device_properties(device).total_memory if is_cuda else _cpu_memory()
    return Measured(device.type, name, memory, 2.0 * rows * inner * columns / best)


@torch.no_grad()
def _time(left: torch.Tensor, right: torch.Tensor) -> float:
    """Seconds of one product, a mean over a few on a card, whose queue hides a single one."""
    repeats = 10 if left.is_cuda else 1
    if left.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        torch.nn.functional.linear(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _cpu_memory() -> int:
    """Bytes of memory, or of the control group's limit where that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
            return min(whole, int(text))
    return whole
