"""The verbs that bring settings in from other trainers and take recipes back to them."""

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.runs import Overrides, Recipe


def import_settings(
    settings: Annotated[Path, typer.Argument(help="YAML or JSON of a trainer, adapter_config.json, or a training script.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The recipe to write; printed if not given.")] = None,
    trainer: Annotated[
        str,
        typer.Option(
            "--from", help="Whose settings they are: mlx-lm, axolotl, llama-factory, erniekit, trl, trainer, peft, unsloth."
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recipe that is there.")] = False,
) -> None:
    """Write a recipe that means what another trainer's settings say, and list what differs or is lost."""
    from rich.console import Console

    from whet.errors import InputError
    from whet.exchange.convert import import_settings as read
    from whet.exchange.draft import shown
    from whet.storage import write_text

    if out is not None and out.exists() and not overwrite:
        raise InputError(str(out), "is there already", "Name another file, or give --overwrite")
    found = read(settings, trainer, out)
    if out is None:
        typer.echo(found.text, nl=False)
        return
    write_text(out, found.text)
    console = Console(highlight=False, markup=False)
    console.print(f"{out}: a recipe from settings of {found.trainer}")
    _told(console, "Means not quite the same", [f"{line.setting}: {line.differs}" for line in found.differing])
    _told(console, "Differs besides", list(found.remarks))
    for weight, title in (("learning", "No counterpart, and it changes what is learnt"), ("unread", "Did nothing there"),
                          ("unknown", "whet does not know these keys; look up what they do"),
                          ("other", "No counterpart, nothing learnt hangs on it")):  # fmt: skip
        _told(console, title, [f"{lost.key}: {shown(lost.value)}: {lost.why}" for lost in found.lost if lost.weight == weight])
    at_default = [lost.key for lost in found.lost if lost.weight == "default"]
    _told(console, "Given as it is by default", [", ".join(at_default)] if at_default else [])
    console.print(f"\nNext: look at data.sources, then whet plan {out}")


def export_settings(
    recipe: Recipe,
    overrides: Overrides = None,
    to: Annotated[str, typer.Option("--to", help="mlx-lm, axolotl, llama-factory, erniekit or trl.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; printed if not given.")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Rows of train, where the trainer counts steps.")] = None,
) -> None:
    """Write the settings of another trainer that mean what a recipe says, and list what they can't say."""
    from rich.console import Console

    from whet.cli.runs import read_settings
    from whet.exchange.convert import export_settings as write
    from whet.storage import write_text

    found = write(read_settings(recipe, overrides), to, rows)
    if out is None:
        typer.echo(found.text, nl=False)
        return
    write_text(out, found.text)
    console = Console(highlight=False, markup=False)
    console.print(f"{out}: settings for {to}")
    _told(console, "Can't be said there", [f"{one.setting}: {one.why}" for one in found.unsaid if one.kind == "lost"])
    _told(console, "Said nearly", [f"{one.setting}: {one.why}" for one in found.unsaid if one.kind == "nearly"])


def _told(console: object, title: str, words: list[str]) -> None:
    from rich.console import Console

    assert isinstance(console, Console)
    if words:
        console.print(f"\n{title}:")
        for one in words:
            console.print(f"  - {one}", soft_wrap=True)
