"""Where two sequences of token ids part, by number and in words."""

from collections.abc import Sequence

from whet.text.tokenizer import Tokenizer


def parts_at(wanted: Sequence[int], found: Sequence[int]) -> int:
    """The place of the first token that differs; where one ends first, its end."""
    first = (at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b)
    return next(first, min(len(wanted), len(found)))


def parting(tokenizer: Tokenizer, wanted: Sequence[int], found: Sequence[int]) -> str:
    """The first token that differs, with some around it on either side; empty where the two are the same."""
    if list(wanted) == list(found):
        return ""
    at = parts_at(wanted, found)
    theirs, ours = (tokenizer.decode_all(ids[max(0, at - 3) : at + 4]) for ids in (wanted, found))
    return f"from token {at} on: {ours!r} for {theirs!r}"
