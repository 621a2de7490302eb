"""Reads the answers of systems that lie in result or run folders, and puts them side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whet.engines.http import HttpSettings
from whet.errors import InputError
from whet.evaluate.results import Asked, Latency, PartResult, SuiteResult, System, read_result
from whet.evaluate.run import is_answered, read_completions, read_scores
from whet.evaluate.shares import share_interval
from whet.evaluate.side_by_side import BASELINE, Question, Side, SideBySide, put_side_by_side
from whet.evaluate.statistics import CONFIDENCE, NUM_RESAMPLES, Interval, count_groups, f1_interval
from whet.evaluate.votes import Pair, count_votes, draw_pairs, draw_sides, fingerprint, read_votes
from whet.models.base_model import open_base
from whet.pipeline.bench import Folder
from whet.pipeline.run import saved_recipe
from whet.recipe import Recipe
from whet.records import Completion, Example, Score, example_from_json
from whet.storage import canonical, hash_text, read_json, read_jsonl
from whet.tasks.base import Task
from whet.tasks.choice_qa import LETTERS, ChoiceQa, ChoiceQaSettings
from whet.tasks.table import open_task
from whet.text.tokenizer import read_template

RESULT, ANSWERS, QUESTIONS = "result.json", "answers.jsonl", "questions.jsonl"
BASELINES = ("dictionary", "crf")


@dataclass(frozen=True, slots=True)
class Read:
    """What the folders hold: the systems' answers, and the questions by part and id, as far as they are kept."""

    sides: tuple[Side, ...]
    questions: Mapping[str, Mapping[str, Question]]
    confidence: float = CONFIDENCE
    seed: int = 0
    num_resamples: int = NUM_RESAMPLES


def compare_folders(
    folders: Sequence[Path], *, shows_differences: bool = False, votes: Path | None = None, read: Read | None = None
) -> SideBySide:
    """Every system's answers held against the first's; all must have answered the same questions.

    folders: of suite results, or run folders and the folders of answers in them. votes: a ballot that a reader filled in.
    """
    read = read or read_folders(folders)
    found = put_side_by_side(
        read.sides, shows_differences=shows_differences, questions=read.questions, confidence=read.confidence,
        seed=read.seed, num_resamples=read.num_resamples,
    )  # fmt: skip
    return found if votes is None else _with_votes(found, read, votes)


def read_folders(folders: Sequence[Path]) -> Read:
    """The systems of some folders; InputError where one holds none, or where some are of suites and some of runs."""
    is_suite = [(folder / RESULT).is_file() and not (folder / ANSWERS).is_file() for folder in folders]
    if any(is_suite) and not all(is_suite):
        odd = folders[is_suite.index(not is_suite[0])]
        raise InputError(
            str(odd), "holds the answers of a run, the others are results of a suite" if is_suite[0]
            else "is the result of a suite, the others are answers of runs", "Compare folders of one kind",
        )  # fmt: skip
    return _read_results(folders) if all(is_suite) else _read_runs(folders)


def _read_results(folders: Sequence[Path]) -> Read:
    """Results of a suite. Texts are shown where the result keeps its examples."""
    results = [read_result(folder) for folder in folders]
    labels = _distinct([result.system.label for result in results], [folder.resolve().name for folder in folders])
    questions: dict[str, dict[str, Question]] = {}
    sides = []
    for label, result in zip(labels, results, strict=True):
        scores = {name: result.scores(name) for name in result.parts}
        replies = {}
        for name in result.parts:
            examples = _kept_examples(result.folder / name / QUESTIONS)
            questions.setdefault(name, {}).update({id_: _question(example) for id_, example in examples.items()})
            replies[name] = _replies(result.folder / name, scores[name], examples, _orderer(scores[name], examples))
        sides.append(Side(label, result, scores, replies))
    return Read(tuple(sides), questions)


def _kept_examples(path: Path) -> dict[str, Example]:
    return {row["id"]: example_from_json(row) for row in read_jsonl(path)} if path.is_file() else {}


def _orderer(scores: Sequence[Score], examples: Mapping[str, Example]) -> ChoiceQa | None:
    """A choice task that orders these choices as they were asked: every gold has the letter that was kept with its score."""
    golds = [(examples[score.example_id], score.detail["gold"]) for score in scores
             if "gold" in score.detail and score.example_id in examples]  # fmt: skip
    golds = [(example, letter) for example, letter in golds if example.answer is not None]
    for seed in (0, None):
        task = ChoiceQa(ChoiceQaSettings(shuffle_seed=seed))
        if golds and all(task.reply(example) == letter for example, letter in golds):
            return task
    return None


