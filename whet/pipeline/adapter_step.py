"""Brings an adapter alone to others, with its certificate: as GGUF, or as a folder that PEFT reads."""

from dataclasses import replace
from pathlib import Path

from whet.errors import InputError, ProofError
from whet.export.fit import check_fit
from whet.export.gguf_adapter import WrittenAdapter, write_gguf_adapter
from whet.models.adapter import open_adapter
from whet.models.mlx_adapter import read_adapter
from whet.pipeline.certify import Exported, adapter_form, certify, specialist_form
from whet.pipeline.export_step import Say
from whet.pipeline.specialist import open_specialist

TYPE = "f32"


def export_gguf_adapter(what: str, out: Path | None, base: str | None, say: Say, *, is_proved: bool = True) -> WrittenAdapter:
    """The adapter of a run or an adapter folder as GGUF in f32; in a folder it is named for the run.

    It is judged by llama.cpp on the base in f32, at strength 1 (what runners take where nothing else is asked), against the base
    with the adapter in plain transformers and PEFT. A file beyond the limits is not kept: ProofError. InputError for what the
    format can't say (DoRA, whole modules, embeddings).
    """
    found = open_specialist(Path(what), base)
    if found.adapter.kind != "lora":
        raise InputError("--adapter", "this run trained the whole model, not an adapter", "Leave --adapter out")
    fits = check_fit(found.adapter.folder, found.base)
    name = found.recipe.name if found.recipe else Path(what).resolve().name
    path = out or Path(f"{name}-adapter.gguf")
    if path.is_dir():
        path = path / f"{name}-adapter.gguf"
    say(f"writing {path} (adapter, {TYPE})")
    written = write_gguf_adapter(found.base, read_adapter(found.adapter.folder), path, name=name)
    if is_proved:
        try:
            certify(
                Exported(found.base, found, Path(what), path, name, is_fused=False),
                lambda num_context: [adapter_form(found.base, path, num_context)],
                say,
                notes=[f"GGUF names one strength for all layers: alpha {written.alpha:g}", *fits, *found.notes],
            )
        except ProofError:
            path.unlink()
            raise
    return written


def prove_adapter_folder(what: Path, base: str | None, out: Path, say: Say) -> None:
    """Write the certificate of an adapter folder that was made for others into it: read by PEFT on its base."""
    found = open_specialist(what, base)
    name = found.recipe.name if found.recipe else out.resolve().name
    copied = replace(found, adapter=open_adapter(out, found.base))
    form = specialist_form("adapter on its base", copied)
    certify(Exported(found.base, found, what, out, name, is_fused=False), lambda num_context: [form], say, notes=found.notes)
