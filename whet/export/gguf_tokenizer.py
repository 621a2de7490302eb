"""What a GGUF file says of a model's tokenizer: tokens, merges or scores, marks, how texts are cut, chat template."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError, counted
from whet.export.pieces import read_pieces
from whet.export.pre_tokenizers import recognise
from whet.records import Message
from whet.text.chat import Chat
from whet.text.piece_model import described
from whet.text.tokenizer import named_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens by their numbers in the format."""


@dataclass(frozen=True, slots=True)
class TokenizerFields:
    """The tokenizer's part of a GGUF file."""

    fields: dict[str, Any]
    names: list[str]
    pre_tokenizer: str
    """Name of the family that its cutting was recognised as; empty for SentencePiece."""
    add_bos: bool
    marks_take_space: bool
    """Whether its marks take the white space behind them in, as those of Phi-3 do."""
    notes: tuple[str, ...]


def read_tokenizer_fields(folder: Path, config: Mapping[str, Any]) -> TokenizerFields:
    """The fields for a model folder with a tokenizer.json and a chat template.

    InputError for tokenizers whose ids no runner of GGUF would give: another kind than byte-level BPE or SentencePiece, an
    unknown way of cutting words, texts changed before, more tokens than the embedding has rows.
    """
    chat = Chat(folder)
    place = folder / "tokenizer.json"
    tokenizer = json.loads(described(folder))
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise InputError(
            str(place),
            f"is a tokenizer of the kind {model.get('type')!r}; byte-level BPE and SentencePiece's BPE are written as GGUF",
            "Serve this model with whet or vLLM",
        )
    names, kinds = _tokens(tokenizer, int(config["vocab_size"]), str(place))
    takes_space, notes = _flags(tokenizer, names)
    own: dict[str, Any] = {}
    pre_tokenizer = ""
    if model.get("byte_fallback"):
        pieces = read_pieces(tokenizer, chat, str(place))
        own = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": [pieces.scores.get(name, -1e9) for name in names],
            "tokenizer.ggml.add_space_prefix": pieces.adds_space,
        }
        notes += pieces.notes
        kinds = [BYTE if kind == NORMAL and name in pieces.byte_names else kind for name, kind in zip(names, kinds, strict=True)]
    else:
        notes += _check_normalizer(tokenizer, place)
        family = recognise(tokenizer, str(place))
        pre_tokenizer = family.name
        notes += [family.caveat] if family.caveat else []
        own = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre_tokenizer,
            "tokenizer.ggml.merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        }
    special = _special(folder, chat, config, dict(zip(names, range(len(names)), strict=True)))
    add_bos = _writes_first(chat, special.get("bos"))
    fields = {
        **own,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": kinds,
        **{f"tokenizer.ggml.{what}_token_id": number for what, number in _named(special)},
        "tokenizer.ggml.add_bos_token": add_bos,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": chat.template,
    }
    return TokenizerFields(fields, names, pre_tokenizer, add_bos, takes_space, tuple(notes))


def _tokens(tokenizer: Mapping[str, Any], num_rows: int, place: str) -> tuple[list[str], list[int]]:
    """Names and kinds of all ids; rows of the embedding without a token are marked unused."""
    names = [f"[PAD{number}]" for number in range(num_rows)]
    kinds = [UNUSED] * num_rows
    model = tokenizer["model"]
    added = {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    most = max([*model["vocab"].values(), *added, -1])
    if most >= num_rows:
        raise InputError(
            place,
            f"has ids up to {most:,}; the model's config says {num_rows:,} rows (vocab_size)",
            "Were tokens added without resizing the embedding? Train again with save_modules, or take the model's own tokenizer",
        )
    for name, number in model["vocab"].items():
        names[number], kinds[number] = name, UNKNOWN if name == model.get("unk_token") else NORMAL
    for number, token in added.items():
        names[number] = token["content"]
        if kinds[number] != UNKNOWN:
            kinds[number] = CONTROL if token.get("special") else USER_DEFINED
    return names, kinds


def _flags(tokenizer: Mapping[str, Any], names: list[str]) -> tuple[bool, list[str]]:
    """Whether marks take the white space behind them in, as Phi-3's do; and what else runners may read otherwise."""
    added = tokenizer.get("added_tokens", [])
    stripping = [token["content"] for token in added if token.get("rstrip")]
    # What llama.cpp knows of Phi-3: every mark but these three takes the space behind it in.
    plain = ("<unk>", "<s>", "<|endoftext|>")
    is_phi = (
        bool(stripping)
        and {"</s>", *plain} <= set(names)
        and all(bool(token.get("rstrip")) is (token["content"] not in plain) for token in added)
    )
    odd = [token["content"] for token in added if token.get("lstrip") or token.get("single_word")] + (
        stripping if not is_phi else []
    )
    notes = (
        [f"white space beside {counted(len(odd), 'token')} is taken in, which runners of GGUF may not do ({odd[0]}, ...)"]
        if odd
        else []
    )
    return is_phi, notes


def _check_normalizer(tokenizer: Mapping[str, Any], place: Path) -> list[str]:
    """Unicode's composed form is what most texts have already; any other change would be lost."""
    found = tokenizer.get("normalizer")
    parts = found.get("normalizers", [found]) if found else []
    kinds = {str(part.get("type")) for part in parts}
    if kinds - {"NFC"}:
        raise InputError(
            str(place),
            f"changes texts before it reads them ({', '.join(sorted(kinds))}), which runners of GGUF don't",
            "Serve this model with whet or vLLM",
        )
    return ["runners of GGUF don't compose Unicode (NFC): send composed texts"] if kinds else []


def _special(folder: Path, chat: Chat, config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Ids of the tokens with a part to play, by the tokenizer's config, then by the model's."""
    named = named_tokens(folder)
    found: dict[str, int] = {}
    for what in ("bos", "eos", "unk", "pad"):
        token = named.get(f"{what}_token")
        number = ids.get(token) if token else config.get(f"{what}_token_id")
        if isinstance(number, int) and 0 <= number < len(ids):
            found[what] = number
    found.setdefault("eos", chat.end_id)
    if found["eos"] != chat.end_id:
        found["eot"] = chat.end_id
    return found


def _named(special: Mapping[str, int]) -> list[tuple[str, int]]:
    words = {"unk": "unknown", "pad": "padding"}
    return [(words.get(what, what), number) for what, number in special.items()]


def _writes_first(chat: Chat, bos: int | None) -> bool:
    """Whether a prompt begins with BOS by the chat template: that is what was trained, whatever the tokenizer's config says."""
    return bos is not None and chat.prompt_ids([Message("user", "a")])[:1] == [bos]
