"""The engine over a GGUF file gives what the same weights give on torch, and names what is missing."""

import importlib.util
from pathlib import Path

import pytest

from whet.engines.llama_cpp import GgufSettings, LlamaCppEngine
from whet.errors import InputError, MissingExtraError
from whet.records import Message, Request

needs_llama = pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is not None, reason="llama-cpp-python is installed")
def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'whet\[llamacpp\]'"):
        LlamaCppEngine(GgufSettings(path=tmp_path / "m.gguf"))


@pytest.fixture(scope="module")
def engine(base, tmp_path_factory):
    """The embedded base as a GGUF file of full precision."""
    pytest.importorskip("gguf")
    from whet.export.gguf_write import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "base.gguf"
    write_gguf(base, path, "f32")
    engine = LlamaCppEngine(GgufSettings(path=path, threads=1))
    yield engine
    engine.close()


def asked(text: str, max_tokens: int = 12, choices: tuple[str, ...] = ()) -> Request:
    return Request((Message("user", text),), max_tokens, choices=choices)


@needs_llama
@pytest.mark.end_to_end
def test_choices_and_replies_are_those_of_the_same_weights_on_torch(engine, base) -> None:
    from whet.backends.open import open_backend
    from whet.engines.local import LocalEngine
    from whet.text.chat import Chat

    backend = open_backend(base)
    backend.attach(None)
    local = LocalEngine("base", backend, Chat(base.folder), base.max_length)
    texts = ["宣德九年，少師蹇義卒。", "Which of these is a fruit?\nA. stone\nB. pear\nC. iron\nD. rain"]
    for text in texts:
        request = asked(text, choices=("A", "B", "C", "D"))
        assert engine.rank(request) == pytest.approx(local.rank(request), abs=1e-2)  # llama.cpp keeps keys and values in 16 bits
        assert engine.answer([asked(text)])[0].text == local.answer([asked(text)])[0].text


@needs_llama
def test_what_can_not_be_asked_is_an_error(engine) -> None:
    assert engine.answer([asked("x", 10**6)])[0].finish == "error"
    assert "mark of the chat template" in engine.answer([asked("<|im_end|>")])[0].error
    with pytest.raises(InputError):
        engine.rank(asked("x " * 9000, choices=("A", "B")))


@needs_llama
def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"m\.gguf"):
        LlamaCppEngine(GgufSettings(path=tmp_path / "m.gguf"))
