"""The shape of a constrained reply: what may be written next, byte by byte, as a small machine."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from whet.errors import InputError
from whet.records import Constraint, FieldRule
from whet.text.source import WALL, Source

_CHAR = re.compile(
    rb'[\x20\x21\x23-\x5b\x5d-\x7f]|\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]'
    rb"|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
"""One character of a JSON string as json.dumps(ensure_ascii=False) writes it, in UTF-8."""
_BEGUN = re.compile(
    rb"\\(?:u(?:0(?:0[01]?)?)?)?|[\xc2-\xf4]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]?|[\xf1-\xf3][\x80-\xbf]{1,2}|\xf4[\x80-\x8f][\x80-\xbf]?"
)
"""What a character may begin with, as long as it is not whole."""
_CHAR_RULE = r'(\\(["\\bfnrt]|u00(0[0-7bef]|1[0-9a-f]))|[^"\\\x00-\x1F])'  # the same over characters
_QUOTE = 0x22

Copied = tuple[int, tuple[int, ...] | None]
"""Bytes of a piece that are written, and the places of the source behind all that they may be copied from; None: anywhere."""


class Branch:
    """A choice of fixed texts, none of which begins another. Its state is what was written of them.

    `preferred` is the text that closes a reply soonest, where more than one is possible.
    """

    start = b""

    def __init__(self) -> None:
        self.options: dict[bytes, Node] = {}
        self.preferred: bytes | None = None

    def rests(self, done: bytes) -> list[tuple[bytes, "Node"]]:
        """What is lacking of each text that begins so, and what follows it."""
        return [(text[len(done) :], node) for text, node in self.options.items() if text.startswith(done)]

    def step(self, done: bytes, data: bytes) -> "tuple[State, bytes] | None":
        whole = done + data
        for text, node in self.options.items():
            if whole.startswith(text):
                return (node, node.start), whole[len(text) :]
            if text.startswith(whole):
                return (self, whole), b""
        return None


class SpanText:
    """What stands between the quotes of a piece of the source."""

    start: Copied = (0, None)

    def __init__(self, source: Source, min_chars: int, max_chars: int, after: Branch) -> None:
        self.source, self.min_chars, self.max_chars, self.after = source, min_chars, max_chars, after

    def step(self, state: Copied, data: bytes) -> "tuple[State, bytes] | None":
        if places := self._places(state, data):
            return (self, (state[0] + len(data), places)), b""
        at = data.find(b'"')
        while at >= 0:
            inside = (state[0] + at, self._places(state, data[:at])) if at else state
            if self.is_closable(inside):
                return (self.after, self.after.start), data[at:]
            at = data.find(b'"', at + 1)
        return None

    def _places(self, state: Copied, data: bytes) -> tuple[int, ...]:
        """The places behind more bytes."""
        if state[1] is None:
            return self.source.find(data)
        size, text = len(data), self.source.bytes
        return tuple(place + size for place in state[1] if text.startswith(data, place))

    def is_closable(self, state: Copied) -> bool:
        """Whether a closing quote may follow."""
        size, places = state
        counts, is_end = self.source.counts, self.source.is_end
        return any(
            is_end[place] and self.min_chars <= counts[place] - counts[place - size] <= self.max_chars for place in places or ()
        )

    def completions(self, state: Copied) -> Iterator[bytes]:
        """The bytes that bring a piece to where it may end, for each place that it may be copied from."""
        size, places = state
        for place in self.source.starts if places is None else places:
            end = self.source.end_after(place - size, place, self.min_chars, self.max_chars)
            if end is not None:
                yield self.source.bytes[place:end]

    def rest_of_char(self, state: Copied) -> tuple[bytes, Copied]:
        """The bytes that an unfinished character goes on with at every place, and the state behind them."""
        size, places = state
        rest = b""
        for number, place in enumerate(places or ()):
            here = self.source.rest_of_char(place)
            rest = rest[: num_shared([rest, here])] if number else here
            if not rest:
                break
        return rest, (size + len(rest), tuple(place + len(rest) for place in places)) if places and rest else state


class FreeText:
    """What stands between the quotes of any text. Its state: how many characters are whole, and bytes of one that is not."""

    start = (0, b"")

    def __init__(self, min_chars: int, max_chars: int, after: Branch) -> None:
        self.min_chars, self.max_chars, self.after = min_chars, max_chars, after

    def step(self, state: tuple[int, bytes], data: bytes) -> "tuple[State, bytes] | None":
        count, data, at = state[0], state[1] + data, 0
        while found := _CHAR.match(data, at):
            count, at = count + 1, found.end()
        if at < len(data) and data[at] == _QUOTE:
            return ((self.after, self.after.start), data[at:]) if self.is_closable((count, b"")) else None
        is_begun = at < len(data)
        if count + is_begun > self.max_chars or (is_begun and not _BEGUN.fullmatch(data, at)):
            return None
        return (self, (count, data[at:])), b""

    def is_closable(self, state: tuple[int, bytes]) -> bool:
        """Whether a closing quote may follow."""
        return not state[1] and self.min_chars <= state[0] <= self.max_chars

    def completions(self, state: tuple[int, bytes]) -> Iterator[bytes]:
        """The bytes that end an unfinished character, and dots up to the fewest characters."""
        count, begun = state
        yield _rest_of(begun) + b"." * (self.min_chars - count - bool(begun))


Node = Branch | SpanText | FreeText
State = tuple[Node, Any]


class Shape:
    """All that a reply to one constraint may be: `lead`, a JSON list of records, `tail`.

    A list can only be empty where some field must have a value and finds none, or there are no fields. InputError where a
    name or a choice holds a lone surrogate.
    """

    def __init__(self, constraint: Constraint, lead: str = "", tail: str = "") -> None:
        self.end, opening, between = Branch(), Branch(), Branch()
        self.start: State = (opening, opening.start)
        before, close = lead.encode() + b"[", b"]" + tail.encode()
        opening.options[before + close] = self.end
        opening.preferred = before + close
        between.options[close] = self.end
        between.preferred = close
        self._source = source = None if constraint.source is None else Source(constraint.source)
        heads = [(b"," if number else b"{") + _json(rule.name) + b":" for number, rule in enumerate(constraint.fields)]
        follower = between
        for rule, head in reversed([*zip(constraint.fields, [*heads[1:], b"}"], strict=False)]):
            follower = _value(rule, source, head, follower)
            if not follower.options:
                return
        if heads:
            opening.options[before + heads[0]] = follower
            between.options[b"," + heads[0]] = follower

    def step(self, state: State, data: bytes) -> State | None:
        """The state after more bytes; None where they may not follow."""
        while data:
            node, inside = state
            stepped = node.step(inside, data)
            if stepped is None:
                return None
            state, data = stepped
        return state

    def forced(self, state: State) -> tuple[bytes, State]:
        """The bytes that must follow, as far as that is cheap to say, and the state behind them."""
        node, inside = state
        forced = b""
        while isinstance(node, Branch) and node is not self.end:
            rests = node.rests(inside)
            if len(rests) > 1:
                shared = rests[0][0][: num_shared([rest for rest, _ in rests])]
                return forced + shared, (node, inside + shared)
            forced, node, inside = forced + rests[0][0], rests[0][1], rests[0][1].start
        if isinstance(node, SpanText):
            rest, inside = node.rest_of_char(inside)
            forced += rest
        return forced, (node, inside)

    def grammar(self) -> str:
        """The same in the Lark syntax of llguidance."""
        names, waiting, lines = {self.start[0]: "n0"}, [self.start[0]], list[str]()
        terminals: dict[str, str] = {}
        while waiting:
            node = waiting.pop()
            for follower in _followers(node):
                if follower is not self.end and follower not in names:
                    names[follower] = f"n{len(names)}"
                    waiting.append(follower)
            if isinstance(node, Branch):
                parts = [(_alternatives(node, follower), follower) for follower in _followers(node)]
            else:
                parts = [(_text_rule(node), node.after)]
            named = [(terminals.setdefault(rule, f"T{len(terminals)}"), names.get(follower, "")) for rule, follower in parts]
            lines.append(f"{names[node]}: " + " | ".join(f"{terminal} {follower}" for terminal, follower in named))
        lines += [f"{name}: {rule}" for rule, name in terminals.items()]
        if self._source:
            lines.append("SOURCE: %regex " + json.dumps({"substring_chunks": [*self._source.chunks()]}))
        # Any tokenisation of the bytes is let in; the ids that are forced are chosen elsewhere.
        return "\n".join(['%llguidance {"no_forcing": true}', "start: n0", *lines])


def num_shared(texts: Sequence[bytes] | Sequence[tuple[int, ...]]) -> int:
    """How long a start all of these have in common."""
    first, last = min(texts), max(texts)
    differ = (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return next(differ, min(len(first), len(last)))


def _value(rule: FieldRule, source: Source | None, head: bytes, follower: Branch) -> Branch:
    """What may stand as a field's value; `head` leads from it to the follower. Without options where nothing may."""
    value, behind = Branch(), Branch()
    behind.options[head] = follower
    if rule.is_nullable:
        value.preferred = b"null"
        value.options[b"null"] = behind
    if rule.kind == "choice":
        value.options |= {_json(choice): behind for choice in rule.choices}
        return value
    least, most = max(1, rule.min_chars), WALL - 1 if rule.max_chars is None else rule.max_chars
    closing = Branch()
    closing.options[b'"' + head] = follower
    if rule.kind == "free" or source is None:
        if least <= most:
            value.options[b'"'] = FreeText(least, most, closing)
    elif source.holds(least, most):
        value.options[b'"'] = SpanText(source, least, most, closing)
    return value


