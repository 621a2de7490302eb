"""Renders the same conversations by the base's template and by another, and says where their tokens part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whet.errors import InputError
from whet.export.go_template import CONVERSATIONS
from whet.records import Message
from whet.text.chat import Chat
from whet.text.parting import parting

Render = Callable[[Sequence[Sequence[Message]]], list[str | None]]
"""Prompts of conversations by the other template; None for one that it refuses."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two templates part."""

    words: str
    is_first_turn: bool
    """Whether a single question is another prompt already; else conversations of several turns alone are."""


def first_difference(
    chat: Chat, render: Render, *, begin: int | None = None, system: str = "", has_empty: bool = True
) -> Difference | None:
    """Where the other template's ids first differ from those of the base's; None where they never do.

    begin: the id that runners put before a prompt by themselves; whether it stands there is not compared. system: what stands in
    a conversation that brings no system text. has_empty: whether an empty system text is asked too. What the base's template
    refuses is not asked.
    """
    asked = []
    for given in CONVERSATIONS:
        turns = (Message("system", system), *given) if system and given[0].role != "system" else given
        text = _rendered(chat, turns) if has_empty or turns[0].content else None
        if text is not None:
            asked.append((turns, text))
    asked.sort(key=lambda pair: len([turn for turn in pair[0] if turn.role != "system"]))
    for (turns, wanted), found in zip(asked, render([turns for turns, _ in asked]), strict=True):
        roles = ", ".join(message.role for message in turns)
        is_first = len([turn for turn in turns if turn.role != "system"]) == 1
        if found is None:
            return Difference(f"it refuses a conversation of {roles}", is_first)
        ids = [chat.tokenizer.encode(text) for text in (wanted, found)]
        if begin is not None:
            ids = [some[1:] if some[:1] == [begin] else some for some in ids]
        if where := parting(chat.tokenizer, *ids):
            return Difference(f"in a conversation of {roles}, {where}", is_first)
    return None


def _rendered(chat: Chat, turns: Sequence[Message]) -> str | None:
    try:
        return chat.render(turns, is_prompt=True)
    except InputError:
        return None
