"""Tools in the Go template: how the model's own offers them, writes calls and takes results, found by rendering marks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.export.go_json import TEXT, Style, find_style, write_arguments, write_tool
from whet.export.go_render import render_talks
from whet.export.go_template import GoTemplate, Turns, cut, family_of, quote, read_turns, write_parts
from whet.text.chat import Chat
from whet.text.parting import parting

Talk = list[dict[str, Any]]
# Private-use characters, which no template holds.
_S, _U, _A, _V, _W, _N, _M, _K, _T, _R = (f"\ue0a7{letter}\ue0a8" for letter in "SUAVWNMKTR")


def tool(name: str, about: str, properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """A tool as OpenAI's interface and Ollama's take it, its keys in the order that both document."""
    parameters: dict[str, Any] = {"type": "object", "properties": dict(properties)}
    if required:
        parameters["required"] = [*required]
    return {"type": "function", "function": {"name": name, "description": about, "parameters": parameters}}


def call(*asked: tuple[str, Mapping[str, Any]], text: str = "") -> dict[str, Any]:
    """An assistant's turn that calls tools."""
    calls = [{"type": "function", "function": {"name": name, "arguments": dict(arguments)}} for name, arguments in asked]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def turn(role: str, text: str) -> dict[str, Any]:
    """A plain turn."""
    return {"role": role, "content": text}


_PLACE = {
    "city": {"type": "string", "description": "Name of the city, 如北京"},
    "days": {"type": "integer", "description": "How many"},
}
_KIND = {"kind": {"type": "string", "enum": ["book", "map"]}, "text": {"type": "string"}}
TOOLS = (
    tool("get_weather", 'Today\'s weather; "dry" if < 1 mm & no more.', _PLACE, ["city"]),
    tool("search", "Search.\nGives titles.", _KIND, ["kind", "text"]),
    tool("now", "The time.", {}),
)
_CALL = ("get_weather", {"city": 'São "Paulo" <1>\n', "days": 3})
_MORE = [turn("tool", "wet"), turn("assistant", "It rains."), turn("user", "行在？")]
TALKS: tuple[Talk, ...] = (
    [turn("user", "Hello")],
    [turn("system", "Be brief."), turn("user", "Hello")],
    [turn("user", "a"), turn("assistant", "b"), turn("user", "c")],
    [turn("user", "Weather?"), call(_CALL), turn("tool", '{"mm": 2, "say": "a < b"}')],
    [turn("system", "S"), turn("user", "?"), call(_CALL), *_MORE],
    [turn("user", "?"), call(_CALL, ("search", {"kind": "map", "text": "x"})), turn("tool", "wet"), turn("tool", "none")],
    [turn("user", "?"), call(_CALL), turn("tool", "wet"), call(("now", {})), turn("tool", "12:30")],
    [turn("user", "?"), call(_CALL, text="I look."), turn("tool", "wet")],
)
"""What is rendered by both with TOOLS: offers, one call and two, results, an answer behind them, words beside a call."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What stands around calls and their results."""

    name_to_arguments: str
    style: Style
    between: str | None
    """Between two calls of one turn; None where the template takes one call only."""
    steps: Mapping[str, str]
    """Between two turns, or behind the last: `user call`, `call tool`, `tool tool`, `tool assistant`, `tool end` ..."""
    is_result_json: bool
    """Whether a result is written as a text in JSON's quotes."""
    behind_words: str | None
    """Between an assistant's words and its calls; None where the template leaves the words out."""


def takes_tools(chat: Chat) -> bool:
    """Whether the model's own template writes the tools that it is given."""
    try:
        return TOOLS[0]["function"]["name"] in chat.render_talk([turn("user", "a")], TOOLS[:1])
    except InputError:
        return False


def derive_with_tools(chat: Chat, *, adds_bos: bool) -> GoTemplate:
    """The Go template, tools included. InputError where a template offers or calls them in a way that is not known here."""
    turns = read_turns(chat, adds_bos=adds_bos)
    if turns.system is not None and turns.system.is_last:
        raise _unknown("puts the system text before the last question")
    opening, tool_text = _openings(chat, turns)
    calls = _calls(chat, turns)
    find, begin, behind_answer = write_parts(turns)
    text = f"{find}{{{{ if .Tools }}}}{opening}{{{{ else }}}}{begin}{{{{ end }}}}"
    text = text.replace(_T, f"{{{{ range $n, $_ := $.Tools }}}}{tool_text}{{{{ end }}}}")
    return GoTemplate(text + _body(turns, calls, behind_answer), turns.system is not None, f"{family_of(turns)} with tools")


