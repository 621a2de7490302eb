"""Checkpoints: all that the next step depends on, whole or not at all, and the newest one that belongs to a run."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from whet.backends.base import Backend
from whet.config import Settings
from whet.errors import InputError
from whet.storage import clear_stages, hash_file, read_json, staged_folder

VERSION = 1
MARK = "complete.json"
LOOP = "loop.json"
BEST = "best"


class CheckpointSettings(Settings):
    """How often a run can be taken up again after a crash, and what that costs on disk."""

    every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; null writes one with each validation."""
    keep: int = Field(default=1, ge=1)
    """How many of the newest are kept; the one of the best adapter is kept besides."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint of this run."""

    folder: Path
    step: int
    facts: dict[str, Any]
    """What the loop gave to `save`."""


class Checkpoints:
    """The checkpoints of one run in a folder: step-N/ holds the backend's files, loop.json, the best adapter so far in best/,
    and complete.json with the SHA-256 of each of these, written last.

    A checkpoint holds the best adapter too (hard links where the disk has them), so a resumed run starts from exactly one
    moment: it does not matter what was written to the run folder between that moment and the crash.
    """

    def __init__(self, folder: Path, key: str, settings: CheckpointSettings, say: Callable[[str], None]) -> None:
        self.folder, self.key, self.settings, self.say = folder, key, settings, say

    def save(self, backend: Backend, step: int, facts: dict[str, Any], best_adapter: Path, best_step: int) -> None:
        """Write one, then prune. Every rank calls it; only rank 0 writes. Raises InputError where the disk is full.

        best_step: that of the best adapter; 0 where there is none yet.
        """
        folder = self.folder / f"step-{step}"
        if backend.rank != 0:
            backend.save_state(folder)
            return
        if folder.exists() and isinstance(found := self._read(folder), str):
            self.say(f"{folder} {found}: replaced by this run's")
        with staged_folder(folder) as staged:
            try:
                backend.save_state(staged)
            except InputError as error:  # which names the stage
                raise InputError(str(folder), error.what, error.remedy) from None
            if best_step:
                _link_files(best_adapter, staged / BEST)
            # Plainly: all files of a staged folder are synced before it gets its name.
            known = {"version": VERSION, "key": self.key, "step": step, **facts}
            (staged / LOOP).write_text(json.dumps(known, allow_nan=False), encoding="utf-8")
            mark = {"version": VERSION, "files": _hashes(staged)}
            (staged / MARK).write_text(json.dumps(mark, indent=1), encoding="utf-8")
        self._prune(step, best_step)

    def newest(self, is_writer: bool = True) -> Checkpoint | None:
        """The newest whole one of this run. Torn and foreign ones are named, skipped and left where they are."""
        if is_writer:
            clear_stages(self.folder)
        for _, folder in self._folders():
            found = self._read(folder)
            if isinstance(found, Checkpoint):
                return found
            self.say(f"{folder} {found}: skipped, and left where it is")
        return None

    def restore(self, checkpoint: Checkpoint, backend: Backend, best_adapter: Path) -> None:
        """Put back the backend's state, and the best adapter as it was then."""
        if backend.rank == 0:
            if (checkpoint.folder / BEST).is_dir():
                with staged_folder(best_adapter) as staged:
                    _link_files(checkpoint.folder / BEST, staged)
            else:
                shutil.rmtree(best_adapter, ignore_errors=True)
        backend.load_state(checkpoint.folder)

    def _folders(self) -> list[tuple[int, Path]]:
        """Step and folder of all that look like checkpoints, the newest first."""
        found = [(path.name.removeprefix("step-"), path) for path in self.folder.glob("step-*") if path.is_dir()]
        return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)

    def _read(self, folder: Path) -> Checkpoint | str:
        """A checkpoint, or why it can't be taken up."""
        try:
            if not (folder / MARK).is_file():
                return f"is torn (no {MARK})"
            mark = read_json(folder / MARK)
            if not isinstance(mark, dict) or not isinstance(mark.get("files"), dict) or LOOP not in mark["files"]:
                return f"is torn ({MARK} is not what whet writes)"
            hashes = _hashes(folder)
            torn = sorted(name for name, digest in mark["files"].items() if hashes.get(name) != digest)
            if torn:
                return f"is torn ({torn[0]} is not what {MARK} says)"
            facts = read_json(folder / LOOP)
        except InputError as error:
            return f"is torn ({error.what})"
        if facts.get("version") != VERSION or facts.get("key") != self.key:
            return "is of another recipe, other data or another version of whet"
        return Checkpoint(folder, facts["step"], facts)

    def _prune(self, newest: int, best_step: int) -> None:
        """Remove this run's older checkpoints, after a newer one is whole; never that of the best step."""
        # One of a later step is torn, or this run would have begun there: it must not count among those that are kept.
        own = [(step, folder) for step, folder in self._folders() if step <= newest and self._is_own(folder)]
        for step, folder in own[self.settings.keep :]:
            if step != best_step:
                # Its mark goes first, so that a crash in between leaves nothing that looks whole.
                (folder / MARK).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    def _is_own(self, folder: Path) -> bool:
        """Whether this run wrote it; unlike `_read` without reading all of it."""
        try:
            return (folder / MARK).is_file() and read_json(folder / LOOP).get("key") == self.key
        except (InputError, AttributeError):
            return False


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder but its mark, by its name relative to it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: hash_file(path) for name, path in names.items() if name != MARK}


def _link_files(source: Path, target: Path) -> None:
    """The same files under another folder. Hard links serve, since whet never changes a file that it has written."""
    target.mkdir(exist_ok=True)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except OSError:  # a disk without hard links
            shutil.copyfile(path, place)
