"""Finds what prompts share: the prefix of each that is worth being computed once, given the prompts in view."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

Ids = tuple[int, ...]
LEAST = 8  # tokens of a prefix that is worth a call of its own in every layer
SAVING = 128  # tokens that a new prefix must spare the prompts in view: it costs calls of its own as long as they live


def shared_lengths(prompts: Sequence[Ids], held: Iterable[Ids]) -> list[int]:
    """For each prompt how many of its first tokens to take from a prefix; the last token is never among them.

    Of all the beginnings that a prompt has in common with others, the one that spares most tokens in all; where a prefix that
    is held spares nearly as much, that one.
    """
    held_by_length: dict[int, set[Ids]] = defaultdict(set)
    for ids in held:
        held_by_length[len(ids)].add(ids)
    found = [0] * len(prompts)
    for at, (length, num) in enumerate(_best_beginnings(prompts)):
        ids = prompts[at]
        there = max((n for n, all_ids in held_by_length.items() if n < len(ids) and ids[:n] in all_ids), default=0)
        spared = (length - there) * (num - 1)  # computed once, behind the one that is there
        found[at] = length if length >= LEAST and spared >= SAVING and length > there else there
    return found


def _best_beginnings(prompts: Sequence[Ids]) -> list[tuple[int, int]]:
    """For each prompt the length of a shared beginning that spares most tokens, and how many prompts share it."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    best: list[tuple[int, int, int]] = [(0, 0, 1)] * len(prompts)  # spared, length, prompts
    # Runs of sorted prompts with a common beginning are the nodes of their radix tree; `open_` is the path to the last one.
    open_: list[tuple[int, int]] = []  # length, first place in the order
    for place in range(1, len(order) + 1):
        common = num_common(prompts[order[place - 1]], prompts[order[place]]) if place < len(order) else 0
        first = place - 1
        while open_ and open_[-1][0] > common:
            length, first = open_.pop()
            num = place - first
            for at in order[first:place]:
                usable = min(length, len(prompts[at]) - 1)
                best[at] = max(best[at], (usable * (num - 1), usable, num))
        if common and (not open_ or open_[-1][0] < common):
            open_.append((common, first))
    return [(length, num) for _, length, num in best]


def num_common(a: Ids, b: Ids) -> int:
    """Tokens that both begin with."""
    num = min(len(a), len(b))
    if a[:num] == b[:num]:
        return num
    low, high = 0, num  # a[:low] is common, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
