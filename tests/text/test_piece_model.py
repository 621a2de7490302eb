"""Folders with a SentencePiece model alone: its ids are those of SentencePiece, and llama.cpp's behind an export."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import random_model
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import InputError
from whet.models.base_model import open_base
from whet.text.chat import Chat
from whet.text.piece_model import described, read_pieces
from whet.text.tokenizer import Tokenizer

spm = pytest.importorskip("sentencepiece", reason="the reference; whet itself does not need it")
pytestmark = pytest.mark.integration
PLACES = ("宣德", "永樂", "洪武", "Paris", "London", "the river", "a small town")
SENTENCES = [
    f"{PLACES[n % 7]} {n}年，少師{PLACES[(n * 3) % 7]}奏第{n * 37}事。 It's the {n}th of {PLACES[n % 5]}, isn't it? Größe naïve {n * 1.5:.2f}"
    for n in range(400)
]
PROBES = (
    "Once upon a time, there was a little girl named Lily.", "  two  spaces, 宣德九年 and 😀\ttab\r\nline ", "", " ", "a", " a", "a ", "\n",
    "It's 12:30, isn't it?  don't wait!", "Ελληνικά, русский, العربية, 日本語、한국어", "ﬁne ½ Å ①", "zzzzaaaatheethee", "<s> is a name", *SENTENCES[:40],
)  # fmt: skip
# How published models train them: Llama 2 and Mistral; Gemma; T5 and others with normalised texts; ALBERT and XLNet without bytes.
SETTINGS: dict[str, dict[str, Any]] = {
    "Llama 2": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                "split_digits": True, "allow_whitespace_only_pieces": True},
    "Gemma": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
              "add_dummy_prefix": False, "split_digits": True, "user_defined_symbols": ["<start_of_turn>", "<end_of_turn>", "\n\n"]},
    "Gemma, runs of spaces": {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
                              "add_dummy_prefix": False, "split_digits": True, "user_defined_symbols": ["\u2581\u2581", "\u2581\u2581\u2581"]},
    "Unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "Unigram, normalised": {"model_type": "unigram"},
}  # fmt: skip


def trained(folder: Path, kind: str, **more: Any) -> Path:
    """A folder with a tokenizer.model alone, trained by SentencePiece itself."""
    folder.mkdir(parents=True, exist_ok=True)
    made = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_writer=made, vocab_size=620, character_coverage=0.999,
                                   hard_vocab_limit=False, minloglevel=2, **(SETTINGS[kind] | more))  # fmt: skip
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    return folder


def reference(folder: Path) -> Any:
    return spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", SETTINGS)
def test_ids_are_those_of_sentencepiece(kind: str, tmp_path: Path) -> None:
    folder = trained(tmp_path, kind)
    ours, theirs = Tokenizer(folder), reference(folder)
    assert ours.size == theirs.vocab_size()
    for text in PROBES:
        if "<s>" in text:
            assert theirs.piece_to_id("<s>") in ours.encode(text)
            continue
        ids, wanted = ours.encode(text), theirs.encode(text)
        if SETTINGS[kind]["model_type"] == "unigram" and sorted(ids) == sorted(wanted):
            wanted = ids  # the same pieces in another order score the same: a tie, which each library decides in its way
        assert ids == wanted, text
        if SETTINGS[kind].get("byte_fallback"):
            assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text)), text


def test_what_is_added_beside_the_model_is_known(tmp_path: Path) -> None:
    folder = trained(tmp_path, "Llama 2")
    size = reference(folder).vocab_size()
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": size}))
    end = {"content": "<|im_end|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {str(size + 1): end}}))
    found = Tokenizer(folder)
    assert found.encode("a<|im_end|>")[-1] == size + 1
    assert found.id_of("<pad>") == size
    assert found.special_tokens().keys() == {"<unk>", "<s>", "</s>", "<|im_end|>"}


CHAT = (
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{{- bos_token + '[INST] ' + message['content'] + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + message['content'] + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A Llama as it lies in older folders: weights, config, tokenizer.model, tokenizer_config.json."""
    folder = trained(tmp_path / "t", "Llama 2")
    made = random_model(tmp_path / "m", "Llama", vocab_size=reference(folder).vocab_size())
    for name in ("tokenizer.json", "chat_template.jinja"):
        (made / name).unlink()
    (made / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "tokenizer_class": "LlamaTokenizer",
        "chat_template": CHAT,
    }
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def test_llama_cpp_gives_the_same_ids(model: Path, tmp_path: Path, llama: Any) -> None:
    from whet.export.gguf_write import write_gguf

    llama.open(write_gguf(open_base(model), tmp_path / "m.gguf", "f32").path, num_context=32)
    ours = Tokenizer(model)
    assert llama.tokenize(list(PROBES)) == [ours.encode(text) for text in PROBES]


def test_transformers_reads_the_folder_as_whet_does(model: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(model), Tokenizer(model)
    for text in PROBES:
        if text.startswith((" ", "<s>")):
            continue  # transformers 5 puts no space before or behind these; SentencePiece, llama.cpp and published files do
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text


def test_the_folder_is_trained_on_looked_at_and_told_from_others(model: Path) -> None:
    from whet.doctor.look import diagnose

    assert Chat(model).end_of_turn.strip() == "</s>"
    assert not [one for one in diagnose([model]).findings if one.severity == "error" or one.name == "no tokenizer"]
    before = open_base(model).fingerprint
    raw = bytearray((model / "tokenizer.model").read_bytes())
    (model / "tokenizer.model").write_bytes(bytes(raw) + b"\x12\x00")
    assert open_base(model).fingerprint != before


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "words": ({"model_type": "word"}, "of a kind that whet does not convert"),
    "spaces behind": ({"treat_whitespace_as_suffix": True}, "of a kind that whet does not convert"),
    "spaces taken out": ({"remove_extra_whitespaces": True}, "takes spaces out"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_tokenizer_json_can_not_say_is_refused_with_the_way_out(kind: str, tmp_path: Path) -> None:
    given, words = REFUSED[kind]
    more = {"vocab_size": 300, **given} if kind == "words" else given
    folder = trained(tmp_path, "Llama 2", **{key: value for key, value in more.items() if key != "vocab_size"})
    with pytest.raises(InputError, match=words) as fault:
        Tokenizer(folder)
    assert "save_pretrained" in fault.value.remedy


def test_other_files_of_that_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for raw in (b"", b"IQ== 0\nIg== 1\n", b"\x0a\xff\xff\xff\xff\x7f", b"\x80" * 40, b"\x0a\x04\x0a\x02\xff\xff"):
        path.write_bytes(raw)
        with pytest.raises(InputError, match="is no SentencePiece model"):
            Tokenizer(tmp_path)


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_model_or_one_line(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "tokenizer.model"
    path.write_bytes(raw)
    try:
        read_pieces(path)
        described(path.parent)
    except InputError as fault:
        assert "\n" not in str(fault)
