"""Fusion where the base is stored in a few bits: what rounding takes away, and whether other weights are its origin."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whet.errors import InputError, counted
from whet.export.merge import Add, Kept, Plain
from whet.models.base_model import BaseModel
from whet.models.lora import Lora
from whet.models.quantised import Packed, unpacked
from whet.models.weights import Tensor, read_weights

ROWS = 256  # of each tensor, that are measured


@dataclass(frozen=True, slots=True)
class Damage:
    """What packing the fused weights again, as the base is packed, would do to what the adapter changes."""

    share: float
    """Share of the entries to be changed whose packed number would change."""
    error: float
    """Norm of the rounding over the norm of the change: at 1 it is as large as all that was learnt."""
    num_tensors: int

    def words(self) -> str:
        """As a sentence without its stop."""
        return (
            f"packed again as the base is, rounding would be {self.error:.0%} of the adapter's change, and "
            f"{1 - self.share:.0%} of the entries would not move (measured on {self.num_tensors} tensors)"
        )


def measure_damage(tensors: Mapping[str, Tensor | Packed], lora: Lora) -> Damage:
    """The damage on the first rows of each packed tensor that the adapter changes."""
    kept, number = Kept(), 0
    for module, layer in lora.layers.items():
        tensor = tensors.get(f"{module}.weight")
        if not isinstance(tensor, Packed) or layer.is_transposed or tensor.shape != layer.shape:
            continue
        rows = tensor.rows(0, min(ROWS, tensor.shape[0]))
        exact = Add(layer, Plain(tensor, tensor.shape[0])).apply(rows, 0)
        # The base is what it rounds to itself: packing it again must not count as a change.
        kept.add(tensor.packing.round(rows), exact, tensor.packing.round(exact))
        number += 1
    return Damage(kept.share, kept.error, number)


def check_origin(packed: BaseModel, plain: BaseModel) -> str:
    """How it was proved that `plain` holds the weights that `packed` was made from; InputError where it does not.

    Rounding takes each packed tensor away from its origin by what the packer's own rule takes from these weights, no further.
    """
    stored, unread = read_weights(packed.folder), ""
    mine: dict[str, Tensor | Packed]
    try:
        mine = unpacked(stored, packed.config, str(packed.folder))
    except InputError as error:  # packed by others: what is not packed must do
        mine = {name: tensor for name, tensor in stored.items() if tensor.is_float and len(tensor.shape) == 1}
        unread = f"NOT PROVED: {error.what}; "
    theirs = read_weights(plain.folder)
    number, largest = 0, 0.0
    for name, tensor in mine.items():
        other = theirs.get(name)
        if unread and other is None:
            continue  # a packing's own scales
        if other is None and name.rpartition(".")[0].endswith("lm_head"):
            continue  # a tied head that was packed apart
        if other is None or other.shape != tensor.shape:
            raise _other(packed, plain, f"{name[:120]} is not there in this shape")
        if not tensor.shape or not other.is_float:
            continue
        stop = min(ROWS, tensor.shape[0])
        one, origin = tensor.rows(0, stop), other.rows(0, stop)
        away = _distance(one, origin)
        allowed = 0.01  # of what is not packed: bf16 and its kin round to 0.004
        if isinstance(tensor, Packed):
            allowed = 1.3 * _distance(tensor.packing.round(origin), origin) + 0.01
            number += 1
            largest = max(largest, away)
        if away > allowed:
            raise _other(packed, plain, f"{name[:120]} is {away:.0%} away from it, and rounding explains {allowed:.0%}")
    if unread:
        return f"{unread}{counted(len(mine), 'vector', 'that is not packed is', 'that are not packed are')} equal"
    packed_words = counted(number, "packed tensor", "of the base is", "of the base are")
    return f"{packed_words} these weights, rounded (at most {largest:.1%} away)"


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(other)), 1e-30))


def _other(packed: BaseModel, plain: BaseModel, why: str) -> InputError:
    return InputError(
        "--onto", f"{plain.folder} does not hold the weights that {packed.folder.name} was made from: {why}",
        "Give the same revision, not quantised",
    )  # fmt: skip
