"""Writes JSON in Go's template language as Python's json writes it: tools' schemas, and the arguments of their calls."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Style:
    """How a chat template writes JSON."""

    indent: int | None
    """Spaces a level, one entry a line; None writes all on one line."""

    def dumps(self, value: Any) -> str:
        """A value, as the chat templates' tojson writes it."""
        return json.dumps(value, ensure_ascii=False, indent=self.indent)

    def between(self, depth: int) -> str:
        """What stands between two entries of a list or an object that stands at `depth`."""
        return ", " if self.indent is None else ",\n" + " " * self.indent * (depth + 1)

    def within(self, depth: int) -> tuple[str, str]:
        """What stands behind an opening bracket and before a closing one."""
        if self.indent is None:
            return "", ""
        return "\n" + " " * self.indent * (depth + 1), "\n" + " " * self.indent * depth


STYLES = (Style(None), Style(4), Style(2))
TEXT = '{{{{ printf "%q" {0} }}}}'
"""A text in JSON's quotes. Go's own json escapes <, > and &, which Python's does not."""


def write_tool(style: Style, *, is_bare: bool) -> str:
    """What writes one tool, the dot being it. is_bare: the function alone, without {"type": "function", "function": ...}."""
    if is_bare:
        return _function(style, 0)
    return _object(style, 0, {"type": TEXT.format(".Type"), "function": _function(style, 1)})


def write_arguments(style: Style) -> str:
    """What writes the arguments of a call, $call being it. Lists and objects within come out as Go writes them."""
    text = '{{ if eq (printf "%T" $v) "string" }}' + TEXT.format("$v") + "{{ else }}{{ json $v }}{{ end }}"
    return _table(style, 0, "$call.Function.Arguments", text)


def _function(style: Style, depth: int) -> str:
    parameters = {"type": TEXT.format(".Function.Parameters.Type"), "properties": _properties(style, depth + 2)}
    required = ".Function.Parameters.Required"
    entries = {"name": TEXT.format(".Function.Name"), "parameters": _object(
        style, depth + 1, parameters, {"required": (required, _list(style, depth + 2, required, TEXT.format("$e")))}
    )}  # fmt: skip
    return _object(
        style, depth, {"name": entries["name"]}, {"description": (".Function.Description", TEXT.format(".Function.Description"))},
        {"parameters": entries["parameters"]},
    )  # fmt: skip


def _properties(style: Style, depth: int) -> str:
    one = _object(style, depth + 1, {"type": "{{ json $v.Type }}"}, {
        "description": ("$v.Description", TEXT.format("$v.Description")),
        "items": ("$v.Items", "{{ json $v.Items }}"),
        "enum": ("$v.Enum", _list(style, depth + 2, "$v.Enum", "{{ json $e }}")),
    })  # fmt: skip
    return _table(style, depth, ".Function.Parameters.Properties", one)


def _object(
    style: Style,
    depth: int,
    first: Mapping[str, str],
    optional: Mapping[str, tuple[str, str]] | None = None,
    last: Mapping[str, str] | None = None,
) -> str:
    """An object: its first entries, those that are written where a value is given, its last ones."""
    behind, before = style.within(depth)
    between = style.between(depth)
    text = between.join(f'"{key}": {value}' for key, value in first.items())
    for key, (test, value) in (optional or {}).items():
        text += f'{{{{ if {test} }}}}{between}"{key}": {value}{{{{ end }}}}'
    for key, value in (last or {}).items():
        text += f'{between}"{key}": {value}'
    return f"{_brace('{' + behind)}{text}{_brace(before + '}')}"


def _table(style: Style, depth: int, values: str, one: str) -> str:
    """An object whose keys are not known before; $k and $v are a key and its value."""
    behind, before = style.within(depth)
    each = f"{{{{ range $k, $v := {values} }}}}{{{{ $comma }}}}{TEXT.format('$k')}: {one}"
    each += f"{{{{ $comma = {json.dumps(style.between(depth))} }}}}{{{{ end }}}}"
    full = f'{{{{ $comma := "" }}}}{_brace("{" + behind)}{each}{_brace(before + "}")}'
    return f"{{{{ if {values} }}}}{full}{{{{ else }}}}{_brace('{}')}{{{{ end }}}}"


def _list(style: Style, depth: int, values: str, one: str) -> str:
    """A list that is not empty; $e is one of its values."""
    behind, before = style.within(depth)
    comma = style.between(depth)
    return f"[{behind}{{{{ range $n, $e := {values} }}}}{{{{ if $n }}}}{comma}{{{{ end }}}}{one}{{{{ end }}}}{before}]"


def _brace(text: str) -> str:
    """A brace beside an action, which it must not touch."""
    return "{{ " + json.dumps(text) + " }}"


def find_style(text: str, values: Sequence[Any]) -> tuple[Style, Any] | None:
    """The style in which one of these values, the first that does, stands in a text."""
    return next(((style, value) for value in values for style in STYLES if style.dumps(value) in text), None)
