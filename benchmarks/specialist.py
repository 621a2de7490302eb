"""The specialist that the extraction benchmarks ask: CHisIEC's pairs of person and office, from a run folder or trained anew."""

import argparse
import time
from pathlib import Path

from workloads import DATA

from whet.engines.base import Engine
from whet.pipeline.bench import Bench, Silent
from whet.pipeline.run import run, saved_recipe
from whet.pipeline.train_step import trained_adapter
from whet.recipe import read_recipe
from whet.records import Example
from whet.tasks.extraction import Extraction
from whet.tasks.table import open_task

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
RECIPE = RECIPES / "chisiec.yaml"
SHORTER = ("train.epochs=2", "train.validate_every=49")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which specialist is asked."""
    parser.add_argument("--quick", action="store_true", help="train a shorter specialist: within 5 minutes on two cores")
    parser.add_argument("--run", type=Path, help="a run folder of recipes/chisiec.yaml; without one a specialist is trained")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the corpora")


def open_specialist(args: argparse.Namespace, folder: Path) -> Bench:
    """The run of the arguments; without one the recipe's own steps make one in `folder`, with --quick a shorter one."""
    if args.run is None:
        began = time.monotonic()
        recipe = read_recipe(RECIPE, [f"data.root={args.data / 'chisiec/re'}", *(SHORTER if args.quick else ())])
        run(recipe, folder, Silent(), "train")
        assert recipe.train is not None
        words = (
            f"trained for {recipe.train.epochs:g} epochs in {time.monotonic() - began:.0f} s (data, proofs and validation in it)"
        )
    else:
        folder, words = args.run, f"of {args.run}"
    bench = Bench(saved_recipe(folder), folder, Silent())
    if bench.recipe.train is None or not isinstance(bench.task, Extraction):
        raise SystemExit(f"{folder}: no extraction specialist; give a run of {RECIPE.name}")
    adapter = trained_adapter(bench)
    print(f"specialist {adapter.fingerprint[:12]} on the base {bench.recipe.base}: {words}", flush=True)
    return bench


def open_data(recipe: str, root: str, data: Path, folder: Path) -> Bench:
    """A recipe's data, built in `folder`; nothing is trained."""
    read = read_recipe(RECIPES / recipe, [f"data.root={data / root}"])
    run(read, folder, Silent(), "data")
    return Bench(read, folder, Silent())


def specialist_engine(bench: Bench) -> Engine:
    """The engine with the run's adapter, asked once, so that what is opened late is no part of what is measured."""
    engine = bench.local_engine(bench.folder.adapter)
    engine.answer(
        [constrained(bench, kind).ask(Example("", "王安石知江宁府。", "", "")) for kind in ("free", "json", "grounded")]
    )
    return engine


def constrained(bench: Bench, kind: str, max_tokens: int | None = None) -> Extraction:
    """The run's task under another constraint; the prompt stays the same."""
    assert isinstance(bench.task, Extraction)
    changes = {"constraint": kind, "max_tokens": max_tokens or bench.task.settings.max_tokens}
    task = open_task(bench.task.settings.model_copy(update=changes))
    assert isinstance(task, Extraction)
    return task
