"""The rules that a recipe sets for extracted records: what is dropped, what is flagged, which values are several in one."""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from whet.config import Settings
from whet.records import Record, Span, Value
from whet.tasks.names import KIN, KIN_BEFORE, OFFICE_LINKS, OFFICES, SEPARATORS, SURNAMES, TITLES, WORDS_BETWEEN, Names, part
from whet.text.prepare import PrepareSettings, prepare

SIMPLIFIED = PrepareSettings(script="simplified")


class _Filter(Settings):
    """What every rule that judges a value says."""

    field: str
    """The field whose value is looked at; null values are left alone."""
    action: Literal["drop", "flag"] = "flag"
    """drop: the record leaves the output, counted, and is kept in the state with its reason. flag: it stays, flagged, and goes
    to review."""
    flag: str | None = Field(default=None, pattern=r"^[^\s;]+$")
    """The name that the record is flagged with, and under which drops are counted; null takes the rule's kind."""


class TitleRule(_Filter):
    """A title without a name: the value is made of nothing but words of a list."""

    kind: Literal["title"]
    """The rule's kind."""
    titles: tuple[str, ...] = TITLES + OFFICES
    """The words, in either script."""


class KinshipRule(_Filter):
    """A person named only as somebody's kin, such as 其子 or 張輔之弟."""

    kind: Literal["kinship"]
    """The rule's kind."""
    words: tuple[str, ...] = KIN
    """What a relative is called, in either script."""


class LengthRule(_Filter):
    """A value that is too short or too long. Marks and variation selectors are not counted."""

    kind: Literal["length"]
    """The rule's kind."""
    min_chars: int = Field(default=1, ge=1)
    """Fewest characters."""
    max_chars: int | None = Field(default=None, ge=1)
    """Most characters; null sets no limit."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> "LengthRule":
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError("max_chars is below min_chars")
        if self.max_chars is None and self.min_chars == 1:
            raise ValueError("a length rule does nothing without min_chars or max_chars")
        return self


class SetRule(_Filter):
    """A value that is not in a closed set."""

    kind: Literal["set"]
    """The rule's kind."""
    allowed: Annotated[tuple[str, ...], Field(min_length=1)]
    """The values that may stand, in either script."""


class PatternRule(_Filter):
    """A value that a regular expression finds something in, or finds nothing in."""

    kind: Literal["pattern"]
    """The rule's kind."""
    pattern: str
    """A Python regular expression; it is searched for anywhere in the value as it stands in the document."""
    when: Literal["found", "lacking"] = "found"
    """Which values the rule speaks of."""

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from None
        return pattern


class SplitRule(Settings):
    """Several persons in one value: it becomes a record for each, with spans of their own, flagged "split"."""

    kind: Literal["split"]
    """The rule's kind."""
    field: str
    """The field whose value may hold several; it must be a span field."""
    action: Literal["split"] = "split"
    """What is done."""
    separators: tuple[str, ...] = SEPARATORS
    """What stands between two names."""
    words: tuple[str, ...] = WORDS_BETWEEN
    """Words between two names; they count only where at least two characters stand on either side."""
    names: tuple[str, ...] = ()
    """Names that are known, in either script; a value without separators is cut between them."""
    surnames: tuple[str, ...] = SURNAMES
    """A value without separators that can be read in one way only as two or more of these, each with one or two characters
    behind it, is cut there; one that can be read in several ways is flagged "run_together". Empty: only by known names."""
    offices: tuple[str, ...] = OFFICES + OFFICE_LINKS
    """Words that are taken off the front of each name, where two characters are left."""


