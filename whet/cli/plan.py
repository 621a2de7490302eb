"""The verb plan: what a recipe's training needs, before anything is loaded."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from whet.cli.runs import Overrides, read_settings

Config = Annotated[
    Path | None, typer.Option("--config", help="A config.json of the base, which then need not be on disk.", show_default=False)
]


def plan(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, a YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    config: Config = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder.", show_default="runs/NAME")] = None,
    is_table: Annotated[bool, typer.Option("--table", help="Print the memory of 3B, 7B and 14B models instead.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a recipe's training fits, how long it takes and what to change, here and on cards of 8 to 141 GB."""
    if is_table:
        _say_table(is_json)
        return
    from whet.errors import InputError

    if recipe is None:
        raise InputError("whet plan", "names no recipe", "Give one, or ask for the table of models: whet plan --table")
    from whet.pipeline.plan import plan_recipe

    read = read_settings(recipe, overrides)
    found = plan_recipe(read, out or Path("runs") / read.name, config)
    if is_json:
        typer.echo(json.dumps(_plain(found), ensure_ascii=False, indent=1))
    else:
        _say(found)


def _plain(found: Any) -> dict[str, Any]:
    """The plan as JSON values; bytes, seconds and counts are plain numbers."""
    plan = found.plan
    return {
        "num_parameters": plan.num_parameters,
        "num_trained": plan.num_trained,
        "trained_share": plan.num_trained / plan.num_parameters,
        "is_estimate": plan.sizes.is_estimate,
        "work": asdict(plan.work) if plan.work else None,
        "steps": plan.steps,
        "flops_per_step": plan.arithmetic.flops,
        "tokens_per_step": plan.arithmetic.computed,
        "machines": [
            {
                "name": fit.machine.name,
                "memory": fit.machine.memory,
                "is_measured": fit.machine.is_measured,
                "parts": asdict(fit.memory),
                "peak": fit.memory.peak,
                "is_fitting": fit.is_fitting,
                "changes": fit.changes,
                "changed_peak": fit.changed.peak if fit.changed else None,
                "seconds": fit.seconds,
                "tokens_per_s": fit.tokens_per_s,
            }
            for fit in plan.fits
        ],
        "notes": list(found.notes),
    }


PARTS = {
    "runtime": "libraries, or the card's context",
    "weights": "the base's weights",
    "adapter": "the adapter",
    "gradients": "gradients",
    "optimizer": "the optimiser's moments",
    "activations": "activations of the largest micro-batch",
    "cache": "caches: shared prefixes, frozen layers",
    "fragments": "what the allocator keeps of freed blocks",
    "logits": "logits of a chunk",
    "backward": "a layer's backward pass",
    "update": "the optimiser's scratch",
}


def _say(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console, plan = Console(highlight=False), found.plan
    first, card = plan.fits[0], next(fit for fit in plan.fits if fit.machine.kind == "cuda")
    share = plan.num_trained / plan.num_parameters
    console.print(
        f"{_count(plan.num_parameters)} parameters; {_count(plan.num_trained)} are trained, {100 * share:.3g} % of that",
        soft_wrap=True,
    )
    if plan.work:
        work = plan.work
        console.print(
            f"{work.num_rows:,} rows of {work.tokens:.0f} tokens ({work.learnt:.0f} learnt, the first {work.prefix} shared, "
            f"the longest row {work.longest}): {plan.steps:,} steps of {plan.arithmetic.computed:,.0f} computed tokens",
            soft_wrap=True,
        )
    parts = Table("memory, GB", title_justify="left")
    columns = [first] if first is card else [first, card]
    for fit in columns:
        parts.add_column("this machine" if fit is first and fit.machine.is_measured else "a card", justify="right")
    for name, words in PARTS.items():
        parts.add_row(words, *(_gb(getattr(fit.memory, name)) for fit in columns))
    parts.add_row("[bold]peak (the last three never stand together)[/]", *(f"[bold]{_gb(fit.memory.peak)}[/]" for fit in columns))
    console.print(parts)
    _say_machines(console, plan)
    for note in found.notes:
        console.print(note, soft_wrap=True)
    console.print("Time: this machine's by its measured matrix rate, a card's by its data sheet: estimates.", soft_wrap=True)


def _say_machines(console: Any, plan: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("machine", "fits", "time", "with these changes")
    for fit in plan.fits:
        name = fit.machine.name if not fit.machine.is_measured else f"here, {_gb(fit.machine.memory)} GB: {fit.machine.name}"
        mark = "yes" if fit.is_fitting else f"NO, {_gb(fit.memory.peak - fit.machine.memory)} GB over"
        changes = fit.changes
        if changes is None:
            changes = "nothing tried makes it fit; take a smaller base"
        elif changes:
            changes = f"{changes} ({_gb(fit.changed.peak)} GB)"
        table.add_row(Text(name), Text(mark, style="green" if fit.is_fitting else "red"), _time(fit), Text(changes))
    console.print(table)


def _say_table(is_json: bool) -> None:
    from whet.train.plan import FIELD_TOKENS, MARGIN, field_table

    rows = field_table()
    if is_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console, table = Console(highlight=False), Table("model", "way", "least, GB", "recommended, GB")
    for row in rows:
        table.add_row(row.model, row.way, f"{row.minimum / 1e9:.1f}", f"{row.recommended / 1e9:.1f}")
    console.print(table)
    console.print(
        "Qwen2.5's sizes, bf16 (full: fp32; QLoRA: NF4), AdamW, LoRA of rank 16 on all linear layers, "
        f"packs of {FIELD_TOKENS} tokens, activations checkpointed. Recommended is {MARGIN} times the least.",
        soft_wrap=True,
    )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f}" if num_bytes < 9.995e9 else f"{num_bytes / 1e9:.1f}"


def _count(number: float) -> str:
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(number)


def _time(fit: Any) -> str:
    """The run's time, or the speed where the data are not known."""
    if fit.changes is None:
        return "–"
    if fit.seconds is None:
        return f"{fit.tokens_per_s:,.0f} tokens/s" if fit.tokens_per_s else "unknown"
    seconds = fit.seconds
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
