"""The train step: proves its input, trains the adapter, proves that it learnt and was saved."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from whet.errors import InputError
from whet.models.adapter import Adapter, open_adapter
from whet.pipeline.bench import Bench
from whet.storage import hash_file, read_json, write_json
from whet.train.batches import pack_rows
from whet.train.encode import encode
from whet.train.loop import Training, TrainSettings, valid_loss
from whet.train.proofs import Proof, prove_input, prove_moved, prove_reload, require_rows, show_row

CODE = ("records.py", "text", "tasks", "models", "backends", "train")
ENDED = {
    "finished": "trained to the end",
    "plateau": "stopped early: the validation loss no longer falls",
    "interrupted": "stopped by Ctrl-C",
    "diverged": "STOPPED: the loss was no number any more; lower train.learning_rate",
}
SAMPLE = 32  # rows on which packed and padded rows are compared


class StoppedError(KeyboardInterrupt):
    """Training was interrupted and ended cleanly; the best adapter so far is kept."""


def train_key(bench: Bench) -> str:
    """What the adapter depends on."""
    if bench.recipe.train is None:
        raise InputError("train", "is null in this recipe", "Give it a train section")
    files = [hash_file(bench.folder.data / f"{split}.jsonl") for split in ("train", "valid")]
    return bench.key(CODE, bench.recipe.train, bench.recipe.task, bench.base.fingerprint, files)


def trained_adapter(bench: Bench) -> Adapter:
    """The run's adapter; refused when the folder's recipe or data are no longer those that it was trained with."""
    adapter = open_adapter(bench.folder.adapter, bench.base)
    if adapter.card.get("train_key") != train_key(bench):
        raise InputError(
            str(bench.folder.adapter),
            "was trained with another recipe, other data or another version of whet than this run folder now holds",
            "Run the recipe again: whet run RECIPE",
        )
    return adapter


def run(bench: Bench, settings: TrainSettings) -> dict[str, Any]:
    """Train, unless the same was trained before; gives what train/result.json holds."""
    folder, watch = bench.folder, bench.watch
    key = train_key(bench)
    result_path = folder.train / "result.json"
    if folder.is_done("train", key) and result_path.is_file() and folder.adapter.is_dir():
        watch.begin("train", True)
        found: dict[str, Any] = read_json(result_path)
        return found
    watch.begin("train", False)
    folder.unmark("train")
    examples, held_out = list(folder.examples("train")), list(folder.examples("valid"))
    rows, valid_rows = encode(examples, bench.task, bench.chat), encode(held_out, bench.task, bench.chat)
    require_rows(rows, "train")
    require_rows(valid_rows, "valid")
    # The valid rows are proved with the train rows: the adapter is chosen by them.
    proofs = prove_input(
        [*rows, *valid_rows],
        [*examples, *held_out],
        task=bench.task,
        chat=bench.chat,
        base=bench.base,
        max_length=bench.token_limit,
    )
    proofs.append(_no_leak(bench))
    for proof in proofs:
        watch.say(f"proved: {proof.name} ({proof.words})")
    shown = show_row(rows[0], bench.chat)
    watch.show(shown)

    # What an earlier run left must not pass for this one's, should this one break off.
    result_path.unlink(missing_ok=True)
    for old in (folder.adapter, folder.answers("specialist")):
        shutil.rmtree(old, ignore_errors=True)
    folder.unmark("evaluate-specialist")
    bench.backend.attach(settings.lora, settings.seed)
    layout = bench.backend.check_layout(pack_rows(rows[:SAMPLE], settings.tokens_per_batch))
    watch.say(layout)
    start = bench.backend.state()
    training = Training(bench.backend, bench.base, rows, valid_rows, settings, folder.train, {"train_key": key})
    with stop_on_interrupt() as is_stopped:
        result = training.run(watch.trained, is_stopped)
    watch.say(f"{ENDED[result.ended]}; the adapter of step {result.best_step} is kept")
    proofs.append(prove_moved(start, bench.backend.state()))
    bench.backend.attach(folder.adapter)
    proofs.append(prove_reload(result.best_valid_loss, valid_loss(bench.backend, training.valid_packs)))
    for proof in proofs[-2:]:
        watch.say(f"proved: {proof.name} ({proof.words})")
    facts = {"result": asdict(result), "proofs": [asdict(proof) for proof in proofs], "layout": layout, "shown": shown}
    write_json(result_path, facts)
    if result.ended == "interrupted":
        raise StoppedError
    folder.mark("train", key, ended=result.ended)
    return facts


def _no_leak(bench: Bench) -> Proof:
    """The data step's leak check, as a proof; leaks of published splits are told, others stop the run."""
    leaks = read_json(bench.folder.data / "manifest.json")["leaks"]
    own = leaks["num_left"] - leaks["num_reported_only"]
    if own > 0:
        raise InputError(str(bench.folder.data), f"{own} examples of valid or test stand in train", "Set data.split.leaks=move")
    told = f"; {leaks['num_reported_only']} in published splits are reported" if leaks["num_reported_only"] else ""
    return Proof("no split leaks", True, f"{leaks['num_compared']} texts compared, exact, normalised and near{told}")


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C asks to stop, and the second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
