"""An adapter as a folder that can be given to others: PEFT's layout, the base's name, tokenizer, template and a card."""

import shutil
from pathlib import Path

from whet.errors import InputError
from whet.export.card import Facts, write_model_card
from whet.export.fit import check_fit
from whet.export.folder import copy_companions, refuse_strange_folder
from whet.models.adapter import CARD, Adapter
from whet.models.base_model import BaseModel
from whet.models.lora import CONFIG, WEIGHTS
from whet.models.mlx_adapter import is_mlx, read_adapter, write_peft
from whet.storage import staged_folder, write_json


def export_adapter(base: BaseModel, adapter: Adapter, out: Path, facts: Facts | None, base_name: str = "") -> list[str]:
    """Write an adapter for others; gives what there is to say of it.

    base_name: what the base is called where others find it; its folder's name where it is not given, never a path.
    """
    if adapter.kind == "full":
        raise InputError(str(adapter.folder), "is a whole model, no adapter", "Leave --adapter out")
    notes = check_fit(adapter.folder, base)
    refuse_strange_folder(out)
    with staged_folder(out) as folder:
        if is_mlx(adapter.folder):
            write_peft(read_adapter(adapter.folder), folder)
        else:
            shutil.copyfile(adapter.folder / WEIGHTS, folder / WEIGHTS)
        write_json(folder / CONFIG, adapter.config | {"base_model_name_or_path": base_name or base.name})
        notes += copy_companions(base, adapter, folder)
        write_model_card(folder, base, adapter, {}, facts, library="peft", base_name=base_name)
        write_json(folder / CARD, {"kind": "lora", "export": True, "base_fingerprint": base.fingerprint,
                                   "base": base_name or base.name})  # fmt: skip
    return notes
