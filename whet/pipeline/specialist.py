"""What is exported: the adapter and the base of a run folder, or of an adapter folder that came from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.export.card import Facts
from whet.models.adapter import Adapter, open_adapter
from whet.models.base_model import BaseModel, open_base
from whet.pipeline.bench import Folder
from whet.pipeline.run import saved_recipe
from whet.recipe import Recipe
from whet.storage import hash_file, read_json


@dataclass(frozen=True, slots=True)
class Specialist:
    """A base, an adapter that belongs to it, and what is known of the two."""

    base: BaseModel
    adapter: Adapter
    facts: Facts | None
    recipe: Recipe | None
    notes: tuple[str, ...] = ()


def open_specialist(what: Path, base: str | None = None) -> Specialist:
    """The specialist of a run folder, or an adapter folder with the base that is named for it."""
    if not (what / "recipe.json").is_file():
        if not (what / "adapter_config.json").is_file() and not (what / "whet.json").is_file():
            raise InputError(
                str(what), "is no run folder and no adapter folder",
                "Give a folder that `whet run` wrote, or an adapter folder with --base",
            )  # fmt: skip
        if base is None:
            raise InputError(str(what), "is an adapter, and its base is not named", "Name it: --base FOLDER")
        opened = open_base(base)
        adapter = open_adapter(what, opened)
        unknown = "nothing beside the adapter says which base it was trained on"
        return Specialist(opened, adapter, None, None, () if adapter.card.get("base_fingerprint") else (unknown,))
    recipe, folder = saved_recipe(what), Folder(what)
    if base is not None:
        raise InputError("--base", f"{what} is a run, which names its base itself ({recipe.base})", "Leave --base out")
    if not folder.adapter.is_dir():
        raise InputError(str(what), "holds no adapter", "Train it first: whet train RECIPE")
    opened = open_base(recipe.base)
    adapter = open_adapter(folder.adapter, opened)
    notes: list[str] = []
    if recipe.device.quantize:
        notes.append(f"it was trained over the base in {recipe.device.quantize}, and is fused into the base's weights in full")
    if not (what / "marks" / "train.json").is_file():
        notes.append("its training is not finished: this is the best adapter so far")
    return Specialist(opened, adapter, _facts(recipe, folder, adapter, notes), recipe, tuple(notes))


def _facts(recipe: Recipe, folder: Folder, adapter: Adapter, notes: list[str]) -> Facts:
    """What the run's own files say. Scores of another adapter than this one are left out."""
    scores: list[tuple[str, str, str]] = []
    conclusions: tuple[str, ...] = ()
    metrics_path = folder.path / "metrics.json"
    metrics: dict[str, Any] = read_json(metrics_path) if metrics_path.is_file() else {}
    provenance = dict(metrics.get("provenance", ()))
    if metrics and provenance.get("adapter") == adapter.fingerprint:
        measure = " ".join(metrics["headline"])
        scores = [(system["name"], measure, _say_score(system["score"])) for system in metrics["systems"]]
        conclusions = tuple(f"{found['words']} {found['detail']}" for found in metrics["conclusions"])
    elif metrics:
        notes.append("the scores in metrics.json are of another adapter, and are left out")
    manifest_path = folder.data / "manifest.json"
    manifest: dict[str, Any] = read_json(manifest_path) if manifest_path.is_file() else {}
    data = [
        (split, part["examples"], hash_file(folder.data / f"{split}.jsonl"))
        for split, part in manifest.get("statistics", {}).items()
        if part["examples"] and (folder.data / f"{split}.jsonl").is_file()
    ]
    sources = [item for source in manifest.get("sources", ()) for item in source["files"].items()]
    settings = [(name, provenance[name]) for name in ("recipe", "training", "seed", "versions") if name in provenance]
    prompt = str(getattr(recipe.task, "prompt", "") or "")
    return Facts(recipe.name, f"{recipe.task.kind}: {prompt}", tuple(scores), conclusions, tuple(data), tuple(sources),
                 tuple(settings))  # fmt: skip


def _say_score(score: dict[str, Any]) -> str:
    interval, number = score.get("interval"), score.get("num")
    told = f"{score['value']:.3f}"
    if interval:
        told += f" ({interval['low']:.3f} to {interval['high']:.3f})"
    return told + (f", {number} examples" if number else "")
