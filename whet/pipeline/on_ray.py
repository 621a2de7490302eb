"""Answers requests on Ray Data actors, on this machine or on a cluster, each with an engine of its own out of the run folder."""

import itertools
import json
import logging
import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, TypeAdapter

from whet.config import Settings
from whet.engines.base import Engine
from whet.errors import InputError, MissingExtraError, WhetError
from whet.models.adapter import open_adapter
from whet.models.base_model import EMBEDDED
from whet.pipeline.answering import Answering
from whet.pipeline.bench import Bench, Silent
from whet.recipe import Recipe
from whet.records import Completion, Request

SECONDS_TO_END = 120.0  # for a pipeline whose feed is gone; it takes a second where the machine is not busy
BATCHES_AHEAD = 3  # batches an actor, one being answered and the others on their way


class RaySettings(Settings):
    """How work is spread over Ray actors."""

    address: str | None = None
    """Address of a running Ray cluster ("auto" finds it); null starts Ray on this machine. Every machine must see the run folder,
    and the base where it is a folder, under the same path, and have whet installed."""
    num_actors: int = Field(default=2, ge=1)
    """Actors, each with an engine of its own."""
    cpus: float = Field(default=1.0, ge=0)
    """CPU cores of an actor."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of an actor; a fraction lets several share one."""
    batch: int = Field(default=16, ge=1)
    """Requests that an actor is handed at a time. Its engine answers them together; an actor that dies loses so many answers."""


class Opener(Protocol):
    """What an actor opens its engine by: words and numbers that mean the same on every machine, no open files or weights."""

    def open(self) -> Engine:
        """The engine, opened on this machine. Whatever goes wrong is raised."""
        ...


@dataclass(frozen=True, slots=True)
class RunEngine:
    """The engine of a run."""

    folder: str
    """Absolute path of the run folder."""
    recipe: str
    """The run's recipe with the overrides of the command line, as JSON."""
    adapter: str | None
    """Fingerprint of the adapter that shall answer; None asks the base."""

    @staticmethod
    def of(bench: Bench, adapter: str | None) -> "RunEngine":
        """That of a run folder, with a recipe that may have been overridden."""
        base = bench.recipe.base if bench.recipe.base == EMBEDDED else str(bench.base.folder.resolve())
        recipe = bench.recipe.model_copy(update={"base": base})
        return RunEngine(str(bench.folder.path.resolve()), recipe.model_dump_json(), adapter)

    def open(self) -> Engine:
        """Open it on this machine. InputError where the folder here holds another adapter."""
        bench = Bench(Recipe.model_validate_json(self.recipe), Path(self.folder), Silent())
        if self.adapter is None:
            return bench.local_engine(None)
        found = open_adapter(bench.folder.adapter, bench.base).fingerprint
        if found != self.adapter:
            raise InputError(self.folder, f"holds the adapter {found} on this machine, not {self.adapter}", "Copy the run anew")
        return bench.local_engine(bench.folder.adapter)


_REQUEST, _COMPLETION = TypeAdapter(Request), TypeAdapter(Completion)


def pack_requests(batch: Sequence[tuple[str, Request]]) -> str:
    """Requests by their ids as JSON; lone surrogates are escaped."""
    return json.dumps([[id_, asdict(request)] for id_, request in batch])


def unpack_completions(text: str) -> list[tuple[str, Completion]]:
    """The completions that an actor gave; InputError where it could open no engine."""
    said = json.loads(text)
    if isinstance(said, dict):
        raise InputError("ray", f"an actor can't open the engine: {said['fault']}", "See that every machine has the run folder")
    return [(id_, _COMPLETION.validate_python(completion)) for id_, completion in said]


def open_answer(opener: Opener) -> Callable[[str], str]:
    """Opens the engine, and gives what an actor does with a batch of requests as JSON."""
    engine = opener.open()

    def answer(batch: str) -> str:
        named = [(id_, _REQUEST.validate_python(request)) for id_, request in json.loads(batch)]
        return json.dumps([[id_, asdict(found)] for id_, found in answer_all(engine, named)])

    return answer


def answer_all(engine: Engine, batch: Sequence[tuple[str, Request]]) -> list[tuple[str, Completion]]:
    """A completion for each request, in their order; an engine that breaks down gives error completions, not answers."""
    found: dict[int, Completion] = {}
    fault = "the engine gave no answer"
    try:
        found.update(engine.answer_each([request for _, request in batch]))
    except Exception as error:  # what an engine should have said in a completion
        fault = f"{type(error).__name__}: {error}"
    lost = Completion("", "error", error=fault)
    return [(id_, found.get(number, lost)) for number, (id_, _) in enumerate(batch)]