def check_with_tools(chat: Chat, template: GoTemplate, *, adds_bos: bool) -> list[str]:
    """Render conversations with tools by both templates and compare token ids; what was compared, in words. InputError where one
    differs. Conversations that the model's own template refuses are not asked.
    """
    asked = []
    for talk in TALKS:
        try:
            asked.append((talk, chat.tokenizer.encode(chat.render_talk(talk, TOOLS))))
        except InputError:
            continue
    bos = chat.tokenizer.encode(chat.render_talk([turn("user", "a")]))[:1] if adds_bos else []
    texts = render_talks(template.text, [{"messages": talk, "tools": TOOLS} for talk, _ in asked])
    for (talk, wanted), text in zip(asked, texts, strict=True):
        if where := parting(chat.tokenizer, wanted, [*bos, *chat.tokenizer.encode(text)]):
            roles = ", ".join(one["role"] for one in talk)
            raise InputError("template", f"in a conversation with tools of {roles}, {where}")
    return [
        f"tools: the Go template gives the same ids on {len(asked)} of {len(TALKS)} conversations with {len(TOOLS)} tools"
        + ("" if len(asked) == len(TALKS) else "; the model's own template refuses the others"),
        "tools: keys must stand in the order name, description, parameters (type, properties, required), properties in that of "
        "the alphabet; schemas within schemas, lists among the arguments, numbers such as 1.0 and characters that "
        "are not printed (ideographic and no-break spaces, joiners, control characters) come out otherwise",
    ]


def _unknown(what: str) -> InputError:
    return InputError("", f"its chat template {what}, which the Go template can't say")


def _openings(chat: Chat, turns: Turns) -> tuple[str, str]:
    """What stands before the first question where tools are offered, with _T in the tools' place; and what writes one tool."""
    shown = TOOLS[:2]
    plain = cut(chat.render_talk([turn("user", _U)], shown), _U)
    if plain[1] != turns.closing:
        raise _unknown("ends otherwise with tools")
    first, writer = _with_tools(plain[0].removeprefix(turns.bos))
    if turns.system is None:
        return first, writer
    before, after = cut(cut(chat.render_talk([turn("system", _S), turn("user", _U)], shown), _U)[0].removeprefix(turns.bos), _S)
    put, again = _with_tools(f"{before}{_S}{after}")
    if again != writer:
        raise _unknown("writes tools otherwise beside a system text")
    put = put.replace(_S, "{{ $system }}")
    return f"{{{{ if {turns.system.test} }}}}{put}{{{{ else }}}}{first}{{{{ end }}}}", writer


def _with_tools(text: str) -> tuple[str, str]:
    """The text with _T where the tools of TOOLS[:2] stand, quoted for Go, and what writes one of them and what is between two."""
    one, other = TOOLS[:2]
    found = find_style(text, [one, one["function"]])
    if found is None:
        raise _unknown("writes tools otherwise than as JSON")
    style, value = found
    is_bare = value is not one
    before, between, after = cut(
        text.replace(style.dumps(value), _N).replace(style.dumps(other["function"] if is_bare else other), _M), _N, _M
    )
    separated = f"{{{{ if $n }}}}{quote(between)}{{{{ end }}}}" if between else ""
    parts = [quote(part) for part in before.split(_S)], [quote(part) for part in after.split(_S)]
    return _S.join(parts[0]) + _T + _S.join(parts[1]), separated + write_tool(style, is_bare=is_bare)


def _calls(chat: Chat, turns: Turns) -> Calls:
    asked, again = (_N, {"k": _K}), (_M, {"k": _K})

    def render(*talk: dict[str, Any]) -> str:
        return chat.render_talk(talk, TOOLS[:2])

    user, result = turn("user", _U), turn("tool", _R)
    text = render(user, call(asked), result)
    found = find_style(text, [asked[1]])
    if found is None:
        raise _unknown("writes a call's arguments otherwise than as JSON")
    style = found[0]
    arguments = style.dumps(asked[1])

    def parts(*talk: dict[str, Any], marks: Sequence[str]) -> list[str]:
        return cut(render(*talk).replace(arguments, _K), *marks)[1:]

    # The last question may come back as a tool's own mark: what stands between the same two turns must be the same everywhere.
    to_call, middle, to_result, ending = parts(user, call(asked), result, marks=(_U, _N, _K, _R))
    answer = parts(user, call(asked), result, turn("assistant", _A), turn("user", _V), marks=(_U, _N, _K, _R, _A, _V))
    if answer[:3] != [to_call, middle, to_result] or answer[4:] != [turns.asked, turns.closing]:
        raise _unknown("writes calls differently in different places")
    twice = parts(user, call(asked), result, turn("tool", _W), marks=(_U, _N, _K, _R, _W))
    last = chat.render_talk([user, call(asked), result, call(again), turn("tool", _W)], TOOLS[:2])
    chained = cut(_nth(last, arguments, _K, _A), _U, _N, _K, _R, _M, _A, _W)[1:]
    if [*chained[:3], *chained[4:]] != [to_call, middle, to_result, middle, to_result, ending] or twice[-1] != ending:
        raise _unknown("writes calls differently in different places")
    steps = {"user call": to_call, "call tool": to_result, "tool end": ending, "tool assistant": answer[3], "tool tool": twice[3],
             "tool call": chained[3]}  # fmt: skip
    is_json = f'{_R}\\"' in render(user, call(asked), turn("tool", f'{_R}"'))
    if is_json:
        steps = _unquoted(steps)
    return Calls(middle, style, _between(chat, arguments, steps), steps, is_json, _behind_words(chat, arguments, turns, steps))


