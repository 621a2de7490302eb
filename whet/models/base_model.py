"""A base model as it lies on disk: its config, its identity, what in it must not be trusted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.models.described import read_config, refuse_named_code
from whet.models.weights import check_inside, read_weights_file, weights_files
from whet.storage import canonical, hash_file, hash_text

EMBEDDED = "embedded"
EMBEDDED_PATH = Path(__file__).parent / "embedded" / "base"
# Files beside the weights of a model folder that belong to it.
COMPANIONS = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokenizer.model",
        "spiece.model",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A model folder: where it is, its config, and a hash of its weights, tokenizer and template."""

    folder: Path
    config: dict[str, Any]
    fingerprint: str
    """SHA-256 over config, tokenizer, template and the headers and sizes of the weights: tells bases apart without reading
    gigabytes. Files of at most 64 MB are hashed whole."""

    @property
    def name(self) -> str:
        """What it is called: its folder's name, or in a Hugging Face cache OWNER/NAME."""
        if self.folder == EMBEDDED_PATH:
            return "whet-embedded"
        folder = self.folder.absolute()
        cached = folder.parent.parent.name
        if folder.parent.name == "snapshots" and cached.startswith("models--"):
            return cached.removeprefix("models--").replace("--", "/", 1)
        return folder.name

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def max_length(self) -> int:
        """Positions that the model was made for."""
        return int(self.config.get("max_position_embeddings") or 2048)


def open_base(name: str | Path) -> BaseModel:
    """The base of a recipe: `embedded`, or a folder in the Hugging Face layout.

    Refused: no config.json, weights that are no safetensors (pickles run code), code that the config names, headers and
    indexes that can't be (see models/weights.py).
    """
    folder = EMBEDDED_PATH if str(name) == EMBEDDED else Path(name).expanduser()
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise InputError(
            str(folder),
            "is no model folder (no config.json)",
            f"Give a folder in the Hugging Face layout, or `{EMBEDDED}` for the small base that ships with whet",
        )
    config = read_config(config_path)
    refuse_named_code(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        found = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".gguf"))
        raise InputError(
            str(folder),
            "has no safetensors weights" + (f" (only {', '.join(found[:3])})" if found else ""),
            "Convert them with safetensors' own converter; pickled weights can run code and are not read",
        )
    for path in {*weights, *weights_files(folder)}:
        check_inside(path, folder)
    return BaseModel(folder, config, _fingerprint(folder, weights))


def _fingerprint(folder: Path, weights: list[Path]) -> str:
    parts = {}
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    alone = () if (folder / "tokenizer.json").is_file() else ("tokenizer.model", "added_tokens.json")
    for name in (*names, *alone):
        path = folder / name
        if path.is_file():
            parts[name] = hash_file(path)
    for path in weights:
        size = path.stat().st_size
        header = hash_text(read_weights_file(path).header.decode("utf-8", "replace"))
        parts[path.name] = hash_file(path) if size <= 64_000_000 else f"{size}:{header}"
    return hash_text(canonical(parts))
