"""Looks at GGUF files: template, tokens and ends of a model beside the base that it was made of; adapters."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.doctor.finding import Context, Findings, error, note, warning
from whet.doctor.gguf_adapters import look_adapter
from whet.doctor.templates import first_difference
from whet.errors import InputError
from whet.models.gguf_file import GgufFile, read_gguf
from whet.records import Message
from whet.text.chat import render_with
from whet.text.piece_model import described, has_tokenizer
from whet.text.tokenizer import read_template

CONTROL, USER_DEFINED = 3, 4  # kinds of tokens, by their numbers in the format
# Names at which llama.cpp ends by itself, whatever the file says (llama.cpp's vocabulary, of July 2026).
ENDS = frozenset(
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
     "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>"]
)  # fmt: skip
_TURNS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|assistant|>")
_MARK = "\ue0a7whet\ue0a8"  # private-use characters: no template holds them


def look(path: Path, context: Context) -> Findings:
    """All findings about a GGUF file."""
    try:
        file = read_gguf(path)
    except InputError as fault:
        yield error(
            "a GGUF file that is not whole",
            fault.place,
            fault.what,
            "Sizes and offsets of a strange file can't be believed; a loader crashes or reads beyond it.",
            fault.remedy,
        )
        return
    if file.text("general.type") == "adapter":
        yield from look_adapter(file, context)
        return
    yield from _template(file, context)
    yield from _end(file)
    yield from _tokens(file, context)


def _template(file: GgufFile, context: Context) -> Findings:
    template = file.text("tokenizer.chat_template")
    if template is None:
        has_turns = bool(set(_TURNS) & set(token_names(file)))
        wanted = context.base is not None and _has_template(context.base)
        makes = warning if wanted or (has_turns and context.base is None) else note
        yield makes(
            "no template",
            file.path,
            "it holds no chat template" + (f"; {context.base} has one" if wanted else ""),
            "The server takes a default one: other marks than in training.",
            "Export with the template: whet export gguf",
        )
        return
    if context.base is None or not _has_template(context.base):
        return
    try:
        chat = context.chat()
        assert chat is not None
    except InputError:
        # A template that can't be used by whet, for one since it writes the date, is compared as a text.
        where = "" if template.strip() == read_template(context.base).strip() else "their texts differ; they were not rendered"
    else:
        parted = first_difference(chat, lambda asked: [_rendered(file, template, turns) for turns in asked])
        where = parted.words if parted else ""
    if where:
        yield error(
            "another template",
            file.path,
            f"its chat template gives other tokens than that of {context.base}: {where}",
            "The served prompt has other tokens than the trained one.",
            "Export again from the folder that was trained",
        )


def _has_template(base: Path) -> bool:
    try:
        return bool(read_template(base))
    except InputError:
        return False


def _rendered(file: GgufFile, template: str, turns: Sequence[Message], *, is_prompt: bool = True) -> str | None:
    try:
        return render_with(template, turns, named_tokens(file), str(file.path), is_prompt=is_prompt)
    except InputError:
        return None


def token_names(file: GgufFile) -> list[str]:
    """The names of a file's tokens by their ids; none where it says none."""
    names = file.fields.get("tokenizer.ggml.tokens")
    return names if isinstance(names, list) else []


def token_of(file: GgufFile, what: str) -> str:
    """The name of a token with a part to play (bos, eos, eot); empty where there is none."""
    names, number = token_names(file), file.fields.get(f"tokenizer.ggml.{what}_token_id")
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else ""


def named_tokens(file: GgufFile) -> dict[str, str]:
    """What a file's template writes for bos_token and eos_token."""
    return {f"{what}_token": token_of(file, what) for what in ("bos", "eos")}


def _end(file: GgufFile) -> Findings:
    """The token that ends a turn by the file's own template must end the writing."""
    template = file.text("tokenizer.chat_template")
    name = _end_of_turn(file, template) if template else ""
    ends = {token_of(file, what) for what in ("eos", "eot", "eom")}
    if name and name not in ends and name not in ENDS:
        said = file.fields.get("tokenizer.ggml.eos_token_id")
        yield warning(
            "an end that is not the template's",
            file.path,
            f"generation stops at {token_of(file, 'eos')!r} ({said}), and its template ends a turn with {name!r}",
            "The model writes on after its answer.",
            f"Set eos to {token_names(file).index(name)} when exporting",
        )


def _end_of_turn(file: GgufFile, template: str) -> str:
    """The first special token behind an answer; empty where the template fails or none stands there."""
    turns = [Message("user", "a"), Message("assistant", _MARK)]
    tail = (_rendered(file, template, turns, is_prompt=False) or "").rpartition(_MARK)[2].lstrip()
    kinds = file.fields.get("tokenizer.ggml.token_type")
    names = token_names(file)
    if not isinstance(kinds, np.ndarray) or len(kinds) != len(names):
        return ""
    special = (name for name, kind in zip(names, kinds, strict=True) if kind in (CONTROL, USER_DEFINED) and name)
    return max((name for name in special if tail.startswith(name)), key=len, default="")


def _tokens(file: GgufFile, context: Context) -> Findings:
    names = token_names(file)
    embedding = next((tensor for tensor in file.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is not None and names and len(names) > embedding.shape[0]:
        yield error(
            "a tokenizer of another model",
            file.path,
            f"{len(names):,} tokens, and {embedding.shape[0]:,} rows of embedding",
            "Some tokens have no weights.",
            "Export again with the model's own tokenizer",
        )
    elif names and context.base is not None and has_tokenizer(context.base):
        vocabulary = _vocabulary(context.base)
        off = sorted(number for name, number in vocabulary.items() if not 0 <= number < len(names) or names[number] != name)
        if off:
            number = off[0]
            theirs = next(name for name, at in vocabulary.items() if at == number)
            ours = repr(names[number]) if number < len(names) else "none"
            yield error(
                "a tokenizer of another model",
                file.path,
                f"{len(off):,} of {len(vocabulary):,} tokens of {context.base} have another id in it; {number} is {ours}, "
                f"there {theirs!r}",
                "The same text is other ids than in training.",
                "Export again with the model's own tokenizer",
            )


def _vocabulary(base: Path) -> dict[str, int]:
    """The plain tokens of a folder; added ones are written in several ways by converters, and are not compared."""
    try:
        tokenizer: Any = json.loads(described(base))
    except (ValueError, RecursionError):
        raise InputError(str(base), "its tokenizer.json is not JSON", "Copy it again from where it came") from None
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        return {}
    added = {token.get("content") for token in tokenizer.get("added_tokens") or [] if isinstance(token, dict)}
    return {name: number for name, number in vocabulary.items() if name not in added and isinstance(number, int)}
