"""The verb that makes one model folder of a base and an adapter."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder, or an adapter folder (with --base).")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Base = Annotated[str | None, typer.Option("--base", help="The base of an adapter folder; a run names its own.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Numbers of the weights: base (as they are), fp32, bf16 or fp16.")]
ShardSize = Annotated[str, typer.Option("--max-shard-size", help="Largest size of a weights file, such as 500MB or 5GB.")]
Onto = Annotated[
    str | None, typer.Option("--onto", help="Where the base is quantised: the weights it was made from, same revision.")
]
AcceptLoss = Annotated[bool, typer.Option("--accept-loss", help="Fuse into a quantised base's own numbers, unpacked.")]
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def fuse(
    run: Run,
    out: Out,
    *,
    base: Base = None,
    dtype: Dtype = "base",
    max_shard_size: ShardSize = "5GB",
    onto: Onto = None,
    is_loss_accepted: AcceptLoss = False,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Add an adapter into its base and write one model folder; memory is that of some rows of a tensor."""
    from whet.export.fuse import fuse as fuse_adapter
    from whet.export.fuse import fused_facts
    from whet.models.base_model import open_base
    from whet.pipeline.specialist import open_specialist

    found = open_specialist(run, base)
    fused = fuse_adapter(
        found.base,
        found.adapter,
        out,
        dtype=read_dtype(dtype),
        max_shard_bytes=read_size(max_shard_size),
        facts=found.facts,
        notes=found.notes,
        onto=open_base(onto) if onto else None,
        is_loss_accepted=is_loss_accepted,
        say=(lambda words: None) if is_json else typer.echo,
    )
    if is_json:
        typer.echo(json.dumps({"folder": str(out), **fused_facts(fused)}, ensure_ascii=False))
        return
    say_fused(fused)


def say_fused(fused: Any) -> None:
    """Print what a fusion did."""
    from whet.export.card import say_kept
    from whet.export.fuse import fused_facts

    for words in say_kept(fused_facts(fused)):
        typer.echo(words)
    typer.echo(f"model: {fused.folder}")


def read_dtype(text: str) -> Any:
    """One of the kinds of numbers, or an InputError."""
    from whet.errors import InputError

    if text not in ("base", "fp32", "bf16", "fp16"):
        raise InputError("--dtype", f"{text!r} is not known", "Take base, fp32, bf16 or fp16")
    return text


def read_size(text: str) -> int:
    """Bytes of a text such as 5GB, or an InputError."""
    from whet.errors import InputError

    found = re.fullmatch(r"(\d{1,12})\s*([KMG]B)?", text.strip().upper())
    if not found or not int(found[1]):
        raise InputError("--max-shard-size", f"{text!r} is no size", "Write 500MB or 5GB")
    return int(found[1]) * _UNITS[found[2] or ""]
