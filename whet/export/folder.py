"""What stands beside the weights of a model folder that is written: config, tokenizer, template, licence."""

import shutil
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.models.adapter import CARD, Adapter
from whet.models.base_model import COMPANIONS, BaseModel
from whet.models.weights import check_inside
from whet.storage import hash_file, read_json

LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
KINDS = ("fused",)


def refuse_strange_folder(folder: Path) -> None:
    """InputError where a folder to be written holds what whet did not write there: it would be lost."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(str(folder), "is a file, and a folder is to be written", "Choose another place with -o")
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    is_ours = isinstance(card, dict) and (card.get("kind") in KINDS or card.get("export") is True)
    if any(folder.iterdir()) and not is_ours:
        raise InputError(str(folder), "is not empty, and was not written by an export", "Choose another place with -o")


def copy_companions(base: BaseModel, adapter: Adapter, folder: Path) -> list[str]:
    """Copy tokenizer, template, generation config and licence; what stands beside the adapter is what it was trained with.

    Gives what there is to say: files that differ from the base's.
    """
    notes = []
    for name in (*COMPANIONS, *LICENCES):
        own, theirs = adapter.folder / name, base.folder / name
        source = own if own.is_file() and name in COMPANIONS else theirs
        if not source.is_file():
            continue
        check_inside(source, source.parent)
        shutil.copyfile(source, folder / name)
        if source is own and (not theirs.is_file() or hash_file(own) != hash_file(theirs)):
            notes.append(f"{name} is the adapter's, which differs from the base's")
    return notes


def fused_config(config: dict[str, Any], changes: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The base's config with what the fusion changes.

    rope_theta is written in both places: transformers 5 reads it inside rope_parameters, other programs at the top. Where the
    base once lay is left out.
    """
    left_out = ("_name_or_path", "quantization_config", "quantization")  # nothing that is written here is packed
    written = {name: value for name, value in config.items() if name not in left_out} | changes
    if dtype:
        written["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    nested = written.get("text_config")
    if isinstance(nested, dict) and "tie_word_embeddings" in changes and "tie_word_embeddings" in nested:
        written["text_config"] = {**nested, "tie_word_embeddings": changes["tie_word_embeddings"]}
    ropes = config.get("rope_parameters")
    if isinstance(ropes, dict) and "rope_theta" in ropes:
        written.setdefault("rope_theta", ropes["rope_theta"])
    return written
