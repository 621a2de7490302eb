"""Whether an adapter from anywhere belongs to a base: every tensor, the base's identity, the vocabulary, the quantisation."""

import json
from pathlib import Path
from typing import Any

from whet.errors import InputError, counted
from whet.export.plan import plan_fusion
from whet.models.adapter import open_adapter
from whet.models.base_model import BaseModel
from whet.models.described import read_description
from whet.models.lora import EMBEDDINGS, Lora
from whet.models.mlx_adapter import is_mlx, read_adapter
from whet.models.weights import read_weights
from whet.storage import hash_file

_MAX_TOKENIZER = 200_000_000


def show_adapter(folder: Path) -> dict[str, Any]:
    """What an adapter folder holds, as plain values: layout, layers, strengths, what is trained whole, what is all zero."""
    lora = read_adapter(folder)
    strengths = sorted({(layer.rank, layer.scale) for layer in lora.layers.values()})
    return {
        "layout": "mlx-lm" if is_mlx(folder) else "peft",
        "kind": "DoRA" if lora.config.get("use_dora") else "LoRA",
        "base": str(lora.config.get("base_model_name_or_path") or ""),
        "num_layers": len(lora.layers),
        "modules": sorted({module.rpartition(".")[2] for module in lora.layers}),
        "strengths": [
            {"rank": rank, "scale": scale, "num_layers": sum((x.rank, x.scale) == (rank, scale) for x in lora.layers.values())}
            for rank, scale in strengths
        ],
        "rslora": bool(lora.config.get("use_rslora")),
        "whole": sorted(lora.whole),
        "untrained": untrained_layers(lora),
        "dtypes": sorted({layer.a.dtype for layer in lora.layers.values()} | {tensor.dtype for tensor in lora.whole.values()}),
    }


def untrained_layers(lora: Lora) -> list[str]:
    """Layers whose B is all zero, as it was before the first step: they change nothing."""
    return [module for module, layer in lora.layers.items() if layer.magnitude is None and not layer.b.read().any()]


def check_fit(folder: Path, base: BaseModel) -> list[str]:
    """What there is to say of an adapter that fits a base; InputError where it does not."""
    adapter = open_adapter(folder, base)
    if adapter.kind == "full":
        raise InputError(str(folder), "is a whole model, no adapter", "Give it as the base")
    lora = read_adapter(folder)
    plan = plan_fusion(read_weights(base.folder), base.config, lora)
    notes = [f"each of its {len(lora.layers) + len(lora.whole)} parts has its place in the base, of the right shape", *plan.notes]
    zero = untrained_layers(lora)
    if lora.layers and len(zero) == len(lora.layers) and not lora.whole:
        whole = counted(len(zero), "layer", "is as it was", "are as they were")
        raise InputError(str(folder), f"all {whole} before the first step (B is zero)", "Train it")
    if zero:
        notes.append(f"{counted(len(zero), 'layer', 'changes', 'change')} nothing (B is zero), such as {zero[0]}")
    notes.append(_identity(lora, adapter.card, base))
    _check_vocabulary(folder, lora, base, notes)
    return notes


def _identity(lora: Lora, card: dict[str, Any], base: BaseModel) -> str:
    """How sure it is that this is the base; InputError where its revision is another one."""
    if card.get("base_fingerprint"):
        return "its card bears the base's fingerprint"
    revision, folder = lora.config.get("revision"), base.folder.resolve()
    if isinstance(revision, str) and len(revision) == 40 and folder.parent.name == "snapshots" and folder.name != revision:
        raise InputError(
            str(lora.folder), f"was trained on revision {revision[:12]}, and {base.folder} is {folder.name[:12]}",
            "Use the revision that it was trained on",
        )  # fmt: skip
    named = str(lora.config.get("base_model_name_or_path") or "").rstrip("/").rpartition("/")[2]
    if named and named != base.folder.name and named not in str(folder):
        return f"NOT PROVED: it names {named[:80]} as its base, and this is {base.folder.name}; nothing else tells them apart"
    return "NOT PROVED: nothing beside it tells the base's weights from others of the same shapes"


def _check_vocabulary(folder: Path, lora: Lora, base: BaseModel, notes: list[str]) -> None:
    """An adapter folder's own tokenizer must be the base's, or the adapter must bring the rows for its tokens."""
    own, theirs = folder / "tokenizer.json", base.folder / "tokenizer.json"
    if not own.is_file():
        return
    if theirs.is_file() and hash_file(own) == hash_file(theirs):
        notes.append("its tokenizer is the base's")
        return
    size = _num_tokens(own)
    sizes = [
        tensor.shape[0] for name, tensor in lora.whole.items() if name.split(".")[-2:-1] and name.split(".")[-2] in EMBEDDINGS
    ]
    rows = sizes[0] if sizes else int(base.config.get("vocab_size") or 0)
    if size > rows:
        raise InputError(
            str(own), f"has {size} entries, and the embedding {rows} rows: {size - rows} tokens have no weights",
            "Train the embedding with the adapter (modules_to_save), or take the tokenizer that it was trained with",
        )  # fmt: skip
    notes.append("its tokenizer.json is not the base's; both have weights for all their tokens")


def _num_tokens(path: Path) -> int:
    """Ids that a tokenizer.json may give: its largest, and one."""
    found = read_description(path, _MAX_TOKENIZER)
    model = found.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary or ())))
    ids += [token.get("id") for token in found.get("added_tokens") or () if isinstance(token, dict)]
    return max((value for value in ids if isinstance(value, int)), default=-1) + 1


def say_shown(shown: dict[str, Any]) -> list[str]:
    """What show_adapter gave, in lines."""
    lines = [f"{shown['kind']} in {shown['layout']}'s layout, {shown['num_layers']} layers ({', '.join(shown['modules'])})"]
    lines += [f"rank {found['rank']}, strength {found['scale']:g}: {found['num_layers']} layers" for found in shown["strengths"]]
    if shown["whole"]:
        lines.append(f"trained whole: {', '.join(shown['whole'])}")
    if shown["untrained"]:
        lines.append(f"change nothing (B is zero): {counted(len(shown['untrained']), 'layer')}, such as {shown['untrained'][0]}")
    lines.append(f"numbers: {', '.join(shown['dtypes'])}; base: {json.dumps(shown['base'], ensure_ascii=False)}")
    return lines
