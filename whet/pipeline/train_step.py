"""The train step: proves its input, trains the adapter, proves that it learnt and was saved."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from whet.data.mix import sources_of
from whet.errors import InputError
from whet.evaluate.curve import draw_curve
from whet.evaluate.run import ask_engine, pick
from whet.models.adapter import Adapter, open_adapter
from whet.models.architecture import read_sizes
from whet.pipeline.bench import Bench, Folder
from whet.pipeline.look import Looker, looks_key
from whet.records import Example
from whet.storage import canonical, hash_file, hash_text, locked, read_json, read_jsonl, write_json, write_text
from whet.train.batches import num_computed, pack_numbered, pack_rows
from whet.train.encode import Row, encode, encode_example
from whet.train.loop import Progress, Training, TrainResult, TrainSettings, valid_loss
from whet.train.order import Order, base_losses, difficulties
from whet.train.plan import Work, lower, setup_of
from whet.train.proofs import Proof, prove_input, prove_moved, prove_reload, require_rows, show_row
from whet.train.trackers import Trackers, TrackerSettings, open_trackers

CODE = ("records.py", "data/mix.py", "text", "tasks", "models", "backends", "train")
SCORE_CODE = ("engines", "evaluate/run.py")  # what the score that an adapter may be chosen by depends on besides
ENDED = {
    "finished": "trained to the end",
    "plateau": "stopped early: the validation loss no longer falls",
    "interrupted": "stopped by Ctrl-C",
    "forgot": "STOPPED: it forgets more than train.looks.tolerance allows, see train/looks.jsonl; mix general rows in, or lower "
    "train.learning_rate",
    "diverged": "STOPPED: it diverged, see train/guards.jsonl; lower train.learning_rate, or look at the rows named",
}
KINDS: tuple[Literal["cuda", "mlx"], ...] = ("cuda", "mlx")
SAMPLE = 32  # rows on which packed and padded rows are compared


class StoppedError(KeyboardInterrupt):
    """Training was interrupted and ended cleanly: it can be taken up, and the best adapter so far is kept."""


def train_key(bench: Bench) -> str:
    """What the adapter depends on, the code that trains it too: with another key it is trained anew."""
    parts = _trained_from(bench)
    settings = _settings(bench)
    code = (*CODE, *SCORE_CODE) if settings.choose_by == "score" or settings.looks is not None else CODE
    return bench.key(code, *parts)


def use_key(bench: Bench) -> str:
    """What an adapter must share with its folder to be asked: recipe, base and data, and the very tokens of the first example.

    No code is in it: a newer version of whet asks an older one's adapter, as long as it renders what was trained.
    """
    first = next(bench.folder.examples("train"))
    row = encode_example(first, bench.task, bench.chat)
    plain = [part.model_dump(mode="json") if hasattr(part, "model_dump") else part for part in _trained_from(bench)]
    return hash_text(canonical([*plain, row.prompt_ids, row.answer_ids]))


def _settings(bench: Bench) -> TrainSettings:
    if bench.recipe.train is None:
        raise InputError("train", "is null in this recipe", "Give it a train section")
    return bench.recipe.train


def _trained_from(bench: Bench) -> list[Any]:
    """Settings, task, base and data of the training."""
    files = [hash_file(bench.folder.data / f"{split}.jsonl") for split in ("train", "valid")]
    settings, sources = _settings(bench), None
    if settings.mix is not None:  # it goes by the sources' names, which the examples do not hold
        sources = [[source["name"], source["files"]] for source in _sources(bench)]
    looks = looks_key(settings.looks) if settings.looks is not None else None
    # How often it is saved and who watches changes nothing about the adapter.
    plain = settings.model_dump(mode="json", exclude={"checkpoints", "trackers", "looks"})
    return [plain, bench.recipe.task, bench.recipe.device, bench.base.fingerprint, files, sources, looks]


def trained_adapter(bench: Bench) -> Adapter:
    """The run's adapter; refused where the folder's recipe or data are no longer those that it was trained with."""
    adapter = open_adapter(bench.folder.adapter, bench.base)
    if adapter.card.get("use_key") != use_key(bench):
        raise InputError(
            str(bench.folder.adapter),
            "was trained with another recipe or other data than this run folder now holds, or with prompts that read otherwise",
            "Run the recipe again: whet run RECIPE",
        )
    return adapter


def run(bench: Bench, settings: TrainSettings) -> dict[str, Any]:
    """Train, unless the same was trained before; gives what train/result.json holds. An unfinished training is taken up."""
    folder, watch = bench.folder, bench.watch
    key = train_key(bench)
    result_path = folder.train / "result.json"
    if folder.is_done("train", key) and result_path.is_file() and folder.adapter.is_dir():
        watch.begin("train", True)
        found: dict[str, Any] = read_json(result_path)
        return found
    watch.begin("train", False)
    folder.unmark("train")
    proved, proofs = _prove_rows(bench, settings)
    shown = show_row(proved.rows[0], bench.chat)
    watch.show(shown)

    # What an earlier run left must not pass for this one's, should this one break off. Its adapter is the loop's to judge.
    result_path.unlink(missing_ok=True)
    for left in (folder.answers("specialist"), folder.calibration):
        shutil.rmtree(left, ignore_errors=True)
    for step in ("evaluate-specialist", "calibrate-answers", "calibrate"):
        folder.unmark(step)
    with _memory_advised(bench, settings, proved):
        result, found = _train(bench, settings, proved, key, proofs)
    for proof in proofs[-2:]:
        watch.say(f"proved: {proof.name} ({proof.words})")
    facts = {"result": asdict(result), "proofs": [asdict(proof) for proof in proofs], "shown": shown, **found}
    if bench.backend.rank == 0:
        write_json(result_path, facts)
    if result.ended == "interrupted":
        raise StoppedError
    if bench.backend.rank == 0:
        folder.mark("train", key, ended=result.ended)
    return facts


def _train(
    bench: Bench, settings: TrainSettings, proved: "_Proved", key: str, proofs: list[Proof]
) -> tuple[TrainResult, dict[str, Any]]:
    """Attach an adapter and train it; the proofs about the outcome are added. Gives the result, and facts beside it."""
    folder, watch, backend = bench.folder, bench.watch, bench.backend
    _check_cache(bench, settings, [*proved.rows, *proved.valid_rows])
    backend.attach(settings.adapter, settings.seed)
    layout = backend.check_layout(pack_rows(proved.rows[:SAMPLE], settings.tokens_per_batch))
    watch.say(layout)
    start = backend.digests()
    look = Looker(bench, settings.looks) if settings.looks is not None else None
    training = Training(
        backend, bench.base, proved.rows, proved.valid_rows, settings, folder.train,
        key=key, card={"use_key": use_key(bench)}, order=proved.order(), look=look,
        score=lambda: _score(bench, settings.score_examples), say=watch.say,
    )  # fmt: skip
    is_resumed = training.take_up()
    with stop_on_interrupt() as is_stopped, _trackers(bench, settings, key, is_resumed) as trackers:

        def tell(progress: Progress) -> None:
            watch.trained(progress)
            trackers.log(progress)

        # All processes must stop at the same step, whichever of them was asked.
        result = training.run(tell, lambda: bench.company.any_of(is_stopped()))
        trackers.finish(result)
    if backend.rank == 0:
        rates = [(row["step"], row["learning_rate"]) for row in read_jsonl(folder.train / "metrics.jsonl")]
        write_text(folder.train / "curve.svg", draw_curve(result, rates))
        watch.ended(result)
    watch.say(f"{ENDED[result.ended]}; the adapter of step {result.best_step} is kept")
    backend.attach(folder.adapter)
    proofs.append(prove_moved(start, backend.digests()))
    proofs.append(prove_reload(result.best_valid_loss, valid_loss(backend, training.valid_packs)))
    return result, {"layout": layout, "lost_trackers": [asdict(lost) for lost in trackers.lost]}


def _check_cache(bench: Bench, settings: TrainSettings, rows: Sequence[Row]) -> None:
    """A cache of the frozen layers must have something to hold, and room for all of it."""
    device = bench.recipe.device
    if not device.frozen_cache_mb:
        return
    if settings.adapter.last_layers is None:
        raise InputError(
            "device.frozen_cache_mb", "has nothing to hold: all layers are trained", "Set it to 0, or set last_layers"
        )
    num_tokens = num_computed(pack_rows(rows, settings.tokens_per_batch))
    width = read_sizes(bench.base.config).hidden * (2 if device.dtype in ("bf16", "fp16") else 4)
    needed_mb = (num_tokens * width >> 20) + 1
    if needed_mb > device.frozen_cache_mb:
        raise InputError(
            "device.frozen_cache_mb",
            f"is {device.frozen_cache_mb}; the frozen layers' outputs for {num_tokens:,} tokens take {needed_mb}",
            f"Set it to {needed_mb} (with device.frozen_cache_on_disk=true where memory is short), or to 0",
        )


def _score(bench: Bench, num_examples: int) -> float:
    """The task's headline on the valid split, answered with the adapter as it stands; that of the first process for all."""
    examples = pick(list(bench.folder.examples("valid")), num_examples)
    completions = ask_engine(bench.attached_engine(), bench.task, examples)
    total = bench.task.total([bench.task.score(example, said) for example, said in zip(examples, completions, strict=True)])
    measure, figure = total.headline
    return bench.company.first_of([total.measures[measure][figure]])[0]


