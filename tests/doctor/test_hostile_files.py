"""Whatever bytes stand in a file that the doctor is given: findings or one line, nothing run, nothing large."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.doctor.look import diagnose
from whet.errors import WhetError

FILES = ["data/train.jsonl", "data/train.json", "lora.yaml", "a/adapter_config.json", "a/adapter_model.safetensors",
         "a/adapters.safetensors", "m/config.json", "m/model.safetensors", "m/model.safetensors.index.json", "m/tokenizer.json",
         "m/tokenizer_config.json", "m/chat_template.jinja", "m/generation_config.json", "r/trainer_state.json", "g/x.gguf",
         "g/Modelfile", "b/result.json", "s/train.py"]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["messages", "prompt", "completion", "entities", "tokens", "r", "lora_alpha", "peft_type", "lora_parameters",
                        "iters", "vocab_size", "rope_parameters", "eos_token_id", "log_history", "accuracy", "num_questions",
                        "num_correct", "details", "weight_map", "auto_map", "text", "fine_tune_type", "model_output"])  # fmt: skip
TEXTS = st.dictionaries(KEYS, VALUES, max_size=5).map(json.dumps)
HEADER = st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=60)).map(lambda pair: pair[0].to_bytes(8, "little") + pair[1])
CONTENTS = (
    TEXTS.map(str.encode)
    | st.binary(max_size=80)
    | HEADER
    | st.binary(max_size=60).map(lambda raw: b"GGUF\x03\x00\x00\x00" + raw)
)


@pytest.mark.end_to_end
@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(FILES), CONTENTS, min_size=1, max_size=3))
def test_any_files_give_findings_or_one_line(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    root = tmp_path_factory.mktemp("any")
    for name, raw in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(raw)
    for folder in {(root / name).parent for name in files}:
        try:
            found = diagnose([folder])
        except WhetError as error:
            assert str(error).startswith(str(root))
        else:
            assert all(finding.place and finding.what for finding in found.findings)


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.write_text, (self.path, "it ran")


@pytest.mark.parametrize(
    "name",
    ["training_args.bin", "train.jsonl", "config.json", "adapter_config.json", "model.gguf", "lora.yaml", "trainer_state.json"],
)
def test_a_pickle_under_any_name_is_named_and_never_opened(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../escaped", pickle.dumps(Runs(tmp_path / "ran")))
    for raw in (pickle.dumps(Runs(tmp_path / "ran")), packed.getvalue()):
        (tmp_path / name).write_bytes(raw)
        try:
            assert diagnose([tmp_path / name]).worst == "error"
        except WhetError as error:
            assert str(tmp_path) in str(error)
        assert sorted(path.name for path in tmp_path.iterdir()) == [name]
