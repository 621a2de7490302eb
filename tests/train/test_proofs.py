"""Every proof fails on a planted fault, and says where and what to do."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_base, official

from whet.errors import InputError, ProofError
from whet.models.base_model import BaseModel, open_base
from whet.tasks.extraction import Extraction
from whet.text.chat import Chat
from whet.train.encode import Row, encode
from whet.train.proofs import Proof, prove_input, prove_moved, prove_reload, require_rows, show_row

EXAMPLES = [official("宣德九年，少師蹇義卒。", "蹇義", "少師", "Death", n) for n in range(6)]
INJECTING = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\\n' -}}"
    "{%- endif -%}"
)


def prove(rows: list[Row], task: Extraction, chat: Chat, base: BaseModel, max_length: int = 512) -> list[Proof]:
    return prove_input(rows, EXAMPLES, task=task, chat=chat, base=base, max_length=max_length)


def test_honest_rows_are_proved(chat: Chat, base: BaseModel, officials: Extraction) -> None:
    proofs = prove(encode(EXAMPLES, officials, chat), officials, chat, base)
    assert len(proofs) == 6
    assert all(proof.held for proof in proofs)


def learns_the_prompt(row: Row) -> dict[str, Any]:
    return {"prompt_ids": row.prompt_ids[:-3], "answer_ids": (*row.prompt_ids[-3:], *row.answer_ids)}


def learns_too_little(row: Row) -> dict[str, Any]:
    return {"prompt_ids": (*row.prompt_ids, *row.answer_ids[:2]), "answer_ids": row.answer_ids[2:]}


FAULTS: list[tuple[Callable[[Row], dict[str, Any]], list[str]]] = [
    (lambda row: {"answer_ids": row.answer_ids[:-1]}, ["the mask covers"]),  # the end of turn is never learnt
    (lambda row: {"answer_ids": (*row.answer_ids[:4], row.answer_ids[-1])}, ["the mask covers"]),  # the answer is cut
    (learns_the_prompt, ["the mask covers", "the prompt is"]),
    (learns_too_little, ["the mask covers", "the prompt is"]),
    (lambda row: {"answer_ids": (*row.answer_ids, 0)}, ["the mask covers"]),  # padding is learnt
    (lambda row: {"prompt_ids": (1, *row.prompt_ids)}, ["the prompt is"]),  # a doubled beginning
    (lambda row: {"prompt_ids": row.prompt_ids[5:]}, ["the prompt is"]),
    (lambda row: {"answer_ids": ()}, ["the mask covers", "no row is without"]),
    (lambda row: {"answer_ids": (999_999, *row.answer_ids)}, ["every token is in"]),
]


@pytest.mark.parametrize(("fault", "names"), FAULTS)
def test_a_planted_fault_is_found_where_it_is(
    fault: Callable[[Row], dict[str, Any]], names: list[str], chat: Chat, base: BaseModel, officials: Extraction
) -> None:
    rows = encode(EXAMPLES, officials, chat)
    rows[3] = dataclasses.replace(rows[3], **fault(rows[3]))
    with pytest.raises(ProofError) as caught:
        prove(rows, officials, chat, base)
    for name in names:
        assert f"not so: {name}" in caught.value.what
    assert caught.value.what.count("not so") == len(names)
    assert EXAMPLES[3].source in caught.value.what
    assert EXAMPLES[2].source not in caught.value.what


def test_a_row_that_is_too_long_names_the_settings(chat: Chat, base: BaseModel, officials: Extraction) -> None:
    rows = encode(EXAMPLES, officials, chat)
    longest = max(row.num_tokens for row in rows)
    prove(rows, officials, chat, base, longest)
    with pytest.raises(ProofError, match=r"no answer is cut.*corpus\.txt:1, .*and 3 more.*train\.max_length"):
        prove(rows, officials, chat, base, longest - 1)


def test_answers_without_room_to_be_said_are_counted(chat: Chat, base: BaseModel, officials: Extraction) -> None:
    num = len(encode(EXAMPLES, officials, chat)[0].answer_ids)
    for room, found in ((num, ""), (num - 1, "6 of the answers have more tokens than task.max_tokens")):
        task = Extraction(officials.settings.model_copy(update={"max_tokens": room}))
        proof = next(proof for proof in prove(encode(EXAMPLES, task, chat), task, chat, base) if proof.name == "no answer is cut")
        assert proof.held
        assert found in proof.words
        assert bool(found) == ("task.max_tokens" in proof.words)


def test_a_template_that_injects_a_system_message_is_refused(tmp_path: Path, officials: Extraction) -> None:
    folder = copy_base(tmp_path / "m")
    template = folder / "chat_template.jinja"
    template.write_text(INJECTING + template.read_text())
    chat, base = Chat(folder), open_base(folder)
    with pytest.raises(ProofError, match=r"adds no words of its own.*Alibaba.*task\.system") as caught:
        prove(encode(EXAMPLES, officials, chat), officials, chat, base)
    assert caught.value.place == str(folder)
    named = Extraction(officials.settings.model_copy(update={"system": "你是史官。"}))  # the remedy helps
    assert prove(encode(EXAMPLES, named, chat), named, chat, base)


def test_a_tokenizer_of_another_model_is_refused(chat: Chat, tmp_path: Path, officials: Extraction) -> None:
    small = open_base(copy_base(tmp_path / "m", vocab_size=100))
    with pytest.raises(ProofError, match=r"every token is in the base's vocabulary \(100 entries.*different models"):
        prove(encode(EXAMPLES, officials, chat), officials, chat, small)


def test_weights_must_move() -> None:
    before = {"a": "0f", "b": "1e"}
    with pytest.raises(ProofError, match=r"no weight.*learning_rate"):
        prove_moved(before, dict(before))
    assert prove_moved(before, {"a": "0f", "b": "2d"}).words == "1 of 2 trained tensors changed"
    # Of a model that was trained in part all tensors are read back.
    with pytest.raises(ProofError, match="no weight"):
        prove_moved(before, {**before, "c": "9a"})
    with pytest.raises(ProofError, match="not in the saved adapter, such as b"):
        prove_moved(before, {"a": "77"})


@pytest.mark.parametrize("reloaded", [0.5 + 2e-4, 0.5 - 2e-4, float("nan"), float("inf")])
def test_the_saved_adapter_must_be_the_trained_one(reloaded: float) -> None:
    assert prove_reload(0.5, 0.5 + 5e-5).held
    with pytest.raises(ProofError, match="not the trained one"):
        prove_reload(0.5, reloaded)


def test_the_row_that_is_shown_says_what_is_learnt(chat: Chat, officials: Extraction) -> None:
    (prompt, is_learnt), (answer, is_answer_learnt) = show_row(encode(EXAMPLES[:1], officials, chat)[0], chat)
    assert prompt == chat.render(officials.ask(EXAMPLES[0]).messages, is_prompt=True)
    assert answer == officials.reply(EXAMPLES[0]) + "<|im_end|>"
    assert (is_learnt, is_answer_learnt) == (False, True)


def test_an_empty_split_is_named() -> None:
    with pytest.raises(InputError, match=r"valid\.jsonl"):
        require_rows([], "valid")
