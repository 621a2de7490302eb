"""Fixtures of the export tests: adapters that PEFT writes on tiny random models, and what PEFT makes of them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

IDS = torch.tensor([[5, 9, 700, 43, 8000, 17, 256, 3]])


def open_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A folder in plain transformers."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def logits(model: Any) -> torch.Tensor:
    """Logits of some ids, (8, V)."""
    with torch.no_grad():
        return model(IDS).logits[0].float()


def enliven(model: Any, size: float = 0.05) -> None:
    """Give all that is trained random values."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * size)  # in place: some are tied
        elif parameter.requires_grad:
            parameter.data = parameter.data * (1 + 0.2 * torch.rand(parameter.shape, generator=generator))


@pytest.fixture
def write_peft(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Writes an adapter for a base by PEFT itself; gives PEFT's model and the adapter's folder."""

    def write(folder: Path, *, size: float = 0.05, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Any, Path]:
        import peft

        torch.manual_seed(1)
        model = open_model(folder, dtype)
        chosen = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
            enliven(adapted, size)
            out = tmp_path / f"adapter-{folder.name}"
            adapted.save_pretrained(out, save_embedding_layers=False)
        return adapted.eval(), out

    return write


def merged_by_peft(adapted: Any) -> dict[str, torch.Tensor]:
    """Weights after PEFT's own merge, by the names of a plain model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapted.merge_and_unload().state_dict()


@pytest.fixture(autouse=True)
def one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of plain model folders ask one text: more would take time and show nothing else here."""
    from whet.pipeline.certify import PLAIN_PROMPTS

    monkeypatch.setattr("whet.pipeline.certify.PLAIN_PROMPTS", PLAIN_PROMPTS[:1])
