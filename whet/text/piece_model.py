"""Reads a SentencePiece model (tokenizer.model) and says what tokenizer.json would: for folders that hold the one alone."""

import base64
import functools
import itertools
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.errors import InputError, open_to_read
from whet.storage import read_json

MAX_BYTES = 64_000_000  # Gemma's, of 262,144 pieces, has 4.7 MB
MAX_PIECES = 2_000_000
MAX_PIECE = 512  # characters of a piece; SentencePiece makes none of more than 16 unless told
MAX_MERGES = 4_000_000  # Gemma's have 0.6 million
SPACE = "\u2581"  # SentencePiece's mark for a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
_REMEDY = "Save the model's fast tokenizer beside it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"


@dataclass(slots=True)
class PieceModel:
    """What a tokenizer.model says; field by field of SentencePiece's ModelProto."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score and kind of each id."""
    kind: int = UNIGRAM
    has_bytes: bool = False
    """Whether what has no piece is written as bytes."""
    charsmap: bytes = b""
    """How texts are normalised first; nothing where empty."""
    adds_space: bool = True
    """Whether a space is put before a text."""
    is_trimmed: bool = True
    """Whether spaces at the ends, and all but one of those that follow each other, are taken out."""
    marks_spaces: bool = True
    is_suffix: bool = False
    """Whether a space belongs to the word before it."""


