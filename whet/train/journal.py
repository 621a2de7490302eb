"""What a run writes down as it goes: one line a step in metrics.jsonl, one for each step not taken in guards.jsonl."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from whet.errors import InputError
from whet.storage import write_text

METRICS, GUARDS = "metrics.jsonl", "guards.jsonl"


class Journal:
    """Two JSONL files in the train folder, each line with its step; a resumed run cuts them back to where it begins."""

    def __init__(self, folder: Path, is_writer: bool) -> None:
        self.folder, self.is_writer = folder, is_writer
        self._files: dict[str, TextIO] = {}

    @contextlib.contextmanager
    def opened(self, step: int) -> Iterator[None]:
        """Within, lines may be written; lines of later steps than `step`, and torn ones, are cut off first."""
        if not self.is_writer:
            yield
            return
        with contextlib.ExitStack() as stack:
            for name in (METRICS, GUARDS):
                path = self.folder / name
                write_text(path, "".join(_lines_until(path, step)))
                with self._named(name):
                    self._files[name] = path.open("a", encoding="utf-8")
                stack.callback(self._close, name)
            yield

    def write(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line; another process may read it at once."""
        if self.is_writer:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
            with self._named(name):
                self._files[name].write(line)
                self._files[name].flush()

    def sync(self) -> None:
        """Make the lines outlive a power cut: a checkpoint must not be ahead of them."""
        for name, file in self._files.items():
            with self._named(name):
                os.fsync(file.fileno())

    def _close(self, name: str) -> None:
        # What could not be written is tried once more here, and fails with the same words.
        with self._named(name):
            self._files.pop(name).close()

    @contextlib.contextmanager
    def _named(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            place = str(self.folder / name)
            raise InputError(place, f"can't be written ({error.strerror})", "Free some space and run it again") from None


def _lines_until(path: Path, step: int) -> Iterator[str]:
    if step == 0 or not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                is_kept = line.endswith("\n") and json.loads(line)["step"] <= step
            except (ValueError, TypeError, KeyError):
                is_kept = False
            if not is_kept:
                return
            yield line
