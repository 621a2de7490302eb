"""Makes the GGUF file of a model folder in any type: the plain ones by itself, the others through llama.cpp's quantiser."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.export.gguf_families import read_layout
from whet.export.gguf_write import PlainType, Written, open_gguf, plain_beside, tensor_names, write_gguf
from whet.export.llama_cpp import LlamaCpp, find_llama
from whet.models.base_model import BaseModel
from whet.models.weights import read_weights
from whet.storage import staged_file

PLAIN: tuple[PlainType, ...] = get_args(PlainType)
QUANTISED = ("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k",
             "iq3_xxs", "iq3_s", "iq3_m", "iq4_nl", "iq4_xs")  # fmt: skip
"""Types that llama.cpp's quantiser makes."""
TYPES = (*PLAIN, *QUANTISED)


def export_gguf(
    model: BaseModel, path: Path, kind: str, *, name: str = "", importance: Mapping[str, NDArray[np.float32]] | None = None
) -> Written:
    """Write a model folder as GGUF of a type: one of TYPES.

    importance: mean squares of what enters each linear layer, (inputs,), by the name of its weight in the model folder; for the
    quantised types. InputError for unknown types, MissingExtraError where llama.cpp is needed and no interpreter has it.
    """
    kind = kind.lower()
    if kind not in TYPES:
        raise InputError("--type", f"{kind!r} is no type that whet writes", f"Take one of {', '.join(TYPES)}")
    if kind in PLAIN:
        if importance is not None:
            raise InputError(
                "--importance", f"does nothing for {kind}, which llama.cpp's quantiser does not make", "Leave it out"
            )
        return write_gguf(model, path, next(plain for plain in PLAIN if plain == kind), name=name)
    if find_llama() is None:
        LlamaCpp()  # says what is missing before anything is written
    if kind.startswith(("iq2", "iq3_xxs")) and importance is None:
        raise InputError("--type", f"{kind} needs an importance matrix", "Add --importance, or take q3_k_m")
    # The quantiser reads f32 as it is; bf16 weights lose nothing in bf16, at half the room.
    plain: PlainType = "bf16" if all(tensor.dtype == "BF16" for tensor in read_weights(model.folder).values()) else "f32"
    with (
        plain_beside(model, path, plain, name) as (source, written),
        tempfile.TemporaryDirectory() as folder,
        LlamaCpp() as llama,
        staged_file(path) as staged,
    ):
        table = Path(folder) / "importance.npz"
        if importance is not None:
            np.savez(table, **_named(model, importance))
        llama.quantize(source, staged, kind, table if importance is not None else None)
    return replace(written, path=path)


def _named(model: BaseModel, importance: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The importance of each tensor by its name in the file; the reordering of rows does not touch what enters."""
    names = tensor_names(open_gguf(), read_layout(model.config, str(model.folder)))
    found = {names.get_name(name, try_suffixes=(".weight",)): values for name, values in importance.items()}
    return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items() if name}
