"""A domain set: rows that are verified, deduplicated against themselves and against suites, and balanced over categories."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from whet.config import Settings
from whet.data.clean import gold_of, normalised, question_of
from whet.data.near import NearTexts, ngrams
from whet.data.rows import Reject
from whet.records import Example, example_to_json

REASONS = {
    "unreadable": "the row is of no known format, or broken",
    "faulty": "its gold has a fault",
    "conflicting": "the same question stands there with another gold; neither can be believed",
    "duplicate": "the same question and gold, after normalisation",
    "near_duplicate": "nearly the same question",
    "in_suite": "the question stands in a suite",
    "near_suite": "the question is nearly one of a suite",
    "surplus": "its category had more than its share",
}
"""Why a row is left out, in the order in which it is asked."""


class DomainSettings(Settings):
    """What a domain set is made to be."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Name of the domain."""
    size: int | None = Field(default=None, ge=1)
    """Most examples; null keeps all that are left."""
    seed: int = 0
    """Seed of the draw within each category."""
    near_threshold: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard similarity of character n-grams, 0 to 1, from which two normalised questions are near-duplicates."""
    ngram: int = Field(default=3, ge=1, le=16)
    """Characters of an n-gram in texts of mostly ideographs, kana or syllables."""
    ngram_alphabetic: int = Field(default=5, ge=1, le=16)
    """Characters of an n-gram in other texts."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A question that must not be in the set, and where it stands."""

    suite: str
    part: str
    example: Example

    @property
    def words(self) -> str:
        return f"{self.suite}/{self.part} {self.example.id} ({self.example.source})"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out: why, its place, what was seen, and the row itself."""

    reason: str
    place: str
    seen: str
    row: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"reason": self.reason, "place": self.place, "seen": self.seen, "row": dict(self.row)}


@dataclass(slots=True)
class Domain:
    """What was kept, in the order of the sources, and what became of every other row."""

    examples: list[Example] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    num_read: int = 0
    there: Counter[str] = field(default_factory=Counter)
    """Good rows by category, before the balance."""

    @property
    def kept(self) -> dict[str, int]:
        """Examples by category."""
        return dict(sorted(Counter(example.category for example in self.examples).items()))

    def counts(self) -> dict[str, int]:
        """Rows left out, by reason."""
        found = Counter(row.reason for row in self.dropped)
        return {reason: found[reason] for reason in REASONS}


def make_domain(
    rows: Iterable[Example | Reject], faults: Callable[[Example], Sequence[str]], guarded: Sequence[Guarded],
    settings: DomainSettings,
) -> Domain:  # fmt: skip
    """Make a domain set of rows.

    faults: what is wrong with an example's gold, in words. guarded: the questions of suites. The same rows and settings
    give the same set. Memory grows with the rows, which are all held.
    """
    domain = Domain()
    good = list(_verified(rows, faults, domain))
    unlike = _without_equal(good, guarded, domain)
    distinct = _without_near(unlike, guarded, settings, domain)
    domain.there = Counter(example.category for example in distinct)
    kept = _balanced(distinct, settings)
    for example in distinct:
        if example.id in kept:
            domain.examples.append(example)
        else:
            there = domain.there[example.category]
            domain.dropped.append(_drop("surplus", example, f"its category has {there:,} good rows, more than its share"))
    return domain


def _drop(reason: str, example: Example, seen: str) -> Dropped:
    return Dropped(reason, example.source, seen, example_to_json(example))


def _verified(rows: Iterable[Example | Reject], faults: Callable[[Example], Sequence[str]], domain: Domain) -> Iterator[Example]:
    """The rows that can be read and whose gold has no fault."""
    for row in rows:
        domain.num_read += 1
        if isinstance(row, Reject):
            domain.dropped.append(Dropped("unreadable", row.place, row.seen, {"raw": row.raw}))
        elif found := faults(row):
            domain.dropped.append(_drop("faulty", row, "; ".join(found)))
        else:
            yield row


def _without_equal(examples: Sequence[Example], guarded: Sequence[Guarded], domain: Domain) -> list[Example]:
    """The examples less repeated ones, those with two golds, and those that stand in a suite."""
    members: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        members[normalised(question_of(example))].append(example)
    whole = {normalised(question_of(one.example)): one for one in guarded}
    # A question may stand there with its choices and here without, or the other way round.
    bare = {normalised(one.example.text): one for one in guarded if one.example.choices}
    kept = []
    for key, same in members.items():
        first = same[0]
        own_bare = normalised(first.text) if first.choices else ""
        met = whole.get(key) or (bare.get(key) if not first.choices else None) or (whole.get(own_bare) if own_bare else None)
        if len({gold_of(example) for example in same}) > 1:
            places = ", ".join(example.source for example in same)
            domain.dropped += [_drop("conflicting", example, f"one question with other golds: {places}") for example in same]
            continue
        domain.dropped += [_drop("duplicate", example, f"the question and gold of {first.source}") for example in same[1:]]
        if met is not None:
            domain.dropped.append(_drop("in_suite", first, f"stands in {met.words}"))
        else:
            kept.append(first)
    return kept


def _without_near(
    examples: Sequence[Example], guarded: Sequence[Guarded], settings: DomainSettings, domain: Domain
) -> list[Example]:
    """The examples less those near to a question of a suite, and less those near to an earlier one that is kept."""
    own = [normalised(question_of(example)) for example in examples]
    others = list({normalised(question_of(one.example)): one for one in guarded}.items())
    texts, num = [*own, *(text for text, _ in others)], len(own)
    if not num:
        return []

    def grams_of(at: int) -> NDArray[np.uint64]:
        return ngrams(texts[at], settings.ngram, settings.ngram_alphabetic)

    def wanted(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((left < num) | (right < num), np.bool_)

    nearest: dict[int, tuple[float, int]] = {}
    earlier: dict[int, dict[int, float]] = defaultdict(dict)
    for i, j, similarity in NearTexts(len(texts), grams_of, settings.near_threshold).pairs(wanted):
        low, high = min(i, j), max(i, j)
        if high < num:
            earlier[high][low] = similarity
        else:
            nearest[low] = max(nearest.get(low, (0.0, 0)), (similarity, high))
    kept: list[Example] = []
    stays: set[int] = set()
    for at, example in enumerate(examples):
        if at in nearest:
            similarity, other = nearest[at]
            seen = f"{similarity:.2f} like {others[other - num][1].words}"
            domain.dropped.append(_drop("near_suite", example, seen))
            continue
        close = next((low for low in sorted(earlier[at]) if low in stays), None)
        if close is not None:
            domain.dropped.append(_drop("near_duplicate", example, f"{earlier[at][close]:.2f} like {examples[close].source}"))
            continue
        stays.add(at)
        kept.append(example)
    return kept


def share_out(there: Mapping[str, int], size: int | None) -> dict[str, int]:
    """How many rows each category gives, as equal as their numbers allow: none has two more than another that had more to give.

    What is left over of the last round goes to the first categories by name.
    """
    shares = dict.fromkeys(sorted(there), 0)
    left = sum(there.values()) if size is None else min(size, sum(there.values()))
    while left:
        open_ = [name for name in shares if shares[name] < there[name]]
        room = min(there[name] - shares[name] for name in open_)
        each = max(1, min(left // len(open_), room))
        for name in open_[:left]:
            shares[name] += each
            left -= each
    return shares


def _balanced(examples: Sequence[Example], settings: DomainSettings) -> set[str]:
    """Ids of the examples that are kept: of each category its share, drawn by seed and question, not by place."""
    members: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        members[example.category].append(example)
    shares = share_out({name: len(same) for name, same in members.items()}, settings.size)
    return {
        example.id
        for name, same in members.items()
        for example in sorted(same, key=lambda example: _lot(example, settings.seed))[: shares[name]]
    }


def _lot(example: Example, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{normalised(question_of(example))}".encode("utf-8", "surrogatepass")).digest()


def to_row(example: Example) -> dict[str, Any]:
    """An example as a row that every reader of example files understands, with its id and the place that it came from."""
    head: dict[str, Any] = {"id": example.id, "category": example.category, "source": example.source}
    if example.choices:
        return head | {"question": example.text, "choices": list(example.choices), "answer": example.answer}
    return head | {"messages": [{"role": message.role, "content": message.content} for message in example.messages]}
