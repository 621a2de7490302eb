"""Writes a Go template, as Ollama renders it, that gives what the model's own Jinja template gives; and checks it with Go."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from whet.errors import InputError
from whet.export.go_render import render_go
from whet.records import Message
from whet.text.chat import Chat
from whet.text.parting import parting

# Private-use characters, which no template holds.
_S, _U, _A, _V, _B, _W = (f"\ue0a7{letter}\ue0a8" for letter in "SUAVBW")
_WAY_OUT = "Write the template by hand and give it: --template FILE"
CONVERSATIONS: tuple[tuple[Message, ...], ...] = tuple(
    tuple(Message(role, text) for role, text in conversation)  # type: ignore[arg-type]
    for conversation in (
        [("user", "Hello")],
        [("system", "Be brief."), ("user", "Hello")],
        [("system", ""), ("user", "Hello")],
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
        [("user", "宣德九年，少師蹇義卒。\n\n「行在」😀 naïve Ω"), ("assistant", '[{"name": "蹇義"}]'), ("user", "x")],
        [("user", "{{ .System }} {% if x %} `code` \"\"\" ''' \\n <b>&amp;</b>\t| $1 %s")],
        [("system", 'Line one\nLine two: {{ x }} "quoted"'), ("user", "1 < 2 && 3 > 2")],
    )
)
"""What is rendered by both: with and without a system text, an empty one, several turns, what Go, Jinja and HTML would touch."""


@dataclass(frozen=True, slots=True)
class GoTemplate:
    """A template for Ollama's Modelfile."""

    text: str
    takes_system: bool
    family: str
    """What it looks like, in words."""


@dataclass(frozen=True, slots=True)
class Turns:
    """What a chat template writes around the texts of a conversation."""

    bos: str
    """What the runner puts before the prompt by itself; it is left out of the Go template."""
    opening: str
    """Before the first question, without a system text."""
    answered: str
    """Between a question and its answer."""
    asked: str
    """Between an answer and the next question."""
    closing: str
    """Behind the last question."""
    system: "System | None"


def derive(chat: Chat, *, adds_bos: bool) -> GoTemplate:
    """The Go template of a model's chat template; see read_turns."""
    turns = read_turns(chat, adds_bos=adds_bos)
    return GoTemplate(_write(turns), turns.system is not None, family_of(turns))


def read_turns(chat: Chat, *, adds_bos: bool) -> Turns:
    """What a model's chat template writes, found by rendering marked conversations.

    A template is known when every conversation is: an opening, each text, and between texts what depends on the two roles
    alone; the system text stands before the first question or the last one. ChatML, Llama 2 and 3, Mistral, Gemma, Phi and
    Zephyr are such. InputError for others.

    adds_bos: whether the runner puts BOS before the prompt by itself; it is then left out of the template.
    """
    bos = chat.tokenizer.decode_all([chat.prompt_ids([Message("user", "a")])[0]]) if adds_bos else ""
    opening, closing = cut(_render(chat, ("user", _U)), _U)
    parts = cut(_render(chat, ("user", _U), ("assistant", _A), ("user", _V)), _U, _A, _V)
    again = cut(_render(chat, ("user", _U), ("assistant", _A), ("user", _V), ("assistant", _B), ("user", _W)), _U, _A, _V, _B, _W)
    answered, asked = parts[1], parts[2]
    if parts != [opening, answered, asked, closing] or again != [opening, answered, asked, answered, asked, closing]:
        raise InputError(str(chat.folder), "its chat template writes a turn differently in different places", _WAY_OUT)
    system = _system(chat, opening, answered, asked, closing)
    if (bos and not opening.startswith(bos)) or (bos and system and not system.is_last and not system.before.startswith(bos)):
        raise InputError("", f"its chat template writes {bos!r} first at some times only", _WAY_OUT)
    return Turns(bos, opening, answered, asked, closing, system)


@dataclass(frozen=True, slots=True)
class System:
    """Where a template puts the system text, and what stands around it."""

    before: str
    after: str
    is_last: bool
    """Whether it stands before the last question; else before the first."""
    before_last: str = ""
    """What stands between an answer and the system text, where that is before the last question."""
    is_empty_skipped: bool = False

    @property
    def test(self) -> str:
        """The variable that says whether it is written."""
        return "$system" if self.is_empty_skipped else "$given"


