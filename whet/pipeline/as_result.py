"""A run folder's answers as the result of a suite with one part, so that runs go through the same gate."""

from pathlib import Path

from whet.data.build import read_manifest
from whet.data.clean import gold_of, normalised, question_of
from whet.errors import InputError
from whet.evaluate.results import Asked, Latency, Overlap, PartResult, SuiteResult, System
from whet.evaluate.run import is_answered, pick, read_scores
from whet.evaluate.shares import share_interval
from whet.evaluate.statistics import Interval, count_groups, f1_interval
from whet.models.base_model import open_base
from whet.pipeline.bench import Folder
from whet.pipeline.compare import answers_folder
from whet.pipeline.run import saved_recipe
from whet.recipe import Recipe
from whet.records import Example, Score
from whet.storage import canonical, hash_file, hash_folder, hash_text, read_json, read_jsonl
from whet.tasks.base import Task, Total
from whet.tasks.table import open_task
from whet.text.tokenizer import read_template

PART = "held-out"
"""What the one part is called; its answers stand in RUN/evaluate/SYSTEM."""


class RunResult(SuiteResult):
    """A result whose one part's answers lie in its folder itself."""

    def scores(self, part: str) -> list[Score]:
        assert part == PART
        return read_scores(self.folder)


def result_of_run(path: Path) -> SuiteResult:
    """The result that a run folder, or the folder of one of its systems' answers, stands for.

    Overlap comes from the run's own data build: held-out examples that leak from its train or valid split.
    Latency and memory were not measured. InputError where the run's data have changed since it was evaluated.
    """
    folder = answers_folder(path)
    run = Folder(folder.parents[1])
    recipe = saved_recipe(run.path)
    task, settings = open_task(recipe.task), recipe.evaluate
    examples = pick(list(run.examples(settings.split)), settings.max_examples)
    scores = read_scores(folder)
    if [score.example_id for score in scores] != [example.id for example in examples]:
        raise InputError(
            str(folder),
            f"holds answers to other examples than {run.data / settings.split}.jsonl",
            f"Evaluate again: whet evaluate {run.path}",
        )
    total = task.total(scores)
    has_score = total.rates.get("error", 0.0) <= settings.max_error_rate and total.num_scored > 0
    system = _system(folder, run, recipe)
    part = PartResult(
        name=PART,
        role="task",
        task=task.name,
        headline=total.headline,
        questions=hash_text(canonical([[example.id, gold_of(example)] for example in examples])),
        asked=_asked(task, examples, recipe, system),
        num_asked=len(scores),
        num_scored=total.num_scored,
        num_distinct=len({normalised(question_of(example)) for example in examples}),
        value=total.measures[total.headline[0]][total.headline[1]] if has_score else None,
        interval=_interval(total, scores, examples) if has_score else None,
        measures=total.measures,
        rates=total.rates,
        latency=Latency(None, None, None, None, _seconds(run, folder.name)),
        duplicates=_duplicates(examples),
        overlap=_overlap(run, system, settings.split, {example.id for example in examples}),
        extra=total.extra,
        num_groups=count_groups([example.group for example, score in zip(examples, scores, strict=True) if is_answered(score)]),
    )
    return RunResult(folder, f"{task.name} of {settings.split}", part.questions, system, {PART: part})


def groups_of_run(path: Path) -> dict[str, str]:
    """The group of each held-out example of a run, by id."""
    run = Folder(answers_folder(path).parents[1])
    return {example.id: example.group for example in run.examples(saved_recipe(run.path).evaluate.split)}


def _system(folder: Path, run: Folder, recipe: Recipe) -> System:
    """Who answered, and what it is made of; a baseline is made of its training data."""
    kind = {"specialist": "adapter", "base": "base", "server": "server"}.get(folder.name, "baseline")
    identity: dict[str, str] = {}
    if kind in ("base", "adapter"):
        identity["base"] = open_base(recipe.base).fingerprint
    if kind == "adapter":
        if not run.adapter.is_dir():
            raise InputError(str(run.adapter), "is gone, so nobody knows what answered", "Train again, or give RUN/evaluate/base")
        identity["adapter"] = hash_folder(run.adapter)
    elif kind == "baseline":
        identity = {"baseline": folder.name, "train": hash_file(run.data / "train.jsonl")}
    elif kind == "server":
        identity = {"server": canonical(recipe.engine.model_dump(mode="json", include={"url", "model"}))}
    return System(kind, f"{run.path.name}/{folder.name}", identity)


def _asked(task: Task, examples: list[Example], recipe: Recipe, system: System) -> Asked:
    """How the part was put; the template is the base's own, and none where a server or a baseline answered."""
    requests = [task.ask(example) for example in examples]
    messages = [[[message.role, message.content] for message in request.messages] for request in requests]
    constraints = {"none" if request.constraint is None else "constrained" for request in requests}
    template = hash_text(read_template(open_base(recipe.base).folder)) if system.kind in ("base", "adapter") else None
    return Asked(
        hash_text(canonical(messages)), template, max(request.max_tokens for request in requests), "end of turn",
        constraint=", ".join(sorted(constraints)),
    )  # fmt: skip


def _interval(total: Total, scores: list[Score], examples: list[Example]) -> Interval:
    measure, figure = total.headline
    groups = {example.id: example.group for example in examples}
    if figure == "accuracy":
        judged = [score for score in scores if score.right is not None]
        return share_interval([bool(score.right) for score in judged], groups=[groups[score.example_id] for score in judged])
    scored = [score for score in scores if score.status != "error"]
    return f1_interval(
        [score.counts[measure] for score in scored], groups=[groups[score.example_id] for score in scored], num_resamples=1_999
    )


def _seconds(run: Folder, name: str) -> float:
    mark = run.path / "marks" / f"evaluate-{name}.json"
    return float(read_json(mark).get("seconds", 0.0)) if mark.is_file() else 0.0


def _duplicates(examples: list[Example]) -> tuple[tuple[str, ...], ...]:
    """Ids of examples that ask the same."""
    members: dict[str, list[str]] = {}
    for example in examples:
        members.setdefault(normalised(question_of(example)), []).append(example.id)
    return tuple(tuple(ids) for ids in members.values() if len(ids) > 1)


def _overlap(run: Folder, system: System, split: str, ids: set[str]) -> Overlap | None:
    """Held-out examples whose partner in a leak the system learnt from; a base learnt nothing here, of a server nobody knows."""
    if system.kind == "server":
        return None
    if system.kind == "base":
        return Overlap(0, 0, (), None)
    path = run.data / "leaks.jsonl"
    if not path.is_file():
        return None
    found: dict[str, str] = {}
    for row in read_jsonl(path):
        for side, other in (("", "partner_"), ("partner_", "")):
            # The valid split chooses the adapter and calibrates it, so it counts as training data.
            if row[f"{side}split"] == split and row[f"{other}split"] != split and row[f"{side}id"] in ids:
                found.setdefault(row[f"{side}id"], row["kind"])
    num_exact = sum(kind in ("exact", "normalised") for kind in found.values())
    # Moving a leak to train may make another, which the build counts and does not list.
    left = read_manifest(run.data).leaks["left"].values()
    num = max(len(found), sum(count for pairs in left for names, count in pairs.items() if split in names.split("-")))
    return Overlap(num_exact, num - num_exact, tuple(found), None)