def _nth(text: str, old: str, *new: str) -> str:
    """The text with each place of `old` in turn replaced by the next of `new`."""
    for one in new:
        text = text.replace(old, one, 1)
    return text


def _unquoted(steps: Mapping[str, str]) -> dict[str, str]:
    """The steps without the quotes around a result, which are written with it."""
    found = {}
    for name, text in steps.items():
        before, after = name.split()
        if (before == "tool" and not text.startswith('"')) or (after == "tool" and not text.endswith('"')):
            raise _unknown("writes results in a way of its own")
        found[name] = text[before == "tool" : len(text) - (after == "tool")]
    return found


def _between(chat: Chat, arguments: str, steps: Mapping[str, str]) -> str | None:
    """What stands between two calls of one turn; None where the template refuses them."""
    try:
        text = chat.render_talk([turn("user", _U), call((_N, {"k": _K}), (_M, {"k": _K})), turn("tool", _R)], TOOLS[:2])
    except InputError:
        return None
    found = cut(_nth(text, arguments, _K, _A), _U, _N, _K, _M, _A, _R)
    if found[1] != steps["user call"] or not found[5].startswith(steps["call tool"]):
        raise _unknown("writes two calls otherwise than one")
    return found[3]


def _behind_words(chat: Chat, arguments: str, turns: Turns, steps: Mapping[str, str]) -> str | None:
    """What stands between an assistant's words and its call; None where the words are left out."""
    text = chat.render_talk([turn("user", _U), call((_N, {"k": _K}), text=_A), turn("tool", _R)], TOOLS[:2])
    if _A not in text:
        return None
    found = cut(text.replace(arguments, _K), _U, _A, _N, _K, _R)
    if found[1] != turns.answered or not found[4].startswith(steps["call tool"]):
        raise _unknown("writes words beside a call in a way of its own")
    return found[2]


def _body(turns: Turns, calls: Calls, behind_answer: str) -> str:
    """The turns. $next is what follows: user, assistant, tool, call, or nothing."""
    step = {name: quote(text) for name, text in calls.steps.items()}
    has_words = calls.behind_words is not None
    is_call = "and .ToolCalls (not .Content)" if has_words else ".ToolCalls"
    find = (
        '{{ $next := "" }}{{ $rest := slice $.Messages $i }}{{ if gt (len $rest) 1 }}{{ with index $rest 1 }}{{ $next = .Role }}'
        f'{{{{ if {is_call} }}}}{{{{ $next = "call" }}}}{{{{ end }}}}{{{{ end }}}}{{{{ end }}}}'
    )
    behind_user = (
        f'{{{{ if eq $next "call" }}}}{step["user call"]}{{{{ else if $next }}}}{quote(turns.answered)}{{{{ else }}}}'
        f"{quote(turns.closing)}{{{{ end }}}}"
    )
    behind_tool = (
        f'{{{{ if eq $next "tool" }}}}{step["tool tool"]}{{{{ else if eq $next "call" }}}}{step["tool call"]}'
        f'{{{{ else if eq $next "assistant" }}}}{step["tool assistant"]}{{{{ else }}}}{step["tool end"]}{{{{ end }}}}'
    )
    between = f"{{{{ if $n }}}}{quote(calls.between)}{{{{ end }}}}" if calls.between else ""
    called = (
        f"{{{{ range $n, $call := .ToolCalls }}}}{between}{{{{ $call.Function.Name }}}}{quote(calls.name_to_arguments)}"
        f"{write_arguments(calls.style)}{{{{ end }}}}{step['call tool']}"
    )
    words = f"{{{{ if .Content }}}}{{{{ .Content }}}}{quote(calls.behind_words or '')}{{{{ end }}}}" if has_words else ""
    result = TEXT.format(".Content") if calls.is_result_json else "{{ .Content }}"
    return (
        f'{{{{ range $i, $_ := .Messages }}}}{find}{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{behind_user}'
        f'{{{{ else if eq .Role "tool" }}}}{result}{behind_tool}{{{{ else if .ToolCalls }}}}{words}{called}'
        f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{behind_answer}{{{{ end }}}}{{{{ end }}}}'
    )
