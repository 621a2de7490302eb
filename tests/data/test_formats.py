"""Example rows of every format: what they become, which are refused and with what words."""

import json

import pytest
from pydantic import TypeAdapter

from whet.data.rows import Reject
from whet.data.sources import Source, read
from whet.errors import InputError
from whet.records import Message

SOURCE = TypeAdapter(Source)
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def read_file(path, **options):
    source = SOURCE.validate_json(json.dumps({"reader": "examples", "path": path.name, **options}), strict=True)
    return list(read(source, path.parent))


def read_rows(tmp_path, *rows, **options):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read_file(path, **options)


def said(example):
    return [(message.role[0], message.content) for message in example.messages]


CALL = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"x": "少"}'}}
READ = {
    "messages": ({"messages": CHAT}, "q", "uq aa"),
    "parts": ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]},
                            CHAT[1]]}, "q!", "uq! aa"),
    "system": ({"messages": [{"role": "system", "content": "s"}, *CHAT]}, "q", "ss uq aa"),
    "more turns": ({"messages": [*CHAT, {"role": "user", "content": "r"}, CHAT[1]]}, "r", "uq aa ur aa"),
    "tool calls": ({"messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [CALL]},
                                 {"role": "tool", "tool_call_id": "1", "name": "f", "content": "42"}, CHAT[1]]},
                   "q", 'uq a{"name":"f","arguments":{"x":"少"}} t42 aa'),
    "prompt": ({"prompt": "q", "completion": "a"}, "q", "uq aa"),
    "prompt messages": ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "q", "uq aa"),
    "alpaca": ({"instruction": "do", "input": "it", "output": "a"}, "it", "udo\nit aa"),
    "alpaca bare": ({"instruction": "do", "input": "", "output": "a"}, "do", "udo aa"),
    "alpaca whole": ({"instruction": "do", "output": "a", "system": "s", "history": [["1", "2"]]}, "do",
                     "ss u1 a2 udo aa"),
    "sharegpt": ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "c"},
                                    {"from": "observation", "value": "o"}, {"from": "gpt", "value": "a"}],
                  "system": "s"},
                 "q", "ss uq ac to aa"),
    "erniekit": ({"system": "s", "src": ["q", "r"], "tgt": ["x", "a"], "label": [0, 1]}, "r", "ss uq ax ur aa"),
    "erniekit text": ({"src": "q", "tgt": "a"}, "q", "uq aa"),
    "question": ({"question": "q", "answer": "a"}, "q", "uq aa"),
    "chat log": ({"previous_messages": ["q", "1"], "message": "a"}, "q\n1", "uq\n1 aa"),
    "text": ({"text": "t"}, "t", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_chats_of_every_format(tmp_path, name):
    row, text, turns = READ[name]
    [example] = read_rows(tmp_path, row)
    wanted = [(turn[0], turn[1:]) for turn in turns.split(" ")] if turns else []
    assert [(role, content.replace(": ", ":").replace(", ", ",")) for role, content in said(example)] == wanted
    assert example.text == text
    assert example.records is None
    assert example.answer is None


def test_tools_stand_in_the_system_message(tmp_path):
    tools = [{"name": "f"}]
    one, two, three, four = read_rows(
        tmp_path,
        {"messages": CHAT, "tools": tools},
        {"messages": [{"role": "system", "content": "s"}, *CHAT], "tools": json.dumps(tools)},
        {"messages": CHAT, "tools": "[]"},
        {"messages": CHAT, "tools": []},
    )
    assert one.messages[0] == Message("system", '[{"name": "f"}]')
    assert two.messages[0] == Message("system", 's\n[{"name": "f"}]')
    assert said(three) == said(four) == [("u", "q"), ("a", "a")]


FAULTS = [
    ({"text": "q", "completion": "a"}, "never trained", "prompt_completion: prompt", "Rename text to prompt"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "a preference row", "preference", "Take `chosen`"),
    ({"conversations": [], "chosen": {}, "rejected": {}}, "a preference row", "preference", ""),
    ({"messages": CHAT, "images": ["1.jpg"]}, "needs images", "images", "Only text"),
    ({"image": "1.jpg", "conversations": []}, "needs images", "images", "Only text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, CHAT[1]]}, "needs images",
     "images", "Only text"),
    ({"instuction": "do", "output": "a"}, "no known format", "alpaca: instruction, output", "Rename instuction"),
    ({"prompt": "q"}, "no known format", "prompt_completion: prompt, completion", "Add completion"),
    ({"question": "q", "choices": ["a", "b"]}, "no known format", "choices: question, choices, answer", "Add answer"),
    ({}, "a row without keys", "", ""),
    ({"messages": CHAT, "weight": 2}, "the key weight that would be ignored", "messages: messages", "ignore_keys"),
    ({"messages": CHAT, "prompt": "q", "completion": "a"}, "the key messages that would be ignored", "", ""),
    ({"messages": [CHAT[0], {**CHAT[1], "train": False}]}, "turn 2 with train", "messages", "ignore_keys"),
    ({"messages": CHAT[:1]}, "ends with the user", "messages", "assistant's turn"),
    ({"messages": []}, "without turns", "", ""),
    ({"messages": CHAT[1:]}, "without a user turn", "", ""),
    ({"messages": [CHAT[0], {"role": "assistant", "content": " "}]}, "last answer is empty", "", ""),
    ({"messages": [{"role": "asistant", "content": "a"}]}, "role 'asistant'", "", "Did you mean assistant?"),
    ({"messages": "q"}, "messages that is text", "", ""),
    ({"messages": ["q"]}, "turn 1 that is text", "", ""),
    ({"messages": [CHAT[0], {"role": "assistant", "content": 5}]}, "turn 2 whose content is a number", "", ""),
    ({"instruction": "do", "output": 5}, "output that is a number", "alpaca", "as text"),
    ({"instruction": "do", "output": "a", "history": ["x"]}, "a history", "", ""),
    ({"src": ["q"], "tgt": ["a"], "label": [0]}, "label 0 on the last turn", "erniekit", "label 1"),
    ({"src": ["q"], "tgt": ["a"], "label": [1, 1]}, "label that is no list", "", ""),
    ({"src": ["q", "r"], "tgt": ["a"]}, "2 src turns and 1 tgt", "", ""),
    ({"question": "q", "answer": 5}, "answer that is a number", "", ""),
    ({"previous_messages": [], "message": "a"}, "without any before", "", ""),
    ({"text": " "}, "an empty text", "", ""),
    ({"question": "q", "choices": ["a", "b"], "answer": 2}, "the answer 2 to 2 choices", "choices", "number from 0"),
    ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "the answer 'C' to 2 choices", "", ""),
    ({"question": "q", "choices": ["a", "b"], "answer": True}, "the answer True", "", ""),
    ({"question": "q", "choices": ["B", "A"], "answer": "A"}, "the text of a choice", "", ""),
    ({"question": "q", "choices": ["one", "two"], "answer": "two"}, "the text of a choice", "", "number from 0"),
    ({"question": "q", "choices": ["a"], "answer": 0}, "no list of two or more", "", ""),
    ({"question": " ", "choices": ["a", "b"], "answer": 0}, "an empty question", "", ""),
    ({"question": "q", "answers": {"A": "a", "C": "b"}, "solution": "A"}, "under the letters", "lettered_choices", ""),
]  # fmt: skip


