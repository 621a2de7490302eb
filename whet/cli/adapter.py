"""The verbs about adapter folders: show, convert, check."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, convert and check adapters of PEFT's and mlx-lm's.")
Folder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder that PEFT, mlx-lm or whet wrote an adapter to.")]


@app.command("show", epilog="Example: whet adapter show runs/demo/train/adapter")
def show(folder: Folder, is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print what an adapter changes, by what rank and at what strength."""
    from whet.export.fit import say_shown, show_adapter

    shown = show_adapter(folder)
    for line in [json.dumps(shown, ensure_ascii=False)] if is_json else say_shown(shown):
        typer.echo(line)


@app.command("check", epilog="Example: whet adapter check adapters/ --base models/qwen")
def check(
    folder: Folder,
    base: Annotated[str, typer.Option("--base", help="The base that it shall belong to: a folder, or `embedded`.")],
) -> None:
    """Say whether an adapter fits a base: tensors, identity, vocabulary. Exit 2 where it does not."""
    from whet.export.fit import check_fit
    from whet.models.base_model import open_base

    for note in check_fit(folder, open_base(base)):
        typer.echo(note)


@app.command("convert", epilog="Example: whet adapter convert runs/demo/train/adapter --to mlx-lm -o adapters")
def convert(
    folder: Folder,
    to: Annotated[str, typer.Option("--to", help="peft or mlx-lm.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    base: Annotated[str | None, typer.Option("--base", help="The base, to check it against and to count its layers.")] = None,
) -> None:
    """Write an adapter in the other layout, number by number; what the other can't hold is refused."""
    from whet.export.convert import convert_adapter
    from whet.models.base_model import open_base

    for note in convert_adapter(folder, to, out, open_base(base) if base else None):
        typer.echo(note)
    typer.echo(f"adapter: {out}")
