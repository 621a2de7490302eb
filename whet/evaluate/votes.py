"""What a reader said who saw two answers and not whose they were: the sides drawn, the votes read, the sign test."""

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from whet.errors import InputError
from whet.evaluate.statistics import CONFIDENCE, Interval
from whet.storage import canonical, hash_text, read_json

FORMAT = "whet votes 1"
Vote = Literal["left", "right", "tie"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with the two answers to it, which differ. part: of the suite."""

    part: str
    example_id: str
    text: str
    a: str
    b: str

    @property
    def key(self) -> str:
        """Its name on a ballot."""
        return hash_text(canonical([self.part, self.example_id]))[:16]


@dataclass(frozen=True, slots=True)
class Votes:
    """The sign test of a blind reading.

    share: votes for B of those for either side, with Clopper and Pearson's exact interval; p_value: two-sided binomial
    test against one half; both None without such votes. left_share: the same of the left side, whoever stood there: a
    reader without a bias has one half.
    """

    names: tuple[str, str]
    num_pairs: int
    num_for_a: int
    num_for_b: int
    num_ties: int
    share: float | None
    interval: Interval | None
    p_value: float | None
    num_left: int
    left_share: float | None
    left_interval: Interval | None
    left_p_value: float | None


def draw_pairs(pairs: Iterable[Pair], num: int | None, seed: int) -> list[Pair]:
    """At most `num` of the pairs in random order, by seed."""
    drawn = sorted(pairs, key=lambda pair: pair.key)
    random.Random(seed).shuffle(drawn)
    return drawn[:num]


def draw_sides(pairs: Sequence[Pair], seed: int) -> frozenset[str]:
    """The keys of the pairs whose B stands on the left: half of them, drawn by seed.

    As many on either side, so that a reader who always takes the same side prefers nobody.
    """
    keys = sorted((pair.key for pair in pairs), key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    return frozenset(keys[: len(keys) // 2])


def fingerprint(pairs: Iterable[Pair], seed: int) -> str:
    """What a ballot is known by: the two systems' answers to all questions on which they differ, and the seed."""
    return hash_text(canonical([seed, sorted((pair.key, pair.a, pair.b) for pair in pairs)]))


@dataclass(frozen=True, slots=True)
class Ballot:
    """What the page saved: whose ballot it was, its seed and parts, how many pairs it showed, and the votes by their keys."""

    fingerprint: str
    seed: int
    num_pairs: int
    parts: tuple[str, ...]
    """Of the suite; none means all."""
    votes: Mapping[str, Vote]


def read_votes(path: Path) -> Ballot:
    """The ballot in a file that the page saved; InputError for any other file."""
    raw: Any = read_json(path)
    remedy = "Give a file that the page of --blind saved"
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(str(path), "holds no votes", remedy)
    name, seed, num, parts, votes = (raw.get(key) for key in ("ballot", "seed", "num_pairs", "parts", "votes"))
    if not isinstance(name, str) or type(seed) is not int or type(num) is not int:
        raise InputError(str(path), "lacks its ballot, seed or number of pairs", remedy)
    if not isinstance(votes, dict) or not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise InputError(str(path), "lacks its votes or parts", remedy)
    other = next((vote for vote in votes.values() if vote not in get_args(Vote)), None)
    if other is not None:
        raise InputError(str(path), f"holds the vote {other!r}, which is none of {', '.join(get_args(Vote))}", remedy)
    return Ballot(name, seed, num, tuple(parts), votes)


def count_votes(ballot: Ballot, swapped: Collection[str], names: tuple[str, str], confidence: float = CONFIDENCE) -> Votes:
    """The sign test over a ballot, ties left out (Dixon and Mood 1946, J. Am. Stat. Assoc. 41:557).

    swapped: keys of the pairs whose B stood on the left.
    """
    votes = ballot.votes
    decided = {key: vote for key, vote in votes.items() if vote != "tie"}
    num_b = sum((vote == "left") == (key in swapped) for key, vote in decided.items())
    num_left = sum(vote == "left" for vote in decided.values())
    return Votes(
        names, ballot.num_pairs, len(decided) - num_b, num_b, len(votes) - len(decided), *_share(num_b, len(decided), confidence),
        num_left, *_share(num_left, len(decided), confidence),
    )  # fmt: skip


def _share(num: int, of: int, confidence: float) -> tuple[float | None, Interval | None, float | None]:
    if not of:
        return None, None, None
    from scipy.stats import binomtest

    found = binomtest(num, of)
    ends = found.proportion_ci(confidence_level=confidence, method="exact")
    return num / of, Interval(float(ends.low), float(ends.high)), float(found.pvalue)
