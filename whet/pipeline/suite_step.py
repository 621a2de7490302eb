"""Asks one system every part of a suite, and leaves the result folder; a run that was stopped goes on where it was."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.formats import ExampleFiles
from whet.data.hub import fetch_rows
from whet.data.rows import Reject
from whet.data.sources import read
from whet.errors import InputError, counted
from whet.evaluate.asking import Asked, ask_part
from whet.evaluate.compare import say_groups
from whet.evaluate.judging import Doubt, PartAnswered, describe_asking, judge_part
from whet.evaluate.power import detectable_share
from whet.evaluate.questions import Questions, WithShots, draw_questions, find_overlap, keys_of, shots_fingerprint, sift
from whet.evaluate.results import PartResult, SuiteResult, read_result, write_result
from whet.evaluate.run import evaluate
from whet.evaluate.statistics import count_groups
from whet.evaluate.suite import FileQuestions, HubQuestions, PartSettings, RunQuestions, SmallEdition, Suite
from whet.pipeline import data_step
from whet.pipeline.bench import Bench, Folder, Silent, Watch, hash_code, saved_recipe
from whet.pipeline.systems import Candidate, Opened
from whet.recipe import Recipe, read_recipe
from whet.records import Example, example_from_json, example_to_json
from whet.storage import canonical, hash_text, locked, read_jsonl, write_jsonl
from whet.tasks.base import Task
from whet.tasks.table import open_task
from whet.text.prepare import prepare_example

CODE = ("records.py", "text", "tasks", "models", "backends", "engines", "evaluate/questions.py")
"""What answers depend on beside their system: answers of other code are asked anew."""
POWER = 0.8  # how often the smallest difference that is named must be found


@dataclass(frozen=True, slots=True)
class Prepared:
    """A part that is ready to be asked."""

    settings: PartSettings
    task: Task
    task_key: Any
    """What its prompts are made of beside the questions, as plain JSON."""
    questions: Questions


def prepare_suite(suite: Suite, scratch: Path, *, is_small: bool = False) -> list[Prepared]:
    """The questions of every part. is_small: those of the small edition. scratch: a folder for what must be built or fetched."""
    return [_prepare_part(suite, part, scratch / part.name, is_small=is_small) for part in suite.parts]


def _prepare_part(suite: Suite, part: PartSettings, scratch: Path, *, is_small: bool) -> Prepared:
    root = suite.root or Path()
    settings = part.task or _recipe_of(part.data, root).task
    if part.max_tokens is not None:
        settings = settings.model_copy(update={"max_tokens": part.max_tokens})
    task = open_task(settings)

    def sifted(data: FileQuestions | RunQuestions | HubQuestions, split: str | None = None) -> Questions:
        return sift(part.name, _rows(data, root, scratch, split), task, part.max_chars, part.max_bad_share)

    small = suite.small
    # A small edition of its own data is drawn from them; a run's valid split and data of its own are apart by themselves.
    is_drawn = small is not None and small.is_apart and part.small_data is None and not isinstance(part.data, RunQuestions)
    if is_small:
        assert small is not None
        there = sifted(part.small_data or part.data, "valid")
        questions = draw_questions(there, _num_small(small, there) if is_drawn else small.num_questions, suite.seed)
    else:
        there = sifted(part.data)
        without: frozenset[str] = frozenset()
        if small is not None and is_drawn:
            without = keys_of(draw_questions(there, _num_small(small, there), suite.seed).examples)
        # Another seed than the small edition's, which else would take the first of the same draw.
        questions = draw_questions(there, part.max_questions, suite.seed + 1, without)
    key: list[Any] = [settings.model_dump(mode="json")]
    if part.shots is not None:
        shots, told = _shots(part, task, root, scratch, keys_of(there.examples))
        task, key = shots, [*key, told]
    return Prepared(part, task, key, questions)


def _num_small(small: SmallEdition, there: Questions) -> int:
    """Of few questions the small edition may not take the most."""
    return min(small.num_questions, max(1, len(there.examples) // 4))


def _shots(part: PartSettings, task: Task, root: Path, scratch: Path, without: frozenset[str]) -> tuple[WithShots, Any]:
    """The task with examples shown before each question."""
    assert part.shots is not None
    rows = _rows(part.shots.data, root, scratch / "shots", "valid")
    found = sift(f"{part.name}, its shots", rows, task, None, part.max_bad_share)
    shots = WithShots(task, found.examples, part.shots.num, same_category=part.shots.same_category, without=without)
    if not shots.num_held:
        raise InputError(f"part {part.name}", "has no shot that is not one of its questions", "Take shots from another file")
    return shots, [part.shots.num, part.shots.same_category, shots_fingerprint(found.examples)]


def _rows(
    data: FileQuestions | RunQuestions | HubQuestions, root: Path, scratch: Path, split: str | None
) -> Iterator[Example | str]:
    """The rows of a source of questions; those that could not be read as sentences."""
    match data:
        case RunQuestions():
            yield from _run_examples(root / data.path, split or data.split, scratch)
        case FileQuestions():
            for source in data.sources:
                for row in read(source, root):
                    yield _told(row) if isinstance(row, Reject) else prepare_example(row, data.prepare)
        case HubQuestions():
            path = scratch / "hub.jsonl"
            if not path.is_file():
                fetch_rows(data.dataset, data.subset, data.split, data.revision, data.rename, path)
            for row in read(ExampleFiles(reader="examples", path=path), root):
                yield _told(row) if isinstance(row, Reject) else row


def _told(row: Reject) -> str:
    return f"{row.place}: {row.seen}"


def _recipe_of(data: Any, root: Path) -> Recipe:
    path = root / data.path
    return read_recipe(path, []) if path.is_file() else saved_recipe(path)


def _run_examples(path: Path, split: str, scratch: Path) -> Iterator[Example]:
    """The examples of a run folder, or of a recipe, whose data are then built."""
    folder = Folder(path)
    if path.is_file():
        folder = Folder(scratch / "run")
        data_step.run(Bench(read_recipe(path, []), folder.path, Silent()))
    if not (folder.data / "manifest.json").is_file():
        raise InputError(str(path), "has no data yet", "Run its recipe first: whet run RECIPE")
    yield from folder.examples(split)


def training_examples(candidate: Candidate, given: Sequence[Path]) -> list[Example] | None:
    """What a system was trained on: what was given (run folders, example files), else its own run's; None if nobody knows."""
    places = list(given) or ([candidate.run] if candidate.run is not None else [])
    if not places:
        return None
    return [example for place in places for example in _trained_on(place)]


