"""All steps of a recipe in their order: data, train, evaluate, calibrate, report; each is skipped when nothing changed."""

from pathlib import Path
from typing import Any, Literal

from whet.backends.processes import is_launched, join
from whet.data.build import read_manifest
from whet.errors import InputError
from whet.evaluate.report import Report
from whet.pipeline import calibrate_step, data_step, evaluate_step, report_step, train_step
from whet.pipeline.bench import Bench, Silent, Watch, saved_recipe
from whet.recipe import Recipe
from whet.storage import locked, read_json, write_json

__all__ = ["evaluate_folder", "run", "saved_recipe"]

Step = Literal["data", "train", "evaluate"]


def run(recipe: Recipe, folder: Path, watch: Watch, last: Step = "evaluate") -> Report | None:
    """Run the steps up to `last` in a run folder; with "evaluate" the report is written and given back.

    Where several processes were launched, all train, and the first alone does the rest: the others are given no report.
    """
    if last == "evaluate" and is_launched() and recipe.device.shard:
        raise InputError("device.shard", "spreads the base for training only", "Train: whet train; evaluate where the base fits")
    company = join()
    if company.rank != 0:
        return _run(Bench(recipe, folder, Silent(), company), last)
    with locked(folder):
        return _run(Bench(recipe, folder, watch, company), last)


def _run(bench: Bench, last: Step) -> Report | None:
    recipe, folder, company = bench.recipe, bench.folder.path, bench.company
    if company.rank == 0:
        write_json(folder / "recipe.json", _as_saved(recipe))
        data_step.run(bench)
    company.wait()
    trained: dict[str, Any] | None = None
    if recipe.train is not None and last != "data":
        trained = train_step.run(bench, recipe.train)
    company.leave()
    if last != "evaluate" or company.rank != 0:
        return None
    manifest = read_manifest(bench.folder.data)
    examples, systems = evaluate_step.run(bench)
    return report_step.run(bench, manifest, trained, examples, systems, calibrate_step.run(bench))


def _as_saved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, with its data found from wherever it is read again."""
    plain = recipe.model_dump(mode="json")
    plain["data"]["root"] = str((recipe.data.root or Path()).absolute())
    if recipe.train is not None and recipe.train.looks is not None:
        plain["train"]["looks"]["suite"] = str(recipe.train.looks.suite.absolute())
    return plain


def evaluate_folder(folder: Path, watch: Watch) -> Report:
    """Evaluate what a run folder holds, an adapter whose training was interrupted included."""
    recipe = saved_recipe(folder)  # first: a folder that is no run is left as it is
    with locked(folder):
        return _evaluate(Bench(recipe, folder, watch), folder)


def _evaluate(bench: Bench, folder: Path) -> Report:
    if not (folder / "data" / "manifest.json").is_file():
        raise InputError(str(folder), "has no data yet", "Run its recipe first: whet run RECIPE")
    result_path = folder / "train" / "result.json"
    trained = read_json(result_path) if result_path.is_file() else None
    examples, systems = evaluate_step.run(bench)
    manifest = read_manifest(folder / "data")
    return report_step.run(bench, manifest, trained, examples, systems, calibrate_step.run(bench))
