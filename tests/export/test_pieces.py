"""SentencePiece's scores out of tokenizer.json, against the real scores and llama.cpp."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_base
from stories import read_pieces as real_pieces
from stories import stories_folder, tokenizer_json
from tokenizers import Tokenizer

from whet.errors import InputError
from whet.export.gguf_write import write_gguf
from whet.export.pieces import read_pieces
from whet.models.base_model import open_base
from whet.text.chat import Chat

TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    '<s>She said: "I\'m happy!"\n\nThey   played.</s>',
    "  two spaces, 宣德九年 and 😀\ttab\r\n",
    "",
    " a",
    "a ",
    "\n",
    "<s> <s>x</s> y",
    "zzzzzzzzaaaaaaaa theetheehehe  in in inging",
)


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (shared_data / "stories260K").is_dir():
        pytest.skip(f"stories260K is not at {shared_data}")
    return stories_folder(shared_data / "stories260K", tmp_path_factory.mktemp("stories") / "m")


def test_scores_stand_in_the_order_of_the_real_ones(stories: Path, shared_data: Path) -> None:
    pieces = real_pieces(shared_data / "stories260K" / "tok512.bin")
    found = read_pieces(json.loads((stories / "tokenizer.json").read_text()), Chat(stories), "t")
    ours = [found.scores[piece] for piece, _ in sorted(pieces[259:], key=lambda piece: -piece[1]) if len(piece) > 1]
    assert ours == sorted(ours, reverse=True)
    assert found.adds_space
    assert len(found.byte_names) == 256


def test_llama_cpp_gives_the_same_ids(stories: Path, tmp_path: Path, llama: Any, shared_data: Path) -> None:
    llama.open(write_gguf(open_base(stories), tmp_path / "m.gguf", "f32").path, num_context=32)
    own = Tokenizer.from_file(str(stories / "tokenizer.json"))
    texts = [*TEXTS, (Path(__file__)).read_text(encoding="utf-8")]
    assert llama.tokenize(texts) == [own.encode(text, add_special_tokens=False).ids for text in texts]


def small() -> dict[str, Any]:
    """A tokenizer of a few pieces."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab"]
    return tokenizer_json([(name, -float(number)) for number, name in enumerate(names)])


def change(make: Any) -> Any:
    made = copy.deepcopy(small())
    make(made)
    return made


def metaspace(scheme: str, is_split: bool = False) -> Any:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": is_split}


REFUSED: dict[str, tuple[Any, str]] = {
    "a cut that is never merged": (lambda made: made["model"]["merges"].remove(["▁a", "b"]), "never merges '▁a' and 'b'"),
    "a piece merged at two times": (lambda made: made["model"]["merges"].insert(0, ["▁a", "b"]), "at different times"),
    "a lacking byte": (lambda made: made["model"]["vocab"].pop("<0x41>"), "lacks 1 of the tokens for single bytes"),
    "lower case": (lambda made: made.update(normalizer={"type": "Lowercase"}), r"changes texts .*\(Lowercase\)"),
    "plain spaces": (lambda made: made.update(normalizer=None), "does not write spaces"),
    "words, and pieces over them": (
        lambda made: (made.update(normalizer=None, pre_tokenizer=metaspace("always", True)), made["model"]["vocab"].update({"a▁": 265}), made["model"]["merges"].append(["a", "▁"])),
        "cuts texts at spaces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_scores_can_not_say_is_refused(name: str, chat: Chat) -> None:
    made, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        read_pieces(change(made), chat, "tokenizer.json")


def test_a_first_space_needs_a_template_that_begins_with_a_mark(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "m")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("Text:" + template)
    made = change(lambda made: made.update(normalizer=None, pre_tokenizer=metaspace("first")))
    with pytest.raises(InputError, match="first word only"):
        read_pieces(made, Chat(folder), "tokenizer.json")


@pytest.mark.parametrize(("scheme", "adds"), [("always", True), ("never", False)])
def test_the_space_before_a_text_is_kept(scheme: str, adds: bool, chat: Chat) -> None:
    made = change(lambda made: made.update(normalizer=None, pre_tokenizer=metaspace(scheme)))
    assert read_pieces(made, chat, "t").adds_space is adds


def test_a_space_before_the_first_word_only(stories: Path, tmp_path: Path, llama: Any) -> None:
    """Behind the mark that a template begins with, no space is put: so the file says that none is."""
    import shutil

    folder = tmp_path / "m"
    shutil.copytree(stories, folder)
    made = json.loads((folder / "tokenizer.json").read_text())
    made |= {"normalizer": None, "pre_tokenizer": metaspace("first")}
    (folder / "tokenizer.json").write_text(json.dumps(made))
    written = write_gguf(open_base(folder), tmp_path / "m.gguf", "f32")
    assert any("outside the chat template" in note for note in written.notes)
    llama.open(written.path, num_context=32)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [f"<s>{text}" for text in TEXTS]
    assert llama.tokenize(texts) == [own.encode(text, add_special_tokens=False).ids for text in texts]
