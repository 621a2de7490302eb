"""Recognises how a byte-level tokenizer cuts a text into words by what it does, and names it as runners of GGUF do."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ODD = r"[^\r\n\p{L}\p{N}]?"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN35 = rf"{_CONTRACTIONS}|{_ODD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DEEPSEEK = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\x22#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True, slots=True)
class Family:
    """A way to cut texts: the name that runners know it by (tokenizer.ggml.pre), its expressions, and whether a word that is a
    token as it stands is taken whole.
    """

    name: str
    patterns: tuple[str, ...]
    takes_whole: bool = False
    caveat: str = ""
    """On which texts runners don't keep to the expressions."""


_MARKS = "runners of GGUF cut words at combining marks (decomposed accents, Hindi, Thai): such texts get other ids"
FAMILIES = (
    Family("qwen2", (rf"{_CONTRACTIONS}|{_ODD}\p{{L}}+|\p{{N}}|{_REST}",)),
    Family("llama-bpe", (rf"{_CONTRACTIONS}|{_ODD}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",), takes_whole=True),
    Family("dbrx", (rf"{_CONTRACTIONS}|{_ODD}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",)),
    Family("qwen35", (_QWEN35,)),
    Family("gpt-2", (_GPT2,)),
    Family("smollm", (r"\p{N}", _GPT2)),
    Family(
        "tekken",
        (rf"{_ODD}{_UPPER}*{_LOWER}+|{_ODD}{_UPPER}+{_LOWER}*|\p{{N}}|{_REST_SLASH}",),
        takes_whole=True,
        caveat=_MARKS,
    ),
    Family(
        "gpt-4o",
        (
            rf"{_ODD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_ODD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST_SLASH}",
        ),
        caveat=_MARKS,
    ),
    Family("deepseek-v3", _DEEPSEEK),
    Family(
        "seed-coder",
        (rf"{_CONTRACTIONS}|{_ODD}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",),
    ),
)  # fmt: skip
"""Families that llama.cpp and Ollama know, newer ones last; the expressions are those of the models' own tokenizers."""
PROBES = (
    "Hello, world! It's what we'll do; you're I'VE she'D THEY'LL.",
    "a1b22c333d4444e55555 12345678901 3.14159 1,000,000 ２０２４ ½²",
    "x  y   z    \t tab\t\ttabs \n one\n\ntwo\r\n\r\nthree \n \n  four\n",
    "   leading, trailing   ",
    "宣德九年，少師蹇義卒。「行在」吏部尚書（正二品）、太子太師……",
    "東京タワーのカタカナとひらがな、テスト。한국어 문장입니다. ภาษาไทย हिन्दी में वाक्य।",
    "Ünïcödé naïve cafés e\u0301 n\u0303 Ελληνικά русский العربية עברית ąęłż",
    "camelCaseHTTPServer XMLHttpRequest snake_case kebab-case CONSTANT_NAME iPhone",
    "def f(x: int) -> str:\n    return f'{x!r}'  # comment\n\n\n\tif (a && b) || !c { d++; }",
    "!!! ??? ... --- *** === ~~~ ### $$$ %%% ^^^ @user #tag http://example.com/a/b?c=d&e=f",
    "path/to/file.txt //comment /* block */ </tag> <br/>\n/next",
    "(parens) [brackets] {braces} \"double\" 'single' `back` «guillemets» “curly” ‘quotes’",
    "emoji 😀👍🏽👨‍👩‍👧 flags 🇩🇪 ♥ ☃ ™ © € £ ¥ ° ± × ÷",
    "\u00a0nbsp\u2003em\u200bzero\u3000ideographic\u2028line",
    "{\"name\": \"程富\", \"rank\": \"行在监察御史\", \"n\": [1, 2.5, -3e10, null]}",
    "don't DON'T o'clock rock'n'roll ''quoted'' 's 't'",
    "A B C AB ABC aB Ab aBC 1a a1 1A A1 中a a中 1中 中1 。a a。",
    "\n", " ", "  ", "\t", "\n\n", " \n", "\n ", "a", "1", "。",
)  # fmt: skip
"""Texts on which the families part, and which real texts hold."""
MAX_TOKENS = 20_000  # of the vocabulary that are tried in a text of their own


def recognise(tokenizer: Mapping[str, Any], place: str) -> Family:
    """The family under which runners of GGUF give the same ids as this tokenizer.json, on every probe and token tried.

    A family fits when the tokenizer, with its words cut the family's way, gives the same ids. InputError where none does, with
    the nearest one and the texts that it reads otherwise.
    """
    own = _opened(tokenizer)
    probes = [*PROBES, *_vocabulary_probes(own)]
    wanted = [encoding.ids for encoding in own.encode_batch(probes, add_special_tokens=False)]
    nearest: tuple[int, Family, list[str]] | None = None
    for family in FAMILIES:
        other = [encoding.ids for encoding in _opened(tokenizer, family).encode_batch(probes, add_special_tokens=False)]
        differing = [text for text, ids, found in zip(probes, wanted, other, strict=True) if ids != found]
        if not differing:
            return family
        if nearest is None or len(differing) < nearest[0]:
            nearest = len(differing), family, differing
    assert nearest is not None
    num, family, texts = nearest
    shown = ", ".join(repr(text[:40]) for text in sorted(texts, key=len)[:3])
    raise InputError(
        place,
        f"cuts texts into words in a way that no runner of GGUF knows; the nearest, {family.name}, reads {num} of {len(probes)} "
        f"probes otherwise ({shown})",
        "Train the tokenizer with the expression of a known family, or serve the model with whet or vLLM",
    )


def cut_as(tokenizer: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The tokenizer.json with its words cut the family's way, and no change of the text before."""
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} for pattern in family.patterns
    ]
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        **tokenizer,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, bytes_only]},
        "model": {**tokenizer["model"], "ignore_merges": family.takes_whole},
        "post_processor": None,
    }


def _opened(tokenizer: Mapping[str, Any], family: Family | None = None) -> Any:
    from tokenizers import Tokenizer

    opened = Tokenizer.from_str(json.dumps(cut_as(tokenizer, family) if family else {**tokenizer, "post_processor": None}))
    opened.no_truncation()
    opened.no_padding()
    return opened


def _vocabulary_probes(tokenizer: Any) -> Iterable[str]:
    """Texts of tokens, each between a letter, a digit and a space: what words are cut at is what tokens begin and end with."""
    num = tokenizer.get_vocab_size(with_added_tokens=False)
    texts: Sequence[str] = tokenizer.decode_batch([[number] for number in range(0, num, max(1, -(-num // MAX_TOKENS)))])
    return [f"{text}x{text} {text}1{text}\n" for text in texts if text and "\ufffd" not in text]
