"""A recipe that is being made of another trainer's settings: every key of the file is set, or listed with a reason."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whet.errors import InputError
from whet.exchange.reading import Settings

Weight = Literal["learning", "other", "unread", "unknown", "default"]
_MISSING = object()
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    "whole": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "flag": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "table": lambda value: isinstance(value, dict),
    "any": lambda value: True,
}
_WORDS = {"number": "a number", "whole": "a whole number", "text": "text", "flag": "true or false", "list": "a list",
          "table": "a table of keys"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tool:
    """What is known of a trainer beside how its settings are turned."""

    name: str
    defaults: Mapping[str, Any]
    """What it takes for a key that is not given. Sources stand in the tool's file."""
    quiet: Mapping[str, str] = field(default_factory=dict)
    """Keys that say nothing about what is learnt, and what they say."""
    weighty: Mapping[str, str] = field(default_factory=dict)
    """Keys that change what is learnt and have no counterpart in whet, and why."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Keys that users write and the tool does not read, and what they should have written."""
    knows_all: bool = True
    """Whether a key that stands nowhere here is surely none of the tool's."""


@dataclass(frozen=True, slots=True)
class Line:
    """One setting of the recipe: what it was made of, and where the meanings differ (empty where they don't)."""

    setting: str
    value: Any
    said: str
    differs: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A key of the file that no setting of the recipe was made of."""

    key: str
    value: Any
    why: str
    weight: Weight
    """learning: it changes what is learnt. other: it does not. unread: the tool does not read it. unknown: whet does not know
    it. default: it says no more than its absence."""


class Draft:
    """Takes keys out of a settings file and puts settings into a recipe; `finish` accounts for the keys that are left."""

    def __init__(self, tool: Tool, settings: Settings) -> None:
        self.tool, self.settings = tool, settings
        self.lines: dict[str, Line] = {}
        self.lost: list[Lost] = []
        self.remarks: list[str] = []
        self._read: set[str] = set()
        self._told: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the file gives a key a value; null is none."""
        return self.settings.values.get(key) is not None

    def get(self, key: str, kind: str = "any", default: Any = _MISSING) -> Any:
        """The value of a key, or the tool's default. InputError, with its place, for a value of another kind."""
        self._read.add(key)
        value = self.settings.values.get(key)
        if value is None:
            return self.tool.defaults.get(key) if default is _MISSING else default
        if kind in ("number", "whole") and isinstance(value, str):
            value = _number(value, value)
        if kind == "whole" and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not _KINDS[kind](value):
            raise InputError(
                self.settings.place(key), f"{key} is {shown(value)}, and {_WORDS[kind]} is needed",
                f"{self.tool.name} would not read it either; correct it there",
            )  # fmt: skip
        return value

    def put(self, setting: str, value: Any, *keys: str, differs: str = "", said: str = "") -> None:
        """A line of the recipe, made of these keys. said: what they say, where that is a part of a table."""
        self._told.update(keys)
        self.lines[setting] = Line(setting, value, said or ", ".join(self.say(key) for key in keys), differs)

    def copy(self, setting: str, key: str, kind: str = "any", differs: str = "") -> Any:
        """A setting that means the same as a key; nothing is put where neither file nor tool says anything."""
        value = self.get(key, kind)
        if value is not None:
            self.put(setting, value, key, differs=differs)
        return value

    def say(self, key: str) -> str:
        """A key as the file gives it, or the default that stands for it."""
        if self.has(key):
            return f"{key}: {shown(self.settings.values[key])}"
        if key in self.tool.defaults:
            return f"{key} is not given; {self.tool.name} takes {shown(self.tool.defaults[key])}"
        return f"{key} is not given"

    def lose(self, key: str, why: str, weight: Weight = "learning") -> None:
        """A key that was looked at and has no counterpart."""
        self._read.add(key)
        self._told.add(key)
        if self.has(key):
            self.lost.append(Lost(key, self.settings.values[key], why, weight))

    def remark(self, words: str, *keys: str) -> None:
        """What differs, and the keys that it speaks of."""
        self._told.update(keys)
        self.remarks.append(words)

    def fault(self, key: str, what: str, remedy: str = "") -> InputError:
        return InputError(self.settings.place(key), what, remedy)

    def finish(self) -> None:
        """List every key that was not read."""
        tool = self.tool
        for key, value in self.settings.values.items():
            if key in self._told and value is not None:
                continue
            if key in self._read:
                self.lost.append(Lost(key, value, "asks for nothing that is not so anyway", "default"))
            elif value is None or (key in tool.defaults and tool.defaults[key] == value):
                self.lost.append(Lost(key, value, "at the tool's default, which asks for nothing", "default"))
            elif key in tool.weighty:
                self.lost.append(Lost(key, value, tool.weighty[key], "learning"))
            elif key in tool.quiet:
                self.lost.append(Lost(key, value, tool.quiet[key], "other"))
            elif key in tool.ignored:
                self.lost.append(Lost(key, value, f"{tool.name} does not read it: {tool.ignored[key]}", "unread"))
            else:
                self.lost.append(Lost(key, value, self._unknown(key), "unread" if tool.knows_all else "unknown"))

    def _unknown(self, key: str) -> str:
        known = {*self._read, *self.tool.defaults, *self.tool.quiet, *self.tool.weighty} - {key}
        near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]}?" if near else ""
        if self.tool.knows_all:
            return f"{self.tool.name} knows no such key: it did nothing there{hint}"
        return f"whet does not know this key of {self.tool.name}{hint}"


def keys(why: str, names: str) -> dict[str, str]:
    """Many keys, parted by white space, of which one thing is to be said."""
    return dict.fromkeys(names.split(), why)


def shown(value: Any) -> str:
    """A value in a message: one line, not too long."""
    words = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _number(text: str, otherwise: Any) -> Any:
    """The number that a text is: PyYAML takes 2e-5 for text, and the tools turn it into one."""
    try:
        return float(text) if len(text) <= 40 else otherwise
    except ValueError:
        return otherwise