def answer_on_ray(
    requests: Iterable[tuple[str, Request]], opener: Opener, settings: RaySettings
) -> Iterator[tuple[str, Completion]]:
    """Id and completion of each request, as they get ready; each exactly once, also where actors die on the way.

    Requests are drawn in the caller's thread, no more of them than the actors can have on hand. Ids must differ among those
    that are not answered yet. A request over which actor after actor dies is an error completion. Raises InputError where no
    actor can open the engine.
    """
    left = iter(requests)
    first = list(itertools.islice(left, 1))
    if not first:
        return  # nothing is left to do: Ray would take seconds to find that out
    with _ray(settings) as ray:
        # Said where fewer batches come than there are actors.
        warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
        from whet.pipeline.ray_feed import ANSWERS, NUMBER, close_feed, end_actors, open_feed, open_pipeline

        feed = open_feed(settings.num_actors)
        each = {"num_cpus": settings.cpus} | ({"num_gpus": settings.gpus} if settings.gpus else {})
        rows = open_pipeline(feed, open_answer, opener, settings.num_actors, each)
        results: queue.SimpleQueue[tuple[int, str] | Exception | None] = queue.SimpleQueue()

        def collect() -> None:
            try:
                for row in rows.iter_batches(batch_size=1, prefetch_batches=0):
                    results.put((int(row[NUMBER][0]), str(row[ANSWERS][0])))
                results.put(None)
            except Exception as error:  # told in the caller's thread
                results.put(error)

        collector = threading.Thread(target=collect, name="whet-ray", daemon=True)
        collector.start()
        try:
            yield from _exchange(ray, feed, itertools.chain(first, left), settings, results)
        except ray.exceptions.RayError as error:
            raise _explain(error) from None
        finally:
            actors = close_feed(feed)
            try:
                # A thread of the pipeline that outlived Ray would start another Ray, or take the process with it.
                collector.join(SECONDS_TO_END)
            finally:
                end_actors(actors)


def _exchange(
    ray: Any, feed: Any, left: Iterator[tuple[str, Request]], settings: RaySettings, results: "queue.SimpleQueue[Any]"
) -> Iterator[tuple[str, Completion]]:
    """Hand out batches while there is room, and give what comes back; what never comes back is an error completion."""
    waiting, num, is_closed = dict[int, list[str]](), 0, False
    while True:
        while not is_closed and len(waiting) < BATCHES_AHEAD * settings.num_actors:
            batch = list(itertools.islice(left, settings.batch))
            if batch:
                waiting[num] = [id_ for id_, _ in batch]
                ray.get(feed.put.remote(num, pack_requests(batch)))
                num += 1
            if len(batch) < settings.batch:
                ray.get(feed.close.remote(num))
                is_closed = True
        result = results.get()
        if isinstance(result, Exception):
            raise _explain(result)
        if result is None:
            lost = Completion("", "error", error="Ray ended without an answer")
            yield from ((id_, lost) for ids in waiting.values() for id_ in ids)
            return
        number, answers = result
        if number in waiting:  # else it was answered before, and its actor died when it had
            found = unpack_completions(answers)
            del waiting[number]
            feed.forget.remote(number)
            yield from found


def _explain(error: Exception) -> WhetError:
    """What ended the pipeline, in a line."""
    if isinstance(error, WhetError):
        return error
    words = str(error).strip().splitlines() or [""]
    return InputError("ray", f"{type(error).__name__}: {words[-1][:300]}", "What was finished is kept")


@contextmanager
def _ray(settings: RaySettings) -> Iterator[Any]:
    """Ray, started here or joined; what was started is stopped. Nothing is reported to anyone outside."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # Ray is started here or nowhere
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError:
        raise MissingExtraError("ray[data]", "ray", "--on ray") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            quiet = {"include_dashboard": False} if settings.address is None else {}
            ray.init(address=settings.address or "local", log_to_driver=False, logging_level="error", **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            words = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError("ray.address", f"Ray can't be reached: {words}", "Start it with: ray start --head") from None
    try:
        _require_room(ray.cluster_resources(), settings)
        yield ray
    finally:
        if is_ours:
            ray.shutdown()


def _require_room(total: dict[str, float], settings: RaySettings) -> None:
    """InputError where the actors would wait for ever. A cluster may still grow: there it is enough if one fits."""
    num = settings.num_actors if settings.address is None else 1
    for name, wanted in (("CPU", settings.cpus), ("GPU", settings.gpus)):
        there = total.get(name, 0.0)
        if wanted * num > there:
            remedy = f"Set ray.num_actors or ray.{name.lower()}s lower"
            raise InputError("ray", f"{num} actors need {wanted * num:g} {name}s, there are {there:g}", remedy)


class OnRay:
    """An engine whose answers come from Ray actors."""

    def __init__(self, name: str, opener: Opener, settings: RaySettings) -> None:
        self.name, self.opener, self.settings = name, opener, settings

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        found = dict(self.answer_each(requests))
        return [found[number] for number in range(len(requests))]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        named = ((str(number), request) for number, request in enumerate(requests))
        for id_, completion in answer_on_ray(named, self.opener, self.settings):
            yield int(id_), completion

    def rank(self, request: Request) -> list[float]:
        raise InputError("ray", "ranks no choices", "Evaluate choice questions without --on ray")


def spread(who: Answering, bench: Bench, settings: RaySettings) -> Answering:
    """The same answers from Ray actors: what was answered with Ray or without it is one output."""
    if bench.recipe.engine.kind != "local":
        raise InputError("--on ray", "a server answers here, there is nothing to spread", "Raise engine.concurrency instead")
    return replace(who, open=lambda: nullcontext(OnRay("ray", RunEngine.of(bench, who.adapter), settings)))
