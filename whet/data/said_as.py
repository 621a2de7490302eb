"""Writes a row in an example format: what the format can say, and by kind what of the row it can't."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from whet.data.shapes import SHAPES, FormatName
from whet.data.talk import Talk, Turn

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAMES: Mapping[str, FormatName] = {
    "messages": "messages", "prompt-completion": "prompt_completion", "alpaca": "alpaca", "sharegpt": "sharegpt",
    "erniekit": "erniekit", "question-answer": "question_answer", "choices": "choices", "lettered-choices": "lettered_choices",
    "text": "text",
}  # fmt: skip
"""Formats that rows are written in, by the name on the command line."""

Lost = list[str]


class CantSayError(Exception):
    """A row that a format has no way to say; the message says what of it."""


def write_row(talk: Talk, name: FormatName, render: Callable[[Talk], str] | None = None) -> tuple[dict[str, Any], Lost]:
    """The row, and the kinds of what it lost. CantSayError for a row that would be another one without what is lost.

    render: the whole conversation as one text, for the format `text`.
    """
    lost: Lost = list(talk.changed)
    if name == "text":
        row = {"text": talk.text if talk.text is not None else _rendered(talk, render, lost)}
    elif talk.text is not None:
        raise CantSayError("a plain text, which asks nothing")
    elif talk.question is not None:
        row = _write_choices(talk, name, lost)
    elif name in ("choices", "lettered_choices"):
        raise CantSayError("an answer without choices")
    else:
        row = _WRITERS[name](talk, lost)
    return row | _beside(talk, name, row, lost), list(dict.fromkeys(lost))


def _beside(talk: Talk, name: FormatName, row: Mapping[str, Any], lost: Lost) -> dict[str, Any]:
    """Keys that stand beside the conversation, but for those that mean something in this format."""
    taken = {*row, *SHAPES[name].required, *SHAPES[name].optional, *(("prompt", "completion") if name == "text" else ())}
    clashing = sorted(key for key in talk.more if key in taken)
    lost += [f"the key {key}, which means something in this format" for key in clashing]
    return {key: value for key, value in talk.more.items() if key not in taken}


def _rendered(talk: Talk, render: Callable[[Talk], str] | None, lost: Lost) -> str:
    if render is None:
        raise CantSayError("a conversation; a text needs a template: --template BASE")
    if talk.question is not None:
        raise CantSayError("a question with choices")
    lost.append("who says what stands in marks of the template, and the whole text is learnt")
    return render(talk)


def _write_choices(talk: Talk, name: FormatName, lost: Lost) -> dict[str, Any]:
    if name == "choices":
        return {"question": talk.question, "choices": list(talk.choices), "answer": talk.answer}
    if len(talk.choices) > len(LETTERS):
        raise CantSayError(f"{len(talk.choices)} choices; {len(LETTERS)} have a letter")
    if name == "lettered_choices":
        answers = dict(zip(LETTERS, talk.choices, strict=False))
        return {"question": talk.question, "answers": answers, "solution": LETTERS[talk.answer]}
    lost.append("choices are written into the question, and a letter is the answer")
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, talk.choices, strict=False)]
    turns = (Turn("user", "\n".join([talk.question or "", *lines])), Turn("assistant", LETTERS[talk.answer]))
    return _WRITERS[name](Talk(turns), lost)


def _message(turn: Turn, lost: Lost, *, may_have_more: bool = True) -> dict[str, Any]:
    calls = {"tool_calls": list(turn.calls)} if turn.calls else {}
    if not turn.is_learnt:
        lost.append("that an earlier answer is not learnt")
    if turn.more and not may_have_more:
        lost.append(f"keys of a turn ({', '.join(sorted(turn.more))})")
    return {"role": turn.role, "content": turn.content} | calls | (dict(turn.more) if may_have_more else {})


def _messages(talk: Talk, lost: Lost) -> dict[str, Any]:
    if talk.given is not None:
        lost.append("which part of the question was the input")
    return {"messages": [_message(turn, lost) for turn in talk.turns]} | ({"tools": talk.tools} if talk.tools else {})


def _prompt(talk: Talk, lost: Lost) -> dict[str, Any]:
    if talk.given is not None:
        lost.append("which part of the question was the input")
    turns = _with_tools_said(talk, lost)
    *asked, said = turns
    if len(asked) == 1 and asked[0].role == "user" and not any(turn.calls or turn.more for turn in turns):
        return {"prompt": asked[0].content, "completion": said.content}
    return {"prompt": [_message(turn, lost) for turn in asked], "completion": [_message(said, lost)]}


def _with_tools_said(talk: Talk, lost: Lost) -> list[Turn]:
    """The turns, the tools that are offered written into the system message, as whet reads them anyway."""
    turns = list(talk.turns)
    if not talk.tools or str(talk.tools).strip() in ("[]", "{}"):
        return turns
    lost.append("tools are written into the system message")
    text = talk.tools if isinstance(talk.tools, str) else json.dumps(talk.tools, ensure_ascii=False)
    if turns[0].role == "system":
        return [Turn("system", f"{turns[0].content}\n{text}", more=turns[0].more), *turns[1:]]
    return [Turn("system", text), *turns]


def _sharegpt(talk: Talk, lost: Lost) -> dict[str, Any]:
    if talk.given is not None:
        lost.append("which part of the question was the input")
    turns = list(talk.turns)
    system = turns.pop(0) if turns[0].role == "system" and not turns[0].more else None
    if system is not None and not system.content:
        lost.append("an empty system message")
    said = [row for turn in turns for row in _from_value(turn, lost)]
    return {"conversations": said} | ({"system": system.content} if system and system.content else {}) | (
        {"tools": talk.tools} if talk.tools else {}
    )  # fmt: skip


def _from_value(turn: Turn, lost: Lost) -> list[dict[str, Any]]:
    names = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
    if not turn.is_learnt:
        lost.append("that an earlier answer is not learnt")
    if not turn.calls:
        return [{"from": names[turn.role], "value": turn.content, **turn.more}]
    if turn.content or len(turn.calls) > 1 or turn.more:
        raise CantSayError("an answer with several tool calls, or with text beside one")
    call = turn.calls[0].get("function", turn.calls[0])
    arguments = call.get("arguments", {})
    if set(turn.calls[0]) - {"function", "name", "arguments"}:
        lost.append("ids and types of tool calls")
    elif "function" in turn.calls[0]:
        lost.append("the object function around a tool call")
    if isinstance(arguments, str):
        lost.append("that the arguments of a tool call were text")
        arguments = json.loads(arguments)
    text = json.dumps({"name": call["name"], "arguments": arguments}, ensure_ascii=False)
    return [{"from": "function_call", "value": text}]


def _pairs(talk: Talk, lost: Lost) -> tuple[str, list[tuple[str, str, bool]]]:
    """The system message, and questions with their answers by turns; CantSayError where they don't take turns."""
    turns = _with_tools_said(talk, lost)
    has_system = turns[0].role == "system"
    system = turns.pop(0).content if has_system else ""
    if has_system and not system:
        lost.append("an empty system message")
    asked, said = turns[0::2], turns[1::2]
    if len(asked) != len(said) or any(turn.role != "user" for turn in asked) or any(turn.role != "assistant" for turn in said):
        raise CantSayError("turns that are not question and answer by turns, such as those of tools")
    if any(turn.calls for turn in turns):
        raise CantSayError("tool calls")
    if more := sorted({key for turn in talk.turns for key in turn.more}):
        lost.append(f"keys of turns ({', '.join(more)})")
    return system, [(q.content, a.content, a.is_learnt) for q, a in zip(asked, said, strict=True)]


