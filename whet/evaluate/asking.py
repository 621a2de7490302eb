"""Asks one system the questions of a part, and keeps each answer as it comes: what was answered is never asked again."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from whet.engines.base import Engine
from whet.errors import InputError
from whet.evaluate.results import Latency
from whet.evaluate.run import choose
from whet.records import Completion, Example, Request, completion_from_json, completion_to_json
from whet.storage import write_text
from whet.tasks.base import Task

FILE = "asked.jsonl"


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and how long it took: None where it was made together with others."""

    completion: Completion
    seconds: float | None


class Asked:
    """The answers of a part on disk, one line each, in the order in which they came.

    key: of all that the answers depend on; answers kept under another key are put away. An error is no answer: it is
    kept to be seen, and asked again by the next run.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / FILE
        self.replies: dict[str, Reply] = {}
        self._sessions: list[tuple[float, float]] = []
        """Of each run that asked: its seconds, and what it cost."""
        lines = self._read(key)
        self._sessions.append((0.0, 0.0))
        # Written anew: a run that was killed may have left half a line at the end.
        write_text(self.path, "".join(f"{line}\n" for line in [*lines, json.dumps({"key": key})]))
        self._began = monotonic()

    def _read(self, key: str) -> list[str]:
        """Take in what earlier runs left; gives their whole lines."""
        lines: list[str] = []
        if not self.path.is_file():
            return lines
        for line in self.path.read_text("utf-8", errors="replace").split("\n"):
            with suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                if "key" in row:
                    if row["key"] != key:
                        return []
                    self._sessions.append((0.0, 0.0))
                else:
                    self.replies[row["id"]] = Reply(completion_from_json(row), row["seconds"])
                    self._sessions[-1] = (row["at"], row["cost"])
                lines.append(line)
        return lines

    def is_answered(self, example: Example) -> bool:
        found = self.replies.get(example.id)
        return found is not None and found.completion.finish != "error"

    def take(self, replies: Iterator[tuple[Example, Reply]], cost: Callable[[], float]) -> None:
        """Keep replies as they come. cost: what was spent since the engine was opened."""
        before = cost()
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                for example, reply in replies:
                    at, spent = round(monotonic() - self._began, 6), cost() - before
                    self._sessions[-1] = (at, spent)
                    self.replies[example.id] = reply
                    row = {"id": example.id, "seconds": reply.seconds, "at": at, "cost": spent}
                    file.write(json.dumps(row | completion_to_json(reply.completion)) + "\n")
                    file.flush()  # what another process, or this one's end, finds
        except OSError as error:
            raise InputError(str(self.path), f"can't be written ({error.strerror})", "Free some space") from None

    @property
    def seconds(self) -> float:
        """Spent asking, over all runs."""
        return sum(seconds for seconds, _ in self._sessions)

    @property
    def cost(self) -> float:
        """Of all runs, in the currency of the engine's prices."""
        return sum(cost for _, cost in self._sessions)

    def latency(self, examples: Sequence[Example]) -> Latency:
        """Of the answers to these examples; errors took no time that means anything."""
        import numpy as np

        said = [self.replies[example.id] for example in examples]
        times = [reply.seconds for reply in said if reply.seconds is not None and reply.completion.finish != "error"]
        num_tokens = sum(reply.completion.num_tokens for reply in said)
        rate = num_tokens / self.seconds if num_tokens and self.seconds else None
        if not times:
            return Latency(None, None, None, rate, self.seconds)
        p50, p95, p99 = (float(value) for value in np.quantile(np.array(times), [0.5, 0.95, 0.99]))
        return Latency(p50, p95, p99, rate, self.seconds)


def ask_part(
    engine: Engine,
    task: Task,
    examples: Sequence[Example],
    asked: Asked,
    *,
    is_timed: bool = False,
    concurrency: int = 1,
    cost: Callable[[], float] = lambda: 0.0,
    watch: Callable[[int, int], None] = lambda done, num: None,
) -> None:
    """Ask all that is not answered yet.

    is_timed: whether the engine answers each request by itself, so that its time can be told. concurrency: requests
    whose choices are ranked at the same time.
    """
    waiting = [example for example in examples if not asked.is_answered(example)]
    num_done = len(examples) - len(waiting)

    def told() -> Iterator[tuple[Example, Reply]]:
        for done, (number, reply) in enumerate(_replies(engine, task, waiting, is_timed, concurrency), num_done + 1):
            yield waiting[number], reply
            watch(done, len(examples))

    if waiting:
        asked.take(told(), cost)


def _replies(
    engine: Engine, task: Task, examples: Sequence[Example], is_timed: bool, concurrency: int
) -> Iterator[tuple[int, Reply]]:
    """Number and reply of each example, as they come."""
    requests = [task.ask(example) for example in examples]
    ranked = [number for number, request in enumerate(requests) if request.choices]
    written = [number for number, request in enumerate(requests) if not request.choices]
    started: dict[int, float] = {}

    def begun() -> Iterator[Request]:
        for at, number in enumerate(written):
            started[at] = monotonic()
            yield requests[number]

    if written:
        for at, completion in engine.answer_each(begun()):
            yield written[at], Reply(completion, round(monotonic() - started[at], 6) if is_timed else None)
    for at, reply in _ranked(engine, [requests[number] for number in ranked], concurrency):
        yield ranked[at], reply


def _ranked(engine: Engine, requests: Sequence[Request], concurrency: int) -> Iterator[tuple[int, Reply]]:
    def rank(request: Request) -> Reply:
        began = monotonic()
        completion = choose(engine, request)
        return Reply(completion, round(monotonic() - began, 6))

    if concurrency == 1:
        yield from enumerate(map(rank, requests))
        return
    with ThreadPoolExecutor(concurrency) as pool:
        futures = {pool.submit(rank, request): number for number, request in enumerate(requests)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()
