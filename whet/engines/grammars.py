"""A constraint as a server takes it: a JSON schema, a GBNF grammar, or a Lark grammar for llguidance."""

import importlib
import json
from typing import Any

from whet.errors import MissingExtraError
from whet.records import Constraint, FieldRule
from whet.text.shape import Shape

RECORDS = "records"
"""Key of the list where a server takes only schemas whose root is an object."""


def json_schema(constraint: Constraint, *, is_object: bool = False) -> dict[str, Any]:
    """The constraint as a JSON schema. Schemas can't say that a span stands in a text.

    is_object: the list stands under RECORDS in an object, and no lengths are given: what servers of the strict kind take.
    """
    properties = {rule.name: _field_schema(rule, has_lengths=not is_object) for rule in constraint.fields}
    listed = {"type": "array", "items": _object(properties)}
    return _object({RECORDS: listed}) if is_object else listed


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _field_schema(rule: FieldRule, *, has_lengths: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["string", "null"] if rule.is_nullable else "string"}
    if rule.kind == "choice":
        return schema | {"enum": [*rule.choices, *([None] if rule.is_nullable else [])]}
    if has_lengths:
        schema["minLength"] = rule.min_chars
        if rule.max_chars is not None:
            schema["maxLength"] = rule.max_chars
    return schema


def gbnf(constraint: Constraint) -> str:
    """The constraint as llama.cpp's GBNF: the trained keys and white space. It can't say that a span stands in a text."""
    lines = [
        'root ::= "[" (entry ("," entry)*)? "]"',
        f"entry ::= {_entry(constraint)}",
    ]
    for at, rule in enumerate(constraint.fields):
        values = [_literal(_json(choice)) for choice in rule.choices] if rule.kind == "choice" else [_gbnf_text(rule)]
        lines.append(f"field{at} ::= " + " | ".join([*values, *(['"null"'] if rule.is_nullable else [])]))
    lines.append(r'char ::= [^"\\\x00-\x1F] | "\\" (["\\bfnrt] | "u00" ("0" [0-7bef] | "1" [0-9a-f]))')
    return "\n".join(lines) + "\n"


def _gbnf_text(rule: FieldRule) -> str:
    return rf'"\"" char{{{_lengths(rule)}}} "\""'


def lark(constraint: Constraint) -> str:
    """The constraint as a Lark grammar for llguidance: the very one that replies are kept to here."""
    try:
        importlib.import_module("regex")  # sources need it
    except ImportError:
        raise MissingExtraError("regex", "constrain", "writing a grammar that holds the source") from None
    return Shape(constraint).grammar()


def _entry(constraint: Constraint) -> str:
    """The parts of one record."""
    parts = [_literal("{")]
    for at, rule in enumerate(constraint.fields):
        parts += [_literal(("," if at else "") + _json(rule.name) + ":"), f"field{at}"]
    return " ".join([*parts, _literal("}")])


def _lengths(rule: FieldRule) -> str:
    return f"{rule.min_chars},{'' if rule.max_chars is None else rule.max_chars}"


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    """A literal of GBNF, which takes the escapes of JSON."""
    return _json(text)
