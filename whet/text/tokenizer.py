"""Text to token ids and back, from the tokenizer.json of a model folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.storage import read_json


class Tokenizer:
    """A model's own tokenizer. Special tokens are never added by itself: the chat template writes them."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer as FastTokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise InputError(
                str(folder),
                "has no tokenizer.json",
                "Save the model's fast tokenizer there: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            )
        try:
            self._fast = FastTokenizer.from_str(path.read_text(encoding="utf-8"))
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
        try:
            return list(self._fast.encode(text, add_special_tokens=False).ids)
        except (UnicodeEncodeError, TypeError):
            raise InputError("", "the text holds a lone surrogate, which is no character", "Take it out of the source") from None

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

    def special_tokens(self) -> dict[str, int]:
        """Names and ids of the tokens that are marked special."""
        added: dict[int, Any] = self._fast.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}


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
