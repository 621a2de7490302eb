"""What each id writes: the decoder's own answer, for each kind of tokenizer; and which kinds are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from constrained import PIECES, constrainer, decoder
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import END, KINDS
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models

from whet.errors import InputError
from whet.models.base_model import EMBEDDED_PATH
from whet.text.tokenizer import Tokenizer

ALL = ("embedded", *KINDS)


@pytest.mark.parametrize("kind", ALL)
def test_each_id_writes_what_the_decoder_says(kind: str) -> None:
    tokenizer = decoder(kind)
    pieces = tokenizer.token_bytes()
    before = tokenizer.encode("a")
    assert tokenizer.decode(before) == "a"
    assert len(pieces) == tokenizer.size
    for number, piece in enumerate(pieces):
        shown = tokenizer.decode([*before, number])
        if piece is not None:
            # A character that is not whole is shown by one or more replacement marks.
            assert ("a" + piece.decode(errors="replace")).replace("\ufffd", "") == shown.replace("\ufffd", "")
        elif number in tokenizer.special_tokens().values():
            assert shown == "a"
        else:
            assert shown == "a<think>"


@pytest.mark.parametrize("kind", ALL)
@given(text=st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_a_text_is_what_its_ids_write(kind: str, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode().replace(END, "").replace("<think>", "").replace("▁", "")
    if any(name in text for name in decoder(kind).special_tokens()):
        return
    pieces = constrainer(kind).vocabulary.pieces
    written = b"".join(pieces[number] or b"<mark>" for number in decoder(kind).encode(text))
    assert written.decode() == (" " + text if kind == "sentencepiece" and text else text)


def test_a_word_that_was_added_is_text_and_a_mark_is_none() -> None:
    tokenizer = decoder("words")
    pieces = tokenizer.token_bytes()
    assert pieces[tokenizer.id_of("總兵官") or 0] == "總兵官".encode()
    assert pieces[tokenizer.id_of("<think>") or 0] is None
    assert pieces[tokenizer.id_of(END) or 0] is None


def changed(folder: Path, **parts: Any) -> Tokenizer:
    """The embedded tokenizer with parts of its file changed."""
    made = json.loads((EMBEDDED_PATH / "tokenizer.json").read_text()) | parts
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    return Tokenizer(folder)


@pytest.mark.parametrize(
    "part",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"Regex": "a"}, "content": "b"}, {"type": "ByteFallback"}],
        },
    ],
)
def test_a_decoder_that_says_no_bytes_is_refused(part: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its decoder .* does not say which bytes a token writes"):
        changed(tmp_path, decoder=part).token_bytes()


def test_metaspace_with_byte_fallback_is_read(tmp_path: Path) -> None:
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁甲", "乙"]
    made = FastTokenizer(
        models.BPE({name: number for number, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True)
    )
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    made.save(str(tmp_path / "tokenizer.json"))
    pieces = Tokenizer(tmp_path).token_bytes()
    assert pieces[0] is None
    assert pieces[1:257] == [bytes([byte]) for byte in range(256)]
    assert pieces[257:] == [b" ", " 甲".encode(), "乙".encode()]


def test_a_vocabulary_without_some_bytes_is_refused(tmp_path: Path) -> None:
    model = json.loads((EMBEDDED_PATH / "tokenizer.json").read_text())["model"]
    model["vocab"] = {("lacking" if name == "å" else name): number for name, number in model["vocab"].items()}
    model["merges"] = []
    with pytest.raises(InputError, match=r"no token for 1 of the bytes that text is made of \(0xE5"):
        changed(tmp_path, model=model).token_bytes()
