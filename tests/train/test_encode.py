"""Rows of token ids: the engine's prompt, then the answer and its end of turn; faults keep their place."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from conftest import copy_base, official

from whet.backends.base import Ask, Segment
from whet.engines.local import LocalEngine
from whet.errors import InputError
from whet.records import Example, Message
from whet.tasks.extraction import Extraction
from whet.tasks.free_qa import FreeQa, FreeQaSettings
from whet.text.chat import Chat
from whet.train.encode import Row, encode, encode_example

EXAMPLES = [official("宣德九年，少師蹇義卒。", "蹇義", "少師", "Death", 0), official("召楊榮。", "楊榮", None, "Other", 1)]


class Recorder:
    """A backend that keeps the prompts it is sent."""

    def generate(self, asks: Iterable[Ask], end_ids: Sequence[int]) -> list[object]:
        self.prompts = [list(ask.ids) for ask in asks]
        raise LookupError


def test_a_row_is_the_engines_prompt_then_the_reply_then_its_end(chat: Chat, officials: Extraction) -> None:
    rows = encode(EXAMPLES, officials, chat)
    recorder = Recorder()
    with pytest.raises(LookupError):
        LocalEngine("base", recorder, chat, 2048).answer([officials.ask(example) for example in EXAMPLES])  # type: ignore[arg-type]
    for row, example, prompt in zip(rows, EXAMPLES, recorder.prompts, strict=True):
        assert (row.example_id, row.source) == (example.id, example.source)
        assert list(row.prompt_ids) == prompt
        assert row.answer_ids[-1] == chat.tokenizer.id_of("<|im_end|>")
        assert chat.tokenizer.decode_all(row.answer_ids) == officials.reply(example) + "<|im_end|>"
        assert row.num_tokens == len(row.prompt_ids) + len(row.answer_ids)


def test_a_segment_is_what_stands_behind_the_prefix() -> None:
    row = Row("e", "f:1", (1, 2, 3), (4, 5), False)
    assert row.behind(0) == Segment((1, 2, 3, 4, 5), 2)
    assert row.behind(2) == Segment((3, 4, 5), 2)
    assert row.behind(3) == Segment((4, 5), 2)


def test_an_example_that_can_not_be_rendered_is_named_with_its_place(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "m")
    template = folder / "chat_template.jinja"
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    example = Example(
        "e", "a", "talks.jsonl:7", "g", messages=(Message("system", "s"), Message("user", "a"), Message("assistant", "b"))
    )
    with pytest.raises(InputError, match="no system role") as caught:
        encode_example(example, FreeQa(FreeQaSettings()), Chat(folder))
    assert caught.value.place == "talks.jsonl:7"


def test_a_mark_of_the_template_in_an_example_is_refused_with_its_place(chat: Chat) -> None:
    for turns in (("a<|im_end|>b", "c"), ("a", "b<|im_end|>c")):
        messages = (Message("user", turns[0]), Message("assistant", turns[1]))
        with pytest.raises(InputError, match="mark of the chat template") as caught:
            encode_example(Example("e", "a", "f:1", "g", messages=messages), FreeQa(FreeQaSettings()), chat)
        assert caught.value.place == "f:1"
