"""An engine that Ray's actors open in their own processes: it answers from a rule, slowly, and notes what it was asked."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whet.engines.base import Engine
from whet.errors import InputError
from whet.records import Completion, Message, Request


@dataclass
class Ruled:
    """Answers a request with the reverse of its words; writes each request to a file of its own process."""

    notes: Path
    pause_s: float
    name: str = "ruled"

    def answer_each(self, requests):
        for number, request in enumerate(requests):
            words = request.messages[-1].content
            with (self.notes / str(os.getpid())).open("a") as file:
                file.write(f"{words!a}\n")
            time.sleep(self.pause_s)
            if words == "poison":
                os._exit(1)
            if words == "silence":
                continue
            if words == "break":
                raise RuntimeError("out of order")
            yield number, Completion(words[::-1], "stop", num_tokens=len(words))


@dataclass(frozen=True)
class OpensRuled:
    """What the actors open."""

    notes: str
    pause_s: float = 0.05
    fault: str = ""

    def open(self) -> Engine:
        if self.fault == "die":
            os._exit(1)
        if self.fault:
            raise InputError("/runs/a", self.fault)
        return Ruled(Path(self.notes), self.pause_s)


def ask(words: str) -> Request:
    return Request((Message("user", words),), 8)


def actors() -> list[int]:
    """Process ids of the actors that answer, among our own descendants."""
    return [pid for pid in _descendants(os.getpid()) if _title(pid).startswith("ray::MapWorker")]


def readers() -> list[int]:
    """Process ids of the tasks that read the feed."""
    return [pid for pid in _descendants(os.getpid()) if _title(pid).startswith("ray::ReadFeed")]


def feeds() -> list[int]:
    """Process ids of the actors that hold the requests."""
    return [pid for pid in _descendants(os.getpid()) if _title(pid).startswith("ray::Feed")]


def wait_for(found: Callable[[], list[int]], seconds: float = 60.0) -> list[int]:
    until = time.monotonic() + seconds
    while not (pids := found()):
        assert time.monotonic() < until, "no such process came"
        time.sleep(0.05)
    return pids


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
