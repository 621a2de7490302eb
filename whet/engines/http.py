"""The engine over a server that speaks the OpenAI protocol, or llama.cpp's, vLLM's or Ollama's own."""

import concurrent.futures
import importlib.util
import json
import queue
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from whet.engines.background import Background, end
from whet.engines.dialects import BEST, TAKES, Asking, Enforce, Name, Said, ShapeError, body, read, read_counts, remedy
from whet.engines.grammars import RECORDS
from whet.engines.ranking import estimate, rank
from whet.engines.wire import RefusedError, Usage, Wire, WireSettings
from whet.errors import InputError, MissingExtraError
from whet.records import Completion, Request, Step
from whet.text.kept import broken

OWN_FIELDS = frozenset({"model", "messages", "stream", "prompt", "response_format", "format", "grammar", "structured_outputs"})


class HttpSettings(WireSettings):
    """A server that answers instead of the base: Ollama, llama.cpp, vLLM, or any other of the OpenAI kind."""

    kind: Literal["http"] = "http"
    """The engine's name."""
    model: str | None = None
    """The model's name on the server; null takes the one that it has, where it has one only."""
    dialect: Literal["auto", "openai", "llama.cpp", "vllm", "ollama"] = "auto"
    """Which server it is; auto asks it. openai: any other."""
    enforce: Literal["auto", "schema", "json_object", "object", "gbnf", "llguidance", "none"] = "auto"
    """What the server is asked to keep while it writes. auto: gbnf for llama.cpp, schema for the others. schema: a JSON schema.
    json_object: the same in an older form, which llama-cpp-python and some clouds take. object: a JSON schema whose root is an
    object with the list in it, as OpenAI's own service wants it; the list is taken out of the reply. gbnf: a grammar with the
    trained keys and white space (llama.cpp, vLLM). llguidance: the same, and spans only from the text (llama.cpp that was built
    with it; vLLM with its guidance backend). none: the prompt alone. Whatever it is, every reply is checked afterwards."""
    logprobs: bool | None = None
    """Ask for the log-probability of each token; confidence needs them. Null asks all but servers of the kind openai, of which
    some refuse."""
    top_logprobs: int = Field(default=20, ge=1, le=1000)
    """How many of the likeliest tokens are asked for where choices are ranked by their first token."""
    temperature: float | None = Field(default=None, ge=0)
    """Of the samples; null takes what the request says, 0 unless something else was asked for."""
    seed: int | None = None
    """Seed of the samples; null takes the request's. Few servers promise equal replies for equal seeds."""
    context_length: int | None = Field(default=None, ge=1)
    """Tokens of prompt and reply that Ollama makes room for (its num_ctx); null leaves its own, which is small."""
    budget_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of a reply."""
    leave_out: tuple[str, ...] = ()
    """Fields that are not sent, such as temperature or seed, for servers that refuse them."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Fields that are sent beside ours, such as reasoning_effort; objects are merged into ours."""

    @model_validator(mode="after")
    def _fits_together(self) -> "HttpSettings":
        if self.dialect != "auto" and self.enforce != "auto" and self.enforce not in TAKES[self.dialect]:
            known = ", ".join(sorted(TAKES[self.dialect]))
            raise ValueError(f"a server of the kind {self.dialect} can't be asked for {self.enforce}; it takes {known}")
        if self.dialect not in ("auto", "ollama") and self.context_length is not None:
            raise ValueError("context_length is Ollama's alone; other servers set it when they start")
        if taken := sorted(OWN_FIELDS & set(self.extra)):
            raise ValueError(f"extra must not hold {', '.join(taken)}, which whet sets itself")
        if taken := sorted({"model", "messages", "stream"} & set(self.leave_out)):
            raise ValueError(f"leave_out must not name {', '.join(taken)}")
        return self

    def identity(self) -> dict[str, Any]:
        """What the replies depend on: other prices, waits and limits make no other answers."""
        names = ("url", "model", "dialect", "enforce", "logprobs", "top_logprobs", "temperature", "seed", "context_length")
        return self.model_dump(mode="json", include={*names, "budget_name", "leave_out", "extra"})


