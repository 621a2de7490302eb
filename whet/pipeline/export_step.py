"""Brings a specialist out of its run: the fused model in the form that a runner wants."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.errors import InputError, ProofError, counted
from whet.evaluate.run import pick
from whet.export.fuse import fuse
from whet.export.gguf_export import PLAIN, TYPES, export_gguf
from whet.export.gguf_write import Written
from whet.models.base_model import EMBEDDED, BaseModel, open_base
from whet.models.weights import read_weights
from whet.pipeline.bench import Folder
from whet.pipeline.certify import Exported, certify, folder_form, gguf_form, mlx_form
from whet.pipeline.specialist import Specialist, open_specialist
from whet.tasks.table import open_task
from whet.text.chat import Chat

MAX_IMPORTANCE = 128  # examples that importance is measured on
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """What is exported: a specialist, or a model folder as it stands."""

    model: BaseModel
    """The model as one folder: fused where there is an adapter."""
    specialist: Specialist | None
    name: str


@contextmanager
def whole_model(what: str, base: str | None, beside: Path, say: Say) -> Iterator[Source]:
    """The whole model of a run folder, an adapter folder or a model folder, fused in fp32 beside `beside` where it must be."""
    folder = Path(what)
    if what == EMBEDDED or _is_model(folder):
        if base is not None:
            raise InputError("--base", f"{what} is a whole model, which needs none", "Leave --base out")
        model = open_base(what)
        yield Source(model, None, "whet-embedded" if what == EMBEDDED else model.folder.resolve().name)
        return
    found = open_specialist(folder, base)
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".whet-fused-", dir=beside.parent) as place:
        fused = fuse(found.base, found.adapter, Path(place) / "m", dtype="fp32", facts=found.facts, notes=found.notes, say=say)
        name = found.recipe.name if found.recipe else folder.resolve().name
        yield Source(open_base(fused.folder), found, name)


def _is_model(folder: Path) -> bool:
    """Whether a folder is a whole model by itself, and neither a run nor what full fine-tuning left behind."""
    return (folder / "config.json").is_file() and not any(
        (folder / name).is_file() for name in ("recipe.json", "adapter_config.json")
    )


def export_gguf_file(
    what: str, out: Path | None, kind: str, base: str | None, say: Say, *, is_proved: bool = True, has_importance: bool = False
) -> Written:
    """The GGUF file of a run, an adapter or a model, with its certificate; in a folder it is named for model and type.

    has_importance: measure what enters each layer on the run's valid split, for types that llama.cpp quantises. A file that is
    not the trained model, within the limits of its type, is not kept: ProofError.
    """
    kind = kind.lower()
    if kind not in TYPES:
        raise InputError("--type", f"{kind!r} is no type that whet writes", f"Take one of {', '.join(TYPES)}")
    if out is not None and not out.is_dir() and out.suffix.lower() != ".gguf":
        raise InputError(
            "--out", f"{str(out)!r} does not end in .gguf, by which llama.cpp knows the file, and is no folder",
            f"Write {out}.gguf, or make the folder first",
        )  # fmt: skip
    with whole_model(what, base, out or Path("model.gguf"), say) as source:
        path = out or Path(f"{source.name}-{kind}.gguf")
        if path.is_dir():
            path = path / f"{source.name}-{kind}.gguf"
        importance = _importance(source, Path(what), kind, say) if has_importance else None
        say(f"writing {path} ({kind})")
        written = export_gguf(source.model, path, kind, name=source.name, importance=importance)
        if is_proved:
            prove_gguf(source, what, path, kind, written, say)
    return written


def _importance(source: Source, run: Path, kind: str, say: Say) -> dict[str, Any]:
    """Mean squares of what enters each layer, on prompts and gold replies of a run's valid split."""
    if kind in PLAIN:
        raise InputError("--importance", f"does nothing for {kind}, which llama.cpp's quantiser does not make", "Leave it out")
    if source.specialist is None or source.specialist.recipe is None:
        raise InputError("--importance", "needs a run folder, whose valid split is read", "Name the run, or leave it out")
    from whet.backends.on_torch.importance import mean_squares

    task, chat = open_task(source.specialist.recipe.task), Chat(source.model.folder)
    examples = pick(list(Folder(run).examples("valid")), MAX_IMPORTANCE)
    if not examples:
        raise InputError("--importance", "the run has no valid split", "Leave it out")
    say(f"measuring what matters on {counted(len(examples), 'example')} of the valid split")
    made = (chat.training_ids(task.ask(example).messages, task.reply(example)) for example in examples)
    rows = [(*one.prompt_ids, *one.answer_ids) for one in made]
    return dict(mean_squares(source.model, [row for row in rows if len(row) <= source.model.max_length]))


def prove_gguf(source: Source, what: str, path: Path, kind: str, written: Written, say: Say) -> None:
    """Write the certificate of a GGUF file; the file goes away where it fails."""
    try:
        certify(
            Exported(source.model, source.specialist, Path(what), path, source.name),
            lambda num_context: [gguf_form(source.model, path, kind, num_context)],
            say,
            notes=written.notes,
        )
    except ProofError:
        path.unlink()
        raise


def prove_folder(what: Path, base: str | None, out: Path, form: Literal["hf", "mlx"], say: Say) -> None:
    """Write the certificate of a fused folder into it: read by transformers, for MLX by mlx-lm too; ProofError where it fails."""
    model, found = open_base(out), open_specialist(what, base)
    kinds = {"BF16": "bf16", "F16": "f16"}
    stored = {kinds.get(tensor.dtype, "fp32") for tensor in read_weights(out).values()}
    kind = next((kind for kind in ("bf16", "f16") if kind in stored), "fp32")
    forms = [folder_form("hf", kind, model)] + ([mlx_form(model, kind)] if form == "mlx" else [])
    name = found.recipe.name if found.recipe else out.resolve().name
    certify(Exported(model, found, what, out, name, is_fused=False), lambda num_context: forms, say)
