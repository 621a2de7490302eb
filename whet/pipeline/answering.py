"""Who answers an extraction: the specialist or its base on this machine, or a server; and what its answers depend on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from whet.engines.base import Engine
from whet.engines.http import HttpEngine, HttpSettings
from whet.errors import InputError
from whet.pipeline.bench import Bench
from whet.pipeline.train_step import trained_adapter
from whet.records import Request


@dataclass(frozen=True, slots=True)
class Answering:
    """An engine to be opened when everything else is ready."""

    identity: Mapping[str, Any]
    """What the answers depend on beside the recipe's task, as plain JSON."""
    open: Callable[[], AbstractContextManager[Engine]]
    """Opens the engine, and closes it at the end."""
    adapter: str | None = None
    """Fingerprint of the adapter that answers."""
    fits: Callable[[Request], bool] = lambda request: True
    """Whether prompt and reply have room; InputError where the prompt can't be made at all."""
    code: tuple[str, ...] = ("engines",)
    """Rooms and files of whet whose code the answers depend on."""


def choose_answering(bench: Bench, saved: Bench, *, is_base: bool) -> Answering:
    """Who answers for a run: its recipe says it, `bench` with overrides and `saved` as it was trained.

    The adapter is checked against the recipe that it was trained with. InputError where there is none, or it is another's.
    """
    if isinstance(bench.recipe.engine, HttpSettings):
        if is_base:
            raise InputError("--base", "asks the base on this machine, and the recipe names a server", "Leave one of them out")
        return Answering({"server": bench.recipe.engine.identity()}, lambda: _server(bench))
    if not is_base and saved.recipe.train is None:
        raise InputError(str(bench.folder.path), "was not trained (train: null)", "Ask its base: --base")
    adapter = None if is_base else trained_adapter(saved).fingerprint
    device = bench.recipe.device.model_dump(mode="json", include={"kind", "dtype", "quantize"})
    identity = {"base": bench.base.fingerprint, "adapter": adapter, "device": device}
    return Answering(
        identity,
        lambda: _local(bench, is_base),
        adapter,
        lambda request: _has_room(bench, request),
        ("models", "backends", "engines/local.py"),
    )


@contextmanager
def _local(bench: Bench, is_base: bool) -> Iterator[Engine]:
    yield bench.local_engine(None if is_base else bench.folder.adapter)


@contextmanager
def _server(bench: Bench) -> Iterator[Engine]:
    engine = bench.engine(None)
    try:
        yield engine
    finally:
        if isinstance(engine, HttpEngine):
            engine.close()


def _has_room(bench: Bench, request: Request) -> bool:
    """Whether the base holds prompt and reply."""
    return len(bench.chat.prompt_ids(request.messages)) + request.max_tokens <= bench.base.max_length
