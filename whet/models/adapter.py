"""What training made of a base as it lies on disk, a LoRA adapter or a whole model, and which base it belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.errors import InputError
from whet.models.base_model import BaseModel, open_base
from whet.models.described import read_description
from whet.models.mlx_adapter import is_mlx, read_mlx
from whet.storage import hash_folder, read_json, write_json

CARD = "whet.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder that fits a base: PEFT's layout (adapter_config.json, adapter_model.safetensors), or after full fine-tuning that
    of a base (config.json and weights); and whet.json.
    """

    folder: Path
    kind: Literal["lora", "full"]
    config: dict[str, Any]
    """What adapter_config.json says; of a whole model, config.json."""
    fingerprint: str
    card: dict[str, Any]
    """What its training wrote beside it (whet.json); empty if it comes from elsewhere."""


def write_card(folder: Path, base: BaseModel, facts: dict[str, Any]) -> None:
    """Write beside an adapter which base it was trained on, and of which kind it is."""
    kind = "lora" if (folder / "adapter_config.json").is_file() else "full"
    write_json(folder / CARD, {"kind": kind, "base_fingerprint": base.fingerprint, "base": base.folder.name, **facts})


def open_adapter(folder: Path, base: BaseModel) -> Adapter:
    """The adapter in a folder; refused when it belongs to another base, has no weights, or is a model of unknown origin."""
    card_path = folder / CARD
    card = read_json(card_path) if card_path.is_file() else {}
    if not isinstance(card, dict):
        raise _broken(card_path)
    kind: Literal["lora", "full"] = "full" if card.get("kind") == "full" else "lora"
    config = open_base(folder).config if kind == "full" else _open_lora(folder, card)
    trained_on = card.get("base_fingerprint")
    if trained_on is None and kind == "full":
        raise _broken(card_path)
    if trained_on is not None and trained_on != base.fingerprint:
        raise InputError(
            str(folder),
            f"was trained on another base ({card.get('base', 'unknown')}, {str(trained_on)[:12]}) than "
            f"{base.folder} ({base.fingerprint[:12]})",
            "Use the base that it was trained on, or train it again",
        )
    return Adapter(folder, kind, config, hash_folder(folder), card)


def _open_lora(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """The config of a folder in PEFT's layout, or of mlx-lm's in PEFT's words."""
    if card.get("kind", "lora") != "lora":
        raise InputError(str(folder / CARD), f"tells of a kind of adapter that is unknown here ({card['kind']})", "Update whet")
    config_path = folder / "adapter_config.json"
    if is_mlx(folder):
        return read_mlx(folder).config
    if not config_path.is_file():
        is_model = (folder / "config.json").is_file()
        raise InputError(
            str(folder),
            "is no adapter folder (no adapter_config.json)" + ("; it is a whole model, without whet's card" if is_model else ""),
            "Give it as the base" if is_model else "Train one with `whet run` or `whet train`",
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(str(folder), "has no adapter_model.safetensors", "Train it again; pickled adapters are not read")
    return read_description(config_path)


def _broken(path: Path) -> InputError:
    return InputError(str(path), "is no adapter's description", "Is the adapter whole? Train it again if not")
