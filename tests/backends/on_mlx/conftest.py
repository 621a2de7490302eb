"""Fixtures of the MLX tests: a small base, an adapter folder that PEFT wrote, PEFT's loss and gradients of it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model

from whet.backends.base import Pack
from whet.models.base_model import BaseModel, open_base

Reference = Callable[[Path, Path, Pack], tuple[float, dict[str, Any]]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A small random base: steps on it are quick where mlx is slow."""
    return open_base(random_model(tmp_path_factory.mktemp("tiny") / "m", "Llama"))


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT asks transformers by a name that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


@pytest.fixture(scope="session")
def peft_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an adapter for a base by PEFT itself, with random A and B, so that every gradient is alive."""

    def write(base_path: Path, **settings: Any) -> Path:
        import peft
        import torch
        import transformers

        torch.manual_seed(1)
        model = transformers.AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
        chosen = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
        with _quiet():
            adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                parameter.data = torch.randn_like(parameter) * 0.05
            elif parameter.requires_grad:
                parameter.data *= 1 + 0.1 * torch.rand_like(parameter)
        folder = tmp_path_factory.mktemp("adapter")
        adapted.save_pretrained(folder, save_embedding_layers=False)
        return folder

    return write


@pytest.fixture(scope="session")
def open_peft() -> Callable[[Path, Path], Any]:
    """The base with an adapter folder, in transformers and PEFT."""

    def load(base_path: Path, folder: Path) -> Any:
        import peft
        import torch
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
        with _quiet():
            return peft.PeftModel.from_pretrained(model, folder, is_trainable=True).eval()

    return load


@pytest.fixture(scope="session")
def reference(open_peft: Callable[[Path, Path], Any]) -> Reference:
    """Summed loss and its gradients by PEFT's names: each row by itself, no padding, no mask, nothing of ours."""

    def measure(base_path: Path, folder: Path, pack: Pack) -> tuple[float, dict[str, Any]]:
        import torch

        model = open_peft(base_path, folder)
        total = torch.zeros(())
        for leaf in pack.leaves:
            num_learnt = pack.segments[leaf].num_learnt
            ids = torch.tensor([pack.row(leaf)])
            logs_NV = model(input_ids=ids).logits[0, -num_learnt - 1 : -1].log_softmax(-1)
            total = total - logs_NV.gather(1, ids[0, -num_learnt:, None]).sum()
        total.backward()
        named = {name.replace(".default", ""): p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        return total.item(), named

    return measure