@pytest.mark.parametrize(("row", "seen", "nearest", "remedy"), FAULTS)
def test_faulty_rows_are_rejected_in_words(tmp_path, row, seen, nearest, remedy):
    [found] = read_rows(tmp_path, row)
    assert isinstance(found, Reject)
    assert found.place == "a.jsonl:1"
    assert seen in found.seen
    assert found.nearest.startswith(nearest)
    assert remedy in found.remedy
    assert json.loads(found.raw) == row


def test_harmless_and_named_and_empty_keys_are_no_fault(tmp_path):
    row = {"text": "t", "id": 1, "meta": {"a": 1}, "chapter": None, "images": []}
    assert read_rows(tmp_path, row)[0].text == "t"
    assert isinstance(read_rows(tmp_path, row | {"chapter": 3})[0], Reject)
    assert read_rows(tmp_path, row | {"chapter": 3}, ignore_keys=["id", "meta", "chapter"])[0].text == "t"
    assert read_rows(tmp_path, row | {"chapter": 3}, category_key="chapter")[0].category == "3"


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "choices": ["a", "b"], "answer": 1},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        {"text": "t"},
    ],
)
def test_rows_that_name_their_document_are_grouped_by_it(tmp_path, row):
    rows = [row | {"chapter": chapter} for chapter in ("one", "one", 2)]
    found = read_rows(tmp_path, *rows, group_key="chapter")
    assert [example.group == found[0].group for example in found] == [True, True, False]
    assert len({example.id for example in found}) == 1  # the document is no part of what makes two rows one
    for nameless in (row, row | {"chapter": None}, row | {"chapter": ""}):
        [refused] = read_rows(tmp_path, nameless, group_key="chapter")
        assert (refused.seen, refused.place) == ("no chapter to group by", "a.jsonl:1")


