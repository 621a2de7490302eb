"""What a look at a user's files brings: findings with place, figures and remedy; and what checks are told beside the thing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from whet.text.chat import Chat

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
EXIT_CODES = {"error": 3, "warning": 1, "note": 0}
"""2 stays what it is everywhere: a path or an option that can't be used."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    severity: Severity
    """error: what was trained or measured is not what its owner believes. warning: it may not be. note: good to know."""
    name: str
    """A short name of the fault, the same for the same fault."""
    place: str
    what: str
    """What was seen, with figures from the user's own files."""
    why: str
    """Why it matters."""
    remedy: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Context:
    """What checks know beside the thing they look at: the base, and what the other paths brought."""

    base: Path | None = None
    """A model folder with the tokenizer and template that the data are for."""
    max_length: int | None = None
    """Most tokens of a row in the training that is looked at."""
    learns_prompt: str = ""
    """The settings file that takes the loss on the prompt too; empty where none does."""
    learns_prompt_of: tuple[str, ...] = ()
    """The shapes of rows whose prompt it learns; empty where it learns that of all."""
    strengths: dict[str, float] = field(default_factory=dict)
    """Of each adapter folder: its scale."""
    adapters: list[Path] = field(default_factory=list)
    """The adapter folders that are looked at and can be read."""
    _chat: Chat | None = None

    def chat(self) -> Chat | None:
        """The base's chat format; None without a base. InputError where it has none that can be used."""
        if self._chat is None and self.base is not None:
            self._chat = Chat(self.base)
        return self._chat


Findings = Iterator[Finding]


def error(name: str, place: object, what: str, why: str, remedy: str) -> Finding:
    return Finding("error", name, str(place), what, why, remedy)


def warning(name: str, place: object, what: str, why: str, remedy: str) -> Finding:
    return Finding("warning", name, str(place), what, why, remedy)


def note(name: str, place: object, what: str, why: str, remedy: str) -> Finding:
    return Finding("note", name, str(place), what, why, remedy)


def share(part: int, whole: int) -> str:
    """A part of a whole in words that can be checked."""
    digits = 1 if whole and 0 < part / whole < 0.01 else 0
    return f"{part:,} of {whole:,} ({part / whole:.{digits}%})" if whole else f"{part:,} of 0"
