"""Adapter folders: which base they belong to, and what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import copy_base

from whet.errors import InputError
from whet.models.adapter import open_adapter, write_card
from whet.models.base_model import BaseModel


def adapter(folder: Path, base: BaseModel | None = None) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    if base:
        write_card(folder, base, {"step": 3})
    return folder


def test_an_adapter_opens_on_its_base(tmp_path: Path, base: BaseModel) -> None:
    found = open_adapter(adapter(tmp_path / "a", base), base)
    assert found.config == {"r": 4}


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, base: BaseModel) -> None:
    other = dataclasses.replace(base, folder=Path("models/other"), fingerprint="f" * 64)
    with pytest.raises(InputError, match=rf"another base \(other, {'f' * 12}\).*{base.fingerprint[:12]}"):
        open_adapter(adapter(tmp_path / "a", other), base)


def test_an_adapter_without_a_card_is_taken(tmp_path: Path, base: BaseModel) -> None:
    assert open_adapter(adapter(tmp_path / "a"), base).fingerprint


@pytest.mark.parametrize(
    ("missing", "words"),
    [("adapter_config.json", "no adapter_config.json"), ("adapter_model.safetensors", "pickled adapters are not read")],
)
def test_what_is_no_adapter_is_named(missing: str, words: str, tmp_path: Path, base: BaseModel) -> None:
    folder = adapter(tmp_path / "a", base)
    (folder / missing).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=words):
        open_adapter(folder, base)
    with pytest.raises(InputError, match="is no adapter folder"):
        open_adapter(tmp_path / "none", base)


@pytest.mark.parametrize("name", ["adapter_config.json", "whet.json"])
def test_a_broken_file_of_an_adapter_is_named(name: str, tmp_path: Path, base: BaseModel) -> None:
    folder = adapter(tmp_path / "a", base)
    for content in ("{", "[]", "3"):
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            open_adapter(folder, base)


def test_the_fingerprint_tells_adapters_apart(tmp_path: Path, base: BaseModel) -> None:
    first, second = (adapter(tmp_path / name, base) for name in "ab")
    assert open_adapter(first, base).fingerprint == open_adapter(second, base).fingerprint
    (second / "adapter_model.safetensors").write_bytes(b"other")
    assert open_adapter(first, base).fingerprint != open_adapter(second, base).fingerprint


def test_a_whole_model_opens_on_its_base(tmp_path: Path, base: BaseModel) -> None:
    folder = copy_base(tmp_path / "full")
    with pytest.raises(InputError, match=r"it is a whole model, without whet's card.*Give it as the base"):
        open_adapter(folder, base)
    write_card(folder, base, {"step": 3})
    found = open_adapter(folder, base)
    assert (found.kind, found.config, found.card["step"]) == ("full", base.config, 3)
    with pytest.raises(InputError, match="another base"):
        open_adapter(folder, dataclasses.replace(base, fingerprint="f" * 64))
    (folder / "whet.json").write_text('{"kind": "full"}')
    with pytest.raises(InputError, match="is no adapter's description"):
        open_adapter(folder, base)


def test_the_card_tells_the_kind(tmp_path: Path, base: BaseModel) -> None:
    folder = adapter(tmp_path / "a", base)
    card = json.loads((folder / "whet.json").read_text())
    assert card["kind"] == open_adapter(folder, base).kind == "lora"
    (folder / "whet.json").write_text(json.dumps(card | {"kind": "prefix"}))
    with pytest.raises(InputError, match=r"unknown here \(prefix\)"):
        open_adapter(folder, base)
