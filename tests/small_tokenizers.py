"""Tokenizers of the kinds that models have, trained in a moment on the demo's passages and replies."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from whet.data.annals.write import sample
from whet.records import Example, Value
from whet.tasks.extraction import Extraction, ExtractionSettings, FieldSettings

EVENTS = ("Appointment", "Military", "Diplomacy", "Disaster", "Death", "Other")
ANNALS = Extraction(
    ExtractionSettings(
        fields=(
            FieldSettings(name="name"),
            FieldSettings(name="office", nullable=True),
            FieldSettings(name="event", kind="choice", choices=EVENTS),
        )
    )
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KINDS = ("words", "whole", "sentencepiece", "pairs")
PAIRS = ("a m", "n a", "m e", "na me", "e a", '" :', ': "', '" }', '" ,', ', "', "n u", "l l", "nu ll", "} ]")
"""Merges that get in each other's way: `name` comes out as n, am, e, though there is one id for it."""
END = "<|end|>"
_TAGGED = re.compile(r'(?:<O>([^<>]+)</O>[^<>]*)?<P event="(\w+)">([^<>]+)</P>')


def passages(seed: int, count: int) -> list[Example]:
    """Passages of the demo with their gold records."""
    examples = []
    for number, tagged in enumerate(sample(seed, count)):
        records = tuple(
            {"name": Value(found[3]), "office": Value(found[1]) if found[1] else None, "event": Value(found[2])}
            for found in _TAGGED.finditer(tagged)
        )
        text = re.sub("<[^>]*>", "", tagged)
        examples.append(Example(f"e{number}", text, f"annals:{number}", f"g{number}", records=records))
    return examples


def train(folder: Path, kind: str) -> Path:
    """A folder with the tokenizer.json of one kind.

    words: bytes, merged inside the words of Qwen's rule. whole: bytes, merged across everything, so that ids reach from
    quotes into values. sentencepiece: characters with byte fallback, as in Llama 2. pairs: bytes and PAIRS alone.
    """
    folder.mkdir(parents=True)
    if kind == "pairs":
        tokenizer = byte_pairs(PAIRS)
        tokenizer.add_special_tokens([END])
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder
    texts = [text for example in passages(1, 500) for text in (example.text, ANNALS.reply(example))]
    made = _sentencepiece(texts) if kind == "sentencepiece" else _byte_level(texts, is_split=kind == "words")
    (folder / "tokenizer.json").write_text(json.dumps(made))
    return folder


def byte_pairs(merges: Sequence[str]) -> FastTokenizer:
    """A tokenizer of bytes that joins these pairs, the first of them first; a space parts the two of a pair."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(names))}
    made = FastTokenizer(models.BPE(vocabulary, [(merge.split(" ")[0], merge.split(" ")[1]) for merge in merges]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _byte_level(texts: Sequence[str], *, is_split: bool) -> Any:
    tokenizer = FastTokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level]) if is_split else level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(["<think>", "總兵官"])  # a mark that is not said to be one, and a word
    return json.loads(tokenizer.to_str())


def _sentencepiece(texts: Sequence[str]) -> Any:
    tokenizer = FastTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=2400, special_tokens=["<unk>", "<s>", END, *single], limit_alphabet=1000, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] not in single]  # ordinary, as in Llama 2
    return made
