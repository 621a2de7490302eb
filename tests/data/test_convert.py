"""Rows from one example format to another and back: the same where both can say it, and every loss listed with its place."""

import json
import tracemalloc
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.data.convert import convert, losses_path
from whet.data.formats import ExampleFiles
from whet.data.said_as import NAMES, CantSayError, write_row
from whet.data.shapes import RowFault, detect
from whet.data.sources import read
from whet.data.talk import messages_of, read_talk
from whet.errors import InputError
from whet.models.base_model import BaseModel
from whet.records import Example, Message
from whet.text.chat import Chat

CHATS = ("messages", "prompt_completion", "alpaca", "sharegpt", "erniekit")
# Texts of one line: alpaca joins instruction and input by a line break, and parts them there again.
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(lambda text: text.strip())
PAIRS = st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3)
MORE = st.dictionaries(st.sampled_from(["id", "category", "difficulty"]), st.integers() | WORDS, max_size=2)


def row_of(name: str, system: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """A conversation as people write it in a format."""
    turns = [{"role": role, "content": text} for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)]
    head = [{"role": "system", "content": system}] if system else []
    *history, (question, answer) = pairs
    match name:
        case "messages":
            return {"messages": head + turns}
        case "prompt_completion":
            if not head and len(turns) == 2:
                return {"prompt": question, "completion": answer}
            return {"prompt": head + turns[:-1], "completion": turns[-1:]}
        case "alpaca":
            row: dict[str, Any] = {"instruction": question, "input": "", "output": answer} | (
                {"system": system} if system else {}
            )
            return row | ({"history": [list(pair) for pair in history]} if history else {})
        case "sharegpt":
            said = [{"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]} for turn in turns]
            return {"conversations": said} | ({"system": system} if system else {})
    return ({"system": system} if system else {}) | {"src": [q for q, _ in pairs], "tgt": [a for _, a in pairs]}


@settings(max_examples=30)
@given(st.just("") | WORDS, PAIRS, MORE)
def test_every_chat_format_says_the_same_there_and_back(system: str, pairs: list[tuple[str, str]], more: dict[str, Any]) -> None:
    for name, other in permutations(CHATS, 2):
        row = row_of(name, system, pairs) | more
        there, lost = write_row(read_talk(row, name), other)  # type: ignore[arg-type]
        assert lost == []
        assert there == row_of(other, system, pairs) | more
        back, lost = write_row(read_talk(there, other), name)  # type: ignore[arg-type]
        assert (back, lost) == (row, [])


CALL = st.fixed_dictionaries(
    {"name": st.sampled_from(["find", "add"]), "arguments": st.dictionaries(WORDS, st.integers() | WORDS, max_size=2)}
)
TURN = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, WORDS),
    st.builds(lambda text: {"role": "assistant", "content": text}, WORDS),
    st.builds(
        lambda text, parts: {"role": "user", "content": [{"type": "text", "text": part} for part in (text, parts)]}, WORDS, WORDS
    ),
    st.builds(lambda call: {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]}, CALL),
    st.builds(lambda call, text: {"role": "assistant", "content": text, "tool_calls": [call]}, CALL, st.just("") | WORDS),
    st.builds(lambda text: {"role": "tool", "content": text, "name": "find"}, WORDS),
    st.builds(lambda text: {"role": "system", "content": text}, st.just("") | WORDS),
    st.builds(lambda text: {"role": "developer", "content": text, "weight": 0}, WORDS),
)


@given(st.lists(TURN, min_size=1, max_size=5), WORDS, st.sampled_from([None, [], [{"name": "find"}], "find(x)"]))
def test_where_nothing_is_listed_nothing_that_is_trained_differs(turns: list[Any], said: str, tools: Any) -> None:
    """Whatever a row holds: what is trained on the written row is what is trained on the one that was read, or a loss is listed."""
    row = {"messages": [*turns, {"role": "assistant", "content": said}]} | ({"tools": tools} if tools is not None else {})
    try:
        talk = read_talk(row, "messages")
    except RowFault:
        return
    for name in CHATS:
        try:
            there, lost = write_row(talk, name)  # type: ignore[arg-type]
        except CantSayError as fault:
            assert str(fault)
            continue
        again = messages_of(read_talk(there, name))  # type: ignore[arg-type]
        if not set(lost) & {"an empty system message"}:
            assert again == messages_of(talk)
        if not lost:
            assert write_row(read_talk(there, name), "messages")[0].keys() == (row if tools else {"messages": 0}).keys()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "to", "kind"),
    [
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, "messages", "which part of the question was the input"),
        ({"src": ["a", "b"], "tgt": ["c", "d"], "label": [0, 1]}, "messages", "that an earlier answer is not learnt"),
        ({"messages": [{"role": "user", "content": "a", "name": "Bo"}, {"role": "assistant", "content": "b"}]}, "alpaca", "keys of turns (name)"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [{"name": "f"}]}, "erniekit",
         "tools are written into the system message"),
        ({"question": "a", "choices": ["b", "c"], "answer": 1}, "messages", "choices are written into the question, and a letter is the answer"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": 3}, "erniekit",
         "the key label, which means something in this format"),
        ({"previous_messages": ["a", "b"], "message": "c"}, "messages", "previous messages are one question, a line each"),
    ],
)  # fmt: skip
def test_what_is_lost_has_its_kind(row: dict[str, Any], to: str, kind: str) -> None:
    name = detect(row)
    assert name
    assert kind in write_row(read_talk(row, name), NAMES[to])[1]


