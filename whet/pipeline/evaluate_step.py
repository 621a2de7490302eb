"""The evaluate step: base or server, baselines and specialist answer the same held-out examples."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from whet.engines.http import HttpEngine, HttpSettings
from whet.errors import InputError
from whet.evaluate.run import Evaluation, ask_engine, evaluate, pick, predict_all, read_scores
from whet.pipeline.bench import Bench
from whet.pipeline.train_step import trained_adapter
from whet.records import Completion, Example
from whet.storage import hash_file, read_json, write_json
from whet.tasks.extraction import Extraction

CODE = ("records.py", "text", "tasks", "models", "backends", "engines", "evaluate/run.py")
BASELINE_CODE = ("records.py", "tasks", "evaluate")
Role = Literal["base", "server", "baseline", "specialist"]


@dataclass(frozen=True, slots=True)
class System:
    """One that answers: its role, and its evaluation."""

    role: Role
    evaluation: Evaluation


def run(bench: Bench) -> tuple[list[Example], list[System]]:
    """Every system's evaluation; those whose inputs are unchanged are read back."""
    settings = bench.recipe.evaluate
    examples = pick(list(bench.folder.examples(settings.split)), settings.max_examples)
    if not examples:
        raise InputError(
            str(bench.folder.data / f"{settings.split}.jsonl"), "holds no examples", "Give evaluate.split another split"
        )
    split_key = [
        hash_file(bench.folder.data / f"{settings.split}.jsonl"),
        settings.split,
        settings.max_examples,
        settings.max_error_rate,
    ]
    wanted: list[tuple[str, Role, str, Callable[[], Iterator[Completion]]]] = []

    def asked(adapter: Path | None) -> Callable[[], Iterator[Completion]]:
        return lambda: ask_engine(bench.local_engine(adapter), bench.task, examples)

    if isinstance(bench.recipe.engine, HttpSettings):
        key = bench.key(CODE, split_key, bench.recipe.task, bench.recipe.engine.identity())
        wanted.append(("server", "server", key, lambda: _ask_server(bench, examples)))
    else:
        wanted.append(("base", "base", bench.key(CODE, split_key, bench.recipe.task, bench.base.fingerprint), asked(None)))
    if isinstance(bench.task, Extraction):
        train_hash = hash_file(bench.folder.data / "train.jsonl")
        key = bench.key(BASELINE_CODE, split_key, bench.recipe.task, train_hash)
        for name in settings.baselines:
            wanted.append((name, "baseline", key, _fitted(bench, name, examples)))
    # With `train: null` an adapter that lies there is another recipe's.
    if bench.recipe.train is not None and bench.folder.adapter.is_dir():
        adapter = trained_adapter(bench)
        key = bench.key(CODE, split_key, bench.recipe.task, bench.base.fingerprint, adapter.fingerprint)
        wanted.append(("specialist", "specialist", key, asked(bench.folder.adapter)))
    bench.watch.begin("evaluate", all(bench.folder.is_done(f"evaluate-{name}", key) for name, _, key, _ in wanted))
    return examples, [
        System(role, _evaluated(bench, name, key, completions, examples)) for name, role, key, completions in wanted
    ]


def _evaluated(
    bench: Bench, name: str, key: str, completions: Callable[[], Iterator[Completion]], examples: list[Example]
) -> Evaluation:
    """One system's evaluation, from its folder where it is there already."""
    folder, step = bench.folder, f"evaluate-{name}"
    if folder.is_done(step, key) and (folder.answers(name) / "answers.jsonl").is_file():
        scores = read_scores(folder.answers(name))
        seconds = read_json(folder.path / "marks" / f"{step}.json")["seconds"]
        return Evaluation(name, tuple(scores), bench.task.total(scores), seconds)
    folder.unmark(step)
    found = evaluate(
        name,
        completions(),
        bench.task,
        examples,
        folder.answers(name),
        bench.recipe.evaluate.max_error_rate,
        lambda done, num: bench.watch.count(name, done, num),
    )
    measure, figure = found.total.headline
    bench.watch.say(f"{name}: {measure} {figure} {found.total.measures[measure][figure]:.3f} in {found.seconds:.0f} s")
    folder.mark(step, key, seconds=found.seconds)
    return found


def _ask_server(bench: Bench, examples: list[Example]) -> Iterator[Completion]:
    """A server's answers; what they took and cost is kept beside them."""
    engine = bench.engine(None)
    assert isinstance(engine, HttpEngine)
    try:
        yield from ask_engine(engine, bench.task, examples)
    finally:
        engine.close()
        write_json(bench.folder.answers("server") / "usage.json", asdict(engine.usage))
        bench.watch.say(f"server: {engine.usage.say()}")


def _fitted(bench: Bench, name: str, examples: list[Example]) -> Callable[[], Iterator[Completion]]:
    """A baseline, trained when it is asked."""

    def answers() -> Iterator[Completion]:
        from whet.evaluate.baselines import BASELINES

        assert isinstance(bench.task, Extraction)
        baseline = next(baseline for baseline in BASELINES if baseline.name == name)
        fitted = baseline.fit(list(bench.folder.examples("train")), bench.task.fields)
        yield from predict_all(fitted.predict, bench.task, examples)

    return answers
