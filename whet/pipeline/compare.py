"""Compares the answers of two systems that lie in run folders."""

from pathlib import Path

from whet.errors import InputError
from whet.evaluate.compare import Comparison, compare
from whet.evaluate.run import read_scores
from whet.pipeline.run import saved_recipe
from whet.tasks.table import open_task


def answers_folder(path: Path) -> Path:
    """The folder of answers that a path means: itself, or a run's specialist (its base where it has none)."""
    for folder in (path, path / "evaluate" / "specialist", path / "evaluate" / "base"):
        if (folder / "answers.jsonl").is_file():
            return folder.resolve()
    raise InputError(str(path), "holds no answers", "Give a run folder, or RUN/evaluate/NAME")


def compare_folders(a: Path, b: Path) -> Comparison:
    """B's answers held against A's, by the headline of their task; both must have answered the same examples."""
    folders = answers_folder(a), answers_folder(b)
    recipes = [saved_recipe(folder.parents[1]) for folder in folders]
    tasks = [open_task(recipe.task) for recipe in recipes]
    if tasks[0].name != tasks[1].name:
        raise InputError(str(b), f"is a {tasks[1].name} run, {a} is {tasks[0].name}", "Compare runs of one task")
    scores = [read_scores(folder) for folder in folders]
    headline = tasks[0].total(scores[0]).headline
    labels = [f"{folder.parents[1].name}/{folder.name}" for folder in folders]
    return compare(
        scores[0],
        scores[1],
        headline,
        names=(labels[0], labels[1]),
        confidence=recipes[0].evaluate.confidence,
        seed=recipes[0].evaluate.seed,
        num_resamples=recipes[0].evaluate.resamples,
    )