@pytest.mark.parametrize(
    ("row", "to", "words"),
    [
        ({"text": "a"}, "messages", "a plain text, which asks nothing"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "text", "--template BASE"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "choices", "without choices"),
        ({"src": ["a", "b"], "tgt": ["c", "d"]}, "question-answer", "several turns"),
        ({"src": ["a"], "tgt": ["c"], "system": "s"}, "question-answer", "a system message"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]},
         "alpaca", "by turns"),
    ],
)  # fmt: skip
def test_a_row_that_would_be_another_one_is_left_out(row: dict[str, Any], to: str, words: str) -> None:
    name = detect(row)
    assert name
    with pytest.raises(CantSayError, match=words):
        write_row(read_talk(row, name), NAMES[to])


def test_an_alpaca_input_stays_one_on_the_way_to_alpaca_and_joined_is_what_training_joins() -> None:
    row = {"instruction": "Sum", "input": "1\n2", "output": "3"}
    assert write_row(read_talk(row, "alpaca"), "alpaca") == (row, [])
    assert write_row(read_talk(row, "alpaca"), "messages")[0]["messages"][0]["content"] == "Sum\n1\n2"


def test_choices_go_by_letter_and_back() -> None:
    row = {"question": "a?", "choices": ["b", "c", "d"], "answer": 2, "category": "x"}
    there, lost = write_row(read_talk(row, "choices"), "lettered_choices")
    assert (there, lost) == ({"question": "a?", "answers": {"A": "b", "B": "c", "C": "d"}, "solution": "C", "category": "x"}, [])
    assert write_row(read_talk(there, "lettered_choices"), "choices") == (row, [])


def rows_in(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_of_many_formats_is_written_and_each_loss_listed_with_its_line(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "id": 1},
            {"text": "plain"}, {"instruction": "c", "input": "d", "output": "e"}, {"chosen": "x", "rejected": "y"},
            {"messages": [{"role": "user", "content": "no answer"}]}]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    found = convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "sharegpt")
    assert (found.read, found.written) == (6, 2)
    assert rows_in(tmp_path / "out.jsonl")[0] == {
        "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}],
        "id": 1,
    }
    listed = rows_in(losses_path(tmp_path / "out.jsonl"))
    assert [one["place"].rpartition(":")[2] for one in listed] == ["2", "3", "4", "5", "6"]
    assert [one["left_out"] for one in listed] == [True, False, True, True, True]
    assert sum(found.left_out.values()) + found.written == found.read
    clean = convert(tmp_path / "out.jsonl", tmp_path / "again.json", "messages")
    assert not clean.listed
    assert not losses_path(tmp_path / "again.json").exists()
    assert len(json.loads((tmp_path / "again.json").read_text())) == 2


def test_nothing_is_written_where_no_row_can_be(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "plain"}\n')
    with pytest.raises(InputError, match="no row can be written as alpaca: has a plain text"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "alpaca")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
    with pytest.raises(InputError, match="is the file that is read"):
        convert(tmp_path / "in.jsonl", tmp_path / "in.jsonl", "text")
    with pytest.raises(InputError, match="is no format"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "csv")


def test_a_text_is_what_the_template_writes(tmp_path: Path, base: BaseModel) -> None:
    chat = Chat(base.folder)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "text", lambda talk: chat.render(messages_of(talk), is_prompt=False))
    assert rows_in(tmp_path / "out.jsonl") == [
        {"text": chat.render([Message("user", "a"), Message("assistant", "b")], is_prompt=False)}
    ]


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "a" * 3000, "completion": "b"}) + "\n"
    (tmp_path / "in.jsonl").write_text(row * 1500)
    tracemalloc.start()
    convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "messages")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of 4.5 MB


@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "glaive_toolcall_en_demo.json"])
def test_published_files_are_trained_alike_in_every_chat_format(shared_data: Path, tmp_path: Path, name: str) -> None:
    rows = json.loads((shared_data / "formats" / name).read_text())[:100]
    (tmp_path / name).write_text(json.dumps(rows))

    def trained(file: Path) -> list[tuple[Message, ...]]:
        source = ExampleFiles(reader="examples", path=file, mixed="allow")
        return [row.messages for row in read(source, Path()) if isinstance(row, Example)]

    wanted = trained(tmp_path / name)
    for to in ("messages", "prompt-completion", "sharegpt"):
        found = convert(tmp_path / name, tmp_path / f"{to}.jsonl", to)
        assert found.written == len(wanted)
        assert trained(tmp_path / f"{to}.jsonl") == wanted
