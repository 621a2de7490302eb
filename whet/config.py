"""Strict, frozen settings: read a YAML file, apply key=value overrides, show all faults at once, explain every value."""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from whet.errors import InputError, SettingsError, open_to_read

MAX_BYTES = 1_000_000  # a settings file larger than this is something else
MAX_DEPTH = 64  # levels; the time that PyYAML takes grows with the square of them
HIDDEN = "hidden"
"""Type of a fault (pydantic's) whose value is not repeated: it may be a secret that was put into the wrong place."""
_SECRET = re.compile(r"(key|secret|password|token)$", re.IGNORECASE)


class Settings(BaseModel):
    """The base of every settings class: unknown names are refused, values are never guessed at, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers that people write: 1e-3 is one (YAML 1.1 takes it for text), and a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)

Places = dict[tuple[str | int, ...], str]
"""Where each setting was written: key path to `file:line`."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Places]:
    """The mapping in a YAML file and the line of each of its keys.

    Refused: a key given twice, anchors (they can blow up), tags that name code, anything that is no mapping.
    """
    with open_to_read(path) as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise InputError(str(path), "is larger than 1 MB", "A recipe is a short YAML file; is this the data?")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    try:
        _refuse_growth(path, text)
        node = yaml.compose(text, _Loader)
        value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{path}:{line}", f"not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(str(path), f"not YAML: {error}") from None
    if not isinstance(value, dict):
        raise InputError(
            str(path),
            f"holds {type(value).__name__ if value is not None else 'nothing'}, not settings",
            "See `whet recipe schema`, or start from a file in recipes/",
        )
    places: Places = {}
    for keys, line, repeated in _key_lines(node, ()):
        if repeated:
            raise InputError(f"{path}:{line}", f"{'.'.join(map(str, keys))} is given twice", "Keep one of them")
        places[keys] = f"{path}:{line}"
    return value, places


def _refuse_growth(path: Path, text: str) -> None:
    """InputError for what a few bytes can make large: aliases, and nesting beyond MAX_DEPTH."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError(str(path), "holds a YAML alias", "Write the value out where it is used")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError(
                f"{path}:{event.start_mark.line + 1 if event.start_mark else 1}", f"is nested more than {MAX_DEPTH} levels deep"
            )


def _key_lines(node: Any, prefix: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int, bool]]:
    """Key path, line, and whether the key stood before, for every node of a YAML tree."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            keys = (*prefix, key.value)
            yield keys, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _key_lines(value, keys)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            keys = (*prefix, index)
            yield keys, item.start_mark.line + 1, False
            yield from _key_lines(item, keys)


def apply_overrides(raw: dict[str, Any], places: Places, overrides: Sequence[str]) -> None:
    """Set `key.sub=value` pairs in `raw`, in place; the value is read as YAML. List items are named by number."""
    faults = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            faults.append(f"{override!r} is no key=value pair")
            continue
        keys: tuple[Any, ...] = tuple(int(key) if key.isdecimal() else key for key in name.split("."))
        try:
            value = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            value = text
        at: Any = raw
        try:
            for key in keys[:-1]:
                at = at[key] if isinstance(at, list) else at.setdefault(key, {})
            at[keys[-1]] = value
        except (TypeError, IndexError, KeyError, AttributeError):
            faults.append(f"{override!r}: there is nothing named {name} to set")
            continue
        places[keys] = repr(f"{name}=…" if _SECRET.search(name) else override)
    if faults:
        raise SettingsError("command line", faults)


def load(kind: type[S], raw: Mapping[str, Any], places: Places, source: str) -> S:
    """The settings object, or one SettingsError that lists every fault with its place and, for names, the nearest one."""
    try:
        text = json.dumps(raw, default=str)
    except TypeError as error:
        raise SettingsError(source, [f"a name is no text ({error})"]) from None
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors()
        # A list with a bad item counts as too short as well, since the item is not in it: that is no fault of its own.
        deep = {fault["loc"][:n] for fault in found for n in range(len(fault["loc"]))}
        own = [fault for fault in found if fault["type"] != "too_short" or fault["loc"] not in deep]
        raise SettingsError(source, [_fault(kind, dict(fault), places) for fault in own]) from None


