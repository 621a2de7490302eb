"""Files: JSONL in and out, atomic writes, content hashes, marks of finished steps."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from whet.errors import InputError, open_to_read


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def hash_text(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, hexadecimal; lone surrogates are hashed as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal, read in pieces."""
    with open_to_read(path) as file:
        total = hashlib.sha256()
        while piece := file.read(1 << 20):
            total.update(piece)
        return total.hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 over the relative names and contents of all files below a folder, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()}\0{hash_file(path)}\n".encode())
    return total.hexdigest()


@contextlib.contextmanager
def written(path: Path) -> Iterator[Any]:
    """A text file that appears under its name only when it is whole: staged beside it, fsynced, renamed."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        raise InputError(str(path), f"can't be written ({error.strerror})", "Free some space or choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            staged.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave what was there."""
    with written(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, or leave what was there."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    with open_to_read(path) as file:
        raw = file.read()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise InputError(f"{path}:{line}", f"not JSON ({error})") from None


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON value a line, or leave what was there; gives how many."""
    count = 0
    with written(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[Any]:
    """The values of a JSONL file that whet itself wrote, one at a time."""
    with open_to_read(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}", f"not JSON ({error})", "Build this file again") from None


@contextlib.contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name only when it is whole; the one that stood there before is replaced."""
    staged = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        yield staged
        for path in staged.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.replace(old)
        staged.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(str(folder), f"can't be written ({error.strerror})", "Free some space or choose another place") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
