"""Asks the specialist of a run folder one thing, prepared and rendered as in training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.evaluate.calibration import Calibration
from whet.pipeline.bench import Bench, Silent, Watch
from whet.pipeline.calibrate_step import open_calibration
from whet.pipeline.run import saved_recipe
from whet.pipeline.train_step import trained_adapter
from whet.records import Example, Message, Record, value_to_json
from whet.tasks.base import Unread
from whet.tasks.choice_qa import ChoiceQa
from whet.tasks.extraction import Extraction
from whet.text.prepare import prepare


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back: the reply as it was written, and what it says."""

    text: str
    """The text that was asked about; spans count its characters."""
    reply: str
    records: tuple[Record, ...]
    is_free: bool
    problem: str
    """Why the reply can't be read; empty if it can."""
    spans: frozenset[str] = frozenset()
    """Fields whose values must stand in the text: one without offsets is ungrounded."""
    notes: tuple[str, ...] = ()
    """What else there is to say of a reply that could be read."""
    confidences: tuple[float | None, ...] = ()
    """How likely each record is right as a whole; empty where the run has no calibration."""

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        rows = [{name: value_to_json(value) for name, value in record.items()} for record in self.records]
        ungrounded = [
            {"record": number, "field": name}
            for number, record in enumerate(self.records)
            for name, value in record.items()
            if name in self.spans and value and value.span is None
        ]
        return {
            "text": self.text,
            "reply": self.reply,
            "records": rows,
            "ungrounded": ungrounded,
            "problem": self.problem,
            "notes": list(self.notes),
            "confidences": list(self.confidences),
        }


def ask_run(folder: Path, text: str, *, is_base: bool = False) -> Asked:
    """Ask about a text; spans are given in the text as it was typed, however it was prepared."""
    watch: Watch = Silent()
    bench = Bench(saved_recipe(folder), folder, watch)
    if isinstance(bench.task, ChoiceQa):
        raise InputError(
            str(folder), "answers choice questions, which need choices", "Evaluate it on a file of questions instead"
        )
    if not text.strip():
        raise InputError("text", "is empty")
    is_local = is_base or bench.recipe.engine.kind == "local"
    if is_local and not is_base:
        trained_adapter(bench)
    prepared = prepare(text, bench.recipe.data.prepare)
    example = Example("", prepared.text, "command line", "", messages=(Message("user", prepared.text), Message("assistant", "")))
    engine = bench.local_engine(None) if is_base else bench.engine(bench.folder.adapter)
    completion = engine.answer([bench.task.ask(example)])[0]
    if completion.finish == "error":
        raise InputError("text", completion.error, "Give a shorter text")
    read = bench.task.read(example, completion)
    if isinstance(read, Unread):
        return Asked(text, completion.text, (), False, read.reason)
    # What is not calibrated is not shown: a model's own probabilities are mostly too high.
    read = (Calibration({}, None) if is_base else open_calibration(bench)).apply(read)
    records = tuple(
        {name: value and replace(value, span=value.span and prepared.to_original(value.span)) for name, value in record.items()}
        for record in read.records
    )
    fields = bench.task.fields if isinstance(bench.task, Extraction) else ()
    spans = frozenset(field.name for field in fields if field.kind == "span")
    notes = [f"the reply was cut at task.max_tokens ({completion.num_tokens} tokens)"] if completion.finish == "length" else []
    notes += [f"the reply breaks its constraint: {completion.violation}"] if completion.violation else []
    confidences = read.confidences if any(confidence is not None for confidence in read.confidences) else ()
    return Asked(text, completion.text, records, bool(read.text), "", spans, tuple(notes), confidences)
