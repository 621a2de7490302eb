"""Brings a specialist out of its run: the fused model in the form that a runner wants."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from whet.errors import InputError
from whet.export.fuse import fuse
from whet.export.gguf_export import TYPES, export_gguf
from whet.export.gguf_write import Written
from whet.models.base_model import EMBEDDED, BaseModel, open_base
from whet.pipeline.specialist import Specialist, open_specialist

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


def export_gguf_file(what: str, out: Path | None, kind: str, base: str | None, say: Say) -> Written:
    """The GGUF file of a run, an adapter or a model; in a folder it is named for model and type."""
    if kind.lower() not in TYPES:
        raise InputError("--type", f"{kind!r} is no type that whet writes", f"Take one of {', '.join(TYPES)}")
    with whole_model(what, base, out or Path("model.gguf"), say) as source:
        path = out or Path(f"{source.name}-{kind.lower()}.gguf")
        if path.is_dir():
            path = path / f"{source.name}-{kind.lower()}.gguf"
        say(f"writing {path} ({kind.lower()})")
        return export_gguf(source.model, path, kind, name=source.name)
