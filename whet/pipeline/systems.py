"""What may be evaluated: a base, an adapter on its base, a whole model, a GGUF file, a server; each as one engine."""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from whet.backends.base import DeviceSettings
from whet.config import Settings, load, read_yaml
from whet.engines.base import Engine
from whet.engines.http import HttpEngine, HttpSettings
from whet.engines.llama_cpp import GgufSettings
from whet.errors import InputError
from whet.evaluate.results import System
from whet.models.adapter import CARD, open_adapter
from whet.models.base_model import EMBEDDED, BaseModel, open_base
from whet.pipeline.bench import saved_recipe
from whet.recipe import Recipe, read_recipe
from whet.storage import hash_file, hash_text, read_json


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine at work, and how it answers."""

    engine: Engine
    template: str | None
    """Hash of the chat template; None where a server keeps its own."""
    stop: str
    """What ends a reply, in words."""
    enforced: str = ""
    """How a server is made to keep a constraint."""
    is_timed: bool = False
    """Whether each request has a time of its own."""
    concurrency: int = 1
    cost: Callable[[], float] = lambda: 0.0
    """Spent since it was opened."""
    peak_memory: Callable[[], int | None] = lambda: None
    """Most bytes held by the model on this machine."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A system to be opened when everything else is ready."""

    system: System
    open: Callable[[], AbstractContextManager[Opened]]
    run: Path | None = None
    """The run folder that it comes from: its training data stand there."""
    is_paid: bool = False


class LocalFile(Settings):
    """A base on this machine, with an adapter or bare."""

    kind: Literal["local"]
    """The engine's name."""
    base: str = EMBEDDED
    """The base: a folder in the Hugging Face layout, or `embedded`."""
    adapter: Path | None = None
    """An adapter folder; a relative one starts from the file's folder."""
    device: DeviceSettings = DeviceSettings()
    """Where and how the base is computed."""


class EngineFile(Settings):
    """A file that describes an engine."""

    engine: Annotated[LocalFile | HttpSettings | GgufSettings, Field(discriminator="kind")]
    """What answers."""


def find_system(what: str, *, model: str | None = None, base: str | None = None) -> Candidate:
    """The system that a word on the command line means.

    `embedded` or a model folder; a run folder or a recipe (its adapter, where it has one); an adapter folder; a GGUF
    file; an http:// or https:// address with the model in its fragment; a YAML file with an `engine` section; FILE.py:NAME, an
    engine of one's own, whose file is run.
    model: name of the model on a server. base: the base of an adapter that lies in no run. InputError for anything else.
    """
    if what.startswith(("http://", "https://")):
        url, _, named = what.partition("#")
        raw = {"kind": "http", "url": url, "model": model or named or None}
        return of_server(load(HttpSettings, raw, {}, "the address"))
    from whet.pipeline.own_engine import of_own  # which makes a Candidate

    if (own := of_own(what)) is not None:
        return own
    path = Path(what).expanduser()
    if what != EMBEDDED and not path.exists():
        raise InputError(
            what, "is nothing that can be evaluated: there is no such file or folder",
            "Give embedded, a model, adapter or run folder, a recipe, a .gguf file, an http:// address, an engine's YAML file or "
            "FILE.py:NAME",
        )  # fmt: skip
    if path.is_file():
        return _of_file(path, base)
    if (path / "recipe.json").is_file():
        return _of_run(path, saved_recipe(path))
    card = read_json(path / CARD) if (path / CARD).is_file() else {}
    if (path / "adapter_config.json").is_file() or card.get("kind") in ("lora", "full"):
        return _of_adapter(path, base)
    return of_model(what, "model" if card else "base")


def _of_file(path: Path, base: str | None) -> Candidate:
    if path.suffix == ".gguf":
        return of_gguf(GgufSettings(path=path))
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(str(path), "is no system", "Give a .gguf file, a recipe or an engine's YAML file")
    raw, places = read_yaml(path)
    if "task" in raw or "data" in raw:
        recipe = read_recipe(path, [])
        return _of_run(Path("runs") / recipe.name, recipe)
    found = load(EngineFile, raw, places, str(path)).engine
    match found:
        case HttpSettings():
            return of_server(found)
        case GgufSettings():
            return of_gguf(found.model_copy(update={"path": path.parent / found.path}))
    name = found.base if found.base == EMBEDDED else str(path.parent / found.base)
    if found.adapter is not None:
        return of_local(open_base(name), path.parent / found.adapter, found.device, label=path.stem)
    return of_local(open_base(name), None, found.device, label=path.stem)


