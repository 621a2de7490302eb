"""Keys and values of live sequences: prefixes that many share, and what each sequence has of its own, a slot each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from whet.backends.on_torch.attention import PrefixKeys

STEP = 64  # tokens by which slots are lengthened at least


@dataclass(eq=False)
class SharedPrefix:
    """Ids that several prompts of one adapter begin with, and their keys and values, (1, G, P, D) by layer."""

    ids: tuple[int, ...]
    adapter: str | None = None
    keys: PrefixKeys = field(default_factory=PrefixKeys)


class OwnKeys:
    """Keys and values behind the prefixes, (slots, G, tokens, D) by layer. Live sequences stand in the first slots."""

    def __init__(self, most_places: int) -> None:
        self.most_places = most_places
        """Slots times tokens that are held where fewer would do."""
        self.num_slots = self.num_tokens = 0
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reserve(self, num_slots: int, num_tokens: int) -> None:
        """Make room for so many sequences of so many tokens; what the first slots hold stays."""
        if num_slots <= self.num_slots and num_tokens <= self.num_tokens:
            return
        longer = -(-max(num_tokens, self.num_tokens) // STEP) * STEP
        more = max(num_slots, self.num_slots)
        if more * longer > self.most_places:
            more = num_slots
        if more * longer > self.most_places:
            longer = num_tokens
        kept_slots, kept_tokens = min(more, self.num_slots), min(longer, self.num_tokens)
        for layer, pair in self.layers.items():
            # Zeros: a masked place must hold a number, since 0 times what is no number is none.
            made = tuple(t.new_zeros(more, t.shape[1], longer, t.shape[3]) for t in pair)
            for new, old in zip(made, pair, strict=True):
                new[:kept_slots, :, :kept_tokens] = old[:kept_slots, :, :kept_tokens]
            self.layers[layer] = made
        self.num_slots, self.num_tokens = more, longer

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, slot_T: torch.Tensor, place_T: torch.Tensor) -> None:
        """Put new tokens' keys and values (1, G, T, D) in their places."""
        if layer not in self.layers:
            self.layers[layer] = tuple(t.new_zeros(self.num_slots, t.shape[1], self.num_tokens, t.shape[3]) for t in (key, value))
        for into, new in zip(self.layers[layer], (key, value), strict=True):
            into[slot_T, :, place_T] = new[0].transpose(0, 1)

    def move(self, sources: Sequence[int], targets: Sequence[int], num_tokens: int) -> None:
        """Copy the first tokens of slots to other slots."""
        for pair in self.layers.values():
            for t in pair:
                held = t[:, :, :num_tokens]
                held[list(targets)] = held[list(sources)]
