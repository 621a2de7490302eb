"""llama.cpp through llama-cpp-python in a child process: quantises GGUF files, and answers as their judge."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, MissingExtraError
from whet.export import llama_child

PYTHON = "WHET_LLAMA_PYTHON"
"""Environment variable: the interpreter that has llama-cpp-python, where whet's own has not."""


def find_llama() -> str | None:
    """The interpreter that has llama-cpp-python: the one that is named, or our own; None where neither has it."""
    if named := os.environ.get(PYTHON):
        return named
    return sys.executable if importlib.util.find_spec("llama_cpp") else None


class LlamaCpp:
    """A child process with llama.cpp; close it, or use it in a with statement.

    MissingExtraError where no interpreter has llama-cpp-python. What llama.cpp refuses is an InputError in its words.
    """

    def __init__(self) -> None:
        python = find_llama()
        if python is None:
            raise MissingExtraError(f"llama-cpp-python (in this environment, or in that of {PYTHON})", "llamacpp", "this")
        self.folder = tempfile.TemporaryDirectory(prefix="whet-llama-")
        self._said = (Path(self.folder.name) / "said.txt").open("w+")
        command = [python, "-I", str(Path(llama_child.__file__))]
        try:
            self.child = subprocess.Popen(  # noqa: S603 -- the user's own interpreter and our own script
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, encoding="utf-8"
            )
            self.version = self._do({"do": "hello"})["version"]
        except OSError as error:
            raise InputError(PYTHON, f"{python} can't be run ({error.strerror})", "Name a Python with llama-cpp-python") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child and clear its folder away."""
        for stream in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        try:
            self.child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self._said.close()
        self.folder.cleanup()

    def _do(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(json.dumps(job) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.child.wait()
            self._said.seek(0)
            last = " ".join(self._said.read()[-400:].split())
            raise InputError(
                str(job.get("path") or job.get("source") or "llama.cpp"), f"llama.cpp ended by itself ({code}): {last}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InputError(str(job.get("path") or job.get("source") or "llama.cpp"), answer["error"])
        return answer

    def open(self, path: Path, adapter: Path | None = None, num_context: int = 2048) -> None:
        """Load a GGUF file, with an adapter's file at strength 1 if one is given; replaces the one before."""
        self._do({"do": "open", "path": str(path), "adapter": str(adapter) if adapter else None, "num_context": num_context})

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts, names of special tokens read as those tokens, none added."""
        found: list[list[int]] = self._do({"do": "tokenize", "texts": list(texts)})["ids"]
        return found

    def logits(self, ids: Sequence[int], start: int) -> NDArray[np.float32]:
        """What follows each of the ids from number `start` on: (len(ids) - start, vocabulary)."""
        place = Path(self.folder.name) / "logits.npy"
        self._do({"do": "logits", "ids": list(ids), "start": start, "to": str(place)})
        found: NDArray[np.float32] = np.load(place, allow_pickle=False)
        return found

    def continue_ids(self, ids: Sequence[int], max_tokens: int, end_ids: Sequence[int]) -> list[int]:
        """The likeliest ids one after the other, up to and with the first end id."""
        job = {"do": "continue", "ids": list(ids), "max_tokens": max_tokens, "end_ids": list(end_ids)}
        found: list[int] = self._do(job)["ids"]
        return found

    def quantize(self, source: Path, target: Path, kind: str, importance: Path | None = None) -> None:
        """Write `target` from a plain GGUF file in a type of llama.cpp, such as q4_k_m."""
        job = {"do": "quantize", "source": str(source), "target": str(target), "kind": kind.upper()}
        self._do({**job, "importance": str(importance) if importance else None})
