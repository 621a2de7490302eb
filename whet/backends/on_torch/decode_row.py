"""The row of one decoding step: the new tokens of every live sequence, where they stand, and what each may see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whet.backends.on_torch.decode_attention import DecodeSight, Together
from whet.backends.on_torch.decode_cache import OwnKeys, SharedPrefix


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
    """The row of sequences that stand in the first slots, in their order."""
    counts_n = np.array([len(entry.ids) for entry in new])
    own_n = np.array([entry.num_own for entry in new])
    before_n = np.array([len(entry.prefix.ids) if entry.prefix else 0 for entry in new])
    ends_n = counts_n.cumsum()
    starts_n = ends_n - counts_n
    slot_T = np.repeat(np.arange(len(new)), counts_n)
    place_T = np.arange(ends_n[-1]) + (own_n - starts_n)[slot_T]
    positions_T = place_T + before_n[slot_T]
    ids_T = np.array([token for entry in new for token in entry.ids])
    length = int((own_n + counts_n).max())

    def on_device(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    blocks = tuple(_blocks(counts_n, starts_n, place_T, length, device))
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


def _blocks(counts_n: np.ndarray, starts_n: np.ndarray, place_T: np.ndarray, length: int, device: torch.device) -> list[Together]:
    """One token of each sequence straight from the cache; the others of those that have more, whose caches are gathered."""
    num, most, several = len(counts_n), int(counts_n.max()), np.flatnonzero(counts_n > 1)
    if most == 1:
        return [Together(None, None, num, _sees(place_T[:, None], length, device))]
    # Gathering copies caches: worth it where few sequences have several tokens.
    if num * most <= num + 2 * len(several) * (most - 1):
        return [_block(starts_n, counts_n, None, place_T, length, device)]
    return [
        _block(starts_n, np.ones_like(counts_n), None, place_T, length, device),
        _block(starts_n[several] + 1, counts_n[several] - 1, several, place_T, length, device),
    ]


def _block(
    first_m: np.ndarray, counts_m: np.ndarray, slots_m: np.ndarray | None, place_T: np.ndarray, length: int, device: torch.device
) -> Together:
    offset_Q = np.arange(counts_m.max())
    at_mQ = first_m[:, None] + np.minimum(offset_Q, counts_m[:, None] - 1)
    is_real_S = (offset_Q < counts_m[:, None]).ravel()
    return Together(
        torch.from_numpy(at_mQ).to(device),
        None if slots_m is None else torch.from_numpy(slots_m).to(device),
        len(first_m),
        _sees(place_T[at_mQ], length, device),
        None if is_real_S.all() else torch.from_numpy(np.flatnonzero(is_real_S)).to(device),
    )


def _sees(place_mQ: np.ndarray, length: int, device: torch.device) -> torch.Tensor:
    """(m, Q, L): 0 up to a token's own place, -inf behind it."""
    place_mQ1 = torch.from_numpy(place_mQ).to(device)[..., None]
    unseen_mQL = torch.arange(length, device=device) > place_mQ1
    return torch.zeros(unseen_mQL.shape, device=device).masked_fill_(unseen_mQL, -torch.inf)
