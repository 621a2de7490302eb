"""The verbs that bring a specialist to other programs: gguf, ollama, hf, mlx."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from whet.cli.fuse import Base, Dtype, Out, Run, ShardSize, read_dtype, read_size, say_fused

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Bring a specialist to other programs.")
What = Annotated[
    str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run folder, an adapter folder (with --base), or a model folder.")
]


Certificate = Annotated[
    bool, typer.Option("--certificate/--no-certificate", help="Compare the export with the trained model; fail where it differs.")
]


@app.command(epilog="Example: whet export gguf runs/demo --type q8_0 -o officials.gguf")
def gguf(
    what: What,
    *,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type", help="Type of the weights: f32, f16, bf16, q8_0; with llama.cpp q4_k_m and others.", show_default="f16"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The .gguf file, or a folder that is there.", show_default="NAME-TYPE.gguf"),
    ] = None,
    base: Base = None,
    importance: Annotated[bool, typer.Option("--importance", help="Quantise by what matters on the run's valid split.")] = False,
    is_adapter: Annotated[
        bool, typer.Option("--adapter", help="The adapter alone, in f32, for runners that put it on the base.")
    ] = False,
    certificate: Certificate = True,
) -> None:
    """Write one GGUF file for llama.cpp, Ollama or LM Studio: the adapter fused, tokenizer and chat template within."""
    from whet.errors import InputError
    from whet.pipeline.adapter_step import export_gguf_adapter
    from whet.pipeline.export_step import export_gguf_file

    if is_adapter:
        if kind not in (None, "f32") or importance:
            raise InputError("--adapter", "is written in f32, whatever the type of its base", "Leave --type and --importance out")
        made = export_gguf_adapter(what, out, base, typer.echo, is_proved=certificate)
        typer.echo(f"adapter: {made.path} ({made.num_layers} layers, alpha {made.alpha:g})")
        return
    written = export_gguf_file(what, out, kind or "f16", base, typer.echo, is_proved=certificate, has_importance=importance)
    for note in written.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"gguf: {written.path}")


@app.command(epilog="Example: whet export ollama runs/demo -o officials-ollama --create officials")
def ollama(
    what: What,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    kind: Annotated[str, typer.Option("--type", help="Type of the weights, as for `whet export gguf`.")] = "q8_0",
    base: Base = None,
    template: Annotated[
        Path | None, typer.Option("--template", help="A Go template of your own, where whet can't derive one.")
    ] = None,
    is_adapter: Annotated[bool, typer.Option("--adapter", help="Base and adapter apart, where Ollama applies it.")] = False,
    create: Annotated[str | None, typer.Option("--create", metavar="NAME", help="Have a running Ollama make the model.")] = None,
    certificate: Certificate = True,
) -> None:
    """Write a folder for `ollama create`: GGUF, and a Modelfile whose template gives the ids that the model was trained on."""
    from whet.pipeline.ollama_step import OllamaChoices, export_ollama

    export_ollama(what, out, OllamaChoices(kind, base, template, is_adapter, create, certificate), typer.echo)


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
    certificate: Certificate = True,
) -> None:
    """Write a folder in the Hugging Face layout, ready to push: weights, tokenizer, template, card."""
    from whet.export.adapter_folder import export_adapter
    from whet.export.push import push as push_folder
    from whet.pipeline.adapter_step import prove_adapter_folder
    from whet.pipeline.export_step import prove_folder
    from whet.pipeline.specialist import open_specialist

    if is_adapter:
        found = open_specialist(run, base)
        for note in export_adapter(found.base, found.adapter, out, found.facts, base_name):
            typer.echo(note)
        if certificate:
            prove_adapter_folder(run, base, out, typer.echo)
        typer.echo(f"adapter: {out}")
    else:
        fused = fuse_specialist(run, out, base, dtype, max_shard_size)
        say_fused(fused)
        if certificate:
            prove_folder(run, base, fused.folder, "hf", typer.echo)
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
    certificate: Certificate = True,
) -> None:
    """Write a folder that mlx-lm reads as transformers does: the fused model, its config with what mlx-lm looks for."""
    from whet.export.fuse import fused_facts
    from whet.pipeline.export_step import prove_folder

    fused = fuse_specialist(run, out, base, dtype, max_shard_size, is_for_mlx=True)
    if certificate:
        prove_folder(run, base, fused.folder, "mlx", (lambda words: None) if is_json else typer.echo)
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
