"""The verb that measures: a run's own held-out examples, or any system on a suite."""

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.runs import Out, Overrides, interruptible, run, say_report


def evaluate(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT",
            help="A run folder or a recipe; with --suite or --harness also `embedded`, a model or adapter folder, a .gguf file, "
            "an http:// address (its model after a #), an engine's YAML file, or FILE.py:NAME, an engine of your own.",
        ),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    *,
    suite: Annotated[
        Path | None, typer.Option("--suite", "-s", help="The suite, a YAML file; settings that follow change it.")
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            "--harness",
            metavar="TASKS",
            help="Ask tasks of lm-evaluation-harness, by name or as YAML files, with commas between.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of the model on the server.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base of an adapter that lies in no run folder.")] = None,
    training_data: Annotated[
        list[Path] | None,
        typer.Option("--training-data", help="What it was trained on: a run folder or example files. A run's own is known."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option("--import", help="A result that another runner published (JSON): recounted, or refused with reasons."),
    ] = None,
) -> None:
    """Evaluate what a run folder holds, or do all steps of a recipe that lead there; with --suite or --harness, ask a system."""
    from whet.errors import InputError

    if published is not None:
        _import_published(published)
        return
    if what is None:
        raise InputError(
            "command line", "WHAT is missing", "Say what to evaluate: whet evaluate RUN, or whet evaluate WHAT --suite SUITE"
        )
    if harness is not None:
        _evaluate_harness(what, harness, overrides or [], out, model, base, training_data or [])
        return
    if suite is not None:
        _evaluate_suite(what, suite, overrides or [], out, model, base, training_data or [])
        return
    from whet.pipeline.run import evaluate_folder

    if model or base or training_data:
        raise InputError(
            "command line", "--model, --base and --training-data belong to --suite and --harness", "Name a suite with --suite"
        )
    path = Path(what)
    if not path.is_dir():
        run(path, overrides, out)
        return
    if overrides:
        raise InputError("command line", "settings can be changed for a recipe, not for a run folder", "Name the recipe instead")
    with interruptible(path) as watch:
        report = evaluate_folder(path, watch)
    say_report(report, path)


def _evaluate_harness(
    what: str, tasks: str, overrides: list[str], out: Path | None, model: str | None, base: str | None, training: list[Path]
) -> None:
    import re

    from whet.cli.suite_table import print_result
    from whet.config import apply_overrides, load
    from whet.pipeline.harness import HarnessSettings, run_harness
    from whet.pipeline.suite_step import training_examples
    from whet.pipeline.systems import find_system

    raw: dict[str, object] = {}
    places: dict[tuple[str | int, ...], str] = {}
    apply_overrides(raw, places, overrides)
    settings = load(HarnessSettings, raw, places, "command line")
    candidate = find_system(what, model=model, base=base)
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", candidate.system.label).strip("-.") or candidate.system.kind
    folder = out or Path("runs") / "suites" / "harness" / f"{label}-{candidate.system.kind}"
    with interruptible(folder) as watch:
        names = [task.strip() for task in tasks.split(",") if task.strip()]
        known = training_examples(candidate, training)
        result = run_harness(names, candidate, folder, settings, watch.say, known)
    print_result(result)
    typer.echo(f"result: {folder / 'result.json'}")


def _evaluate_suite(
    what: str, path: Path, overrides: list[str], out: Path | None, model: str | None, base: str | None, training: list[Path]
) -> None:
    import re

    from whet.cli.suite_table import print_result
    from whet.evaluate.suite import read_suite
    from whet.pipeline.suite_step import run_suite, training_examples
    from whet.pipeline.systems import find_system

    suite = read_suite(path, overrides)
    candidate = find_system(what, model=model, base=base)
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", candidate.system.label).strip("-.") or candidate.system.kind
    folder = out or Path("runs") / "suites" / suite.name / f"{label}-{candidate.system.kind}"
    with interruptible(folder) as watch:
        result = run_suite(suite, candidate, folder, watch, training_examples(candidate, training))
    print_result(result)
    typer.echo(f"result: {folder / 'result.json'}")


def _import_published(path: Path) -> None:
    from whet.evaluate.published import refuse_published

    found = refuse_published(path)
    around = found.interval
    typer.echo(
        f"{found.model or 'a model'} on {found.benchmark}: accuracy {found.accuracy:.3f} [{around.low:.3f}, {around.high:.3f}], "
        f"{found.num_correct} of {found.num_questions} distinct questions, no request failed unseen."
    )
