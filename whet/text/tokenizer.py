"""Text to token ids and back, from the tokenizer.json or the SentencePiece model of a model folder."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.storage import read_json
from whet.text.piece_model import described

_MARK = re.compile(r"<[^<>]*>|\[/?[A-Z_]+\]")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_TEXT_BYTES = (0x0A, *range(0x20, 0xC0), *range(0xC2, 0xF5))
"""The bytes that UTF-8 and a JSON reply are made of."""
_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_BYTE_CHARS = {chr(byte): byte for byte in _PRINTED} | {
    chr(0x100 + number): byte for number, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}
"""The characters that byte-level tokenizers write bytes with (Radford et al. 2019, GPT-2's bytes_to_unicode)."""


class Tokenizer:
    """A model's own tokenizer. Special tokens are never added by itself: the chat template writes them."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        path = next((one for one in (folder / "tokenizer.json", folder / "tokenizer.model") if one.is_file()), folder)
        self._place = str(path)
        text = described(folder)
        try:
            self._fast = FastTokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every fault of the file
            raise InputError(str(path), f"is no tokenizer ({error})") from None
        # A saved tokenizer may cut or pad by itself; both would silently change what is trained.
        self._fast.no_truncation()
        self._fast.no_padding()

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._fast.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """The ids of a text; names of special tokens in it become those tokens, none is added.

        Lone surrogates, which no tokenizer can hold, raise InputError.
        """
        return list(self._encode(text).ids)

    def _encode(self, text: str) -> Any:
        try:
            return self._fast.encode(text, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):
            raise InputError("", "the text holds a lone surrogate, which is no character", "Take it out of the source") from None

    def encode_parted(self, text: str, part: str) -> list[int]:
        """The ids of a text without the character `part`, whose own ids are taken out again: where it stands in the name of a
        special token, the name's letters are letters like others. InputError where a token holds it and something beside it.
        """
        made, found = self._encode(text), list[int]()
        for number, (start, end) in zip(made.ids, made.offsets, strict=True):
            if part not in text[start:end]:
                found.append(number)
            elif end - start > 1:
                raise InputError(self._place, f"its tokens can't be parted at U+{ord(part):04X}")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self._fast.decode(list(ids), skip_special_tokens=True))

    def decode_all(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens written by their names."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        """The id of a token by its exact name."""
        found: int | None = self._fast.token_to_id(token)
        return found

    def token_bytes(self) -> list[bytes | None]:
        """What each id writes, by the rules of the tokenizer's decoder; None for marks, which write no text, and unused numbers.

        Marks are the special tokens, the unknown token, and added tokens that look like one, such as <think> or [INST].
        InputError where the decoder is of another kind, or some byte has no token, so that not every text could be written.
        """
        write = self._writer([*_flatten(json.loads(self._fast.decoder.__getstate__()) if self._fast.decoder else {})])
        vocabulary: dict[str, int] = self._fast.get_vocab(with_added_tokens=True)
        added: dict[int, Any] = self._fast.get_added_tokens_decoder()
        marks = {number for number, token in added.items() if token.special or _MARK.fullmatch(token.content)}
        marks |= {vocabulary[name] for name in [getattr(self._fast.model, "unk_token", None)] if name in vocabulary}
        pieces: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for token, number in vocabulary.items():
            if number not in marks:
                pieces[number] = write(token)
        single = {piece for piece in pieces if piece and len(piece) == 1}
        if lacking := [byte for byte in _TEXT_BYTES if bytes([byte]) not in single]:
            raise InputError(
                self._place,
                f"its vocabulary has no token for {len(lacking)} of the bytes that text is made of (0x{lacking[0]:02X}, ...)",
                "Take a byte-level tokenizer, or one with byte fallback; or set task.constraint=free",
            )
        return pieces

    def _writer(self, decoders: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes]:
        """How the decoder turns the name of a token into bytes, wherever but at the very start of a text."""
        kinds = [str(decoder["type"]) for decoder in decoders]
        if "ByteLevel" in kinds and {*kinds} <= {"ByteLevel", "Fuse"}:
            return _from_byte_level
        changes = [_change(decoder) for decoder in decoders if decoder["type"] in ("Metaspace", "Replace")]
        is_stripped_whole = "Strip" not in kinds or "Fuse" in kinds[: kinds.index("Strip")]
        known = {*kinds} <= {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"} and is_stripped_whole
        if not known or "ByteFallback" not in kinds or None in changes:
            raise InputError(
                self._place,
                f"its decoder ({', '.join(kinds) or 'none'}) does not say which bytes a token writes",
                "Take a byte-level tokenizer, or one with byte fallback; or set task.constraint=free",
            )

        def write(token: str) -> bytes:
            if found := _BYTE_TOKEN.fullmatch(token):
                return bytes([int(found[1], 16)])
            for change in changes:
                token = token.replace(*change) if change else token
            return token.encode()

        return write

    def special_tokens(self) -> dict[str, int]:
        """Names and ids of the tokens that are marked special."""
        added: dict[int, Any] = self._fast.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}


def _flatten(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A decoder's parts in their order."""
    if decoder.get("type") == "Sequence":
        for part in decoder["decoders"]:
            yield from _flatten(part)
    elif decoder:
        yield decoder


def _change(decoder: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a decoder replaces by what; None where that is more than a text."""
    if decoder["type"] == "Metaspace":
        return decoder["replacement"], " "
    old = decoder["pattern"].get("String")
    return (old, decoder["content"]) if old else None


def _from_byte_level(token: str) -> bytes:
    """The bytes of a token's name; a name that is not written in the byte alphabet stands for itself."""
    if all(char in _BYTE_CHARS for char in token):
        return bytes(_BYTE_CHARS[char] for char in token)
    return token.encode()


def read_template(folder: Path) -> str:
    """The model's own Jinja chat template, from chat_template.jinja or tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(str(path), f"is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    template = _read_config(folder).get("chat_template")
    if isinstance(template, list):  # several named templates: the default one is meant
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str) or not template:
        raise InputError(
            str(folder),
            "has no chat template",
            "Take the chat (instruct) edition of this model, or put its template into chat_template.jinja",
        )
    return template


def named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, pad_token and unk_token of a model folder, as far as they are named."""
    config = _read_config(folder)
    names = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            names[name] = value
    return names


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise InputError(str(path), "is no tokenizer config (it holds no JSON object)")
    return config