def _trained_on(place: Path) -> Iterator[Example]:
    data = place / "data" if (place / "data").is_dir() else place
    if (data / "train.jsonl").is_file():
        for split in ("train", "valid"):
            if (data / f"{split}.jsonl").is_file():
                yield from (example_from_json(row) for row in read_jsonl(data / f"{split}.jsonl"))
        return
    for row in read(ExampleFiles(reader="examples", path=place.absolute(), mixed="allow"), Path()):
        if isinstance(row, Reject):
            raise InputError(row.place, row.seen, row.remedy or "Give a run folder, or a file of examples")
        yield row


def run_suite(
    suite: Suite, candidate: Candidate, out: Path, watch: Watch, training: Iterable[Example] | None = None
) -> SuiteResult:
    """Ask a system the suite and write its result folder; unchanged answers are read back, missing ones asked.

    training: what the system was trained on, to be compared with the questions; None leaves it out.
    """
    with locked(out):
        _refuse_others(out, suite, candidate)
        watch.begin("evaluate", False)
        prepared = prepare_suite(suite, out / ".data")
        for part in prepared:
            watch.say(_introduce(part, suite.confidence))
        known = list(training) if training is not None else None
        (out / "result.json").unlink(missing_ok=True)
        with candidate.open() as opened:
            parts = {part.settings.name: _asked_part(suite, candidate, part, opened, out, watch, known) for part in prepared}
            peak = opened.peak_memory()
        result = SuiteResult(
            folder=out,
            suite=suite.name,
            fingerprint=hash_text(
                canonical([suite.model_dump(mode="json", exclude={"root"}), *(p.questions.fingerprint for p in prepared)])
            ),
            system=candidate.system,
            parts={name: part for name, (part, _) in parts.items()},
            peak_memory_bytes=peak,
            cost=sum(cost for _, cost in parts.values()) if candidate.is_paid else None,
            facts=_facts(),
        )
        write_result(result)
    return result


