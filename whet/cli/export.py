"""The verbs that bring a specialist to where it is served: gguf."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Bring a specialist to where it is served.")
What = Annotated[
    str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run folder, an adapter folder (with --base), or a model folder.")
]
Base = Annotated[str | None, typer.Option("--base", help="The base of an adapter folder; a run names its own.")]


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


@app.callback()
def _group() -> None:
    """Bring a specialist to where it is served."""
