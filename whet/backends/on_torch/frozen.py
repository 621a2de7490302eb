"""Frozen lower layers: computed without gradients, their prefixes once a run, and where there is room each row once a run."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import torch

from whet.backends.base import Pack
from whet.backends.on_torch.attention import PrefixKeys
from whet.backends.on_torch.forwards import exchange
from whet.backends.on_torch.targets import decoder_layers
from whet.errors import InputError

Half = Literal["both", "lower", "upper"]
NUM_PREFIXES = 8  # whose keys and values of the frozen layers are held


@dataclass
class FrozenPrefix:
    """What the frozen layers made of a prefix: keys and values by layer, and the input (1, P, H) of the first trained layer."""

    keys: PrefixKeys
    hidden_1PH: torch.Tensor


class FrozenLayers:
    """A decoder that can be run in two halves: the frozen layers below, and those from the first trained one on."""

    def __init__(self, model: Any, budget: int, *, is_on_disk: bool) -> None:
        self.decoder = model.get_decoder()
        self.half: Half = "both"
        self.prefixes: dict[tuple[int, ...], FrozenPrefix] = {}
        self.store = Store(budget, is_on_disk) if budget else None
        self.ways_back: list[Callable[[], None]] = []
        _, stack = decoder_layers(model)
        num_frozen = _num_frozen(model, stack)
        for number, layer in enumerate(stack):
            self._make_skippable(layer, "upper" if number < num_frozen else "lower")
        self._make_skippable(self.decoder.norm, "lower")

    def below(self, **inputs: Any) -> torch.Tensor:
        """(1, T, H) inputs of the first trained layer, without gradients."""
        with torch.no_grad():
            return self._run("lower", inputs)

    def above(self, hidden_1TH: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """(1, T, H) outputs of the decoder, given the inputs of the first trained layer."""
        return self._run("upper", {"inputs_embeds": hidden_1TH, **inputs})

    def hold(self, ids: tuple[int, ...], prefix: FrozenPrefix) -> None:
        """Keep a prefix for the run; the oldest of too many goes."""
        while len(self.prefixes) >= NUM_PREFIXES:
            del self.prefixes[next(iter(self.prefixes))]
        self.prefixes[ids] = prefix

    def undo(self) -> None:
        """Let the layers be as they were."""
        while self.ways_back:
            self.ways_back.pop()()

    def is_exact(self) -> bool:
        """Whether the halves one after the other give the whole. Not so where embeddings are scaled behind their table."""
        ids = torch.arange(5, 9, device=self.decoder.get_input_embeddings().weight.device)[None]
        with torch.no_grad():
            whole = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            halves = self.above(self.below(input_ids=ids, use_cache=False), use_cache=False)
        return torch.equal(whole, halves)

    def _run(self, half: Half, inputs: dict[str, Any]) -> torch.Tensor:
        self.half = half
        try:
            return self.decoder(**inputs).last_hidden_state
        finally:
            self.half = "both"

    def _make_skippable(self, module: torch.nn.Module, skipped_in: Half) -> None:
        """Let a layer hand its input on unchanged while the other half is computed."""
        inner = module.forward

        def forward(_: Any, hidden: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            return hidden if self.half == skipped_in else inner(hidden, *rest, **named)

        self.ways_back.append(exchange(module, forward))


def open_frozen(model: Any, budget: int, *, is_on_disk: bool) -> FrozenLayers | None:
    """The two halves of a model; None where nothing stands below what is trained, or the halves do not give the whole."""
    if not hasattr(model.get_decoder(), "norm") or not any(p.requires_grad for p in model.parameters()):
        return None
    if _num_frozen(model, decoder_layers(model)[1]) == 0:
        return None
    frozen = FrozenLayers(model, budget, is_on_disk=is_on_disk)
    if frozen.is_exact():
        return frozen
    frozen.undo()
    return None


def _num_frozen(model: Any, stack: Any) -> int:
    """Layers below the first one that is trained; none where the embedding is."""
    if any(p.requires_grad for p in model.get_input_embeddings().parameters()):
        return 0
    trained = (number for number, layer in enumerate(stack) if any(p.requires_grad for p in layer.parameters()))
    return next(trained, 0)


@dataclass
class Store:
    """Inputs of the first trained layer by row, in one block of memory or of a file that vanishes with the process."""

    budget: int
    """Bytes."""
    is_on_disk: bool
    places: dict[bytes, tuple[int, int, int]] = field(default_factory=dict)
    """Digest of a row's ids up to a segment's end: first position that is held, where it stands in the block, tokens."""
    num_used: int = 0
    block_NH: torch.Tensor | None = None

    def read(self, pack: Pack, is_prefix_apart: bool, device: torch.device) -> torch.Tensor | None:
        """(1, T, H) of a packed row; None where a segment is not held."""
        pieces = []
        for digest, first, length in _spans(pack, is_prefix_apart):
            place = self.places.get(digest)
            if place is None or place[0] > first:
                return None
            start = place[1] + first - place[0]
            pieces.append(self.block_NH[start : start + length])
        return torch.cat(pieces).to(device)[None]

    def write(self, pack: Pack, is_prefix_apart: bool, hidden_1TH: torch.Tensor) -> None:
        """Hold a packed row's segments, as long as there is room."""
        if self.block_NH is None:
            self.block_NH = self._open(hidden_1TH.shape[-1], hidden_1TH.dtype)
        at = 0
        for digest, first, length in _spans(pack, is_prefix_apart):
            held = self.places.get(digest)
            if (held is None or held[0] > first) and self.num_used + length <= len(self.block_NH):
                self.block_NH[self.num_used : self.num_used + length] = hidden_1TH[0, at : at + length].cpu()
                self.places[digest] = (first, self.num_used, length)
                self.num_used += length
            at += length

    def _open(self, width: int, dtype: torch.dtype) -> torch.Tensor:
        num_rows = self.budget // (width * dtype.itemsize)
        if not self.is_on_disk:
            return torch.empty(num_rows, width, dtype=dtype)
        with tempfile.NamedTemporaryFile(prefix="whet-") as file:
            _take_space(file, num_rows * width * dtype.itemsize)
            # The name goes at once, the space with the process.
            return torch.from_file(str(Path(file.name)), shared=True, size=num_rows * width, dtype=dtype).view(num_rows, width)


def _take_space(file: IO[bytes], num_bytes: int) -> None:
    """Make a file as long as it will be: a full disk must be told now, not by a signal while the file is written as memory."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
    except OSError as error:
        raise InputError(
            file.name, f"has no room for device.frozen_cache_mb ({error.strerror})", "Lower it, or set TMPDIR to another disk"
        ) from None


def _spans(pack: Pack, is_prefix_apart: bool) -> list[tuple[bytes, int, int]]:
    """For each run of ids of a packed row: the digest of its path from the first position on, its first position, its length."""
    paths: list[tuple[int, ...]] = []
    spans = [] if is_prefix_apart or not pack.prefix else [(_digest(pack.prefix), 0, len(pack.prefix))]
    for segment in pack.segments:
        before = paths[segment.parent] if segment.parent >= 0 else pack.prefix
        paths.append((*before, *segment.ids))
        spans.append((_digest(paths[-1]), len(before), len(segment.ids)))
    return spans


def _digest(ids: tuple[int, ...]) -> bytes:
    return hashlib.blake2b(b"".join(token.to_bytes(4, "little") for token in ids), digest_size=16).digest()