def _refuse_others(out: Path, suite: Suite, candidate: Candidate) -> None:
    """A folder that holds another system's result, or another suite's, is not written over."""
    if not (out / "result.json").is_file():
        return
    found = read_result(out)
    if found.suite != suite.name or dict(found.system.identity) != dict(candidate.system.identity):
        raise InputError(
            str(out), f"holds the result of {found.system.label} on {found.suite}", "Name another folder with --out, or remove it"
        )


def _introduce(part: Prepared, confidence: float) -> str:
    """A part before it is asked, with the smallest gain in right answers that it could show."""
    questions = part.questions
    notes = [f"{len(questions.examples)} distinct questions"]
    if questions.duplicates:
        notes.append(f"{sum(len(ids) - 1 for ids in questions.duplicates)} repeated ones are not asked")
    if questions.left_out:
        rows = counted(len(questions.left_out), "row", "is no question", "are no questions")
        notes.append(f"{rows}, such as {questions.left_out[0]}")
    if questions.num_long:
        notes.append(f"{questions.num_long} are longer than max_chars")
    # One side of the interval that a comparison gives; the pairs that differ are supposed to be as many as is usual.
    num_groups = count_groups([example.group for example in questions.examples])
    smallest = detectable_share(len(questions.examples), (1 - confidence) / 2, POWER)
    if smallest is None:
        notes.append("too few to show any difference")
    else:
        notes.append(
            f"a gain of {100 * smallest:.1f} points would be found in {POWER:.0%} of the cases, a smaller one less often"
        )
        if num_groups is not None:
            least = detectable_share(num_groups, (1 - confidence) / 2, POWER)
            known = f"they stand in {say_groups(num_groups)}, such as documents; where each is right or wrong as a whole "
            notes.append(known + ("none would be" if least is None else f"it takes {100 * least:.1f} points"))
    return f"{part.settings.name} ({part.settings.role}): {'; '.join(notes)}"


def _asked_part(
    suite: Suite, candidate: Candidate, part: Prepared, opened: Opened, out: Path, watch: Watch, training: list[Example] | None
) -> tuple[PartResult, float]:
    """One part's result, and what its answers cost."""
    name, folder, examples = part.settings.name, out / part.settings.name, part.questions.examples
    key = hash_text(canonical([[hash_code(room) for room in CODE], dict(candidate.system.identity), part.task_key]))
    asked = Asked(folder, key)
    ask_part(
        opened.engine, part.task, examples, asked, is_timed=opened.is_timed, concurrency=opened.concurrency, cost=opened.cost,
        watch=lambda done, num: watch.count(name, done, num),
    )  # fmt: skip
    write_jsonl(folder / "questions.jsonl", (example_to_json(example) for example in examples))
    completions = (asked.replies[example.id].completion for example in examples)
    # Every answer is kept, too many errors or not; whether there is a score is judged with the part.
    found = evaluate(candidate.system.label, completions, part.task, examples, folder, max_error_rate=1.0)
    answered = PartAnswered(
        name=name,
        role=part.settings.role,
        task=part.task,
        questions=part.questions,
        asked=describe_asking(part.task, examples, template=opened.template, stop=opened.stop, enforced=opened.enforced),
        scores=found.scores,
        latency=asked.latency(examples),
        max_error_rate=suite.max_error_rate,
        found=find_overlap(examples, training, suite.near) if training is not None else None,
    )
    result = judge_part(answered, Doubt(suite.confidence, suite.seed, suite.resamples))
    watch.say(say_part(result))
    return result, asked.cost


def say_part(part: PartResult) -> str:
    """A part's figure in a line, or why it has none."""
    measure, figure = part.headline
    if part.value is None or part.interval is None:
        return f"{part.name}: no score; {say_no_score(part)}"
    words = figure if measure == figure else f"{measure} {figure}"
    return f"{part.name}: {words} {part.value:.3f} [{part.interval.low:.3f}, {part.interval.high:.3f}]"


def say_no_score(part: PartResult) -> str:
    """Why a part has no figure."""
    rate = part.rates.get("error", 0.0)
    if rate:
        return f"{rate:.0%} of {part.num_asked} requests failed, and an error is no answer"
    return f"none of {part.num_asked} replies could be read"


def _facts() -> dict[str, Any]:
    """When, with what, and where it was measured."""
    packages = ("whet", "torch", "transformers", "peft", "mlx", "llama-cpp-python")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
    }
