"""Guesses what a reply copies, from its source or from itself, so that several ids are tried in one pass.

Prompt look-up: Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal

LONGEST = 3  # ids of a reply's end that are looked up; longer ends first
MOST = 8  # ids that are tried at once
# What a step costs beside its tokens, in tokens: reading the weights and starting the operations.
STEP_TOKENS = {"cpu": 16, "cuda": 256}
FIRST_SHARE, FIRST = 0.6, 20.0  # of guesses that are thought to be right at first, and how firmly, in ids
REMEMBERED = 1000.0  # ids that were tried, after which older ones count half
PRIOR = 4  # ids' worth of what other replies say of a reply that has tried none

Kind = tuple[Literal["source", "reply"], int]
"""Where a reply's end was found again, and how many ids of it."""


class Drafts:
    """What is worth guessing. It learns how often guesses are right, of each reply and of all.

    What is guessed depends on ids and counts alone, never on the clock, so several processes guess the same.
    """

    def __init__(self, device: str) -> None:
        self.step_tokens = STEP_TOKENS.get(device, 16)
        kinds = product(("source", "reply"), range(1, LONGEST + 1))
        self.counts: dict[Kind, tuple[float, float]] = dict.fromkeys(kinds, (FIRST_SHARE * FIRST, FIRST))
        """Ids that were right, and ids that were tried."""

    def least_share(self, num_live: int) -> float:
        """How likely a guessed id must be right to be worth its computing.

        A step of T tokens costs step_tokens + T and gives an id a sequence. One more token costs 1, and gives one id more where
        it and those before it are right.
        """
        return num_live / (self.step_tokens + num_live)

    def is_worth_a_look(self, num_live: int) -> bool:
        """Whether any guess could be likely enough among so many live sequences."""
        return any(right / tried > self.least_share(num_live) for right, tried in self.counts.values())

    def guess(self, copier: "Copier", ids: Sequence[int], num_live: int, left: int) -> tuple[int, ...]:
        """Ids that may follow those of a reply; as many as are worth it."""
        kind, found = copier.find(ids)
        if kind is None:
            return ()
        right, tried = self.counts[kind]
        share = (PRIOR * right / tried + copier.right) / (PRIOR + copier.tried)
        num, chance, least = 0, share, self.least_share(num_live)
        while num < min(left - 1, len(found)) and chance > least:
            num, chance = num + 1, chance * share
        return found[:num]

    def learn(self, copier: "Copier", num_tried: int, num_right: int) -> None:
        """Take note of a guess: the first `num_right` of its ids were right, the one after them, if any, was wrong."""
        assert copier.kind is not None
        right, tried = self.counts[copier.kind]
        num_known = num_right + (num_right < num_tried)
        share = 0.5 if tried + num_known > REMEMBERED else 1.0
        self.counts[copier.kind] = (right + num_right) * share, (tried + num_known) * share
        copier.right += num_right
        copier.tried += num_known


class Copier:
    """One reply and its source, where ends of the reply are looked up."""

    def __init__(self, source: Sequence[int]) -> None:
        self.source = tuple(source)
        self.in_source: dict[tuple[int, ...], list[int]] = {}
        """Places behind each run of up to LONGEST ids."""
        for length in range(1, LONGEST + 1):
            for end in range(length, len(self.source)):
                self.in_source.setdefault(self.source[end - length : end], []).append(end)
        self.last = 0
        """The place in the source that was found last: values mostly come in its order."""
        self.in_reply: dict[tuple[int, ...], int] = {}
        """The last place in the reply behind each run of ids that something follows."""
        self.num_known = 1
        self.kind: Kind | None = None
        self.right = self.tried = 0.0

    def find(self, ids: Sequence[int]) -> tuple[Kind | None, tuple[int, ...]]:
        """Where the longest end of the reply's ids stands before, and up to MOST ids that follow it there."""
        for end in range(self.num_known, len(ids)):
            for length in range(1, min(LONGEST, end) + 1):
                self.in_reply[tuple(ids[end - length : end])] = end
        self.num_known = max(self.num_known, len(ids))
        for length in range(min(LONGEST, len(ids)), 0, -1):
            run = tuple(ids[-length:])
            if places := self.in_source.get(run):
                self.last = next((place for place in places if place > self.last), places[0])
                self.kind = ("source", length)
                return self.kind, self.source[self.last : self.last + MOST]
            if run in self.in_reply:
                self.kind = ("reply", length)
                return self.kind, tuple(ids[self.in_reply[run] : self.in_reply[run] + MOST])
        return None, ()
