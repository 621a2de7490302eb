"""Settings of another trainer to the text of a recipe, every line with what it was made of; and a recipe to theirs."""

import os
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from whet.errors import InputError
from whet.exchange import table
from whet.exchange.draft import Draft, Line, Lost, shown
from whet.exchange.reading import read_settings
from whet.exchange.said import Said, Unsaid
from whet.recipe import Recipe, recipe_from

WIDTH = 118
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe made of another trainer's settings."""

    trainer: str
    raw: dict[str, Any]
    text: str
    """The recipe as YAML, with comments."""
    lines: tuple[Line, ...]
    lost: tuple[Lost, ...]
    remarks: tuple[str, ...]

    @property
    def differing(self) -> tuple[Line, ...]:
        """Settings whose meaning is not quite that of the keys that they were made of."""
        return tuple(line for line in self.lines if line.differs)


@dataclass(frozen=True, slots=True)
class Exported:
    """A recipe in another trainer's words."""

    values: dict[str, Any]
    text: str
    unsaid: tuple[Unsaid, ...]


def import_settings(path: Path, trainer: str = "", out: Path | None = None) -> Imported:
    """The recipe that means what a settings file says. out: where the recipe will stand, for its paths.

    Raises InputError for a file that can't be read or whose trainer can't be told, SettingsError for values that no recipe
    can have.
    """
    name, draft = table.draft(read_settings(path), trainer)
    lines = [Line("name", _name_of(path), ""), *draft.lines.values()]
    lines += [Line("task.kind", "free_qa", "rows are conversations whose last turn is the gold")]
    folder = out.parent if out else Path()
    if folder.resolve() != Path().resolve():
        lines.append(Line("data.root", os.path.relpath(Path(), folder), "paths start from where the settings were read"))
    raw = nested(lines)
    recipe_from(deepcopy(raw), [], str(path), folder)
    text = _recipe_text(path, name, lines, draft)
    assert yaml.safe_load(text) == yaml.safe_load(yaml.safe_dump(raw)), "a comment that became a setting"
    return Imported(name, raw, text, tuple(lines), tuple(draft.lost), tuple(draft.remarks))


def export_settings(recipe: Recipe, trainer: str, num_rows: int | None = None) -> Exported:
    """A recipe as settings of a trainer. num_rows: of train, where the trainer counts steps and the recipe epochs."""
    found = table.TRAINERS.get(trainer)
    if found is None or found.write is None:
        raise InputError("--to", f"{trainer!r} is no trainer that whet writes settings for", f"Known: {', '.join(table.WRITTEN)}")
    said = Said(recipe, found.tool.name, num_rows)
    values = found.write(said)
    said.finish()
    head = [f"Settings for {found.tool.name}, from the recipe {recipe.name}.", "What it can't say:"]
    head += [
        _fold(f"- {one.setting}{f' ({shown(one.value)})' if one.value not in ('', None) else ''}: {one.why}")
        for one in said.unsaid
    ]
    text = "".join(f"# {line}\n" for one in head for line in one.splitlines()) + _yaml(values)
    return Exported(values, text, tuple(said.unsaid))


def _name_of(path: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")
    return plain if plain and plain[0].isalnum() else "imported"


def nested(lines: Sequence[Line]) -> dict[str, Any]:
    """The recipe as a mapping of mappings."""
    raw: dict[str, Any] = {}
    for line in lines:
        *parents, last = line.setting.split(".")
        at = raw
        for part in parents:
            at = at.setdefault(part, {})
        at[last] = line.value
    return raw


def _recipe_text(path: Path, name: str, lines: Sequence[Line], draft: Draft) -> str:
    head = [f"Made from {path.name}, settings of {draft.tool.name}, by `whet import`.",
            "Each setting says what it was made of; DIFFERS tells where it does not mean quite the same."]  # fmt: skip
    written = [*_comment("\n".join(head), 0), *_tree(nested(lines), {line.setting: line for line in lines})]
    tail = []
    if draft.remarks:
        tail += [
            "",
            *_comment("What differs besides:", 0),
            *(one for words in draft.remarks for one in _comment(f"- {words}", 0)),
        ]
    groups = (("learning", "No counterpart, and it changes what is learnt:"),
              ("other", "No counterpart, nothing learnt hangs on it:"),
              ("unread", "It did nothing there:"), ("unknown", "whet does not know these keys; look up what they do:"),
               ("default", "Given as it is by default:"))  # fmt: skip
    for weight, title in groups:
        found = [one for one in draft.lost if one.weight == weight]
        if weight == "default" and found:
            tail += ["", *_comment(title, 0), *_comment("- " + ", ".join(one.key for one in found), 0)]
        elif found:
            told = [one for lost in found for one in _comment(f"- {lost.key}: {shown(lost.value)}: {lost.why}", 0)]
            tail += ["", *_comment(title, 0), *told]
    return "\n".join([*written, *tail]) + "\n"


def _tree(raw: dict[str, Any], lines: dict[str, Line], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The settings in the order of the recipe's sections, comments above what they speak of."""
    order = [*Recipe.model_fields]
    keys = sorted(raw, key=lambda key: order.index(key) if not prefix and key in order else 0)
    for key in keys:
        setting = f"{prefix}{key}"
        line = lines.get(setting)
        if line is None:
            yield f"{'  ' * depth}{key}:"
            yield from _tree(raw[key], lines, f"{setting}.", depth + 1)
            continue
        if line.said:
            yield from _comment(line.said, depth)
        if line.differs:
            yield from _comment(f"DIFFERS: {line.differs}", depth)
        yield from ("  " * depth + one for one in _yaml({key: line.value}).splitlines())


def _yaml(values: dict[str, Any]) -> str:
    """YAML that every YAML 1.1 parser reads as the same values: one key a line, floats with a point."""
    return "".join(f"{line}\n" for key, value in values.items() for line in _leaf(key, _plain(value)))


def _leaf(key: str, value: Any) -> Iterator[str]:
    """A key and its value in flow style; a list of objects has one object a line."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield f"{_flow(key)}:"
        yield from (f"  - {_flow(item)}" for item in value)
    else:
        yield f"{_flow(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, allow_unicode=False, sort_keys=False, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _comment(words: str, depth: int) -> Iterator[str]:
    """Comment lines; nothing in the words can end a comment."""
    indent = "  " * depth
    for line in words.split("\n") if words.startswith("Made from") else [words]:
        yield from (f"{indent}# {part}" for part in _fold(line, WIDTH - len(indent)).splitlines())


def _fold(words: str, width: int = WIDTH) -> str:
    import textwrap

    return textwrap.fill(_BREAKS.sub(" ", words), width, subsequent_indent="  ", break_on_hyphens=False)
