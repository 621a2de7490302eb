"""Chat-like rows of all formats to messages, of which the last, the assistant's, is the gold."""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.data.rows import describe
from whet.data.shapes import RowFault
from whet.records import Message, Role

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool",
}  # fmt: skip
_NUMBER = re.compile(r"\s*[-+]?\d+(?:[.,]\d+)*\s*")


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, and the text by which its example is known."""

    messages: tuple[Message, ...]
    text: str = ""
    """The last user turn, or the input that an instruction speaks of."""
    group: str = ""
    """What an equal conversation shares: all that was said before the gold, system messages apart."""


def complete(messages: Sequence[Message], text: str = "") -> Chat:
    """The chat, if it can be learnt from: it has a user turn and ends with something that the assistant says."""
    if not messages:
        raise RowFault("a conversation without turns", "Fill it, or take the row out")
    last = messages[-1]
    if last.role != "assistant":
        raise RowFault(f"a conversation that ends with the {last.role}", "End it with the assistant's turn, the gold")
    if not last.content.strip():
        raise RowFault("a conversation whose last answer is empty", "Fill it, or take the row out")
    asked = [message.content for message in messages if message.role == "user"]
    if not asked:
        raise RowFault("a conversation without a user turn", "Say what was asked")
    before = "\n".join(message.content for message in messages[:-1] if message.role != "system")
    return Chat(tuple(messages), text or asked[-1], text or before)


def from_messages(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    return complete(_with_tools(_turns(row["messages"], "messages", spare), row.get("tools")))


def from_prompt(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    prompt, completion = row["prompt"], row["completion"]
    asked = [Message("user", prompt)] if isinstance(prompt, str) else _turns(prompt, "prompt", spare)
    said = [Message("assistant", completion)] if isinstance(completion, str) else _turns(completion, "completion", spare)
    return complete([*asked, *said])


def from_alpaca(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    """Instruction and input stand in one user turn, a line break between them."""
    instruction, given = text_of(row, "instruction"), text_of(row, "input")
    history = row.get("history") or []
    if not isinstance(history, list) or not all(_is_pair(pair) for pair in history):
        raise RowFault("a history that is no list of [question, answer]", "Write it so")
    turns = [message for q, a in history for message in (Message("user", q), Message("assistant", a))]
    asked = Message("user", "\n".join(part for part in (instruction, given) if part))
    return complete([*_system(row), *turns, asked, Message("assistant", text_of(row, "output"))], given or instruction)


def from_sharegpt(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    turns = _turns(row["conversations"], "conversations", spare)
    return complete(_with_tools([*_system(row), *turns], row.get("tools")))


def from_erniekit(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    """`src` and `tgt` by turns; only the last answer is the gold, so a label 0 there leaves nothing to learn."""
    asked, said = ([row[key]] if isinstance(row[key], str) else row[key] for key in ("src", "tgt"))
    for key, part in (("src", asked), ("tgt", said)):
        if not isinstance(part, list) or not part or not all(isinstance(turn, str) for turn in part):
            raise RowFault(f"{key} that is no list of texts", "Write it as a list with one text a turn")
    if len(asked) != len(said):
        raise RowFault(f"{len(asked)} src turns and {len(said)} tgt turns", "Give each src turn its tgt turn")
    labels = row.get("label")
    labels = [1] * len(said) if labels in (None, []) else labels
    if not isinstance(labels, list) or len(labels) != len(said) or any(label not in (0, 1) for label in labels):
        raise RowFault("label that is no list of 0 or 1, one for each tgt turn", "Correct it, or take it out")
    if not labels[-1]:
        raise RowFault("label 0 on the last turn: nothing of this row shall be learnt", "End it with a turn of label 1")
    turns = [message for q, a in zip(asked, said, strict=True) for message in (Message("user", q), Message("assistant", a))]
    return complete([*_system(row), *turns])


def from_question(row: Mapping[str, Any], spare: Collection[str]) -> Chat:
    return complete([Message("user", text_of(row, "question")), Message("assistant", text_of(row, "answer"))])


def from_chat_log(row: Mapping[str, Any], spare: Collection[str], max_number_share: float | None) -> Chat:
    """Who said the previous messages is not known: they are one user turn, a line each."""
    previous = row["previous_messages"]
    if not isinstance(previous, list) or not all(isinstance(message, str) for message in previous):
        raise RowFault("previous_messages that is no list of texts", "Write it as a list of texts")
    if not any(message.strip() for message in previous):
        raise RowFault("a message without any before it", "Nothing asks for this answer; take the row out")
    share = sum(1 for message in previous if _NUMBER.fullmatch(message)) / len(previous)
    if max_number_share is not None and share >= max_number_share:
        raise RowFault(f"previous messages that are bare numbers to {share:.0%}", "Raise max_number_share to keep it")
    return complete([Message("user", "\n".join(previous)), Message("assistant", text_of(row, "message"))])


def text_of(row: Mapping[str, Any], key: str) -> str:
    """The text under a key; none there is the empty text."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault(f"{key} that is {describe(value)}, not text", f"Write {key} as text")
    return value