def _distinct(labels: Sequence[str], names: Sequence[str]) -> list[str]:
    """The labels; where two are the same, with their folders' names, and with numbers where those are the same too."""
    wordy = [f"{label} ({name})" if labels.count(label) > 1 else label for label, name in zip(labels, names, strict=True)]
    return [f"{label} #{wordy[: at + 1].count(label)}" if wordy.count(label) > 1 else label for at, label in enumerate(wordy)]


def answers_folder(path: Path) -> Path:
    """The folder of answers that a path means: itself, or a run's specialist (its base where it has none)."""
    for folder in (path, path / "evaluate" / "specialist", path / "evaluate" / "base"):
        if (folder / ANSWERS).is_file():
            return folder.resolve()
    raise InputError(
        str(path), "holds no answers", "Give the folder of a suite's result, a run folder, or RUN/evaluate/NAME"
    )  # fmt: skip


def _read_runs(paths: Sequence[Path]) -> Read:
    """Answers of runs: one part, the split that they evaluated."""
    folders = [answers_folder(path) for path in paths]
    recipes = [saved_recipe(folder.parents[1]) for folder in folders]
    tasks = [open_task(recipe.task) for recipe in recipes]
    for task, path in zip(tasks, paths, strict=True):
        if task.name != tasks[0].name:
            raise InputError(str(path), f"is a {task.name} run, {paths[0]} is {tasks[0].name}", "Compare runs of one task")
    labels = _distinct([f"{folder.parents[1].name}/{folder.name}" for folder in folders], [str(folder) for folder in folders])
    settings = recipes[0].evaluate
    questions: dict[str, Question] = {}
    sides = []
    for label, folder, recipe, task in zip(labels, folders, recipes, tasks, strict=True):
        run = Folder(folder.parents[1])
        scores = read_scores(folder)
        is_there = (run.data / f"{recipe.evaluate.split}.jsonl").is_file()
        examples = {example.id: example for example in run.examples(recipe.evaluate.split)} if is_there else {}
        examples = {score.example_id: examples[score.example_id] for score in scores if score.example_id in examples}
        questions |= {id_: _question(example) for id_, example in examples.items()}
        part = _part_of_run(folder, recipe, task, scores, examples)
        result = SuiteResult(folder, recipe.name, "", System(_kind(folder, recipe), label, {}), {part.name: part})
        sides.append(Side(label, result, {part.name: scores}, {part.name: _replies(folder, scores, examples, task)}))
    name = next(iter(sides[0].result.parts))
    return Read(tuple(sides), {name: questions}, settings.confidence, settings.seed, settings.resamples)


def _kind(folder: Path, recipe: Recipe) -> str:
    if folder.name in BASELINES:
        return BASELINE
    if isinstance(recipe.engine, HttpSettings):
        return "server"
    return "adapter" if folder.name == "specialist" else "base"


def _part_of_run(
    folder: Path, recipe: Recipe, task: Task, scores: Sequence[Score], examples: Mapping[str, Example]
) -> PartResult:  # fmt: skip
    """What a run's answers are as a part of a suite."""
    total, settings = task.total(scores), recipe.evaluate
    measure, figure = total.headline
    scored = [score for score in scores if is_answered(score)]
    value = float(total.measures[measure][figure])
    groups = {s.example_id: examples[s.example_id].group if s.example_id in examples else s.example_id for s in scored}
    if figure == "accuracy":
        interval = _share(scored, groups, settings.confidence)
    else:
        interval = f1_interval(
            [score.counts[measure] for score in scored], settings.confidence, settings.seed, settings.resamples,
            list(groups.values()),
        )  # fmt: skip
    mark = folder.parents[1] / "marks" / f"evaluate-{folder.name}.json"
    seconds = float(read_json(mark)["seconds"]) if mark.is_file() else 0.0
    num_tokens = sum(completion.num_tokens for completion in read_completions(folder).values())
    latency = Latency(None, None, None, num_tokens / seconds if seconds and num_tokens else None, seconds)
    return PartResult(
        settings.split, "task", task.name, total.headline, hash_text(canonical(sorted(score.example_id for score in scores))),
        _asked(recipe, task, list(examples.values())), total.num_asked, total.num_scored,
        len({score.example_id for score in scores}), value, interval, total.measures, total.rates, latency,
        categories=_categories(scored, groups, settings.confidence) if figure == "accuracy" else {}, extra=total.extra,
        num_groups=count_groups(list(groups.values())),
    )  # fmt: skip


def _share(scores: Sequence[Score], groups: Mapping[str, str], confidence: float) -> Interval:
    judged = [score for score in scores if score.right is not None]
    return share_interval([bool(score.right) for score in judged], confidence, [groups[score.example_id] for score in judged])


