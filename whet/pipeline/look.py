"""Asks the small edition of a suite while a run trains, and holds each look against the first."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from whet.data.sources import files_of
from whet.errors import InputError
from whet.evaluate.run import ask_engine, is_answered
from whet.evaluate.shares import mcnemar
from whet.evaluate.statistics import Paired, paired_f1
from whet.evaluate.suite import FileQuestions, RunQuestions, Suite, read_suite
from whet.pipeline.bench import Bench
from whet.pipeline.suite_step import Prepared, prepare_suite
from whet.records import Counts, Score
from whet.storage import hash_file
from whet.train.looks import Look, LookSettings

RESAMPLES = 999
Outcomes = dict[str, list[list[int]]]
"""By general part, of each question: whether it has a score, and true positives, false positives, misses (right is 1, 0, 0)."""


class Looker:
    """A suite's small edition, ready to be asked of whatever the backend has attached."""

    def __init__(self, bench: Bench, settings: LookSettings) -> None:
        self.bench, self.settings = bench, settings
        self.suite = read_small(settings.suite)
        self.parts = prepare_suite(self.suite, bench.folder.train / "looks", is_small=True)
        roles = {part.settings.role for part in self.parts}
        train = bench.recipe.train
        if train is not None and train.choose_by == "suite" and "task" not in roles:
            raise InputError("train.choose_by", f"is suite, and {settings.suite} has no part of the role task", "Set valid_loss")

    def __call__(self, first: Outcomes | None) -> Look:
        """Ask every part. All processes get what the first one saw."""
        figures, outcomes = dict[str, float](), dict[str, list[list[int]]]()
        for part in self.parts:
            value, rows = self._ask(part)
            figures[part.settings.name] = value
            if part.settings.role == "general":
                outcomes[part.settings.name] = rows
        task_values = [figures[part.settings.name] for part in self.parts if part.settings.role == "task"]
        score = sum(task_values) / len(task_values) if task_values else None
        return Look(figures, score, outcomes, self._forgotten(first, outcomes) if first is not None else "")

    def _ask(self, part: Prepared) -> tuple[float, list[list[int]]]:
        """The headline of a part, and each question's outcome."""
        examples = part.questions.examples
        completions = ask_engine(self.bench.attached_engine(), part.task, examples)
        scores = [part.task.score(example, said) for example, said in zip(examples, completions, strict=True)]
        measure, figure = (total := part.task.total(scores)).headline
        rows = [_outcome(score, measure) for score in scores]
        flat = [total.measures[measure][figure], *(float(number) for row in rows for number in row)]
        value, *rest = self.bench.company.first_of(flat)
        return value, [[int(number) for number in rest[at : at + 4]] for at in range(0, len(rest), 4)]

    def _forgotten(self, first: Outcomes, now: Outcomes) -> str:
        """Which general parts fell beyond the tolerance, and surely so."""
        settings, words = self.settings, []
        for part in self.parts:
            name = part.settings.name
            if name not in now:
                continue
            groups = [example.group for example in part.questions.examples]
            fall = compare_outcomes(first[name], now[name], settings.confidence, self.suite.seed, groups)
            if fall is not None and fall.difference < -settings.tolerance and fall.interval.high < 0:
                words.append(
                    f"{name} fell by {-fall.difference:.3f} ({settings.confidence:.0%} interval {-fall.interval.high:.3f} to "
                    f"{-fall.interval.low:.3f}; {settings.tolerance:g} is allowed)"
                )
        return f"it forgets: {'; '.join(words)}" if words else ""


def _outcome(score: Score, measure: str) -> list[int]:
    if measure in score.counts:
        counts = score.counts[measure]
        return [int(is_answered(score)), counts.tp, counts.fp, counts.fn]
    # A reply that can no longer be read is a loss; at the start it is no score.
    return [2 if score.status == "unread" else int(is_answered(score)), int(bool(score.right)), 0, 0]


def compare_outcomes(
    first: Sequence[Sequence[int]], now: Sequence[Sequence[int]], confidence: float, seed: int,
    groups: Sequence[Hashable] | None = None,
) -> Paired | None:  # fmt: skip
    """Now against then, question by question, of those that had a score then; None where there is none.

    McNemar with Newcombe's interval for right or wrong, a paired bootstrap for counts. What was read then and is not
    now counts as wrong; where the engine failed now, the question is left out. groups: each question's, taken whole.
    """
    kept = [at for at, (then, here) in enumerate(zip(first, now, strict=True)) if then[0] == 1 and here[0] != 0]
    if not kept:
        return None
    pairs, group_of = [(first[at], now[at]) for at in kept], None if groups is None else [groups[at] for at in kept]
    if all(row[2] == row[3] == 0 for pair in pairs for row in pair):
        return mcnemar([bool(then[1]) for then, _ in pairs], [bool(here[1]) for _, here in pairs], confidence, group_of)
    return paired_f1(
        [Counts(*then[1:]) for then, _ in pairs], [Counts(*here[1:]) for _, here in pairs], seed,
        confidence=confidence, num_resamples=RESAMPLES, groups=group_of,
    )  # fmt: skip


def read_small(path: Path) -> Suite:
    """A suite that has a small edition."""
    suite = read_suite(path)
    if suite.small is None:
        raise InputError(str(path), "has no small edition to ask while a run trains", "Give it one: small: {num_questions: 50}")
    return suite


def looks_key(settings: LookSettings) -> list[Any]:
    """What the looks depend on: the suite, and the files that its questions come from."""
    suite = read_small(settings.suite)
    root = suite.root or Path()
    files: list[str] = []
    for part in suite.parts:
        for data in (part.small_data or part.data, *([part.shots.data] if part.shots else [])):
            if isinstance(data, FileQuestions):
                files += [hash_file(file.path) for source in data.sources for file in files_of(source, root)]
            elif isinstance(data, RunQuestions):
                path = root / data.path
                files.append(hash_file(path if path.is_file() else path / "data" / "valid.jsonl"))
    told = settings.model_dump(mode="json", exclude={"suite"})
    return [told, suite.model_dump(mode="json", exclude={"root"}), files]
