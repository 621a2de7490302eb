"""Reads the literal arguments of a training script's main calls from its syntax tree; the script is never run."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whet.errors import InputError

MAX_CHARS = 200_000
CALLS = {
    "from_pretrained": "model",
    "get_peft_model": "lora",
    "LoraConfig": "lora",
    "SFTConfig": "train",
    "UnslothTrainingArguments": "train",
    "TrainingArguments": "arguments",
    "Seq2SeqTrainingArguments": "arguments",
    "load_dataset": "data",
    "SFTTrainer": "trainer",
    "UnslothTrainer": "trainer",
    "Trainer": "trainer",
    "train_on_responses_only": "responses",
}
"""The calls that are read, and the part of the settings that their arguments are."""
OBJECTS = ("model", "tokenizer", "processing_class", "train_dataset", "eval_dataset", "args", "data_collator", "callbacks",
           "compute_metrics", "formatting_func", "peft_config", "trainer", "processor")  # fmt: skip
IS_UNSLOTH = "is_unsloth"
"""Key that says whether the script opens its model with Unsloth, whose defaults are others."""
_UNKNOWN = object()


def read_script(path: Path, raw: bytes) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """The arguments of CALLS as `part.argument` to value, their places, and those that are computed when the script runs."""
    try:
        text = raw.decode("utf-8-sig")
        if len(text) > MAX_CHARS:
            raise InputError(str(path), f"has more than {MAX_CHARS:,} characters", "Name the script that trains, not a bundle")
        tree = ast.parse(text)
    except UnicodeDecodeError as error:
        raise InputError(str(path), f"is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno or 1}", "is no Python that can be read", "Notebooks: save as a script") from None
    except (ValueError, RecursionError, MemoryError):
        raise InputError(str(path), "is no Python that can be read (nested too deeply)") from None
    try:
        return _arguments(path, tree)
    except RecursionError:
        raise InputError(str(path), "is no Python that can be read (nested too deeply)") from None


def _arguments(path: Path, tree: ast.Module) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    constants = _constants(tree)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    computed: list[str] = []
    if any(isinstance(node, ast.Name) and node.id.startswith("Fast") and "Model" in node.id for node in ast.walk(tree)):
        values[IS_UNSLOTH] = True
    for call, part in _calls(tree):
        for name, node in _named(call, part):
            if name in OBJECTS and part in ("trainer", "responses", "lora"):
                continue
            key, place = f"{part}.{name}", f"{path}:{node.lineno}"
            value = _literal(node, constants)
            if value is _UNKNOWN:
                computed.append(f"{place}: {name} = {ast.unparse(node)[:60]}")
            elif key in values and values[key] != value:
                raise InputError(place, f"{name} is given twice, with different values", "Keep one of the calls")
            else:
                values[key], places[key] = value, place
        if part == "responses":
            values["train.train_on_responses_only"], places["train.train_on_responses_only"] = True, f"{path}:{call.lineno}"
    if not set(values) - {IS_UNSLOTH} and not computed:
        known = ", ".join(sorted(CALLS))
        raise InputError(str(path), "has none of the calls that settings are read from", f"They are {known}")
    return values, places, tuple(computed)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name in CALLS and not (name == "from_pretrained" and not _is_model(owner)):
                yield node, CALLS[name]


def _is_model(owner: ast.expr | None) -> bool:
    """Whether from_pretrained is that of a model: a tokenizer has one too."""
    return isinstance(owner, ast.Name) and "Model" in owner.id


def _named(call: ast.Call, part: str) -> Iterator[tuple[str, ast.expr]]:
    """Arguments by name; the first one of from_pretrained is the model's name."""
    if call.args and part in ("model", "data"):
        yield {"model": "model_name", "data": "path"}[part], call.args[0]
    for keyword in call.keywords:
        if keyword.arg is None:
            yield "**", keyword.value
        else:
            yield keyword.arg, keyword.value


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that one assignment of the whole script gives a literal value, and nothing else binds."""
    found: dict[str, Any] = {}
    bound: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound.append(node.id)
        elif isinstance(node, ast.arg):
            bound.append(node.arg)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                found[target.id] = _literal(value, {})
    return {name: value for name, value in found.items() if value is not _UNKNOWN and bound.count(name) == 1}


def _literal(node: ast.expr, constants: dict[str, Any]) -> Any:  # noqa: PLR0911 (one line a kind of literal)
    """The value of a literal, or of a name of one; _UNKNOWN for anything that would have to be computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.Name):
        return constants.get(node.id, _UNKNOWN)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, constants)
        return -value if isinstance(value, int | float) else _UNKNOWN
    if isinstance(node, ast.List | ast.Tuple):
        items = [_literal(item, constants) for item in node.elts]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else items
    if isinstance(node, ast.Dict) and all(isinstance(key, ast.Constant) for key in node.keys):
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        items = [_literal(item, constants) for item in node.values]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else dict(zip(map(str, keys), items, strict=True))
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        return f"torch.{node.attr}"
    return _UNKNOWN
