"""Writes an adapter in the other of the two layouts, PEFT's or mlx-lm's."""

import shutil
from pathlib import Path

from whet.errors import InputError
from whet.export.fit import check_fit
from whet.export.folder import refuse_strange_folder
from whet.models.adapter import CARD
from whet.models.base_model import BaseModel
from whet.models.mlx_adapter import is_mlx, read_adapter, write_mlx, write_peft
from whet.storage import read_json, staged_folder, write_json

LAYOUTS = ("peft", "mlx-lm")


def convert_adapter(folder: Path, to: str, out: Path, base: BaseModel | None) -> list[str]:
    """Write the adapter of a folder to another one in the layout `to`; gives what there is to say.

    With a base it is first checked that the adapter fits it. InputError where the other layout can't hold it.
    """
    if to not in LAYOUTS:
        raise InputError("--to", f"{to!r} is no layout", "Take peft or mlx-lm")
    lora = read_adapter(folder)
    if (to == "mlx-lm") == is_mlx(folder):
        raise InputError(str(folder), f"is in {to}'s layout already", "Copy it")
    refuse_strange_folder(out)
    notes = check_fit(folder, base) if base else []
    with staged_folder(out) as staged:
        if to == "peft":
            write_peft(lora, staged)
        else:
            if base and lora.layers and "lm_head" in lora.layers and base.config.get("tie_word_embeddings"):
                raise InputError(str(folder), "adapts the head of a tied base, which mlx-lm has no layer for", "Fuse it instead")
            layers = base.config.get("num_hidden_layers") if base else None
            notes += write_mlx(lora, staged, layers if isinstance(layers, int) else None)
        card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
        write_json(staged / CARD, {**card, "kind": "lora", "converted_from": "mlx-lm" if to == "peft" else "peft"})
        for name in ("README.md",):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, staged / name)
    return notes