def _categories(scores: Sequence[Score], groups: Mapping[str, str], confidence: float) -> dict[str, tuple[int, float, Interval]]:
    by_name: dict[str, list[Score]] = {}
    for score in scores:
        if score.right is not None:
            by_name.setdefault(score.category, []).append(score)
    if len(by_name) < 2:
        return {}
    return {
        name: (len(own), sum(bool(score.right) for score in own) / len(own), _share(own, groups, confidence))
        for name, own in sorted(by_name.items())
    }


def _asked(recipe: Recipe, task: Task, examples: Sequence[Example]) -> Asked:
    """How a run put its questions."""
    requests = [task.ask(example) for example in examples]
    said = [[[message.role, message.content] for message in request.messages] for request in requests]
    prompts = hash_text(canonical(said if said else recipe.task.model_dump(mode="json")))
    is_server = isinstance(recipe.engine, HttpSettings)
    kept = recipe.task.kind == "extraction"
    return Asked(
        prompts, None if is_server else _template(recipe.base), recipe.task.max_tokens, "end of turn",
        constraint="records" if kept else "letters" if recipe.task.kind == "choice_qa" else "none",
    )  # fmt: skip


def _template(base: str) -> str | None:
    """Hash of a base's chat template; None where the base is gone."""
    try:
        return hash_text(read_template(open_base(base).folder))
    except InputError:
        return None


def _question(example: Example) -> Question:
    """What a reader is shown of an example."""
    if example.answer is not None:
        text = "\n".join([example.text, *(f"– {choice}" for choice in example.choices)])
        return Question(text, example.choices[example.answer], example.group)
    if example.messages:
        turns = [message.content for message in example.messages[:-1]]
        return Question("\n\n".join(turns), example.messages[-1].content, example.group)
    records = [
        {name: value.text for name, value in record.items() if value is not None} for record in example.records or ()
    ]  # fmt: skip
    return Question(example.text, canonical(records), example.group)


def _replies(folder: Path, scores: Sequence[Score], examples: Mapping[str, Example], task: Task | None) -> dict[str, str]:
    """What a reader is shown of each reply: its words; of a letter the choice that it stands for, where that is known."""
    completions = read_completions(folder)
    return {
        score.example_id: _reply(completions[score.example_id], score, examples.get(score.example_id), task)
        for score in scores
    }  # fmt: skip


def _reply(completion: Completion, score: Score, example: Example | None, task: Task | None) -> str:
    if completion.finish == "error":
        return f"(no answer: {completion.error})"
    letter = score.detail.get("letter")
    if example is None or letter is None or example.answer is None:
        return completion.text
    if isinstance(task, ChoiceQa):
        return example.choices[task.order(example)[LETTERS.index(letter)]]
    return example.choices[example.answer] if letter == score.detail.get("gold") else f"another choice ({letter})"


def pairs_of(read: Read, parts: Sequence[str] = ()) -> list[Pair]:
    """The questions that two systems answered differently, in words; InputError where the questions' texts are not kept."""
    if len(read.sides) != 2:
        raise InputError("--blind", f"shows the answers of two systems, not {len(read.sides)}", "Name two folders")
    a, b = read.sides
    unknown = sorted(set(parts) - a.result.parts.keys())
    if unknown:
        raise InputError("--part", f"{unknown[0]} is no part", f"Known here: {', '.join(a.result.parts)}")
    found = []
    for name in parts or a.result.parts:
        questions = read.questions.get(name, {})
        for score in a.scores[name]:
            id_ = score.example_id
            said = [side.replies[name].get(id_, "") for side in (a, b)]
            if said[0].strip() != said[1].strip() and id_ in questions:
                found.append(Pair(name, id_, questions[id_].text, *said))
    if not found:
        raise InputError(
            a.label, "and the other answer every question that is kept in the same words", "There is nothing to read"
        )
    return found


def _with_votes(found: SideBySide, read: Read, path: Path) -> SideBySide:
    """The comparison with the sign test over a ballot; InputError where the ballot is of other answers."""
    ballot = read_votes(path)
    pairs = pairs_of(read, ballot.parts)
    if fingerprint(pairs, ballot.seed) != ballot.fingerprint:
        raise InputError(
            str(path), "is a ballot on other answers than these", "Give the two folders in the order in which its page was made"
        )
    shown = draw_pairs(pairs, ballot.num_pairs, ballot.seed)
    other = sorted(ballot.votes.keys() - {pair.key for pair in shown})
    if other:
        raise InputError(
            str(path), f"votes on a pair that its page did not show ({other[0]})", "Take the file that the page saved"
        )
    names = (found.labels[0], found.labels[1])
    return replace(found, votes=count_votes(ballot, draw_sides(shown, ballot.seed), names, found.confidence))
