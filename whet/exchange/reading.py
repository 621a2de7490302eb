"""Reads a settings file of another trainer: YAML, JSON, or a script's literals; refuses what could run code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.config import read_yaml
from whet.errors import InputError, open_to_read
from whet.exchange.script import read_script

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
MAX_BYTES = 256_000
MOST_DEPTH = 32  # levels of lists and objects; no settings of a trainer have ten


@dataclass(frozen=True, slots=True)
class Settings:
    """What a file says, before anybody knows whose settings they are."""

    path: Path
    values: dict[str, Any]
    places: dict[str, str]
    """Of each key of `values`: `file:line`."""
    is_script: bool = False
    computed: tuple[str, ...] = ()
    """Arguments of a script whose values are known only when it runs: `call: argument = expression`."""

    def place(self, key: str) -> str:
        return self.places.get(key, str(self.path))


def read_settings(path: Path) -> Settings:
    """The settings in a file of at most 256 kB; InputError in one line for anything else. Nothing in it is ever run.

    Refused: pickles (training_args.bin) and archives, YAML aliases and tags, a key given twice, nesting beyond MOST_DEPTH.
    """
    if path.is_dir():
        raise InputError(str(path), "is a folder", "Name the settings file in it, such as adapter_config.json")
    with open_to_read(path) as file:
        raw = file.read(MAX_BYTES + 1)
    _refuse_code(path, raw)
    if len(raw) > MAX_BYTES:
        raise InputError(str(path), "is larger than 256 kB", "Settings are a short file; is this the data?")
    if path.suffix.lower() == ".py":
        values, places, computed = read_script(path, raw)
        return Settings(path, values, places, is_script=True, computed=computed)
    if path.suffix.lower() == ".json":
        values, places = _read_json(path, raw), {}
    else:
        values, all_places = read_yaml(path)
        places = {str(keys[0]): place for keys, place in all_places.items() if len(keys) == 1}
    if any(not isinstance(key, str) for key in values):
        raise InputError(str(path), "has a key that is no text", "Write keys as plain words")
    _refuse_depth(path, values)
    return Settings(path, values, places)


def _refuse_code(path: Path, raw: bytes) -> None:
    """Pickles are named for what they are, by their name and by their first bytes."""
    is_pickle = raw[:1] == b"\x80" and raw[1:2] <= b"\x05" and len(raw) > 1
    is_archive = raw[:4] in (b"PK\x03\x04", b"PK\x05\x06") or raw[:2] == b"\x1f\x8b" or raw[257:262] == b"ustar"
    if is_pickle or is_archive or path.suffix.lower() in PICKLE_SUFFIXES:
        kind = "is an archive or a pickle" if is_archive else "is a pickle"
        raise InputError(
            str(path),
            f"{kind}, which can run code when it is opened; whet does not open it",
            "Write the arguments as JSON where you trust the file: print(trainer.args.to_json_string())",
        )
    if b"\x00" in raw[:4096]:
        raise InputError(str(path), "is no text file", "Name a YAML, JSON or Python file")


def _read_json(path: Path, raw: bytes) -> dict[str, Any]:
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.append(next(name for name in names if names.count(name) > 1))
        return found

    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}", f"not JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        raise InputError(str(path), "not JSON that can be read (nested too deeply, or a number too long)") from None
    if repeated:
        raise InputError(str(path), f"{repeated[0]} is given twice", "Keep one of them")
    if not isinstance(value, dict):
        raise InputError(str(path), "holds no object of settings")
    return value


def _refuse_depth(path: Path, values: dict[str, Any]) -> None:
    level: list[Any] = [values]
    for _ in range(MOST_DEPTH):
        level = [inner for value in level if isinstance(value, dict | list)
                 for inner in (value.values() if isinstance(value, dict) else value)]  # fmt: skip
        if not level:
            return
    raise InputError(str(path), f"is nested more than {MOST_DEPTH} levels deep", "No trainer's settings are; is this the data?")
