"""Fixtures that many tests share: the embedded base, small random models of other families, settings of a task."""

import json
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings

from whet.backends.base import Pack, Segment
from whet.models.base_model import EMBEDDED_PATH, BaseModel, open_base
from whet.records import Example, Span, Value
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings
from whet.text.chat import Chat

# A suite that a shell started in the background has Ctrl-C ignored, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test is about time: a slow or busy machine must not fail one.
settings.register_profile("whet", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("whet")

# Every test in them computes with a model, or holds files against the library that reads them.
INTEGRATION = [Path(__file__).resolve().parent / folder for folder in ("backends", "export")]
SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the folders of integration tests; what walks the whole way is marked so already."""
    for item in items:
        if any(folder in item.path.parents for folder in INTEGRATION) and item.get_closest_marker("end_to_end") is None:
            item.add_marker(pytest.mark.integration)


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
def small_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Two random layers with grouped heads and biases, where the embedded base would be slow."""
    return open_base(random_model(tmp_path_factory.mktemp("small") / "m", "Qwen2"))


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


def ids_of(num: int, seed: int) -> tuple[int, ...]:
    """Some ids of the vocabulary."""
    return tuple(3 + (seed * 7919 + at * 104_729 + at * at * 31) % 8000 for at in range(num))


# Leaves of unlike length, a segment behind a segment behind the prefix, a second row behind it after they end.
TREE = Pack(
    ids_of(7, 0),
    (
        Segment(ids_of(4, 1), 2),
        Segment(ids_of(5, 2), 0),
        Segment(ids_of(3, 3), 0, 1),
        Segment(ids_of(19, 4), 6, 2),
        Segment(ids_of(2, 5), 1, 2),
        Segment(ids_of(6, 6), 5, 1),
        Segment(ids_of(31, 7), 9),
        Segment(ids_of(18, 8), 1),
    ),
)
# Three packs behind one prefix, which is computed apart, and two that stand alone, one of them without a prefix.
PACKS = (
    TREE,
    Pack(TREE.prefix, (Segment(ids_of(9, 9), 4),)),
    Pack(TREE.prefix, (Segment(ids_of(3, 10), 0), Segment(ids_of(5, 11), 3, 0), Segment(ids_of(7, 12), 2, 0))),
    Pack((), (Segment(ids_of(12, 13), 3), Segment(ids_of(5, 14), 4))),
    Pack(ids_of(3, 15), (Segment(ids_of(8, 16), 2), Segment(ids_of(4, 17), 1))),
)


def enliven(model: Any, seed: int = 1) -> None:
    """Give all that is trained in an adapter random values: at its zero start most gradients are zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter) * 0.05


def plain_copy(backend: Any) -> Any:
    """A torch backend's model with all its weights, in plain transformers and PEFT: nothing of ours computes in it."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(backend.base.folder), dtype=backend.dtype)
    model.requires_grad_(False)
    if backend.peft is not None:
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that transformers has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            model = get_peft_model(model, deepcopy(backend.peft.peft_config["default"])).get_base_model()
    model.load_state_dict(backend.model.state_dict())
    trained = {name for name, parameter in backend.model.named_parameters() if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model.eval()


def plain_gradients(model: Any, packs: Sequence[Pack]) -> tuple[float, dict[str, Any]]:
    """Summed loss and gradients of a plain model: each row by itself with labels, no padding, no mask."""
    import torch

    total = 0.0
    for pack in packs:
        for leaf in pack.leaves:
            ids = torch.tensor([pack.row(leaf)])
            labels = ids.clone()
            labels[:, : ids.shape[1] - pack.segments[leaf].num_learnt] = -100
            loss = model(input_ids=ids, labels=labels).loss * pack.segments[leaf].num_learnt
            loss.backward()
            total += loss.item()
    return total, take_gradients(model)


def take_gradients(model: Any) -> dict[str, Any]:
    """A model's gradients by name; none are left."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def assert_close(got: dict[str, Any], wanted: dict[str, Any], tolerance: float = 1e-5) -> None:
    """Tensors of the same names differ by no more than a share of their norms."""
    import torch

    assert got.keys() == wanted.keys()
    assert got
    # Some gradients are nothing but rounding (of a query that sees one token), so none is held to less than a tenth of all.
    whole = torch.stack([tensor.norm() for tensor in wanted.values()]).norm().item()
    for name, tensor in wanted.items():
        assert (got[name] - tensor).norm().item() <= tolerance * max(tensor.norm().item(), 0.1 * whole), name


@pytest.fixture(scope="session")
def llama() -> Iterator[Any]:
    """llama.cpp in a child process; tests that need it are skipped where no interpreter has it."""
    from whet.export.llama_cpp import PYTHON, LlamaCpp, find_llama

    if find_llama() is None:
        pytest.skip(f"llama-cpp-python is not installed, and {PYTHON} names no interpreter that has it")
    with LlamaCpp() as child:
        yield child
