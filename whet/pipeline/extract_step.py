"""Reads a corpus with the specialist of a run: every record with its place, nothing asked twice, and what failed told."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.config import Places, apply_overrides, load
from whet.data.chunks import Chunk, Cut, cut_chunks
from whet.data.documents.find import Before, find_documents
from whet.data.documents.source import Kind, Piece
from whet.errors import InputError, InterruptedRunError, WhetError, counted
from whet.evaluate.calibration import Calibration
from whet.extract.bound import open_state
from whet.extract.flow import Flow, Way
from whet.extract.progress import Tally, measure
from whet.extract.rows import Assembly, Labels, Sums, Trust
from whet.extract.state import State
from whet.extract.targets import Targets
from whet.pipeline.answering import Answering, choose_answering
from whet.pipeline.bench import Bench, Silent, hash_code
from whet.pipeline.calibrate_step import open_calibration
from whet.pipeline.on_ray import RaySettings, spread
from whet.pipeline.run import saved_recipe
from whet.recipe import Recipe
from whet.storage import locked
from whet.tasks.extraction import Extraction
from whet.tasks.rules import Rules

READING = tuple(f"tasks/{name}.py" for name in ("extraction", "reading", "occurrences"))
CODE = ("records.py", "text", *READING, "data/chunks.py", "data/documents", "extract/flow.py", "extract/sentences.py")
CHANGEABLE = ("extract.", "engine.", "device.", "task.constraint=", "task.max_tokens=")
Tell = Callable[[Tally], None]
MOST_LONGER = 1.5  # times the longest text of the training that a chunk may be without a word


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be read, with what, and where it goes."""

    inputs: tuple[str, ...]
    """Paths of files and folders; - is standard input."""
    run: Path
    targets: Targets
    overrides: tuple[str, ...] = ()
    is_base: bool = False
    """Ask the base, not the specialist."""
    is_retry: bool = False
    """Ask chunks again that failed or were cut before."""
    is_anew: bool = False
    """Forget what was answered before."""
    ray: RaySettings | None = None
    """Answer on Ray actors; null answers in this process."""


@dataclass(frozen=True, slots=True)
class Extracted:
    """What an extraction has come to: the figures of its summary, and whether more chunks failed than the recipe allows."""

    figures: Mapping[str, Any]
    has_failed: bool


def extract(
    order: Order,
    tell: Tell = lambda tally: None,
    answering: Answering | None = None,
    note: Callable[[str], None] = lambda words: None,
) -> Extracted:
    """Read the inputs into the output; what was answered before is not asked again.

    answering: answers in place of the run's own. note: is told what makes the records worse than they
    could be. Ctrl-C writes what is done, then raises InterruptedRunError.
    """
    saved = Bench(saved_recipe(order.run), order.run, Silent())
    bench = Bench(_changed(saved.recipe, order), order.run, Silent())
    task, settings = bench.task, bench.recipe.extract
    if not isinstance(task, Extraction):
        raise InputError(str(order.run), f"answers {task.name} questions, it extracts nothing", "Name a run that extracts")
    inputs = order.targets.sources(order.inputs)
    order.targets.check(task.fields, is_anew=order.is_anew)

    def kind_of(name: str, stamp: str) -> Kind | None:
        return state.kind_of(name, stamp)  # which is open once documents are drawn

    documents = find_documents(inputs, settings.documents, Before(order.targets.leaves_out(), kind_of, order.targets.passing))
    who = answering or choose_answering(bench, saved, is_base=order.is_base)
    if order.ray:
        who = spread(who, bench, order.ray)
    longest = _longest(bench, who)
    cut = settings.chunks.cut_to(longest)
    way = Way(task, bench.recipe.data.prepare, _cutter(bench, cut), cut.overlap, settings.max_errors_in_a_row, who.fits)
    trust = _trust(bench, saved, who)
    if too_long := _too_long(cut, longest):
        note(too_long)
    folder = order.targets.state
    with locked(folder), closing(open_state(folder, _decisive(bench, who), is_anew=order.is_anew)) as state:
        order.targets.claim(state, is_anew=order.is_anew)
        flow = Flow(way, state, is_retry=order.is_retry, total_bytes=measure(inputs), tell=tell)
        stopped: BaseException | None = None
        try:
            flow.run(documents, who.open)
        except (KeyboardInterrupt, WhetError) as fault:
            stopped = fault
        if stopped is None:
            _require_text(order, state, flow.tally)
        assembly = Assembly(state, Rules(settings.rules), Labels(bench.recipe.name, who.adapter), trust)
        figures = _write(order, task, assembly, flow.tally, stopped, too_long)
    if isinstance(stopped, KeyboardInterrupt):
        raise InterruptedRunError(f"what is done is in {order.targets.out}; running again goes on from here") from None
    if stopped is not None:
        raise stopped
    chunks = figures["chunks"]
    return Extracted(figures, chunks["failed"] + chunks["cut"] > settings.max_failed * max(1, chunks["total"]))


def _changed(saved: Recipe, order: Order) -> Recipe:
    """The run's recipe with the overrides, which may not touch what was trained."""
    other = next((one for one in order.overrides if not one.startswith(CHANGEABLE)), None)
    if other is not None:
        raise InputError(
            other,
            "can't be changed here: the specialist was trained with it",
            "What can: settings of extract, engine and device, task.constraint, task.max_tokens",
        )
    raw = saved.model_dump(mode="json")
    places: Places = {}
    apply_overrides(raw, places, order.overrides)
    return load(Recipe, raw, places, "command line")