def _of_run(folder: Path, recipe: Recipe) -> Candidate:
    """A run's specialist, or what stands in for it: its server, or its base.

    Its label is the folder's name: two runs of one recipe, under other settings, are two systems.
    """
    run = folder if (folder / "data").is_dir() else None
    if isinstance(recipe.engine, HttpSettings):
        return of_server(recipe.engine, run)
    adapter = folder / "train" / "adapter"
    if recipe.train is not None and not adapter.is_dir():
        raise InputError(
            str(folder),
            "holds no adapter",
            f"Train it first: whet run RECIPE; or ask its base: whet evaluate {recipe.base} --suite SUITE",
        )
    return of_local(
        open_base(recipe.base), adapter if recipe.train is not None else None, recipe.device, label=folder.resolve().name, run=run
    )


def _of_adapter(folder: Path, base: str | None) -> Candidate:
    """An adapter on the base of its run, or on the one that is named."""
    run = folder.resolve().parents[1]
    if base is None and (run / "recipe.json").is_file():
        recipe = saved_recipe(run)
        return of_local(open_base(recipe.base), folder, recipe.device, label=run.name, run=run)
    if base is None:
        raise InputError(str(folder), "is an adapter that lies in no run folder", "Name its base with --base")
    return of_local(open_base(base), folder, DeviceSettings(), label=folder.name)


def of_model(name: str, kind: Literal["base", "model"]) -> Candidate:
    """A base, or a whole model that was made of one."""
    base = open_base(name)
    return of_local(base, None, DeviceSettings(), label=Path(name).name, kind=kind)


def of_local(
    base: BaseModel, adapter: Path | None, device: DeviceSettings, *, label: str,
    kind: Literal["base", "model"] = "base", run: Path | None = None,
) -> Candidate:  # fmt: skip
    """A base on this machine, with an adapter or bare."""
    found = open_adapter(adapter, base) if adapter is not None else None
    identity = {
        "base": base.fingerprint,
        "adapter": found.fingerprint if found else None,
        "device": device.model_dump(mode="json", include={"kind", "dtype", "quantize"}),
    }
    num_bytes = size_of(base.folder) + (size_of(adapter) if adapter is not None else 0)
    system = System("adapter" if found else kind, label, identity, num_bytes)
    return Candidate(system, lambda: _opened_local(base, adapter, device, label), run)


@contextmanager
def _opened_local(base: BaseModel, adapter: Path | None, device: DeviceSettings, label: str) -> Iterator[Opened]:
    from whet.backends.open import open_backend
    from whet.engines.local import LocalEngine
    from whet.text.chat import Chat

    chat = Chat(base.folder)
    backend = open_backend(base, None, device)
    backend.attach(adapter)
    engine = LocalEngine(label, backend, chat, base.max_length)
    stop = f"the end of the turn ({chat.end_of_turn.strip()}) or the budget"
    yield Opened(engine, hash_text(chat.template), stop, peak_memory=backend.peak_memory)


def of_server(settings: HttpSettings, run: Path | None = None) -> Candidate:
    """A server. Its model's name belongs to its label; its key to nothing."""
    label = settings.model or settings.url.partition("://")[2]
    system = System("server", label, settings.identity())
    return Candidate(
        system, lambda: _opened_server(settings), run, is_paid=bool(settings.prompt_price or settings.completion_price)
    )


@contextmanager
def _opened_server(settings: HttpSettings) -> Iterator[Opened]:
    engine = HttpEngine(settings)
    try:
        yield Opened(
            engine, None, "the server's own end of a reply, or the budget", engine.asking.enforce, is_timed=True,
            concurrency=settings.concurrency, cost=lambda: engine.usage.cost,
        )  # fmt: skip
    finally:
        engine.close()


def of_gguf(settings: GgufSettings) -> Candidate:
    """A GGUF file, computed by llama.cpp in this process."""
    if not settings.path.is_file():
        raise InputError(str(settings.path), "no such file")
    identity = {"file": hash_file(settings.path), **settings.model_dump(mode="json", include={"context_length"})}
    system = System("gguf", settings.path.stem, identity, settings.path.stat().st_size)
    return Candidate(system, lambda: _opened_gguf(settings))


@contextmanager
def _opened_gguf(settings: GgufSettings) -> Iterator[Opened]:
    from whet.engines.llama_cpp import LlamaCppEngine

    engine = LlamaCppEngine(settings)
    try:
        template = hash_text(engine.template)
        stop = f"the end of the turn ({engine.end_of_turn}) or the budget"
        yield Opened(engine, template, stop, is_timed=True, peak_memory=peak_memory)
    finally:
        engine.close()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peak_memory() -> int:
    """Most bytes that this process held so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
