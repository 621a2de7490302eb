"""The verbs that bring a specialist to other programs: hf, mlx, gguf."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from whet.cli.fuse import Base, Dtype, Out, Run, ShardSize, read_dtype, read_size, say_fused

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Bring a specialist to other programs.")
What = Annotated[
    str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run folder, an adapter folder (with --base), or a model folder.")
]


@app.command(epilog="Example: whet export gguf runs/demo --type q8_0 -o officials.gguf")
def gguf(
    what: What,
    kind: Annotated[
        str, typer.Option("--type", help="Type of the weights: f32, f16, bf16, q8_0; with llama.cpp q4_k_m and others.")
    ] = "f16",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file, or a folder for it.", show_default="NAME-TYPE.gguf")
    ] = None,
    base: Base = None,
) -> None:
    """Write one GGUF file for llama.cpp, Ollama or LM Studio: the adapter fused, tokenizer and chat template within."""
    from whet.pipeline.export_step import export_gguf_file

    written = export_gguf_file(what, out, kind, base, typer.echo)
    for note in written.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"gguf: {written.path}")


@app.command("hf", epilog="Example: whet export hf runs/demo -o officials --push me/officials")
def hf(
    run: Run,
    out: Out,
    *,
    base: Base = None,
    is_adapter: Annotated[bool, typer.Option("--adapter", help="The adapter alone, not fused with its base.")] = False,
    base_name: Annotated[str, typer.Option("--base-name", help="With --adapter: the base's name where others find it.")] = "",
    dtype: Dtype = "base",
    max_shard_size: ShardSize = "5GB",
    push: Annotated[str, typer.Option("--push", metavar="OWNER/NAME", help="Upload it; else nothing leaves here.")] = "",
    is_public: Annotated[bool, typer.Option("--public", help="With --push: a repository that all may see.")] = False,
) -> None:
    """Write a folder in the Hugging Face layout, ready to push: weights, tokenizer, template, card."""
    from whet.export.adapter_folder import export_adapter
    from whet.export.push import push as push_folder
    from whet.pipeline.specialist import open_specialist

    if is_adapter:
        found = open_specialist(run, base)
        for note in export_adapter(found.base, found.adapter, out, found.facts, base_name):
            typer.echo(note)
        typer.echo(f"adapter: {out}")
    else:
        say_fused(fuse_specialist(run, out, base, dtype, max_shard_size))
    if push:
        typer.echo(f"pushed: {push_folder(out, push, is_public=is_public)}")


@app.command("mlx", epilog="Example: whet export mlx runs/demo -o officials-mlx")
def mlx(
    run: Run,
    out: Out,
    base: Base = None,
    dtype: Dtype = "base",
    max_shard_size: ShardSize = "5GB",
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write a folder that mlx-lm reads as transformers does: the fused model, its config with what mlx-lm looks for."""
    from whet.export.fuse import fused_facts

    fused = fuse_specialist(run, out, base, dtype, max_shard_size, is_for_mlx=True)
    if is_json:
        typer.echo(json.dumps({"folder": str(out), **fused_facts(fused)}, ensure_ascii=False))
    else:
        say_fused(fused)


def fuse_specialist(run: Path, out: Path, base: str | None, dtype: str, max_shard_size: str, *, is_for_mlx: bool = False) -> Any:
    """Fuse the specialist of a run or adapter folder into a folder of its own."""
    from whet.export.fuse import fuse
    from whet.pipeline.specialist import open_specialist

    found = open_specialist(run, base)
    return fuse(
        found.base, found.adapter, out, dtype=read_dtype(dtype), max_shard_bytes=read_size(max_shard_size), facts=found.facts,
        notes=found.notes, is_for_mlx=is_for_mlx,
    )  # fmt: skip
