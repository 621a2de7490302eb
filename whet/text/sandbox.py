"""The sandbox that chat templates run in: no attribute of Python's is reached, and steps, numbers and texts stay small."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED = 4_000_000  # characters that a template may write, or hold in a value
MAX_STEPS = 1_000_000  # passes of all loops and calls of a template in one rendering; a long conversation takes thousands
MAX_SECONDS = 5.0  # of one rendering; a long conversation takes milliseconds
MAX_NUMBER = 10**18
_COUNT = "whet counts"
_JOIN = "whet joins"
_LARGE_WIDTH = re.compile(r"\d{5,}|%[^%a-zA-Z]*\*|\{[^{}]*\{")
_WIDENS = frozenset(["ljust", "rjust", "center", "zfill", "expandtabs"])


class TooLargeError(jinja2.TemplateError):
    """A template that loops, or whose values grow, beyond what any chat template needs."""


class Generation(Extension):
    """The block `generation` of transformers' templates: a mark for trainers, which writes what stands in it."""

    tags = {"generation"}  # noqa: RUF012 -- jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What stands between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """An immutable sandbox with limits; `begin` before each rendering."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation], autoescape=False
        )
        self._steps, self._ends = 0, 0.0
        self.globals.pop("lipsum", None)
        self.filters = {name: self._limited(given) for name, given in self.filters.items()}
        self.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=_small(indent))
        self.filters |= {_COUNT: self._count, _JOIN: self._join, "join": self._join_by, "replace": self._replace}
        self.filters["format"] = self._format

    def begin(self) -> None:
        """Begin to count anew. Call before each rendering."""
        self._steps, self._ends = 0, time.monotonic() + MAX_SECONDS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _COUNT, [], [], None, None, lineno=loop.lineno)
        return _with_joins(tree)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic whose result may be far larger than its operands."""
        self._step()
        sizes = [len(value) for value in (left, right) if isinstance(value, str | list | tuple)]
        numbers = [abs(value) for value in (left, right) if isinstance(value, int)]
        if operator == "**" and (numbers[1:] and (numbers[1] > 64 or numbers[0] > 10**6)):
            raise TooLargeError("it raises a number to a large power")
        if operator == "*" and sizes and numbers:
            _check_size(sizes[0] * numbers[0])
        if operator == "+" and len(sizes) == 2:
            _check_size(sum(sizes))
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise TooLargeError("its numbers grow without end")
        return result

    def call(self, context: Any, function: Any, /, *args: Any, **more: Any) -> Any:
        """A call of a function, a macro, or a text's own method."""
        self._step()
        owner, name = getattr(getattr(function, "__wrapped__", function), "__self__", None), getattr(function, "__name__", "")
        if isinstance(owner, str):
            self._check_method(owner, name, args)
        result = super().call(context, function, *args, **more)
        if isinstance(result, str | list):
            _check_size(len(result))
        return result

    def _check_method(self, owner: str, name: str, args: tuple[Any, ...]) -> None:
        if name in _WIDENS and any(isinstance(value, int) and value > MAX_RENDERED for value in args):
            raise TooLargeError(f"it makes a text wide with {name}")
        if name == "replace" and len(args) >= 2 and all(isinstance(value, str) for value in args[:2]):
            _check_size(len(owner) + owner.count(args[0]) * len(args[1]))
        if name == "join" and args and isinstance(args[0], list | tuple):
            _check_size(len(owner) * len(args[0]) + sum(len(str(value)) for value in args[0]))
        if name in ("format", "format_map"):
            _check_format(owner)

    def _limited(self, given: Callable[..., Any]) -> Callable[..., Any]:
        """A filter of Jinja's whose numbers and results are looked at; one that takes its context stays as it is."""
        if hasattr(given, "jinja_pass_arg"):
            return given

        def limited(value: Any, *args: Any, **more: Any) -> Any:
            self._step()
            for number in (*args, *more.values()):
                _small(number)
            result = given(value, *args, **more)
            if isinstance(result, str | list):
                _check_size(len(result))
                self._steps += len(result) >> 4  # a pass over a long value is no single step
            return result

        return limited

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS or (self._ends and time.monotonic() > self._ends):
            raise TooLargeError("it loops without end")

    def _count(self, values: Iterable[Any]) -> Any:
        """A loop's values; a list stays one, so that `loop.length` and `loop.last` are what they were."""
        if isinstance(values, list | tuple | dict | str | range):
            self._steps += len(values)
            self._step()
            return values
        return self._each(values)

    def _each(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _join(self, values: list[Any]) -> str:
        self._step()
        texts = [str(value) for value in values]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def _join_by(self, values: Iterable[Any], by: str = "", attribute: str | int | None = None) -> str:
        """Jinja's join."""
        items = list(values)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        _check_size(len(by) * len(items))
        return str(by).join([self._join([item]) for item in items])

    def _replace(self, text: str, old: str, new: str, count: int | None = None) -> str:
        """Jinja's replace."""
        self._step()
        text, old, new = str(text), str(old), str(new)
        _check_size(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)

    def _format(self, text: str, *args: Any, **more: Any) -> str:
        """Jinja's format."""
        self._step()
        _check_format(str(text))
        return str(text) % (more or args)


def _with_joins(tree: nodes.Template) -> nodes.Template:
    """The tree with `a ~ b` as a filter over the list of its parts."""
    todo: list[Any] = [tree]
    while todo:
        node = todo.pop()
        for name, value in list(node.iter_fields()):
            items = value if isinstance(value, list) else [value]
            made = [_joined(item) if isinstance(item, nodes.Concat) else item for item in items]
            if any(new is not old for new, old in zip(made, items, strict=True)):
                setattr(node, name, made if isinstance(value, list) else made[0])
            todo += [item for item in made if isinstance(item, nodes.Node)]
    return tree


def _joined(node: nodes.Concat) -> nodes.Filter:
    parts = nodes.List(node.nodes, lineno=node.lineno)
    return nodes.Filter(parts, _JOIN, [], [], None, None, lineno=node.lineno)


def _check_format(text: str) -> None:
    """Refuses a width of five digits or more, or one that is an argument."""
    if _LARGE_WIDTH.search(text):
        raise TooLargeError("it formats a text to a great width")


def _small(number: Any) -> Any:
    """A number that an indent or a width may be."""
    if isinstance(number, int) and number > 10_000:
        raise TooLargeError(f"it asks for a width of {number}")
    return number


def _check_size(size: int) -> None:
    if size > MAX_RENDERED:
        raise TooLargeError("it writes without end")
