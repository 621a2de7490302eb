"""Ways of cutting words are recognised by what they do, and runners of GGUF give the same ids."""

import json
from pathlib import Path
from typing import Any

import pytest
import regex
from conftest import random_model
from small_tokenizers import QWEN
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from whet.errors import InputError
from whet.export.gguf_write import write_gguf
from whet.export.pre_tokenizers import FAMILIES, PROBES, cut_as, recognise
from whet.models.base_model import open_base

MARKS = regex.compile(r"\p{M}")
CODE = Path(__file__).read_text(encoding="utf-8")
TEXTS = [*PROBES, CODE, "12345 678 don't DON'T I'LL", "宣德九年少師蹇義卒 宣德九年", "camelCase HTTPServer /a/b//c\n/d"] * 20
# Texts that no probe holds, so that what is learnt from the probes is tried on others.
FRESH = (
    "It'll cost €1234567 (approx.) — naïve façade, WE'RE 中文字12三\n\n\n  end /x\t\ty",
    "日本語テキスト、123abc!?\r\n  ok",
    CODE[:3000],
)


def trained(pre_tokenizer: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return dict(json.loads(tokenizer.to_str()))


def splitting(*patterns: str) -> Any:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns), level])


@pytest.fixture(scope="module")
def by_family() -> dict[str, dict[str, Any]]:
    """A tokenizer.json of each family, trained on texts that show what it does."""
    found = {}
    for family in FAMILIES:
        made = trained(splitting(*family.patterns))
        made["model"]["ignore_merges"] = family.takes_whole
        found[family.name] = made
    return found


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_recognised(family: Any, by_family: Any) -> None:
    found = recognise(by_family[family.name], "tokenizer.json")
    own, other = (
        Tokenizer.from_str(json.dumps(made)) for made in (by_family[family.name], cut_as(by_family[family.name], found))
    )
    assert [own.encode(text).ids for text in FRESH] == [other.encode(text).ids for text in FRESH]
    # Two families may be one on a small vocabulary; the large ones are told apart.
    if family.name in ("qwen2", "gpt-2", "smollm", "tekken", "gpt-4o", "deepseek-v3"):
        assert found == family


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_llama_cpp_gives_the_same_ids(family: Any, by_family: Any, tmp_path: Path, llama: Any) -> None:
    folder = random_model(tmp_path / "m", "Qwen2", vocab_size=1600)
    (folder / "tokenizer.json").write_text(json.dumps(by_family[family.name]))
    llama.open(write_gguf(open_base(folder), tmp_path / "m.gguf", "f32").path, num_context=32)
    own = Tokenizer.from_str(json.dumps(by_family[family.name]))
    texts = [text for text in (*PROBES, *FRESH) if not (family.caveat and MARKS.search(text))]
    wanted = [own.encode(text, add_special_tokens=False).ids for text in texts]
    found = llama.tokenize(texts)
    assert [text for text, a, b in zip(texts, wanted, found, strict=True) if a != b] == []


def test_the_expression_may_be_written_otherwise() -> None:
    """Recognition looks at what is done: the same rule in other words is the same family."""
    rewritten = QWEN.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[stmd]|re|ve|ll)").replace(r"\p{N}|", r"\p{N}{1}|")
    assert rewritten != QWEN
    assert recognise(trained(splitting(rewritten)), "t").name == "qwen2"
    assert recognise(trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)), "t").name == "gpt-2"


@pytest.mark.parametrize("pattern", [r"\S+|\s+", r"\p{L}+|\p{N}{1,2}|[^\p{L}\p{N}]+"])
def test_an_unknown_way_is_refused_with_texts_that_differ(pattern: str) -> None:
    with pytest.raises(InputError, match=r"no runner of GGUF knows; the nearest, .* reads \d+ of \d+ probes otherwise \('"):
        recognise(trained(splitting(pattern)), "t")


def test_a_space_before_the_text_is_refused() -> None:
    with pytest.raises(InputError, match="no runner of GGUF knows"):
        recognise(trained(pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)), "t")


def test_cutting_leaves_vocabulary_and_merges_alone(by_family: Any) -> None:
    made = by_family["gpt-2"]
    cut = cut_as(made, FAMILIES[0])
    assert cut["model"] | {"ignore_merges": False} == made["model"] | {"ignore_merges": False}
    assert cut["pre_tokenizer"] != made["pre_tokenizer"]