def _fault(kind: type[Settings], found: dict[str, Any], places: Places) -> str:
    """One line for one fault."""
    loc = tuple(found["loc"])
    keys, names = _follow(kind, loc)
    dotted = ".".join(map(str, keys))
    place = next((places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in places), "")
    if found["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(keys[-1]), names, n=1, cutoff=0.5)
        what = f"unknown setting {dotted}" + (f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(names)}")
    elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
        what = _tag_fault(dotted, found)
    elif found["type"] == "missing":
        what = f"{dotted} is missing"
    else:
        message = found["msg"].removeprefix("Value error, ")
        is_hidden = found["type"] == HIDDEN
        seen = "" if is_hidden or isinstance(found["input"], dict | list) else f" (it is {found['input']!r})"
        what = f"{dotted}: {message}{seen}" if dotted else message
        if is_hidden and place.startswith("'"):  # an override, which holds the value too
            place = place.partition("=")[0] + "=…'"
    return f"{place}: {what}" if place else what


def _tag_fault(dotted: str, found: Mapping[str, Any]) -> str:
    """A section whose kind (its `reader`, say) is unknown or not said."""
    name = found["ctx"]["discriminator"].strip("'")
    if found["type"] == "union_tag_not_found":
        return f"{dotted}.{name} is missing; it says what kind of section this is"
    known = [tag.strip("'") for tag in found["ctx"]["expected_tags"].split(", ")]
    near = difflib.get_close_matches(found["ctx"]["tag"], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"{dotted}.{name}: unknown {name} {found['ctx']['tag']}; {hint}"


def _follow(kind: Any, loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], list[str]]:
    """The key path of a pydantic location (its union tags taken out), and the names known where it ends."""
    keys: list[str | int] = []
    candidates = [kind]
    names: list[str] = []
    for step in loc:
        classes = [c for c in candidates if isinstance(c, type) and issubclass(c, Settings)]
        tagged = [c for c in classes if step in _tags(c)]
        # Only a union has tags: a misspelt name may well be spelt like a value ("choice" for "choices").
        if len(classes) > 1 and tagged and not any(step in c.model_fields for c in classes):
            candidates = tagged
            continue
        if isinstance(step, str) and not classes and not any(typing.get_origin(c) in (dict, Mapping) for c in candidates):
            continue  # the tag of a union of plain values
        names = sorted({name for c in classes for name in c.model_fields})
        keys.append(step)
        if isinstance(step, int) or not classes:
            candidates = [arg for c in candidates for arg in _parts(c)]
        else:
            fields = [c.model_fields[step] for c in classes if step in c.model_fields]
            candidates = [leaf for found in fields for leaf in _leaves(found.annotation)]
    return tuple(keys), names


def _tags(kind: type[Settings]) -> set[Any]:
    """The literal values by which a class is told apart in a union."""
    return {
        arg
        for found in kind.model_fields.values()
        if typing.get_origin(found.annotation) is typing.Literal
        for arg in typing.get_args(found.annotation)
    }


def _parts(annotation: Any) -> list[Any]:
    """What a list, tuple or mapping annotation holds."""
    return [leaf for arg in typing.get_args(annotation) if arg is not Ellipsis for leaf in _leaves(arg)]


def _leaves(annotation: Any) -> list[Any]:
    """The members of a union, nested or annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _leaves(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [leaf for arg in typing.get_args(annotation) for leaf in _leaves(arg)]
    return [annotation]


def explain(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str, bool, str]]:
    """Each setting's dotted name, value, whether it was left at its default, and what it means."""
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        dotted = f"{prefix}{name}"
        if isinstance(value, Settings):
            yield from explain(value, f"{dotted}.")
        elif isinstance(value, tuple) and value and all(isinstance(item, Settings) for item in value):
            for index, item in enumerate(value):
                yield from explain(item, f"{dotted}.{index}.")
        else:
            yield dotted, json.dumps(value, ensure_ascii=False, default=_plain), _is_default(info, value), info.description or ""


def _is_default(info: FieldInfo, value: Any) -> bool:
    return not info.is_required() and bool(value == info.get_default(call_default_factory=True))


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Settings) else str(value)
