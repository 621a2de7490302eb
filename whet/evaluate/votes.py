"""What a reader said who saw two answers and not whose they were: the sides drawn, the votes read, the sign test."""

import hashlib
from collections.abc import Iterable, Mapping
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


def is_swapped(seed: int, key: str) -> bool:
    """Whether B stands on the left for this pair: a coin that the seed and the pair decide."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()[0] % 2 == 1


def fingerprint(pairs: Iterable[Pair], seed: int) -> str:
    """What a ballot is known by: the two systems' answers to all questions on which they differ, and the seed."""
    return hash_text(canonical([seed, sorted((pair.key, pair.a, pair.b) for pair in pairs)]))


@dataclass(frozen=True, slots=True)
class Ballot:
    """What the page saved: whose ballot it was, its seed, how many pairs it showed, and the votes by the pairs' keys."""

    fingerprint: str
    seed: int
    num_pairs: int
    votes: Mapping[str, Vote]


def read_votes(path: Path) -> Ballot:
    """The ballot in a file that the page saved; InputError for any other file."""
    raw: Any = read_json(path)
    remedy = "Give a file that the page of --blind saved"
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise InputError(str(path), "holds no votes", remedy)
    name, seed, num, votes = (raw.get(key) for key in ("ballot", "seed", "num_pairs", "votes"))
    if not isinstance(name, str) or type(seed) is not int or type(num) is not int or not isinstance(votes, dict):
        raise InputError(str(path), "lacks its ballot, seed, number of pairs or votes", remedy)
    other = next((vote for vote in votes.values() if vote not in get_args(Vote)), None)
    if other is not None:
        raise InputError(str(path), f"holds the vote {other!r}, which is none of {', '.join(get_args(Vote))}", remedy)
    return Ballot(name, seed, num, votes)


def count_votes(ballot: Ballot, names: tuple[str, str], confidence: float = CONFIDENCE) -> Votes:
    """The sign test over a ballot, ties left out (Dixon and Mood 1946, J. Am. Stat. Assoc. 41:557)."""
    votes = ballot.votes
    decided = {key: vote for key, vote in votes.items() if vote != "tie"}
    num_b = sum((vote == "left") == is_swapped(ballot.seed, key) for key, vote in decided.items())
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
