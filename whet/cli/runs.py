"""The verbs that run a recipe: demo, run, train."""

import contextlib
import importlib.resources
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.epochs=2.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder.", show_default="runs/NAME")]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the corpus.")] = 0,
    overrides: Overrides = None,
) -> None:
    """Write court annals with gold tags and make a specialist of them, with its evidence. Needs no download."""
    import yaml

    from whet.data.annals.write import write
    from whet.recipe import recipe_from

    raw = yaml.safe_load(importlib.resources.files("whet.cli").joinpath("demo.yaml").read_text("utf-8"))
    sizes = raw.pop("corpus")
    corpus = out / "corpus"
    write(corpus, sizes["train"], sizes["valid"], sizes["test"], seed)
    _run(recipe_from(raw, overrides or [], "whet demo", corpus), out)


def run(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
    """Do all steps of a recipe: data, train, evaluate, report. Steps whose inputs are unchanged are skipped,
    and a training that was interrupted goes on.
    """
    read = read_settings(recipe, overrides)
    _run(read, out or Path("runs") / read.name)


def train(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on from the last checkpoint of the same recipe and data, or train anew."),
    ] = True,
    devices: Annotated[
        int, typer.Option("--devices", min=1, help="Processes that train together here: one a card, or sharing the CPU's cores.")
    ] = 1,
) -> None:
    """Build the data and train the adapter, without evaluating it."""
    from whet.cli.devices import is_first, launch, must_launch
    from whet.errors import InputError
    from whet.pipeline.train_step import forget_checkpoints

    read = read_settings(recipe, overrides)
    if read.train is None:
        raise InputError(str(recipe), "says `train: null`", "Give it a train section, or evaluate it: whet evaluate RECIPE")
    folder = out or Path("runs") / read.name
    if must_launch(devices):
        launch(devices, sys.argv[1:])
        return
    if not resume and is_first():
        forget_checkpoints(folder)
    do_steps(read, folder, "train")
    if is_first():
        typer.echo(f"adapter: {folder / 'train' / 'adapter'}")


def read_settings(path: Path, overrides: list[str] | None) -> Any:
    from whet.recipe import read_recipe

    return read_recipe(path, overrides or [])


def _run(recipe: Any, folder: Path) -> None:
    report = do_steps(recipe, folder, "evaluate")
    say_report(report, folder)


@contextlib.contextmanager
def interruptible(folder: Path) -> Iterator[Any]:
    """A watch; Ctrl-C becomes an error of ours, since typer would end on it without a word."""
    from whet.cli.watch import TerminalWatch
    from whet.errors import InterruptedRunError
    from whet.pipeline.train_step import StoppedError

    watch = TerminalWatch()
    try:
        yield watch
    except StoppedError:
        raise InterruptedRunError(
            f"running again goes on from here; the best adapter so far is in {folder / 'train' / 'adapter'}, and "
            f"`whet evaluate {folder}` evaluates it"
        ) from None
    except KeyboardInterrupt:
        raise InterruptedRunError("finished steps are kept") from None
    finally:
        watch.close()


def do_steps(recipe: Any, folder: Path, last: Any) -> Any:
    from whet.pipeline.run import run as run_steps

    with interruptible(folder) as watch:
        return run_steps(recipe, folder, watch, last)


def say_report(report: Any, folder: Path) -> None:
    if report is None:
        return  # of several processes the first one alone evaluates
    from whet.cli.table import print_report

    print_report(report)
    typer.echo(f"report: {folder / 'report.html'}")