def _system(chat: Chat, opening: str, answered: str, asked: str, closing: str) -> System | None:
    try:
        one = _render(chat, ("system", _S), ("user", _U))
        text = _render(chat, ("system", _S), ("user", _U), ("assistant", _A), ("user", _V))
        empty = _render(chat, ("system", ""), ("user", _U))
    except InputError:
        return None  # its template refuses a system text
    if _S not in one and _S not in text:
        return None
    alone = cut(one, _S, _U)
    if alone[2] != closing:
        raise InputError(str(chat.folder), "its chat template ends otherwise with a system text", _WAY_OUT)
    is_skipped = empty == opening + _U + closing
    if not is_skipped and empty != alone[0] + alone[1] + _U + closing:
        raise InputError(str(chat.folder), "its chat template writes something else for an empty system text", _WAY_OUT)
    if text == alone[0] + _S + alone[1] + _U + answered + _A + asked + _V + closing:
        return System(alone[0], alone[1], is_last=False, is_empty_skipped=is_skipped)
    late = cut(text, _U, _A, _S, _V) if text.index(_S) > text.index(_A) else []
    if late and [late[0], late[1], late[3], late[4]] == [opening, answered, alone[1], closing]:
        return System(alone[0], alone[1], is_last=True, before_last=late[2], is_empty_skipped=is_skipped)
    raise InputError(str(chat.folder), "its chat template puts the system text where whet does not look for it", _WAY_OUT)


def _render(chat: Chat, *turns: tuple[str, str]) -> str:
    return chat.render([Message(role, text) for role, text in turns], is_prompt=True)  # type: ignore[arg-type]


def cut(text: str, *marks: str) -> list[str]:
    """What stands before, between and behind the marks; InputError where one is missing, twice, or out of order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise InputError("", "its chat template leaves a text out, or writes it twice", _WAY_OUT)
        parts.append(before)
    return [*parts, text]


def _write(turns: Turns) -> str:
    find, begin, behind_assistant = write_parts(turns)
    behind_user = (
        f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{quote(turns.closing)}{{{{ else }}}}{quote(turns.answered)}{{{{ end }}}}"
    )
    return (
        f"{find}{begin}"
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}{{ .Content }}'
        f'{behind_user}{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{behind_assistant}{{{{ end }}}}{{{{ end }}}}'
    )


def write_parts(turns: Turns) -> tuple[str, str, str]:
    """What finds the system text, what opens the conversation, and what stands behind an answer; in Go's language."""
    system, first = turns.system, quote(turns.opening.removeprefix(turns.bos))
    if system is None:
        return "", first, quote(turns.asked)
    put = quote(system.before.removeprefix(turns.bos)) + "{{ $system }}" + quote(system.after)
    find = (
        '{{ $system := "" }}{{ $given := false }}{{ range .Messages }}{{ if eq .Role "system" }}'
        "{{ $system = .Content }}{{ $given = true }}{{ end }}{{ end }}"
    )
    if not system.is_last:
        return find, f"{{{{ if {system.test} }}}}{put}{{{{ else }}}}{first}{{{{ end }}}}", quote(turns.asked)
    # One question alone is the first and the last.
    late = quote(system.before_last) + "{{ $system }}" + quote(system.after)
    num = "(len (slice $.Messages $i))"
    behind_assistant = f"{{{{ if and {system.test} (eq {num} 2) }}}}{late}{{{{ else }}}}{quote(turns.asked)}{{{{ end }}}}"
    return (
        find,
        f"{{{{ if and {system.test} (eq (len $.Messages) 2) }}}}{put}{{{{ else }}}}{first}{{{{ end }}}}",
        behind_assistant,
    )


def quote(text: str) -> str:
    """Fixed text in a Go template: as it is, or as a string where it holds an action's mark."""
    if "{{" in text or "}}" in text or text.endswith("{") or '"""' in text:
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
    return text


def family_of(turns: Turns) -> str:
    """What a template is called that writes such turns."""
    text = turns.closing + turns.answered
    looks = {
        "<|im_start|>": "ChatML",
        "<|start_header_id|>": "Llama 3",
        "[/INST]": "Mistral or Llama 2",
        "<start_of_turn>": "Gemma",
        "<|assistant|>": "Phi or Zephyr",
    }
    return next((name for mark, name in looks.items() if mark in text), "a template of its own")


def check(chat: Chat, template: GoTemplate, *, adds_bos: bool, extra: Sequence[Sequence[Message]] = ()) -> list[str]:
    """Render conversations with both templates and compare token ids. Gives what was compared, in words; InputError where one
    differs, with the first place.
    """
    bos = chat.prompt_ids([Message("user", "a")])[:1] if adds_bos else []
    asked = [turns for turns in (*CONVERSATIONS, *extra) if template.takes_system or turns[0].role != "system"]
    for turns, text in zip(asked, render_go(template.text, asked), strict=True):
        wanted, found = chat.prompt_ids(turns), [*bos, *chat.tokenizer.encode(text)]
        if where := parting(chat.tokenizer, wanted, found):
            raise InputError(
                "template",
                f"the Go template gives other ids than the model's own {where}, "
                f"in a conversation of {', '.join(message.role for message in turns)}",
                _WAY_OUT,
            )
    said = [
        f"the Go template ({template.family}) gives the same ids as the model's own on {len(asked)} conversations, rendered by Go"
    ]
    if not template.takes_system:
        said.append("the chat template takes no system text, nor does the Go template")
    if chat.render([Message("user", " a ")], is_prompt=True) == chat.render([Message("user", "a")], is_prompt=True):
        said.append("the model's template cuts white space around texts, Ollama does not: send texts without it")
    return said
