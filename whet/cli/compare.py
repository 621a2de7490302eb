"""The verb that holds one system's answers against another's."""

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(help="A run folder, or the folder of one system's answers (RUN/evaluate/NAME).")],
    b: Annotated[Path, typer.Argument(help="The same for the other side.")],
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare two systems on the same held-out examples with a paired test. B is held against A."""
    from whet.pipeline.compare import compare_folders

    found = compare_folders(a, b)
    if is_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
        return
    typer.echo(found.words)
    typer.echo(f"wrong to right: {len(found.flips.wrong_to_right)}, right to wrong: {len(found.flips.right_to_wrong)}")
    for category in found.categories:
        typer.echo(
            f"{category.name}: {category.a:.3f} -> {category.b:.3f}, p = {category.adjusted_p:.3g} (Holm), {category.verdict}"
        )
