"""Reads the JSON descriptions beside weights (config.json, adapter_config.json, indexes) as strangers wrote them."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from whet.errors import InputError, open_to_read

MAX_DESCRIPTION = 8_000_000  # bytes; the longest published config.json known to us has 0.2 MB (a per-layer quantisation)
MORE_DESCRIPTIONS = ("tokenizer_config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
"""Files beside config.json in which transformers looks for code, too."""
CODE_KEYS = ("auto_map", "model_file", "custom_pipelines")
_MAX_DEPTH = 32


def read_description(path: Path, max_bytes: int = MAX_DESCRIPTION) -> dict[str, Any]:
    """The object in a JSON file. Refused: files larger than `max_bytes`, NaN and infinities, keys given twice, deep nesting."""
    with open_to_read(path) as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise InputError(str(path), f"is larger than {max_bytes:,} bytes", "It is no description of a model")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise InputError(str(path), "gives a key twice", "Which of the two is meant? Keep one")
        return made

    def refuse(word: str) -> NoReturn:
        raise InputError(str(path), f"holds {word}, which is no JSON number", "Mend the file")

    def number(word: str) -> float:
        return float(word) if math.isfinite(float(word)) else refuse(word[:20])

    try:
        value = json.loads(raw, object_pairs_hook=once, parse_constant=refuse, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{getattr(error, 'lineno', 1)}", f"not JSON ({str(error)[:100]})") from None
    if not isinstance(value, dict):
        raise InputError(str(path), f"is no description of a model ({type(value).__name__}, not an object)")
    if _is_deeper(value, _MAX_DEPTH):
        raise InputError(str(path), f"is nested deeper than {_MAX_DEPTH} levels", "It is no description of a model")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json; refused where it names code, at any depth."""
    config = read_description(path)
    _refuse_code(path, config)
    return config


def refuse_named_code(folder: Path) -> None:
    """InputError where a description beside config.json names code.

    whet would not run it. But a tokenizer with code of its own may give other ids than its tokenizer.json says.
    """
    for name in MORE_DESCRIPTIONS:
        if (folder / name).is_file():
            _refuse_code(folder / name, read_description(folder / name))


def _refuse_code(path: Path, described: dict[str, Any]) -> None:
    if key := named_code(described):
        raise InputError(
            str(path),
            f"names code to run ({key})",
            "whet runs no code from a model folder; take a model that transformers supports by itself",
        )


def named_code(value: Any) -> str:
    """The first key that names code; empty where there is none."""
    if isinstance(value, dict):
        for key in CODE_KEYS:
            if value.get(key):  # null or empty names none
                return key
        if value.get("trust_remote_code"):
            return "trust_remote_code"
        return next((found for item in value.values() if (found := named_code(item))), "")
    if isinstance(value, list):
        return next((found for item in value if (found := named_code(item))), "")
    return ""


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)
