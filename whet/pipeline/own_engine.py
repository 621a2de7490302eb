"""An engine of the user's own, named as FILE.py:NAME: retrieval before a model, a choice of models, all that answers."""

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.evaluate.results import System
from whet.pipeline.systems import Candidate, Opened
from whet.records import Completion, Request
from whet.storage import hash_file
from whet.text.kept import broken

_NAMED = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
REMEDY = "Give it `answer(requests)`, a list of whet.records.Completion for a list of whet.records.Request"


class OwnEngine:
    """Asks an object of the user's one request at a time; whatever it raises is the error of that request alone."""

    def __init__(self, name: str, own: Any) -> None:
        self.name, self._own = name, own

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._answer(request) for request in requests]

    def answer_each(self, requests: Iterable[Request]) -> Iterator[tuple[int, Completion]]:
        for number, request in enumerate(requests):
            yield number, self._answer(request)

    def rank(self, request: Request) -> list[float]:
        if not callable(getattr(self._own, "rank", None)):
            raise InputError(self.name, "can't rank choices (it has no `rank`)", "Set answer_by: text in the part's task")
        try:
            ranks = [float(value) for value in self._own.rank(request)]
        except Exception as error:  # of the user's code, which may raise anything
            raise InputError(self.name, f"{type(error).__name__}: {error}") from error
        if len(ranks) != len(request.choices):
            raise InputError(
                self.name, f"`rank` gave {len(ranks)} numbers for {len(request.choices)} choices", "Give one for each"
            )
        return ranks

    def _answer(self, request: Request) -> Completion:
        try:
            (said,) = self._own.answer([request])
        except Exception as error:  # as above
            return Completion("", "error", error=f"{type(error).__name__}: {error}")
        if not isinstance(said, Completion):
            return Completion("", "error", error=f"answered with {type(said).__name__}, not with a whet.records.Completion")
        if request.constraint is None or said.finish == "error" or said.violation:
            return said
        return replace(said, violation=broken(said.text, request.constraint))


def of_own(what: str) -> Candidate | None:
    """The system that FILE.py:NAME means; None where the words are of another form.

    NAME is an object that has `answer` (and `rank`, where choices are to be ranked), or a function that makes one. The file is
    run when the system is opened, as `python FILE.py` would, and nothing else of it is known than its bytes: what it
    reads besides belongs to no identity. InputError where there is no such file.
    """
    found = _NAMED.fullmatch(what)
    if found is None:
        return None
    path, name = Path(found["path"]).expanduser(), found["name"]
    if not path.is_file():
        raise InputError(str(path), "no such file", "Name a Python file and what answers in it: FILE.py:NAME")
    system = System("engine", path.stem if name == "engine" else name, {"file": hash_file(path), "name": name})
    return Candidate(system, lambda: _opened(path, name))


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Opened]:
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        own = _load(path, name)
        try:
            yield Opened(OwnEngine(path.stem, own), None, "the engine's own end of a reply, or the budget", is_timed=True)
        finally:
            if callable(close := getattr(own, "close", None)):
                close()
    finally:
        sys.modules.pop(_module_of(path), None)
        if folder in sys.path:
            sys.path.remove(folder)


def _module_of(path: Path) -> str:
    return f"whet_own_{path.stem}"


def _load(path: Path, name: str) -> Any:
    """What the file calls `name`, made where it is a function or a class; InputError where it does not answer."""
    spec = importlib.util.spec_from_file_location(_module_of(path), path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for a class's module
    try:
        spec.loader.exec_module(module)
        own = getattr(module, name, None)
        if callable(own) and (isinstance(own, type) or not hasattr(own, "answer")):
            own = own()
    except (Exception, SystemExit) as error:  # of the user's code, which may raise anything
        raise InputError(str(path), f"can't be run ({type(error).__name__}: {error})", "Mend it") from error
    if own is None:
        names = ", ".join(key for key in vars(module) if not key.startswith("_")) or "nothing"
        raise InputError(str(path), f"has nothing named {name}", f"It names {names}")
    if not callable(getattr(own, "answer", None)):
        raise InputError(f"{path}:{name}", f"is no engine, but {type(own).__name__}", REMEDY)
    return own