def _alpaca(talk: Talk, lost: Lost) -> dict[str, Any]:
    system, pairs = _pairs(talk, lost)
    if not all(is_learnt for _, _, is_learnt in pairs):
        lost.append("that an earlier answer is not learnt")
    *history, (question, answer, _) = pairs
    row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    if talk.given is not None and question.endswith(f"\n{talk.given}"):
        row |= {"instruction": question.removesuffix(f"\n{talk.given}"), "input": talk.given}
    if system:
        row["system"] = system
    return row | ({"history": [[q, a] for q, a, _ in history]} if history else {})


def _erniekit(talk: Talk, lost: Lost) -> dict[str, Any]:
    if talk.given is not None:
        lost.append("which part of the question was the input")
    system, pairs = _pairs(talk, lost)
    row: dict[str, Any] = {"system": system} if system else {}
    row |= {"src": [q for q, _, _ in pairs], "tgt": [a for _, a, _ in pairs]}
    labels = [int(is_learnt) for _, _, is_learnt in pairs]
    return row | ({"label": labels} if not all(labels) else {})


def _question(talk: Talk, lost: Lost) -> dict[str, Any]:
    if talk.given is not None:
        lost.append("which part of the question was the input")
    system, pairs = _pairs(talk, lost)
    if len(pairs) > 1:
        raise CantSayError("a conversation of several turns")
    if system:
        raise CantSayError("a system message")
    return {"question": pairs[0][0], "answer": pairs[0][1]}


_WRITERS: Mapping[str, Callable[[Talk, Lost], dict[str, Any]]] = {
    "messages": _messages, "prompt_completion": _prompt, "alpaca": _alpaca, "sharegpt": _sharegpt, "erniekit": _erniekit,
    "question_answer": _question,
}  # fmt: skip
