"""Cleaning: what makes two texts the same, and which examples are dropped by policy, under which name."""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from whet.config import Settings
from whet.data.spool import Ledger, draw
from whet.records import Example
from whet.storage import canonical

Policy = Literal["drop", "keep", "stop"]


class CleanSettings(Settings):
    """What happens to examples that are no good: drop (and count), keep (and count), or stop the build.

    Rows of a source given `as_published` are exempt from the last four: a published split stays as it is.
    """

    empty: Policy = "drop"
    """An empty text, or a field without a value that must have one."""
    over_long: Policy = "stop"
    """An example whose whole conversation, the answer included, has more tokens than the model's limit."""
    ungrounded: Policy = "stop"
    """A span value that does not stand in the text."""
    choice: Policy = "stop"
    """A value outside its closed set."""
    duplicates: Literal["drop", "keep"] = "drop"
    """The same normalised text with the same gold, within a split: the first is kept, or all are."""
    conflicting: Literal["first", "keep", "stop"] = "first"
    """The same normalised text with another gold, within a split: keep the first, all, or stop the build."""
    near_duplicates: Literal["drop", "keep"] = "keep"
    """Texts within a split that are as near as `split.near_threshold`: keep the first of each cluster, or all."""
    negative_share: float | None = Field(default=None, ge=0.0, le=1.0)
    """Largest share of examples without any record, 0 to 1, drawn by the split's seed; null keeps all."""


class _Letters(dict[int, int | None]):
    """For `str.translate`: letters, digits and combining marks stay, everything else goes."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LNM" else None
        return self[code]


_LETTERS = _Letters()


@functools.cache
def _simplify() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def normalised(text: str) -> str:
    """What is left of a text when width, case, script (Simplified or Traditional), spaces and punctuation are ignored.

    The one definition of "the same text" for duplicates and leaks. A text of signs alone stands for itself.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = folded.translate(_LETTERS)
    return str(_simplify().convert(letters)) if letters else folded.strip()


def question_of(example: Example) -> str:
    """All that is asked, the gold left out: a question with its choices in any order, or the turns before a reply."""
    if example.choices:
        return "\n".join([example.text, *sorted(example.choices)])
    turns = [message.content for message in example.messages[:-1] if message.role != "system"]
    return "\n".join(turns) or example.text


def gold_of(example: Example) -> str:
    """The gold as text, offsets and the order of choices left out: equal golds give equal text."""
    if example.records is not None:
        rows = [{name: value.text if value else None for name, value in record.items()} for record in example.records]
        return canonical(sorted(canonical(row) for row in rows))
    if example.answer is not None and example.answer < len(example.choices):
        return example.choices[example.answer]
    return example.messages[-1].content if example.messages else ""


def judge(faults: Sequence[str], settings: CleanSettings) -> tuple[str, Policy]:
    """The kind and policy that decide about an example with these faults: stop before drop before keep."""
    policies: Mapping[str, Policy] = {kind: getattr(settings, kind) for kind in ("empty", "over_long", "ungrounded", "choice")}
    found = [(kind, policies[kind]) for kind in (fault.partition(":")[0] for fault in faults)]
    return min(found, key=lambda pair: ("stop", "drop", "keep").index(pair[1]))


def drop_duplicates(rows: Ledger, pools: NDArray[np.int8], settings: CleanSettings) -> dict[str, int]:
    """Take out repeated texts within a pool (a split, or what is still undecided).

    pools: int8 [rows]. Gives the numbers found by kind, kept ones included; `rows.state` marks what is taken out.
    """
    alive = np.flatnonzero((rows.state == 0) & ~rows.published)
    order = alive[np.lexsort((alive, pools[alive], rows.key[alive]))]
    same = (rows.key[order][1:] == rows.key[order][:-1]) & (pools[order][1:] == pools[order][:-1])
    found = {"exact_duplicate": 0, "conflicting": 0}
    first, golds = -1, set[int]()  # the golds of the rows that are kept
    for at, row in enumerate(order.tolist()):
        gold = int(rows.gold[row])
        if not (at and same[at - 1]):
            first, golds = row, {gold}
            continue
        kind = "exact_duplicate" if gold in golds else "conflicting"
        found[kind] += 1
        if (settings.duplicates if gold in golds else settings.conflicting) == "keep":
            golds.add(gold)
        else:
            rows.drop(row, kind, first)
    return found


def drop_near(rows: Ledger, pools: NDArray[np.int8], clusters: NDArray[np.int64]) -> int:
    """Of each cluster of near texts keep the first of a pool; gives how many were taken out.

    clusters: int [keys], the cluster of each normalised text.
    """
    alive = np.flatnonzero((rows.state == 0) & ~rows.published)
    cluster, pool = clusters[rows.key[alive]], pools[alive]
    order = np.lexsort((alive, pool, cluster))
    first, count = -1, 0
    before: tuple[int, int] | None = None
    for at in order.tolist():
        row, here = int(alive[at]), (int(cluster[at]), int(pool[at]))
        if here != before:
            first, before = row, here
        elif rows.key[row] != rows.key[first]:
            rows.drop(row, "near_duplicate", first)
            count += 1
    return count


def drop_negatives(rows: Ledger, pools: NDArray[np.int8], share: float, seed: int) -> int:
    """Take out examples without records until they are at most `share` of their pool; gives how many were taken out."""
    count = 0
    for pool in np.unique(pools):
        alive = np.flatnonzero((rows.state == 0) & ~rows.published & (pools == pool))
        negatives = alive[rows.negative[alive]]
        positives = len(alive) - len(negatives)
        most = len(negatives) if share >= 1 else int(share * positives / (1 - share) + 1e-9)
        for row in negatives[np.argsort(draw(rows.id_hash[negatives], seed), kind="stable")][most:].tolist():
            rows.drop(row, "negative", -1)
            count += 1
    return count