def _system(row: Mapping[str, Any]) -> list[Message]:
    text = text_of(row, "system")
    return [Message("system", text)] if text else []


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _turns(value: Any, key: str, spare: Collection[str]) -> list[Message]:
    if not isinstance(value, list):
        raise RowFault(f"{key} that is {describe(value)}, not a list of turns", "Write a list of turns")
    return [_turn(turn, number, spare) for number, turn in enumerate(value, 1)]


def _turn(turn: Any, number: int, spare: Collection[str]) -> Message:
    """One turn, whether it says role and content or from and value."""
    if not isinstance(turn, dict):
        raise RowFault(f"turn {number} that is {describe(turn)}, not an object", "Give it a role and a content")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    said = turn.get(role_key)
    role = ROLES.get(said) if isinstance(said, str) else None
    if role is None:
        near = difflib.get_close_matches(str(said), ROLES, n=1)
        raise RowFault(f"turn {number} of the role {said!r}", f"Did you mean {near[0]}?" if near else
                       f"Roles are {', '.join(ROLES)}")  # fmt: skip
    known = {role_key, content_key, "tool_calls", *(("name", "tool_call_id") if role == "tool" else ()), *spare}
    ignored = sorted(key for key, inner in turn.items() if key not in known and inner not in (None, "", [], {}))
    if ignored:
        raise RowFault(f"turn {number} with {', '.join(ignored)}, which would be ignored",
                       "Take it out, or name it in ignore_keys")  # fmt: skip
    parts = [
        _content(turn.get(content_key), number, bool(turn.get("tool_calls"))),
        *_calls(turn.get("tool_calls"), number),
    ]
    return Message(role, "\n".join(part for part in parts if part))


def _content(value: Any, number: int, may_lack: bool) -> str:
    """Text, or the text parts of a list joined."""
    if isinstance(value, str):
        return value
    if value is None and may_lack:
        return ""
    if not isinstance(value, list):
        raise RowFault(f"turn {number} whose content is {describe(value)}", "Write it as text")
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            needs = f"needs {str(kind).removesuffix('_url')}s" if kind in _SEEN_KINDS else f"has a part of type {kind!r}"
            raise RowFault(f"turn {number} that {needs}", "Only text is read here", "images" if kind in _SEEN_KINDS else "")
        texts.append(part["text"])
    return "".join(texts)


_SEEN_KINDS = ("image", "image_url", "video", "video_url", "audio")


def _calls(calls: Any, number: int) -> list[str]:
    """Tool calls as JSON, a line each: {"name", "arguments"}."""
    lines = []
    for call in calls or []:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise RowFault(f"turn {number} with a tool call without a name", "Write {name, arguments}")
        arguments = inner.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                raise RowFault(f"turn {number} with tool arguments that are no JSON", "Write them as JSON") from None
        lines.append(json.dumps({"name": inner["name"], "arguments": arguments}, ensure_ascii=False))
    return lines


def _with_tools(messages: list[Message], tools: Any) -> list[Message]:
    """The tools that a row offers stand at the end of its system message, as JSON."""
    text = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False) if tools else ""
    if text.strip() in ("", "[]", "{}"):
        return messages
    if messages and messages[0].role == "system":
        return [Message("system", f"{messages[0].content}\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]
