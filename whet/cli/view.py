"""The verb that shows an extraction's records in their source."""

from pathlib import Path
from typing import Annotated

import typer


def view(
    out: Annotated[Path, typer.Argument(metavar="OUT.JSONL", help="What `whet extract` wrote, as JSONL.")],
    page: Annotated[Path | None, typer.Option("--out", "-o", help="The page.", show_default="OUT.html")] = None,
    documents: Annotated[
        list[str] | None, typer.Option("--document", help="Show this document only, by its name in the rows; can be repeated.")
    ] = None,
    around: Annotated[
        int | None, typer.Option(min=0, help="Show only so many characters around each record, not whole documents.")
    ] = None,
    max_chars: Annotated[int, typer.Option(min=1, help="Most characters of source text on the page.")] = 2_000_000,
    max_records: Annotated[int, typer.Option(min=1, help="Most records on the page.")] = 100_000,
    is_changed_allowed: Annotated[
        bool, typer.Option("--allow-changed", help="Mark values that no longer stand in their source, instead of stopping.")
    ] = False,
    language: Annotated[str, typer.Option(help="Language of the source texts, for the choice of their font.")] = "zh",
) -> None:
    """Write one HTML file that shows the records in their source. It loads nothing; every highlight is checked first."""
    from whet.errors import InputError, counted
    from whet.pipeline.view.write import ViewSettings, write_view

    page = page or out.with_suffix(".html")
    if page.resolve() == out.resolve():
        raise InputError(str(page), "is the extraction's output itself", "Give the page another name with --out")
    settings = ViewSettings(
        documents=tuple(documents or ()),
        around=around,
        max_chars=max_chars,
        max_records=max_records,
        allow_changed=is_changed_allowed,
        language=language,
    )
    viewed = write_view(out, page, settings)
    for note in viewed.notes:
        typer.echo(f"note: {note}", err=True)
    held = f"{counted(viewed.num_records, 'record')} in {counted(viewed.num_documents, 'document')}"
    typer.echo(f"page: {page} ({held}, {counted(viewed.num_chars, 'character')})")
