"""The calibrate step: asks the specialist the valid split, and learns from its replies how far its confidences go."""

from dataclasses import asdict
from typing import Any

from whet.errors import InputError, MissingExtraError
from whet.evaluate.calibration import Calibration, calibration_from_json
from whet.evaluate.run import ask_engine, evaluate, pick, read_completions
from whet.evaluate.sureness import calibrate, gather
from whet.pipeline.bench import Bench, Folder
from whet.pipeline.train_step import trained_adapter
from whet.recipe import Recipe
from whet.records import Example
from whet.storage import hash_file, read_json, read_jsonl, write_json, write_jsonl
from whet.tasks.extraction import Extraction

CODE = ("records.py", "text", "tasks", "models", "backends", "engines", "evaluate/run.py")
FIT_CODE = tuple(f"evaluate/{name}.py" for name in ("acceptance", "calibration", "outcomes", "sureness"))
SPLIT = "valid"


def run(bench: Bench) -> Calibration | None:
    """The specialist's calibration, kept in calibrate/calibration.json; None where there is nobody or nothing to calibrate."""
    settings, folder = bench.recipe.calibrate, bench.folder
    # With `train: null` an adapter that lies there is another recipe's.
    is_trained = bench.recipe.train is not None and folder.adapter.is_dir()
    if settings is None or not is_trained or not isinstance(bench.task, Extraction):
        return None
    examples = pick(list(folder.examples(SPLIT)), settings.max_examples)
    if not examples:
        return None
    inputs = _inputs(bench, bench.recipe)
    split = [hash_file(folder.data / f"{SPLIT}.jsonl"), settings.max_examples, bench.recipe.evaluate.max_error_rate]
    asked_key = bench.key(CODE, inputs, bench.recipe.task, split)
    key = bench.key(FIT_CODE, asked_key, settings, bench.recipe.extract.accept)
    path = folder.calibration / "calibration.json"
    if folder.is_done("calibrate", key) and path.is_file():
        bench.watch.begin("calibrate", True)
        return _read(bench.folder)
    bench.watch.begin("calibrate", False)
    folder.unmark("calibrate")
    if not (folder.is_done("calibrate-answers", asked_key) and (folder.calibration / "answers.jsonl").is_file()):
        _ask(bench, examples, asked_key)
    names = [field.name for field in bench.task.fields]
    claims = gather(examples, read_completions(folder.calibration), bench.task, names)
    try:
        found = calibrate(claims, names, settings, bench.recipe.extract.accept)
    except MissingExtraError as error:
        # The other evidence of the run does not hang on it. Without a mark it is tried again.
        bench.watch.say(f"not calibrated: {error}")
        return Calibration({}, None, num_examples=claims.num_read, reason=str(error))
    write_jsonl(folder.calibration / "held_out.jsonl", (asdict(record) for record in found.held_out))
    write_json(path, {"inputs": inputs, **found.to_json()})
    folder.mark("calibrate", key)
    bench.watch.say(f"not calibrated: {found.reason}" if found.reason else _say(found))
    return found


def open_calibration(bench: Bench, asked: Recipe | None = None) -> Calibration:
    """The calibration in a run folder; an empty one that says why where there is none for this adapter and this task.

    bench: the run as it was trained. asked: its recipe with the changes of this call; its threshold or precision counts, and its
    task must be the calibrated one but for the budget.
    """
    asked = asked or bench.recipe
    path = bench.folder.calibration / "calibration.json"
    if asked.calibrate is None:
        return Calibration({}, None, reason="calibrate is null in the recipe")
    if not path.is_file():
        return Calibration({}, None, reason="this run has no calibration; `whet evaluate` makes one")
    try:
        if read_json(path)["inputs"] != _inputs(bench, asked):
            return Calibration({}, None, reason="the calibration is of another adapter, base or task; run the recipe again")
        return _read(bench.folder).with_acceptance(asked.extract.accept)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(str(path), "is no calibration", "Delete it and run the recipe again: whet run RECIPE") from None


def _read(folder: Folder) -> Calibration:
    held_out = read_jsonl(folder.calibration / "held_out.jsonl")
    return calibration_from_json(read_json(folder.calibration / "calibration.json"), held_out)


def _inputs(bench: Bench, asked: Recipe) -> dict[str, Any]:
    """Whose confidences these are: probabilities depend on the prompt and on the constraint too."""
    task = asked.task.model_dump(mode="json", exclude={"max_tokens"})
    return {"base": bench.base.fingerprint, "adapter": trained_adapter(bench).fingerprint, "task": task}


def _ask(bench: Bench, examples: list[Example], key: str) -> None:
    """Keep the specialist's replies to the valid split."""
    bench.folder.unmark("calibrate-answers")
    evaluate(
        f"the specialist on {SPLIT}",
        ask_engine(bench.local_engine(bench.folder.adapter), bench.task, examples),
        bench.task,
        examples,
        bench.folder.calibration,
        bench.recipe.evaluate.max_error_rate,
        lambda done, num: bench.watch.count(f"specialist on {SPLIT}", done, num),
    )
    bench.folder.mark("calibrate-answers", key)


def _say(found: Calibration) -> str:
    assert found.record is not None
    accepted = found.acceptance
    words = f"calibrated on {found.record.num:,} records by {found.record.method}"
    if accepted is None or accepted.threshold is None:
        return f"{words}; no confidence shows the precision that was asked for, so every record needs review"
    return f"{words}; a confidence of {accepted.threshold:.3f} or more accepts {accepted.num_accepted:,} of them"