Rule = Annotated[
    TitleRule | KinshipRule | LengthRule | SetRule | PatternRule | SplitRule,
    Field(discriminator="kind"),
]
Filter = TitleRule | KinshipRule | LengthRule | SetRule | PatternRule


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a record: why it is dropped (empty if it is not), by which rule, and its flags."""

    rule: str = ""
    reason: str = ""
    flags: tuple[str, ...] = ()


class Rules:
    """The rules of one recipe at work, in their order. Words are compared without regard to the Chinese script."""

    def __init__(self, settings: Sequence[Rule]) -> None:
        self._tests = [(rule, _test(rule)) for rule in settings if not isinstance(rule, SplitRule)]
        self._splits = [
            (rule.field, Names(*(frozenset(map(plain, words)) for words in (rule.names, rule.surnames, rule.offices))), rule)
            for rule in settings
            if isinstance(rule, SplitRule)
        ]

    def split(self, record: Record) -> list[tuple[Record, tuple[str, ...]]]:
        """The records that are in one, each with the flags that it got; the one alone, with none, where it is one.

        The spans of the parts lie within the span of the whole; all other fields are handed on to each.
        """
        found: list[tuple[dict[str, Value | None], tuple[str, ...]]] = [(dict(record), ())]
        for name, names, rule in self._splits:
            found = [
                ({**one, name: value}, flags + flag)
                for one, flags in found
                for value, flag in _split(one.get(name), one, names, rule)
            ]
        return list(found)

    def judge(self, record: Record) -> Verdict:
        """Whether a record is dropped, by the first rule that says so, or which flags it gets."""
        flags = []
        for rule, test in self._tests:
            value = record.get(rule.field)
            reason = test(value.text) if value else ""
            label = rule.flag or rule.kind
            if reason and rule.action == "drop":
                return Verdict(label, f"{rule.field} {value.text!r} {reason}" if value else reason)
            if reason:
                flags.append(label)
        return Verdict(flags=tuple(dict.fromkeys(flags)))


@functools.lru_cache(maxsize=65_536)
def plain(text: str) -> str:
    """A text as words are compared: simplified."""
    return prepare(text, SIMPLIFIED).text


def num_chars(text: str) -> int:
    """Characters without marks, variation selectors and other signs that have no place of their own."""
    return sum(1 for char in text if unicodedata.category(char) not in ("Mn", "Me", "Cf"))


def _split(
    value: Value | None, record: Mapping[str, Value | None], names: Names, rule: SplitRule
) -> list[tuple[Value | None, tuple[str, ...]]]:
    """The values that are in one, with their flags."""
    if value is None or value.span is None:
        return [(value, ())]
    prepared = prepare(value.text, SIMPLIFIED)
    beside = [plain(other.text) for name, other in record.items() if other and other.span and name != rule.field]
    parts, is_sure = part(prepared.text, names, tuple(map(plain, rule.separators)), tuple(map(plain, rule.words)), beside)
    if len(parts) < 2:
        return [(value, () if is_sure else ("run_together",))]
    return [(_piece(value, value.span.start, prepared.to_original(span)), ("split",)) for span in parts]


def _piece(value: Value, start: int, part: Span) -> Value:
    """The characters of a value that one of its parts covers, with their place in the document."""
    return replace(value, text=value.text[part.start : part.end], span=Span(start + part.start, start + part.end))


def _test(rule: Filter) -> Callable[[str], str]:
    """A function that says why a value is spoken of by a rule; empty if it is not."""
    match rule:
        case TitleRule():
            # One character by itself is a title in 王, and a surname in 王臣.
            several = _any_of([word for word in rule.titles if len(word) > 1])
            nothing_else = re.compile(f"(?:(?:{several})+|{_any_of(rule.titles)})等?")
            return lambda text: "is a title without a name" if nothing_else.fullmatch(plain(text)) else ""
        case KinshipRule():
            relative = f"(?:{_any_of(KIN_BEFORE)})*(?:{_any_of(rule.words)})[等辈人]?"
            kin = re.compile(f"(?:.{{2,}}之)?{relative}")
            return lambda text: "names a relative only" if kin.fullmatch(plain(text)) else ""
        case LengthRule():
            return lambda text: _length(num_chars(text), rule.min_chars, rule.max_chars)
        case SetRule():
            allowed = set(map(plain, rule.allowed))
            return lambda text: "" if plain(text) in allowed else "is not in the closed set"
        case PatternRule():
            pattern = re.compile(rule.pattern)
            found = rule.when == "found"
            words = "matches" if found else "does not match"
            return lambda text: f"{words} {rule.pattern}" if bool(pattern.search(text)) == found else ""


def _length(num: int, least: int, most: int | None) -> str:
    if num < least:
        return f"has {num} character{'s' if num != 1 else ''}, fewer than {least}"
    return f"has {num} characters, more than {most}" if most is not None and num > most else ""


def _any_of(words: Sequence[str]) -> str:
    """A pattern of words, the longest first; one that never matches where there are none."""
    return "|".join(re.escape(word) for word in sorted(set(map(plain, words)), key=len, reverse=True)) or r"(?!)"