def forget_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run folder and the mark of its training, so that this begins anew even if it was finished."""
    with locked(folder):
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
        Folder(folder).unmark("train")


@dataclass(frozen=True, slots=True)
class _Proved:
    """The rows of train and valid, and what gives the order of the former once an adapter is attached."""

    rows: list[Row]
    valid_rows: list[Row]
    order: Callable[[], Order]


def _prove_rows(bench: Bench, settings: TrainSettings) -> tuple[_Proved, list[Proof]]:
    """All rows, with the proofs about them."""
    examples, held_out = list(bench.folder.examples("train")), list(bench.folder.examples("valid"))
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
        # Whether the new tokens' rows are trained is the backend's to say: it refuses them otherwise.
        num_new=bench.chat.tokenizer.size if settings.lora.save_modules else 0,
    )
    proofs.append(_no_leak(bench))
    for proof in proofs:
        bench.watch.say(f"proved: {proof.name} ({proof.words})")
    return _Proved(rows, valid_rows, lambda: _order(bench, settings, rows, examples)), proofs


def _order(bench: Bench, settings: TrainSettings, rows: Sequence[Row], examples: Sequence[Example]) -> Order:
    """The order of the rows; a curriculum by loss asks the backend, whose adapter must be fresh."""

    def losses() -> list[float]:
        packs = pack_numbered(rows, settings.tokens_per_batch, bench.backend.row_layout)
        # All processes must train the same rows, and what they compute by themselves may differ in its last bits.
        return bench.company.first_of(base_losses(bench.backend, packs, len(rows)))

    sources = None
    if settings.mix is not None:
        sources = sources_of((example.source for example in examples), _sources(bench))
    order = Order(
        len(rows),
        settings.examples_per_step,
        settings.seed,
        settings=settings.order,
        difficulty=difficulties(settings.order, rows, examples, losses),
        mixing=settings.mix,
        sources=sources,
    )
    if order.mix_limit:
        bench.watch.say(order.mix_limit)
    return order


def _sources(bench: Bench) -> list[dict[str, Any]]:
    """The sources of the data step's manifest: their names, and the files that each one read."""
    found: list[dict[str, Any]] = read_json(bench.folder.data / "manifest.json")["sources"]
    return found


