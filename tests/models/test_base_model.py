"""Model folders: what is refused before anything is loaded, and an identity that tells bases apart."""

import json
import struct
from pathlib import Path

import pytest
from conftest import copy_base

from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base


def weights(path: Path, header: object = None, length: int | None = None, data: bytes = b"\0" * 16) -> None:
    """A safetensors file by hand, as the format's page describes it."""
    raw = (
        header
        if isinstance(header, bytes)
        else json.dumps(header or {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    )
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "max_position_embeddings": 64} | config))
    weights(folder / "model.safetensors")
    return folder


def test_the_embedded_base_opens(base: BaseModel) -> None:
    assert (base.model_type, base.max_length, len(base.fingerprint)) == ("qwen2", 2048, 64)


def test_a_folder_of_the_right_layout_opens(tmp_path: Path) -> None:
    found = open_base(model(tmp_path / "m"))
    assert (found.model_type, found.max_length) == ("qwen2", 64)
    assert open_base(model(tmp_path / "n", max_position_embeddings=None)).max_length == 2048


@pytest.mark.parametrize("name", ["none", "file", ""])
def test_what_is_no_model_folder_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"no config\.json.*`embedded`"):
        open_base(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "words"), [("[]", "list, not an object"), ("{", "not JSON"), ("\xff", "not JSON"), ("3", "int, not an object")]
)
def test_a_broken_config_is_named(text: str, words: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words):
        open_base(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickled_weights_are_refused(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(InputError, match=f"no safetensors weights.*{name}.*can run code"):
        open_base(folder)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no safetensors weights"):
        open_base(folder)


@pytest.mark.parametrize("key", ["auto_map", "model_file"])
def test_a_config_that_names_code_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"names code to run \({key}\)"):
        open_base(model(tmp_path / "m", **{key: {"AutoModelForCausalLM": "model.Evil"}}))


@pytest.mark.parametrize("is_large", [False, True])
@pytest.mark.parametrize("fault", ["cut", "zero", "huge", "beyond", "words", "deep", "empty"])
def test_a_broken_weights_header_is_refused(fault: str, is_large: bool, tmp_path: Path) -> None:
    path = model(tmp_path / "m") / "model.safetensors"
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:5])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault in ("words", "deep"):
        weights(path, header=b"not json" if fault == "words" else b"[" * 100_000)
    else:
        weights(path, length={"zero": 0, "huge": 2**64 - 1, "beyond": 70_000_000}[fault])
    if is_large:  # a hole: nothing is written
        with path.open("r+b") as file:
            file.truncate(64_000_001)
    with pytest.raises(InputError, match="is no safetensors file") as caught:
        open_base(path.parent)
    assert caught.value.place == str(path)


def test_weights_that_are_cut_behind_their_header_are_refused(tmp_path: Path) -> None:
    path = copy_base(tmp_path / "m") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(InputError, match="is cut off: 100,000 bytes") as caught:
        open_base(path.parent)
    assert caught.value.place == str(path)


@pytest.mark.parametrize(
    "changed", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"]
)
def test_the_fingerprint_tells_bases_apart(changed: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text("{}")
    before = open_base(folder).fingerprint
    assert open_base(folder).fingerprint == before
    (folder / "README.md").write_text("words")  # says nothing about the model
    assert open_base(folder).fingerprint == before
    if changed == "model.safetensors":
        weights(folder / changed, data=b"\1" * 16)
    else:
        (folder / changed).write_text('{"a": 1}')
    assert open_base(folder).fingerprint != before


def test_the_fingerprint_does_not_know_where_the_folder_lies(tmp_path: Path) -> None:
    assert open_base(model(tmp_path / "a")).fingerprint == open_base(model(tmp_path / "b")).fingerprint


def test_large_weights_are_told_apart_by_header_and_size(tmp_path: Path) -> None:
    prints = set()
    for name, count, dtype in [("a", 16_000_001, "F32"), ("b", 16_000_002, "F32"), ("c", 16_000_001, "I32")]:
        path = model(tmp_path / name) / "model.safetensors"
        weights(path, header={"w": {"dtype": dtype, "shape": [count], "data_offsets": [0, 4 * count]}})
        with path.open("r+b") as file:  # a hole: nothing is written
            file.truncate(path.stat().st_size - 16 + 4 * count)
        prints.add(open_base(path.parent).fingerprint)
    assert len(prints) == 3


def test_a_base_is_called_what_others_call_it(tmp_path: Path, base: BaseModel) -> None:
    assert base.name == "whet-embedded"
    assert open_base(model(tmp_path / "qwen")).name == "qwen"
    assert open_base(model(tmp_path / "models--acme--base-1b" / "snapshots" / ("a" * 40))).name == "acme/base-1b"
