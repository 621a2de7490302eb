"""A row of any example format in one form that keeps all that formats can say, for turning rows into other formats."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from whet.data import chat_rows, choice_rows
from whet.data.shapes import SHAPES, FormatName, RowFault, refuse
from whet.records import Message, Role


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: Role
    content: str
    calls: tuple[Any, ...] = ()
    """Tool calls as they were given."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the turn."""
    is_learnt: bool = True
    """False where the row says that this answer shall not be learnt."""


@dataclass(frozen=True, slots=True)
class Talk:
    """A row: a conversation, or a question with choices, or a plain text; and what stands beside it."""

    turns: tuple[Turn, ...] = ()
    """The system message is the first of them."""
    given: str | None = None
    """The part of the last question that an alpaca row calls input."""
    tools: Any = None
    text: str | None = None
    question: str | None = None
    choices: tuple[str, ...] = ()
    answer: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)
    """Keys that say nothing about the conversation, such as id and category."""
    changed: tuple[str, ...] = ()
    """What was already written otherwise when the row was read, by kind."""


def read_talk(row: Mapping[str, Any], name: FormatName) -> Talk:
    """The row in this form; RowFault where it is no good example of its format. Keys that no format knows are kept."""
    shape = SHAPES[name]
    known = {*shape.required, *shape.optional}
    refuse(row, name, row.keys())
    _CHECKS[name](row)
    more = {key: value for key, value in row.items() if key not in known}
    return replace(_READERS[name](row), more=more)


def _check(read: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The reader that training uses, which says what is wrong with a row. Keys of turns are no fault here: they are kept."""

    def check(row: Mapping[str, Any]) -> Any:
        lists = [value for value in row.values() if isinstance(value, list)]
        return read(row, {key for turns in lists for turn in turns if isinstance(turn, dict) for key in turn})

    return check


def _text(row: Mapping[str, Any]) -> str:
    text = chat_rows.text_of(row, "text")
    if not text.strip():
        raise RowFault("an empty text", "Fill it, or take the row out")
    return text


_CHECKS: Mapping[FormatName, Callable[[Mapping[str, Any]], Any]] = {
    "messages": _check(chat_rows.from_messages), "prompt_completion": _check(chat_rows.from_prompt),
    "alpaca": _check(chat_rows.from_alpaca), "sharegpt": _check(chat_rows.from_sharegpt),
    "erniekit": _check(chat_rows.from_erniekit), "question_answer": _check(chat_rows.from_question),
    "chat_log": lambda row: chat_rows.from_chat_log(row, (), None), "choices": choice_rows.from_choices,
    "lettered_choices": choice_rows.from_letters, "text": _text,
}  # fmt: skip


def _turns(rows: list[Any], changed: list[str]) -> list[Turn]:
    """Turns of role and content, or of from and value."""
    turns = []
    for row in rows:
        names = ("from", "value") if "from" in row else ("role", "content")
        role, content = chat_rows.ROLES[row[names[0]]], row.get(names[1])
        if isinstance(content, list):
            changed.append("parts of a turn's text are joined")
            content = "".join(part["text"] for part in content)
        calls = tuple(row.get("tool_calls") or ())
        if row[names[0]] == "function_call":
            call = _call_in(content)
            calls, content = ((call,), "") if call is not None else ((), content)
            if call is None:
                changed.append("a function_call is the text of an answer")
        if row[names[0]] == "developer":
            changed.append("the role developer is called system")
        more = {key: value for key, value in row.items() if key not in (*names, "tool_calls")}
        turns.append(Turn(role, content or "", calls, more))
    return turns


def _call_in(text: Any) -> Any:
    """The tool call that a text is, if it is written as whet would write it; None for any other text."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"} or json.dumps(call, ensure_ascii=False) != text:
        return None
    return call if isinstance(call["name"], str) else None


def _from_messages(row: Mapping[str, Any]) -> Talk:
    changed: list[str] = []
    return Talk(tuple(_turns(row["messages"], changed)), tools=row.get("tools"), changed=tuple(changed))


def _from_prompt(row: Mapping[str, Any]) -> Talk:
    changed: list[str] = []
    asked, said = row["prompt"], row["completion"]
    turns = [Turn("user", asked)] if isinstance(asked, str) else _turns(asked, changed)
    turns += [Turn("assistant", said)] if isinstance(said, str) else _turns(said, changed)
    return Talk(tuple(turns), changed=tuple(changed))


def _from_alpaca(row: Mapping[str, Any]) -> Talk:
    system, given = row.get("system") or "", row.get("input") or ""
    turns = [Turn("system", system)] if system else []
    for asked, said in row.get("history") or []:
        turns += [Turn("user", asked), Turn("assistant", said)]
    # As from_alpaca joins them, so that the question is the same.
    question = "\n".join(part for part in (row.get("instruction") or "", given) if part)
    turns += [Turn("user", question), Turn("assistant", row["output"])]
    return Talk(tuple(turns), given=given if given and row.get("instruction") else None)


def _from_sharegpt(row: Mapping[str, Any]) -> Talk:
    changed: list[str] = []
    system = [Turn("system", row["system"])] if row.get("system") else []
    turns = (*system, *_turns(row["conversations"], changed))
    return Talk(turns, tools=row.get("tools"), changed=tuple(changed))


def _from_erniekit(row: Mapping[str, Any]) -> Talk:
    asked, said = ([row[key]] if isinstance(row[key], str) else row[key] for key in ("src", "tgt"))
    labels = row.get("label") or [1] * len(said)
    turns = [Turn("system", row["system"])] if row.get("system") else []
    for q, a, label in zip(asked, said, labels, strict=True):
        turns += [Turn("user", q), Turn("assistant", a, is_learnt=bool(label))]
    return Talk(tuple(turns))


def _from_choices(row: Mapping[str, Any]) -> Talk:
    found = choice_rows.from_choices(row) if "choices" in row else choice_rows.from_letters(row)
    return Talk(question=found.question, choices=found.choices, answer=found.answer)


_READERS: Mapping[FormatName, Callable[[Mapping[str, Any]], Talk]] = {
    "messages": _from_messages, "prompt_completion": _from_prompt, "alpaca": _from_alpaca, "sharegpt": _from_sharegpt,
    "erniekit": _from_erniekit, "choices": _from_choices, "lettered_choices": _from_choices,
    "question_answer": lambda row: Talk((Turn("user", row["question"]), Turn("assistant", row["answer"]))),
    "chat_log": lambda row: Talk((Turn("user", "\n".join(row["previous_messages"])), Turn("assistant", row["message"])),
                                 changed=("previous messages are one question, a line each",)),
    "text": lambda row: Talk(text=row["text"]),
}  # fmt: skip


def messages_of(talk: Talk) -> list[Message]:
    """The conversation as training reads it: tool calls as JSON lines, tools at the end of the system message."""
    row = {
        "messages": [{"role": turn.role, "content": turn.content, "tool_calls": list(turn.calls) or None} for turn in talk.turns]
    }
    return list(chat_rows.from_messages(row | ({"tools": talk.tools} if talk.tools else {}), ()).messages)
