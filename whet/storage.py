"""Files: JSONL in and out, atomic writes, content hashes, marks of finished steps."""

import contextlib
import errno
import glob
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
    with staged_file(path) as staged, staged.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to, closed again within; it then takes that name, fsynced, or is cleared away."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield staged
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(str(path), f"can't be written ({error.strerror})", "Free some space or choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            staged.unlink()


def _sync_folder(folder: Path) -> None:
    """A new name in a folder outlives a power cut only when the folder itself was synced."""
    if os.name == "nt":
        return  # folders can't be opened there, and names are kept by the file system's own journal
    at = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(at)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(at)


def _sweep(path: Path) -> None:
    """Clear away what killed processes left beside `path`; a folder that one had just put aside gets its name back.

    Call before anything is staged: what bears our own number was left by a process that had it before us (containers).
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        pid, _, kind = left.name.removeprefix(f".{path.name}.").partition(".")
        if not pid.isdigit() or kind not in ("part", "old") or _is_at_work(int(pid)):
            continue
        if kind == "old" and not path.exists():
            left.replace(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def clear_stages(folder: Path) -> None:
    """Clear away what killed processes had half written in a folder, under whatever name."""
    for left in list(folder.glob(".*.part")) + list(folder.glob(".*.old")):
        name = left.name.removeprefix(".").rsplit(".", 2)[0]
        _sweep(folder / name)


def _is_at_work(pid: int) -> bool:
    """Whether another process of this number runs."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, this process alone works in a folder; InputError if another one does. A killed process holds no lock."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(str(folder), f"can't be written ({error.strerror})", "Choose another place with --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(str(folder), "another whet is at work in it", "Wait until it ends, or give --out") from None
        except OSError:
            pass  # a file system without locks: nothing is worse than before
        yield


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
    try:
        _sweep(folder)
        staged.mkdir(parents=True)
        yield staged
        for path in staged.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            else:
                _sync_folder(path)
        _sync_folder(staged)
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.replace(old)
        staged.replace(folder)
        _sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(str(folder), f"can't be written ({error.strerror})", "Free some space or choose another place") from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