def _decisive(bench: Bench, who: Answering) -> dict[str, Any]:
    """All that decides what the answers are, as plain JSON. Rules and formats do not."""
    recipe = bench.recipe
    return {
        "task": recipe.task.model_dump(mode="json"),
        "data": {"prepare": recipe.data.prepare.model_dump(mode="json")},
        "extract": recipe.extract.model_dump(mode="json", include={"documents", "chunks"}),
        "answering": dict(who.identity),
        "code": {room: hash_code(room) for room in (*CODE, *who.code)},
    }


def _trust(bench: Bench, saved: Bench, who: Answering) -> Trust:
    """How far the confidences can be believed, and why no further."""
    accept = bench.recipe.extract.accept
    if who.adapter is None:
        found = Calibration({}, None, reason="confidences are as the engine gives them: a calibration is a specialist's alone")
    elif bench.recipe.task != saved.recipe.task:
        found = Calibration({}, None, reason="confidences are not calibrated: the calibration is of the task as it was trained")
    else:
        found = open_calibration(saved)
    calibrate = found.apply if found.record else (lambda answer: answer)
    if accept.threshold is not None:
        threshold = accept.threshold
        return Trust(calibrate, lambda confidence: confidence is not None and confidence >= threshold, found.reason)
    if found.acceptance is None:
        return Trust(calibrate, reason=found.reason)
    asked, had = (accept.precision, accept.confidence), (found.acceptance.precision, found.acceptance.confidence)
    if asked != had:
        raise InputError(
            "extract.accept",
            f"asks for a precision of {asked[0]} at a confidence of {asked[1]}; the run was calibrated for {had[0]} at {had[1]}",
            "Run the recipe with the same settings (nothing is trained again), or set extract.accept.threshold",
        )
    return Trust(calibrate, found.accepts, found.reason)


def _cutter(bench: Bench, cut: Cut) -> Callable[[str, Iterable[Piece]], Iterator[Chunk]]:
    """Cuts documents; the tokenizer is opened where chunks are counted in tokens."""

    def count_tokens(text: str) -> int:
        return len(bench.chat.tokenizer.encode(text))

    return lambda name, pieces: cut_chunks(name, pieces, cut, count_tokens)


def _longest(bench: Bench, who: Answering) -> int | None:
    """Characters of the longest text that the specialist was trained on; None where another answers, or nobody knows."""
    if who.adapter is None or not (bench.folder.data / "train.jsonl").is_file():
        return None
    return max((len(example.text) for example in bench.folder.examples("train")), default=None)


def _too_long(cut: Cut, longest: int | None) -> str:
    """What to do where chunks are longer than all that the specialist was trained on: it then leaves records out."""
    if longest is None or cut.unit != "characters" or cut.size <= MOST_LONGER * max(longest, 8):
        return ""
    return (
        f"chunks have up to {cut.size:,} characters, and the longest text of the training had {longest:,}: a specialist "
        "leaves records out of texts that are longer. Leave extract.chunks.size out, and chunks are as long as that"
    )


def _require_text(order: Order, state: State, tally: Tally) -> None:
    """InputError where the inputs hold no text at all: the output stays as it was."""
    if tally.counts["documents"] and state.has_text():
        return
    told = [(row["document"], row["reason"]) for row in state.failures() if row["status"] in ("refused", "unreadable")]
    if told:
        others = counted(len(told) - 1, "other input", "has", "have")
        more = f" ({others} no text either)" if len(told) > 1 else ""
        raise InputError(told[0][0], f"{told[0][1]}{more}")
    raise InputError(", ".join(order.inputs), "holds no text", "Name files or folders with documents to read")


def _write(
    order: Order, task: Extraction, assembly: Assembly, tally: Tally, stopped: BaseException | None, too_long: str
) -> Mapping[str, Any]:
    """Write all that is done, a pass that was stopped included; if that can't be, its own fault is the one to tell."""
    targets, state = order.targets, assembly.state
    try:
        state.commit()
        files = targets.write(assembly.rows(), task.fields)
        targets.keep_standard_input()
        num_failed = targets.write_failed(state)
        figures = _figures(tally, assembly.sums, state) | {
            "is_whole": stopped is None,
            "run": assembly.labels.run,
            "adapter": assembly.labels.adapter,
            "uncalibrated": assembly.trust.reason,
            "too_long": too_long,
            "files": files,
            "lines_in_failed": num_failed,
        }
        targets.write_summary(figures)
    except WhetError:
        if stopped is None or isinstance(stopped, KeyboardInterrupt):
            raise
        raise stopped from None
    return figures


def _figures(tally: Tally, sums: Sums, state: State) -> dict[str, Any]:
    """Counts of this pass, and of the output as a whole."""
    counts = tally.counts
    return {
        "documents": {"in_output": state.num_documents()}
        | {name: counts[name] for name in ("documents", "unchanged", "changed", "repeated", "refused", "broken")}
        | {"gone": state.num_gone(), "pages": counts["pages"], "chars": counts["chars"], "problems": counts["problems"]},
        "chunks": state.num_chunks() | {"asked": counts["chunks"], "asked_again": counts["again"], "blank": counts["blank"]},
        "records": {
            "said": sums.said,
            "split": sums.split,
            "merged": dict(sums.merged),
            "dropped": dict(sums.dropped),
            "flagged": dict(sums.flagged),
            "written": sums.rows,
            "accepted": sums.accepted,
            "to_review": sums.to_review,
        },
        "tokens": counts["tokens"],
        "seconds": round(time.monotonic() - tally.began, 3),
    }