def _followers(node: Node) -> list[Node]:
    return list(dict.fromkeys(node.options.values())) if isinstance(node, Branch) else [node.after]


def _alternatives(branch: Branch, follower: Node) -> str:
    """The texts of a branch that lead to one follower."""
    return " | ".join(json.dumps(text.decode()) for text, node in branch.options.items() if node is follower)


def _text_rule(node: SpanText | FreeText) -> str:
    """What stands between quotes; a length that no piece of the source reaches is not counted."""
    is_open = node.max_chars >= (node.source.num_chars if isinstance(node, SpanText) else WALL - 1)
    counted = f"/{_CHAR_RULE}{{{node.min_chars},{'' if is_open else node.max_chars}}}/"
    return f"SOURCE & {counted}" if isinstance(node, SpanText) else counted


def _json(text: str) -> bytes:
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError("task.fields", f"{text!r} holds a lone surrogate, which is no character") from None


def _rest_of(begun: bytes) -> bytes:
    """The fewest bytes that end an unfinished character of a JSON string."""
    if not begun:
        return b""
    if begun[0] == 0x5C:
        return b"n" if len(begun) == 1 else b"\\u0000"[len(begun) :]
    size = 2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4
    second = {0xE0: b"\xa0", 0xF0: b"\x90"}.get(begun[0], b"\x80")  # less would be a character in a longer form than its own
    return (second if len(begun) == 1 else b"") + b"\x80" * (size - max(2, len(begun)))
