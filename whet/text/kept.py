"""Says whether a reply keeps its constraint, and how it breaks it."""

import json
from collections.abc import Iterator
from typing import Any

from whet.errors import counted
from whet.records import Constraint, FieldRule

KINDS = ("fence", "json", "list", "entry", "keys", "null", "text", "choice", "ungrounded", "length", "order")
"""Every way to break a constraint, the gravest first."""


def broken(reply: str, constraint: Constraint) -> str:
    """How a reply breaks a constraint, as `kind: words`; empty where it keeps it. Of several ways the gravest is named.

    White space between the parts of the JSON breaks nothing: it changes no value, and servers that keep a schema write it. A
    reply that is wrapped in a code fence is no JSON; nothing is unwrapped or mended here.
    """
    found = min(breaches(reply, constraint), key=lambda breach: KINDS.index(breach[0]), default=None)
    return ": ".join(found) if found else ""


def breaches(reply: str, constraint: Constraint) -> Iterator[tuple[str, str]]:
    """Each breach of a constraint, in the reply's order: one of KINDS, and words that say which value it was."""
    if reply.lstrip().startswith("```"):
        yield "fence", "the reply is wrapped in a code fence"
        return
    try:
        rows = json.loads(reply, object_pairs_hook=_Pairs, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        yield "json", f"not JSON ({error})"
        return
    if isinstance(rows, _Pairs) or not isinstance(rows, list):
        yield "list", f"JSON {_name(rows)}, not a list"
        return
    for number, row in enumerate(rows, 1):
        if isinstance(row, _Pairs):
            yield from _of_entry(f"entry {number}", row, constraint)
        else:
            yield "entry", f"entry {number} is JSON {_name(row)}, not an object"


def _of_entry(place: str, row: "_Pairs", constraint: Constraint) -> Iterator[tuple[str, str]]:
    keys, names = [key for key, _ in row], [rule.name for rule in constraint.fields]
    if sorted(keys) != sorted(names):
        yield "keys", f"{place} has the keys {', '.join(keys) or 'none'}; wanted {', '.join(names)}"
        return
    if keys != names:
        yield "order", f"{place} has its keys in the order {', '.join(keys)}; wanted {', '.join(names)}"
    values = dict(row)
    for rule in constraint.fields:
        if found := _of_value(values[rule.name], rule, constraint.source):
            yield found[0], f"{rule.name} of {place} {found[1]}"


def _of_value(value: Any, rule: FieldRule, source: str | None) -> tuple[str, str] | None:
    found = None
    if value is None:
        found = None if rule.is_nullable else ("null", "is null")
    elif not isinstance(value, str):
        found = "text", f"is JSON {_name(value)}, not text"
    elif rule.kind == "choice":
        found = None if value in rule.choices else ("choice", f"is {_short(value)}, not one of its choices")
    elif rule.kind == "span" and source is not None and value not in source:
        found = "ungrounded", f"is {_short(value)}, which does not stand in the text"
    elif len(value) < rule.min_chars:
        found = "length", f"has {counted(len(value), 'character')}; {rule.min_chars} at least were wanted"
    elif rule.max_chars is not None and len(value) > rule.max_chars:
        found = "length", f"has {counted(len(value), 'character')}; {rule.max_chars} at most were wanted"
    return found


class _Pairs(list[tuple[str, Any]]):
    """A JSON object's keys and values as they were written: a key that stands twice is seen, and their order too."""


def _name(value: Any) -> str:
    if isinstance(value, _Pairs):
        return "object"
    return {"NoneType": "null", "bool": "boolean", "int": "number", "float": "number", "str": "string"}.get(
        type(value).__name__, type(value).__name__
    )


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
