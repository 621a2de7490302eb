"""The row of one decoding step: the new tokens of every live sequence, where they stand, and what each may see."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch

from whet.backends.on_torch.decode_attention import DecodeSight, Together
from whet.backends.on_torch.decode_cache import OwnKeys, SharedPrefix

SHORTEST = 48  # tokens of the shortest class of sequences; those of the next are up to twice as long, and so on


@dataclass(frozen=True)
class NewTokens:
    """What a step computes of one sequence."""

    ids: Sequence[int]
    num_own: int
    """Tokens of the sequence's slot that are held."""
    prefix: SharedPrefix | None


@dataclass(frozen=True)
class DecodeRow:
    """T tokens, those of one sequence after those of another, in the order of their slots."""

    ids_1T: torch.Tensor
    positions_1T: torch.Tensor
    starts: list[int]
    """Column of each sequence's first token."""
    sight: DecodeSight


def decode_row(new: Sequence[NewTokens], own: OwnKeys, device: torch.device) -> DecodeRow:
    """The row of sequences that stand in the first slots, in their order; those of like length should be neighbours."""
    counts_n = np.array([len(entry.ids) for entry in new])
    own_n = np.array([entry.num_own for entry in new])
    before_n = np.array([len(entry.prefix.ids) if entry.prefix else 0 for entry in new])
    ends_n = counts_n.cumsum()
    starts_n = ends_n - counts_n
    slot_T = np.repeat(np.arange(len(new)), counts_n)
    place_T = np.arange(ends_n[-1]) + (own_n - starts_n)[slot_T]
    positions_T = place_T + before_n[slot_T]
    ids_T = np.array([token for entry in new for token in entry.ids])

    def on_device(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    blocks = tuple(_blocks(counts_n, own_n + counts_n, place_T, device))
    sight = DecodeSight(
        own,
        on_device(slot_T),
        on_device(place_T),
        on_device(positions_T),
        int(positions_T.max()) + 1,
        blocks,
        tuple(_shared(new, slot_T, device)),
    )
    return DecodeRow(on_device(ids_T)[None], sight.positions_T[None], starts_n.tolist(), sight)


def _shared(new: Sequence[NewTokens], slot_T: np.ndarray, device: torch.device) -> list[tuple[SharedPrefix, torch.Tensor | None]]:
    found = {id(entry.prefix): entry.prefix for entry in new if entry.prefix}
    if len(found) == 1 and all(entry.prefix for entry in new):
        return [(next(iter(found.values())), None)]
    keys_n = np.array([id(entry.prefix) for entry in new])
    return [(prefix, torch.from_numpy(np.flatnonzero(keys_n[slot_T] == key)).to(device)) for key, prefix in found.items()]


def length_class(num_tokens: int) -> int:
    """Sequences of one class attend to their caches in one call, padded to the longest of them."""
    return next(number for number in count() if num_tokens <= SHORTEST << number)


def _blocks(counts_n: np.ndarray, lengths_n: np.ndarray, place_T: np.ndarray, device: torch.device) -> list[Together]:
    """Tokens of neighbours of like length straight from the cache. The caches of a few that have several tokens are gathered."""
    starts_n = counts_n.cumsum() - counts_n
    classes_n = np.array([length_class(length) for length in lengths_n])
    firsts = np.flatnonzero(np.diff(classes_n, prepend=-1))
    runs = [slice(first, end) for first, end in zip(firsts, [*firsts[1:], len(counts_n)], strict=True)]
    if counts_n.max() == 1:
        return [Together(run, run, _sees(place_T[run, None], lengths_n[run].max(), device)) for run in runs]
    blocks, rest = [], []
    for run in runs:
        counts, several = counts_n[run], run.start + np.flatnonzero(counts_n[run] > 1)
        # Gathering copies caches: worth it where few sequences have several tokens.
        if len(counts) * counts.max() <= len(counts) + 2 * len(several) * (counts.max() - 1):
            blocks.append(_block(starts_n[run], counts, run, place_T, lengths_n[run].max(), device))
        else:
            blocks.append(_block(starts_n[run], np.ones_like(counts), run, place_T, lengths_n[run].max(), device))
            rest.append(several)
    if rest:
        rest_m = np.concatenate(rest)
        blocks.append(_block(starts_n[rest_m] + 1, counts_n[rest_m] - 1, rest_m, place_T, lengths_n[rest_m].max(), device))
    return blocks


def _block(
    first_m: np.ndarray,
    counts_m: np.ndarray,
    slots_m: np.ndarray | slice,
    place_T: np.ndarray,
    length: int,
    device: torch.device,
) -> Together:
    offset_Q = np.arange(counts_m.max())
    columns_mQ = first_m[:, None] + np.minimum(offset_Q, counts_m[:, None] - 1)
    is_real_S = (offset_Q < counts_m[:, None]).ravel()
    return Together(
        torch.from_numpy(columns_mQ).to(device),
        slots_m if isinstance(slots_m, slice) else torch.from_numpy(slots_m).to(device),
        _sees(place_T[columns_mQ], length, device),
        None if is_real_S.all() else torch.from_numpy(np.flatnonzero(is_real_S)).to(device),
    )


def _sees(place_mQ: np.ndarray, length: int, device: torch.device) -> torch.Tensor:
    """(m, Q, L): 0 up to a token's own place, -inf behind it."""
    place_mQ1 = torch.from_numpy(place_mQ).to(device)[..., None]
    unseen_mQL = torch.arange(length, device=device) > place_mQ1
    return torch.zeros(unseen_mQL.shape, device=device).masked_fill_(unseen_mQL, -torch.inf)