class HttpEngine:
    """A server, asked for many replies at a time. `usage` says what was sent and what it costs.

    Nothing is retried that may have been answered wrongly; what was sent and lost its connection may be paid for twice.
    """

    def __init__(self, settings: HttpSettings, name: str = "server") -> None:
        if importlib.util.find_spec("httpx2") is None:
            raise MissingExtraError("httpx2", "http", "asking a server")
        self.name, self.settings = name, settings
        self._wire = Wire(settings)
        self._background = Background()
        self._asking: Asking | None = None
        self.close = weakref.finalize(self, _close, self._wire, self._background)
        """Close its connections; the engine can't be used any more. Done at the process's end too."""

    @property
    def usage(self) -> Usage:
        return self._wire.usage

    @property
    def asking(self) -> Asking:
        """How the server is asked; it is asked first what it is, where the settings don't say it."""
        if self._asking is None:
            self._asking = self._background.do(self._introduce())
        return self._asking

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        completions = dict(self.answer_each(requests))
        return [completions[number] for number in range(len(requests))]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        """Number and completion of each request, as they get ready; at most `concurrency` are taken and not yet given back.

        Raises InputError before the first request where the server can't be asked at all. Stopping (Ctrl-C, or closing the
        iterator) ends what is in flight.
        """
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        running: dict[int, concurrent.futures.Future[Completion]] = {}
        waiting = enumerate(requests)
        is_open = True
        try:
            while True:
                num_taken = 0
                # One request at least for each that is given back; more only while nothing is ready.
                while is_open and len(running) < self.settings.concurrency and (num_taken == 0 or done.empty()):
                    taken = next(waiting, None)
                    is_open = taken is not None
                    if taken is not None:
                        running[taken[0]] = self._begin(*taken, done)
                        num_taken += 1
                if not running:
                    return
                number = done.get()
                yield number, running.pop(number).result()
        finally:
            end(*running.values())

    def _begin(self, number: int, request: Request, done: "queue.SimpleQueue[int]") -> concurrent.futures.Future[Completion]:
        future = self._background.start(self._complete(self.asking, request))
        future.add_done_callback(lambda _: done.put(number))
        return future

    def rank(self, request: Request) -> list[float]:
        """Exact, or refused with InputError. vLLM and llama.cpp rank any choices; others those of one token that is likely."""
        try:
            return self._background.do(rank(self._wire, self.asking, request, self.settings.top_logprobs))
        except (RefusedError, ShapeError) as error:
            self.usage.failed += 1
            raise InputError(self.settings.url, str(error)) from None

    async def _complete(self, asking: Asking, request: Request) -> Completion:
        """One request's completion; whatever the server does, it is one."""
        try:
            return await self._asked(asking, request)
        except Exception as error:  # no reply, however odd, may lose those of others
            self.usage.failed += 1
            return Completion("", "error", error=self._wire.key.hide(f"{type(error).__name__}: {error}"))

    async def _asked(self, asking: Asking, request: Request) -> Completion:
        if request.adapter is not None and asking.dialect not in ("vllm", "ollama"):
            return Completion("", "error", error=f"a server of the kind {asking.dialect} can't be asked for an adapter by name")
        num_tokens, sent = estimate(request), body(asking, request)
        counts: tuple[int, int] | None = None
        try:
            reply = await self._wire.send(asking.path, sent, num_tokens)
            counts = read_counts(asking, reply)
            self._wire.count(counts, num_tokens)
            said = read(asking, reply)
        except RefusedError as error:
            self.usage.failed += 1
            return Completion("", "error", error=f"{error}{remedy(asking, sent, str(error))}")
        except ShapeError as error:
            self.usage.failed += 1
            return Completion("", "error", *(counts or (0, 0)), error=f"the reply can't be used: {error}")
        if request.constraint is not None and asking.enforce == "object":
            said = unwrap(said)
        violation = broken(said.text, request.constraint) if request.constraint is not None else ""
        return Completion(said.text, said.finish, *(counts or (0, 0)), steps=said.steps, violation=violation)

    async def _introduce(self) -> Asking:
        """Ask the server which one it is, and for the name of its model."""
        settings = self.settings
        dialect: Name | None = settings.dialect if settings.dialect != "auto" else None
        model = settings.model
        if dialect is None or model is None:
            found, names = await self._look()
            dialect = dialect or found
            if model is None and len(names) != 1:
                raise InputError(
                    "engine.model",
                    f"is not said, and {settings.url} "
                    + (f"has {', '.join(names[:8])}" if names else "does not say what it has"),
                    "Name the model: engine.model=NAME",
                )
            model = model or names[0]
        enforce: Enforce = BEST[dialect] if settings.enforce == "auto" else settings.enforce
        if enforce not in TAKES[dialect]:
            known = ", ".join(sorted(TAKES[dialect]))
            raise InputError("engine.enforce", f"is {enforce}; a server of the kind {dialect} takes {known}")
        if settings.context_length is not None and dialect != "ollama":
            raise InputError(
                "engine.context_length", f"is Ollama's alone; {settings.url} is of the kind {dialect}", "Leave it out"
            )
        return Asking(
            dialect,
            model,
            enforce,
            has_logprobs=dialect != "openai" if settings.logprobs is None else settings.logprobs,
            temperature=settings.temperature,
            seed=settings.seed,
            context_length=settings.context_length,
            budget_name=settings.budget_name,
            leave_out=settings.leave_out,
            extra=settings.extra,
        )

    async def _look(self) -> tuple[Name, list[str]]:
        """Which kind of server it is, and what models it names."""
        try:
            listed = (await self._wire.send("models")).get("data")
        except RefusedError as error:
            if error.status in (404, 405, 501):  # a server may have no such list
                return "openai", []
            raise InputError(self.settings.url, str(error), "Is engine.url right, and is the server up?") from None
        models = [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []
        names = [str(model.get("id")) for model in models if model.get("id")]
        owners = {str(model.get("owned_by")) for model in models}
        if "vllm" in owners:
            return "vllm", names
        if "llamacpp" in owners:
            return "llama.cpp", names
        try:
            is_ollama = "version" in await self._wire.send("/api/version")
        except RefusedError:
            is_ollama = False
        return ("ollama" if is_ollama else "openai"), names


def unwrap(said: Said) -> Said:
    """The list out of the object that a schema of the kind `object` asks for, as it was written; anything else stays as it is."""
    try:
        start = said.text.index("[", said.text.index(f'"{RECORDS}"'))
        rows, stop = json.JSONDecoder().raw_decode(said.text, start)
        is_asked_for = json.loads(said.text) == {RECORDS: rows}
    except (ValueError, RecursionError):
        is_asked_for = False
    if not is_asked_for:
        return said
    steps = tuple(Step(min(step.end, stop) - start, step.log_prob) for step in said.steps if step.end > start)
    return Said(said.text[start:stop], said.finish, steps)


def _close(wire: Wire, background: Background) -> None:
    if background.close.alive:
        background.do(wire.close())
        background.close()
