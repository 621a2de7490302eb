"""SentencePiece's BPE out of a tokenizer.json: the score of each piece, proved to merge as the tokenizer does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.records import Message
from whet.text.chat import Chat

SPACE = "\u2581"  # SentencePiece's mark for a space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class Pieces:
    """What runners need to merge as SentencePiece does."""

    scores: dict[str, float]
    """By piece; the higher is merged first, as in SentencePiece."""
    byte_names: frozenset[str]
    adds_space: bool
    """Whether a space is put before a text and behind each special token."""
    notes: tuple[str, ...]


def read_pieces(tokenizer: Mapping[str, Any], chat: Chat, place: str) -> Pieces:
    """The pieces of a BPE with byte fallback. InputError where scores can't say what its merges say.

    A tokenizer merges the pair that stands first in its list; a runner merges the pair whose piece scores highest, whether or not
    the list holds it. Both are one when each piece's pairs stand together in the list and none of its cuts into two pieces is
    missing there. Both are checked, over the whole vocabulary.
    """
    model = tokenizer["model"]
    vocabulary: dict[str, int] = model["vocab"]
    if missing := [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]:
        raise InputError(place, f"lacks {len(missing)} of the tokens for single bytes ({missing[0]}, ...)")
    # Runners try marks before pieces, and never reach them by merging.
    marks = {token["content"] for token in tokenizer.get("added_tokens", [])} | {
        name for name in vocabulary if _BYTE.fullmatch(name)
    }
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    ranks: dict[str, int] = {}
    last = ""
    for left, right in merges:
        piece = left + right
        if piece != last and piece in ranks:
            raise InputError(place, f"merges the pairs of {piece!r} at different times, which no score can say", _REMEDY)
        ranks.setdefault(piece, len(ranks))
        last = piece
    known = set(merges)
    for piece in vocabulary:
        if piece in marks or len(piece) < 2:
            continue
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in vocabulary and right in vocabulary and (left, right) not in known and not {left, right} & marks:
                raise InputError(
                    place, f"never merges {left!r} and {right!r} though {piece!r} is a token; runners of GGUF would", _REMEDY
                )
    scores = {piece: -float(rank) for piece, rank in ranks.items()}
    scores |= {name: -float(len(ranks)) for name in vocabulary if name not in scores}
    adds_space, notes = _space(tokenizer, chat, place)
    return Pieces(scores, frozenset(name for name in vocabulary if _BYTE.fullmatch(name)), adds_space, notes)


_REMEDY = "Serve this model with whet or vLLM, or export it with the tokenizer that it was made with"


def _space(tokenizer: Mapping[str, Any], chat: Chat, place: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put before texts; InputError where texts are changed in another way, or cut in words."""
    normalizer = tokenizer.get("normalizer")
    parts = normalizer.get("normalizers", [normalizer]) if normalizer else []
    before = tokenizer.get("pre_tokenizer")
    parts = [*parts, *(before.get("pretokenizers", [before]) if before else [])]
    replaces, prepends = False, ""
    for part in parts:
        kind = part["type"]
        if kind == "Prepend" and part["prepend"] == SPACE:
            prepends = "always"
        elif kind == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE:
            replaces = True
        elif kind == "Metaspace" and part["replacement"] == SPACE:
            replaces, prepends = True, part.get("prepend_scheme", "always")
            if part.get("split", True):
                _check_words(tokenizer, place)
        elif kind == "Split" and part["pattern"] == {"String": " "}:
            pass  # no space is left to cut at (Gemma)
        else:
            raise InputError(place, f"changes texts in a way that runners of GGUF don't ({kind})", _REMEDY)
    if not replaces:
        raise InputError(place, "does not write spaces as SentencePiece does", _REMEDY)
    if prepends != "first":
        return prepends == "always", ()
    # Only what stands before the first special token gets a space. A template that begins with one leaves nothing there.
    starts = chat.tokenizer.encode(chat.render([Message("user", "a")], is_prompt=True))[:1]
    begins_marked = bool(set(starts) & set(chat.tokenizer.special_tokens().values()))
    if not begins_marked:
        raise InputError(place, "puts a space before the first word only, which runners of GGUF do behind marks too", _REMEDY)
    return False, ("a space is put before a text outside the chat template by the tokenizer, and not by runners of GGUF",)


def _check_words(tokenizer: Mapping[str, Any], place: str) -> None:
    """Where texts are cut at spaces, no piece may reach over one: runners don't cut."""
    crossing = [name for name in tokenizer["model"]["vocab"] if SPACE in name.lstrip(SPACE)]
    if crossing:
        raise InputError(place, f"cuts texts at spaces, and runners would merge over them to {crossing[0]!r}", _REMEDY)
