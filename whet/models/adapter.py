"""A LoRA adapter as it lies on disk: PEFT's folder layout, and which base it belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.models.base_model import BaseModel
from whet.storage import hash_folder, read_json, write_json

CARD = "whet.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter folder (adapter_config.json, adapter_model.safetensors, whet.json) that fits a base."""

    folder: Path
    config: dict[str, Any]
    fingerprint: str
    card: dict[str, Any]
    """What its training wrote beside it (whet.json); empty if it comes from elsewhere."""


def write_card(folder: Path, base: BaseModel, facts: dict[str, Any]) -> None:
    """Write beside an adapter which base it was trained on."""
    write_json(folder / CARD, {"base_fingerprint": base.fingerprint, "base": base.folder.name, **facts})


def open_adapter(folder: Path, base: BaseModel) -> Adapter:
    """The adapter in a folder; refused when it belongs to another base or has no weights."""
    config_path = folder / "adapter_config.json"
    if not config_path.is_file():
        raise InputError(
            str(folder), "is no adapter folder (no adapter_config.json)", "Train one with `whet run` or `whet train`"
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(str(folder), "has no adapter_model.safetensors", "Train it again; pickled adapters are not read")
    config = read_json(config_path)
    card_path = folder / CARD
    card = read_json(card_path) if card_path.is_file() else {}
    for path, found in ((config_path, config), (card_path, card)):
        if not isinstance(found, dict):
            raise InputError(str(path), "is no adapter's description", "Is the adapter whole? Train it again if not")
    trained_on = card.get("base_fingerprint")
    if trained_on is not None and trained_on != base.fingerprint:
        raise InputError(
            str(folder),
            f"was trained on another base ({card.get('base', 'unknown')}, {trained_on[:12]}) than "
            f"{base.folder} ({base.fingerprint[:12]})",
            "Use the base that it was trained on, or train it again",
        )
    return Adapter(folder, config, hash_folder(folder), card)
