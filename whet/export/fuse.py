"""Fuses an adapter into its base: one model folder, written tensor by tensor, with what its numbers could keep."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from whet.errors import InputError, counted
from whet.export.card import Facts, write_model_card
from whet.export.folder import copy_companions, fused_config, refuse_strange_folder
from whet.export.merge import Kept, merged_bytes, rows_at_a_time
from whet.export.onto import check_origin, measure_damage
from whet.export.plan import Plan, Target, plan_full, plan_fusion
from whet.export.shards import write_shards
from whet.models.adapter import CARD, Adapter
from whet.models.base_model import BaseModel
from whet.models.mlx_adapter import read_adapter
from whet.models.mlx_config import flat_entries
from whet.models.numbers import BITS, FLOATS, from_float32, to_float32
from whet.models.quantised import Packed, is_quantised, unpacked
from whet.models.weights import Tensor, read_weights
from whet.models.writing import Written
from whet.storage import canonical, hash_text, read_json, staged_folder, write_json

Dtype = Literal["base", "fp32", "bf16", "fp16"]
KINDS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
VERSION = 1  # of what whet.json of a fused folder says
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fused:
    """A fused folder, and what there is to say of it."""

    folder: Path
    dtype: str
    """The numbers of most of its weights."""
    num_tensors: int
    num_changed: int
    """Tensors that the adapter changes."""
    share: float
    """Share of the entries to be changed whose stored number did change."""
    error: float
    """Norm of the rounding over the norm of the change."""
    largest: float
    """Largest difference between a stored number and the exact sum."""
    unchanged: tuple[str, ...]
    """Tensors that the adapter speaks of without changing them."""
    notes: tuple[str, ...]
    files: tuple[str, ...]


def fuse(
    base: BaseModel,
    adapter: Adapter,
    out: Path,
    *,
    dtype: Dtype = "base",
    max_shard_bytes: int = 5_000_000_000,
    facts: Facts | None = None,
    notes: tuple[str, ...] = (),
    is_for_mlx: bool = False,
    onto: BaseModel | None = None,
    is_loss_accepted: bool = False,
    say: Say = lambda words: None,
) -> Fused:
    """Write base and adapter as one model folder; it appears when it is whole. Memory is that of some rows of a tensor.

    is_for_mlx: the config says at the top too what transformers 5 writes inside rope_parameters, where mlx-lm looks for it.
    dtype: numbers of the weights; "base" keeps each tensor's own. Sums are made in fp32 and rounded once, to nearest.
    onto: the weights that a quantised base was made from, to be fused into. is_loss_accepted: fuse into a quantised base's own
    numbers, which are written unpacked.
    InputError: a tensor of the adapter has no place, or nothing is changed, or rounding takes all of the change away.
    """
    inputs = [base.fingerprint, adapter.fingerprint, onto.fingerprint if onto else ""]
    key = hash_text(canonical([VERSION, *inputs, dtype, max_shard_bytes, is_for_mlx]))
    found = _read_mark(out, key)
    if found is not None:
        say(f"{out} holds this fusion already")
        return found
    refuse_strange_folder(out)
    tensors, of_base = _read_base(base, adapter, onto, is_loss_accepted)
    notes = (*notes, *of_base)
    into = onto or base
    plan = _plan(into, adapter, tensors)
    kept = Kept()
    written = [_written(target, dtype, kept) for target in plan.targets.values()]
    with staged_folder(out) as folder:
        say(f"{counted(len(written), 'tensor')}, {sum(tensor.num_bytes for tensor in written) / 1e6:,.1f} MB")
        files = write_shards(folder, written, max_shard_bytes)
        _refuse_lost(adapter, plan, kept, dtype)
        notes = (*notes, *plan.notes, *copy_companions(into, adapter, folder))
        config = fused_config(into.config, plan.config, _config_dtype(dtype))
        if is_for_mlx:  # its models take a head that the config does not speak of for the embedding
            is_tied = not any(name.split(".")[-2:-1] == ["lm_head"] for name in plan.targets)
            config |= {**flat_entries(config), "tie_word_embeddings": is_tied}
        write_json(folder / "config.json", config)
        read_weights(folder)  # what was written is read as a stranger's
        fused = Fused(
            out, _most(written), len(written), sum(target.is_changed for target in plan.targets.values()),
            kept.share, kept.error, kept.largest, tuple(kept.unchanged), notes, tuple(files),
        )  # fmt: skip
        write_model_card(folder, base, adapter, fused_facts(fused), facts)
        write_json(folder / CARD, {"kind": "fused", "key": key, "base_fingerprint": base.fingerprint,
                                   "adapter_fingerprint": adapter.fingerprint, "fused": fused_facts(fused)})  # fmt: skip
    return fused


def fused_facts(fused: Fused) -> dict[str, Any]:
    """What a fusion kept, as JSON."""
    return {name: value for name, value in dataclasses.asdict(fused).items() if name != "folder"}


def _read_mark(out: Path, key: str) -> Fused | None:
    """What whet.json says of the same fusion, done before."""
    if not (out / CARD).is_file():
        return None
    card = read_json(out / CARD)
    if not isinstance(card, dict) or card.get("key") != key:
        return None
    told: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in card["fused"].items()}
    return Fused(folder=out, **told)


def _read_base(
    base: BaseModel, adapter: Adapter, onto: BaseModel | None, is_loss_accepted: bool
) -> tuple[Mapping[str, Tensor | Packed], list[str]]:
    """The tensors to fuse into, and what there is to say of them; a quantised base is refused unless the user chose a way."""
    place = str(base.folder)
    if not is_quantised(base.config):
        if onto is not None:
            raise InputError("--onto", f"{place} is not quantised: it is fused into as it is", "Leave --onto out")
        return read_weights(base.folder), []
    if onto is not None:
        if is_quantised(onto.config):
            raise InputError("--onto", f"{onto.folder} is quantised itself", "Give the weights that the base was made from")
        return read_weights(onto.folder), [f"fused into {onto.folder.name}: {check_origin(base, onto)}"]
    tensors = unpacked(read_weights(base.folder), base.config, place)
    damage = measure_damage(tensors, read_adapter(adapter.folder))
    if not is_loss_accepted:
        raise InputError(
            place,
            f"is quantised: {damage.words()}",
            "Name the weights that it was made from (--onto FOLDER), or take its own, unpacked as they are (--accept-loss)",
        )
    kept = "the base's own rounding to a few bits stays in the fused weights, which are written unpacked"
    return tensors, [kept, damage.words()]


def _plan(base: BaseModel, adapter: Adapter, tensors: Mapping[str, Tensor | Packed]) -> Plan:
    if adapter.kind == "full":
        return plan_full(tensors, read_weights(adapter.folder), base.config, str(adapter.folder))
    return plan_fusion(tensors, base.config, read_adapter(adapter.folder))


def _refuse_lost(adapter: Adapter, plan: Plan, kept: Kept, dtype: Dtype) -> None:
    """A fusion that is the base again is refused: nothing was trained, or the numbers are too coarse."""
    if not kept.num_moving:
        raise InputError(
            str(adapter.folder),
            f"changes nothing: all of its {sum(target.is_changed for target in plan.targets.values())} changes are zero",
            "It was saved before it was trained, or its training never reached it",
        )
    if not kept.num_moved:
        raise InputError(
            str(adapter.folder),
            "changes the base by so little that rounding takes all of it away",
            "Keep finer numbers: --dtype fp32",
        )


def _written(target: Target, dtype: Dtype, kept: Kept) -> Written:
    kind = KINDS[dtype] if dtype != "base" and target.base.is_float else target.base.dtype
    if target.is_changed:
        pieces = functools.partial(_changed, target, kind, kept)
    elif kind == target.base.dtype and target.num_rows in (0, *target.base.shape[:1]):
        pieces = functools.partial(target.base.pieces)
    else:
        pieces = functools.partial(_converted, target.base, kind)
    return Written(target.name, kind, target.shape, pieces)


def _changed(target: Target, kind: str, kept: Kept) -> Iterator[bytes]:
    return merged_bytes(target.name, target.rows(), target.changes(), kind, kept)


def _converted(tensor: Tensor | Packed, kind: str) -> Iterator[bytes]:
    """A tensor that nothing changes, in other numbers."""
    step = rows_at_a_time(tensor.shape) if tensor.shape else 1
    for start in range(0, tensor.shape[0] if tensor.shape else 1, step):
        rows = tensor.rows(start, min(start + step, tensor.shape[0])) if tensor.shape else tensor.read()
        raw = from_float32(rows, kind)
        if not np.isfinite(to_float32(raw, kind)).all() and np.isfinite(rows).all():
            raise InputError(tensor.name, f"holds numbers that {kind} can't hold", "Take --dtype base, bf16 or fp32")
        yield raw


def _most(written: list[Written]) -> str:
    sizes: dict[str, int] = {}
    for tensor in written:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_bytes * 8 // BITS[tensor.dtype]
    return max(sizes, key=lambda dtype: sizes[dtype])


def _config_dtype(dtype: Dtype) -> str:
    return "" if dtype == "base" else FLOATS[KINDS[dtype]]
