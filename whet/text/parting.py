"""Where two sequences of token ids part, in words."""

from collections.abc import Sequence

from whet.text.tokenizer import Tokenizer


def parting(tokenizer: Tokenizer, wanted: Sequence[int], found: Sequence[int]) -> str:
    """The first token that differs, with some around it on either side; empty where the two are the same."""
    if list(wanted) == list(found):
        return ""
    at = next((at for at, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), min(len(wanted), len(found)))
    theirs, ours = (tokenizer.decode_all(ids[max(0, at - 3) : at + 4]) for ids in (wanted, found))
    return f"from token {at} on: {ours!r} for {theirs!r}"
