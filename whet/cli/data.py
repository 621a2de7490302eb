"""The verbs about data: build it, show it, prepare the set of a domain."""

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.runs import Out, Overrides, Recipe

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Build and show data, prepare domain sets.")


@app.command("build", epilog="Example: whet data build recipes/chisiec.yaml")
def build(recipe: Recipe, overrides: Overrides = None, out: Out = None) -> None:
    """Read, clean and split the sources of a recipe into the data folder of its run."""
    from whet.cli.runs import do_steps, read_settings

    read = read_settings(recipe, overrides)
    folder = out or Path("runs") / read.name
    do_steps(read, folder, "data")
    show(folder)


@app.command("convert", epilog="Example: whet data convert train.json -o train.jsonl --to messages")
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An example file (JSONL, JSON, CSV), or a folder of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: JSONL, or a JSON list if it ends in .json.")],
    to: Annotated[
        str,
        typer.Option("--to", help="messages, prompt-completion, alpaca, sharegpt, erniekit, question-answer, choices, "
                                  "lettered-choices or text."),
    ] = "messages",
    template: Annotated[Path | None, typer.Option("--template", help="For text: the base whose chat template writes it.")] = None,
) -> None:  # fmt: skip
    """Write example rows in another format, and list what it can't say."""
    from whet.data.convert import convert as write
    from whet.data.convert import losses_path
    from whet.data.talk import messages_of
    from whet.errors import counted

    render = None
    if template is not None:
        from whet.models.base_model import open_base
        from whet.text.chat import Chat

        chat = Chat(open_base(template).folder)

        def render(talk: object) -> str:
            return chat.render(messages_of(talk), is_prompt=False)  # type: ignore[arg-type]

    found = write(source, out, to, render)
    read = ", ".join(f"{number:,} {name}" for name, number in found.formats.most_common())
    typer.echo(f"{out}: {found.written:,} of {found.read:,} rows ({read})")
    for title, counts in (("left out", found.left_out), ("written without", found.lost)):
        for kind, number in counts.most_common():
            typer.echo(f"  {title}, {counted(number, 'row')}: {kind} (first: {', '.join(found.places[kind])})")
    if found.listed:
        typer.echo(f"each of them: {losses_path(out)}")


@app.command("show", epilog="Example: whet data show runs/demo")
def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or its data folder.")],
    num: Annotated[int, typer.Option("--examples", "-n", min=0, help="How many examples of train to print.")] = 3,
) -> None:
    """Show the funnel, the splits, the leak check and a few examples of a data folder."""
    from itertools import islice

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from whet.data.build import read_manifest
    from whet.storage import read_jsonl

    data = folder / "data" if (folder / "data").is_dir() else folder
    manifest = read_manifest(data)
    console = Console(highlight=False)
    table = Table("stage", "rows")
    for stage, count in manifest.funnel.items():
        if count:
            table.add_row(stage.replace("_", " "), f"{count:,}")
    console.print(table)
    splits = Table("split", "examples", "records", "negatives", "characters", "tokens")
    for name, part in manifest.statistics.items():
        splits.add_row(
            name,
            *(
                "–" if part[key] is None else f"{part[key]:,}"
                for key in ("examples", "records", "negatives", "characters", "tokens")
            ),
        )
    console.print(splits)
    leaks = manifest.leaks
    console.print(
        f"leaks: {leaks['num_found']} found, {leaks['moved']} moved, {leaks['num_left']} left "
        f"({leaks['num_reported_only']} in published splits)"
    )
    console.print(f"split hash: {manifest.split_hash}")
    for row in islice(read_jsonl(data / "train.jsonl"), num):
        console.print(escape(f"{row['source']}  {row['text']}"), soft_wrap=True)
        for record in row.get("records", ()):
            console.print(
                escape("   " + ", ".join(f"{name}={value['text'] if value else '–'}" for name, value in record.items()))
            )


@app.command("domain", epilog="Example: whet data domain --name biology --from 'mmlu/*_biology*.csv' --size 5000 -o biology")
def domain(
    *,
    name: Annotated[str, typer.Option(help="Name of the domain.")],
    files: Annotated[
        list[str],
        typer.Option("--from", metavar="FILE[=LICENCE]", help="A file, folder or quoted glob of examples; can be repeated."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of the set.")],
    size: Annotated[int | None, typer.Option(min=1, help="Most examples; without it all that are left.")] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="A suite, or a file of examples, none of whose questions may be in the set; can be repeated."),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--as", metavar="conversations", help="Write choice questions as conversations, to mix them with free ones."
        ),
    ] = "as they are",
    near: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Similarity from which two questions are near-duplicates.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Prepare the set of a domain: verified, deduplicated within and against suites, balanced over categories, with a card."""
    from rich.console import Console
    from rich.table import Table

    from whet.config import load
    from whet.data.domain import DomainSettings
    from whet.errors import InputError, counted
    from whet.pipeline.domain import Input, prepare_domain

    if form not in ("as they are", "conversations"):
        raise InputError("--as", f"{form!r} is no form", "Known here: conversations")
    raw = {"name": name, "size": size, "seed": seed, "near_threshold": near}
    settings = load(DomainSettings, raw, {}, "command line")
    inputs = [
        Input(Path(path), licence) if licence else Input(Path(path)) for path, _, licence in (one.partition("=") for one in files)
    ]
    card = prepare_domain(settings, inputs, against or (), out, "conversations" if form == "conversations" else "as_they_are")
    table = Table("", "rows")
    table.add_row("read", f"{card['read']:,}")
    for reason, num in card["left_out"].items():
        if num:
            table.add_row(reason.replace("_", " "), f"{num:,}")
    table.add_row("kept", f"{card['kept']:,}", style="bold")
    Console(highlight=False).print(table)
    if size is not None and card["kept"] < size:
        typer.echo(f"{size:,} were asked for; there are no more good rows")
    categories = counted(len(card["categories"]), "category")
    typer.echo(f"domain: {out} ({categories}; its card is README.md, what was left out rejects.jsonl)")
