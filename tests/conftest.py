"""Fixtures that many tests share: the embedded base, small random models of other families, settings of a task."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings

from whet.models.base_model import EMBEDDED_PATH, BaseModel, open_base
from whet.records import Example, Span, Value
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings
from whet.text.chat import Chat

# No test is about time: a slow or busy machine must not fail one.
settings.register_profile("whet", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whet")

SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real corpora beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the corpora are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def base() -> BaseModel:
    """The base that ships with the package."""
    return open_base("embedded")


@pytest.fixture(scope="session")
def chat(base: BaseModel) -> Chat:
    """Its tokenizer and template."""
    return Chat(base.folder)


@pytest.fixture
def officials() -> Extraction:
    """The task of the demo: officials with office and event."""
    return Extraction(
        ExtractionSettings(
            fields=(
                FieldSettings(name="name"),
                FieldSettings(name="office", nullable=True),
                FieldSettings(name="event", kind="choice", choices=("Death", "Other")),
            )
        )
    )


def official(text: str, name: str, office: str | None, event: str = "Other", number: int = 0) -> Example:
    """An example with one official."""

    def span(value: str) -> Value:
        return Value(value, Span(text.index(value), text.index(value) + len(value)))

    record = {"name": span(name), "office": span(office) if office else None, "event": Value(event)}
    return Example(f"e{number}", text, f"corpus.txt:{number + 1}", f"g{number}", records=(record,))


def copy_base(folder: Path, **config: object) -> Path:
    """The embedded base in a folder of its own, with entries of its config changed."""
    shutil.copytree(EMBEDDED_PATH, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def random_model(folder: Path, family: str, **extra: object) -> Path:
    """A tiny model of a family with random weights, and the embedded base's tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "vocab_size": 8192,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": 1,
    }
    if family in ("Qwen3", "Gemma", "Gemma2", "Gemma3Text"):
        sizes["head_dim"] = 16
    config = getattr(transformers, f"{family}Config")(**(sizes | extra))
    name = "Gemma3ForCausalLM" if family == "Gemma3Text" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config)
    # Random models that are nearly uniform hide mistakes; larger weights make attention matter.
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(4)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED_PATH / file, folder / file)
    return folder