def described(folder: Path) -> str:
    """The text of a folder's tokenizer.json; where there is none, what its tokenizer.model says, in that form.

    InputError where there is neither, or the model says what a tokenizer.json can't.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(str(path), f"is not UTF-8 (byte {error.start})", "Copy it again from where it came") from None
    model = folder / "tokenizer.model"
    if not model.is_file():
        raise InputError(
            str(folder),
            "has no tokenizer.json",
            "Save the model's fast tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
        )
    beside = [folder / name for name in ("added_tokens.json", "tokenizer_config.json")]
    times = tuple(one.stat().st_mtime_ns if one.is_file() else 0 for one in (model, *beside))
    return _converted(model, times)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in either form."""
    return (folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()


@functools.lru_cache(maxsize=4)
def _converted(path: Path, _: tuple[int, ...]) -> str:
    return json.dumps(convert(read_pieces(path), _added(path.parent), str(path)), ensure_ascii=False)


def read_pieces(path: Path) -> PieceModel:
    """A tokenizer.model, none of its lengths believed. InputError where it is no SentencePiece model."""
    with open_to_read(path) as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise InputError(str(path), f"is larger than {MAX_BYTES:,} bytes", "Is it a tokenizer?")
    found = PieceModel()
    try:
        for number, value in _fields(raw):
            if number == 1 and isinstance(value, bytes):
                found.pieces.append(_piece(value))
            elif number in (2, 3) and isinstance(value, bytes):
                _settings(found, number, dict(_fields(value)))
            if len(found.pieces) > MAX_PIECES:
                raise ValueError
    except (ValueError, struct.error, UnicodeDecodeError):
        raise InputError(str(path), "is no SentencePiece model", _REMEDY) from None
    if not found.pieces:
        raise InputError(str(path), "is no SentencePiece model (it holds no pieces)", _REMEDY)
    return found


def _piece(raw: bytes) -> tuple[str, float, int]:
    values = dict(_fields(raw))
    text, score, kind = values.get(1, b""), values.get(2, b"\0\0\0\0"), values.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError
    return text.decode(), struct.unpack("<f", score)[0], kind


def _settings(found: PieceModel, number: int, values: Mapping[int, bytes | int]) -> None:
    """Entries of TrainerSpec (2) and NormalizerSpec (3), by their numbers there."""
    if number == 2:
        found.kind = int(values.get(3, found.kind))
        found.has_bytes = bool(values.get(35, 0))
        found.is_suffix = bool(values.get(24, 0))
    else:
        charsmap = values.get(2, b"")
        found.charsmap = charsmap if isinstance(charsmap, bytes) else b""
        found.adds_space, found.is_trimmed, found.marks_spaces = (bool(values.get(key, 1)) for key in (3, 4, 5))


def _fields(raw: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Numbers and values of a message in protobuf's wire form; ValueError where it is none."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if kind == 2:
            size, at = _varint(raw, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError
        if not number or size > len(raw) - at:
            raise ValueError
        yield number, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError
        found |= (raw[at] & 0x7F) << shift
        at += 1
        if not raw[at - 1] & 0x80:
            return found, at
    raise ValueError


def convert(model: PieceModel, added: Mapping[int, dict[str, Any]], place: str) -> dict[str, Any]:
    """The tokenizer.json of a model. added: tokens that the folder adds to it, by id.

    InputError for models of words or characters, spaces that are written otherwise, and trimmed texts, which need the program
    itself. A BPE merges the pair whose piece scores highest; its merges are all cuts of a piece into two, the best piece first.
    """
    if model.kind not in (UNIGRAM, BPE) or model.is_suffix or not model.marks_spaces:
        raise InputError(place, "is a SentencePiece model of a kind that whet does not convert", _REMEDY)
    if model.is_trimmed and model.kind == BPE:
        raise InputError(place, "takes spaces out of texts before it reads them, which whet does not convert", _REMEDY)
    if any(kind == UNUSED for _, _, kind in model.pieces):
        raise InputError(place, "holds pieces that are never used, which whet does not convert", _REMEDY)
    names = [text for text, _, _ in model.pieces]
    if len(set(names)) != len(names):
        raise InputError(place, "holds a piece twice", _REMEDY)
    if max(map(len, names)) > MAX_PIECE:
        raise InputError(place, f"holds a piece of more than {MAX_PIECE} characters", "Is it a tokenizer?")
    if model.adds_space and any(kind == USER_DEFINED and SPACE in text for text, _, kind in model.pieces):
        raise InputError(place, "holds pieces of its maker's with spaces, which whet does not convert", _REMEDY)
    unknown = next((number for number, piece in enumerate(model.pieces) if piece[2] == UNKNOWN), None)
    tokens = {
        number: _token(text, is_special=kind != USER_DEFINED)
        for number, (text, _, kind) in enumerate(model.pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    } | dict(added)
    ids = {name: number for number, name in enumerate(names)}
    fresh = sorted(number for number, token in tokens.items() if token["content"] not in ids)
    if fresh != [*range(len(names), len(names) + len(fresh))] or any(
        ids.get(token["content"], number) != number for number, token in tokens.items()
    ):
        raise InputError(place, "has tokens added beside it whose ids do not follow its own", _REMEDY)
    parts = _bpe(model, names, unknown, place) if model.kind == BPE else _unigram(model, unknown)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": number, **token} for number, token in sorted(tokens.items())],
        "post_processor": None, **parts,
    }  # fmt: skip


def _bpe(model: PieceModel, names: list[str], unknown: int | None, place: str) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(names)}
    plain = [(text, score) for text, score, kind in model.pieces if kind == NORMAL and len(text) > 1]
    cuts = (
        cut
        for text, _ in sorted(plain, key=lambda piece: -piece[1])
        for cut in sorted(
            ([text[:at], text[at:]] for at in range(1, len(text)) if text[:at] in ids and text[at:] in ids),
            key=lambda cut: (ids[cut[0]], ids[cut[1]]),
        )
    )
    merges = list(itertools.islice(cuts, MAX_MERGES + 1))
    if len(merges) > MAX_MERGES:
        raise InputError(place, f"has more than {MAX_MERGES:,} merges", "Is it a tokenizer?")
    return {
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "decoder": _decoder(model),
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None if unknown is None else names[unknown],
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": model.has_bytes,
            "ignore_merges": False, "vocab": ids, "merges": merges,
        },
    }  # fmt: skip


def _unigram(model: PieceModel, unknown: int | None) -> dict[str, Any]:
    return {
        "normalizer": _normalizer(model),
        "pre_tokenizer": None,
        "decoder": _decoder(model),
        "model": {
            "type": "Unigram", "unk_id": unknown, "byte_fallback": model.has_bytes,
            "vocab": [[text, score] for text, score, _ in model.pieces],
        },
    }  # fmt: skip


def _normalizer(model: PieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.is_trimmed:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.adds_space:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return {"type": "Sequence", "normalizers": [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}


def _decoder(model: PieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    steps += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    steps += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.adds_space else []
    return {"type": "Sequence", "decoders": steps}


def _token(content: str, *, is_special: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    # A piece of spaces stands in the text as the normaliser leaves it.
    return {"content": content, **plain, "normalized": not is_special and SPACE in content, "special": is_special}


def _added(folder: Path) -> dict[int, dict[str, Any]]:
    """Tokens that stand beside the model: added_tokens.json (name to id), added_tokens_decoder of tokenizer_config.json."""
    found: dict[int, dict[str, Any]] = {}
    paths = folder / "added_tokens.json", folder / "tokenizer_config.json"
    plain, config = (read_json(path) if path.is_file() else {} for path in paths)
    for content, number in plain.items() if isinstance(plain, dict) else ():
        if isinstance(number, int) and number >= 0:
            found[number] = _token(str(content), is_special=False)
    listed = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    for number, token in listed.items() if isinstance(listed, dict) else ():
        if str(number).isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str):
            made = _token(token["content"], is_special=bool(token.get("special")))
            found[int(number)] = made | {key: bool(token.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return found