@pytest.mark.parametrize(
    ("row", "choices", "answer"),
    [
        ({"question": "q", "choices": ["a", "b", "c"], "answer": 2, "category": "x"}, ("a", "b", "c"), 2),
        ({"question": "q", "choices": ["a", "b"], "answer": "B", "category": "x"}, ("a", "b"), 1),
        ({"question": "q", "choices": ["a", "b"], "answer": " b ", "category": "x"}, ("a", "b"), 1),
        ({"question": "q", "choices": ["1", "0"], "answer": "1", "category": "x"}, ("1", "0"), 1),
        ({"question": "q", "answers": {"A": "a", "B": "b"}, "solution": "B", "category": "x"}, ("a", "b"), 1),
    ],
)
def test_choices(tmp_path, row, choices, answer):
    [example] = read_rows(tmp_path, row)
    assert (example.text, example.choices, example.answer, example.category) == ("q", choices, answer, "x")
    assert example.messages == ()


def test_csv_choices_with_and_without_header(tmp_path):
    path = tmp_path / "high_school_test.csv"
    body = '"q,\n1",a,b,c,d,{}\nq2,a,b,,,{}\n'
    path.write_text("question,choice0,choice1,choice2,choice3,answer\n" + body.format(3, 1))
    rows = read_file(path)
    assert [(r.text, r.choices, r.answer, r.source.split(":")[1]) for r in rows] == [
        ("q,\n1", ("a", "b", "c", "d"), 3, "2"), ("q2", ("a", "b"), 1, "4"),
    ]  # fmt: skip
    assert {row.category for row in rows} == {"high_school"}
    path.write_text(body.format("D", "B"))
    assert [(r.text, r.choices, r.answer, r.category) for r in read_file(path)] == [
        (r.text, r.choices, r.answer, r.category) for r in rows
    ]
    path.write_text("question,A,B,answer,category\nq,a,b,B,law\n")
    assert [(r.choices, r.answer, r.category) for r in read_file(path)] == [(("a", "b"), 1, "law")]


def test_csv_of_other_formats_and_faults(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("instruction,input,output\ndo,it,a\ndo,it\n")
    good, bad = read_file(path)
    assert (said(good), good.category) == ([("u", "do\nit"), ("a", "a")], "")
    assert (bad.place, "2 cells under 3 columns" in bad.seen) == ("a.csv:3", True)
    path.write_text("foo,bar\n1,2\n")
    with pytest.raises(InputError, match=r"a\.csv:1: has the columns foo, bar, of no known format"):
        read_file(path)
    path.write_text("question,answer,answer\n1,2,3\n")
    with pytest.raises(InputError, match="column answer twice"):
        read_file(path)


def test_rows_of_another_shape_than_the_first_are_rejected(tmp_path):
    rows = [{"bad": 1}, {"messages": CHAT}, {"instruction": "do", "output": "a"}, {"messages": CHAT}]
    found = read_rows(tmp_path, *rows)
    assert [isinstance(row, Reject) for row in found] == [True, False, True, False]
    assert found[2].seen == "an alpaca row amid messages rows"
    assert "mixed: allow" in found[2].remedy
    assert [isinstance(row, Reject) for row in read_rows(tmp_path, *rows, mixed="allow")] == [True, False, False, False]


def test_formats_that_are_not_named_are_rejected(tmp_path):
    found = read_rows(tmp_path, {"text": "t"}, {"messages": CHAT}, formats=["messages", "alpaca"])
    assert [isinstance(row, Reject) for row in found] == [True, False]
    assert found[0].seen == "a text row; formats allows messages, alpaca"


def test_bare_numbers_are_rejected_where_asked(tmp_path):
    rows = [{"previous_messages": ["1", "2", "-3,5", "4", "x"], "message": "a"},
            {"previous_messages": ["1", "2", "3 x", "4", "x"], "message": "a"}]  # fmt: skip
    assert not any(isinstance(row, Reject) for row in read_rows(tmp_path, *rows))
    found = read_rows(tmp_path, *rows, max_number_share=0.8)
    assert [isinstance(row, Reject) for row in found] == [True, False]
    assert "80%" in found[0].seen


def test_groups_are_what_was_asked(tmp_path):
    rows = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "b"}, {"prompt": "r", "completion": "a"}]
    one, two, three = read_rows(tmp_path, *rows)
    assert one.group == two.group != three.group
    assert len({one.id, two.id, three.id}) == 3


@pytest.mark.parametrize(
    "row",
    [
        {"id": "M1", "question": "What melts?", "choices": {"text": ["ice", "iron", "air"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"id": "M1", "answerKey": "B", "question": {"stem": "What melts?", "choices": [
            {"text": "ice", "label": "A"}, {"text": "iron", "label": "B"}, {"text": "air", "label": "C"}]}},
    ],
)  # fmt: skip
def test_arc_is_read_as_ai2_and_as_the_hub_ship_it(row, tmp_path):
    example, reject = read_rows(tmp_path, row, row | {"answerKey": "Z"})
    assert (example.text, example.choices, example.answer) == ("What melts?", ("ice", "iron", "air"), 1)
    assert "labels no choice" in reject.seen