def _trackers(bench: Bench, settings: TrainSettings, key: str, is_resumed: bool) -> Trackers:
    """The trackers that the user asked for, on the process that writes."""
    chosen = settings.trackers if bench.backend.rank == 0 else TrackerSettings()
    facts = bench.recipe.model_dump(mode="json")
    return open_trackers(chosen, bench.folder.train, facts | {"key": key}, is_resumed=is_resumed, say=bench.watch.say)


@contextmanager
def _memory_advised(bench: Bench, settings: TrainSettings, proved: _Proved) -> Iterator[None]:
    """Where the device runs out of memory within, the plan says what to change, and to what."""
    try:
        yield
    except InputError as error:
        # Before the base is open nothing was measured, and asking would open it once more: the error's own remedy stands.
        if error.what != "out of memory" or "backend" not in vars(bench):
            raise
        try:
            sizes = read_sizes(bench.base.config)
        except InputError:  # a kind of model that can't be planned
            raise error from None
        rows = proved.rows
        work = Work(
            num_rows=len(rows),
            num_valid=len(proved.valid_rows),
            tokens=sum(row.num_tokens for row in rows) / len(rows),
            learnt=sum(len(row.answer_ids) for row in rows) / len(rows),
            prefix=0,
            longest=max(row.num_tokens for row in (*rows, *proved.valid_rows)),
        )
        kind: Literal["cpu", "cuda", "mlx"] = next((kind for kind in KINDS if error.place.startswith(kind)), "cpu")
        setup = setup_of(settings, bench.recipe.device, kind)
        # What was held when it ran out is what the device has for us.
        advice = lower(sizes, setup, bench.backend.peak_memory(), work)
        raise InputError(error.place, error.what, advice) from None


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
