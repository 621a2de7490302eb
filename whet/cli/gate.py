"""The verb that lets a candidate go live, or not."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

MARKS = {"pass": "pass      ", "fail": "FAIL      ", "can't tell": "can't tell"}


def gate(
    candidate: Annotated[Path, typer.Argument(help="The candidate: a suite's result folder, a run, or RUN/evaluate/NAME.")],
    against: Annotated[Path, typer.Option("--against", help="The same of the system that is live.")],
    policy: Annotated[Path | None, typer.Option("--policy", help="The policy, a YAML file.", show_default="built in")] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Where looks are counted.", show_default="looks.json beside LIVE")
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge whether a candidate may take the live system's place.

    Exit code 0: promote. 1: refuse. 2: can't tell, or the question can't be put (with --json then "verdict" is null).
    """
    from whet.errors import WhetError
    from whet.evaluate.policy import GatePolicy, read_policy
    from whet.pipeline.gate import as_error, judge_folders

    try:
        settings = GatePolicy() if policy is None else read_policy(policy)
        found = judge_folders(candidate, against, settings, ledger)
    except WhetError as error:
        if not is_json:
            raise
        # The object says it all; the line that other verbs write would be the same again.
        typer.echo(json.dumps(as_error(error), ensure_ascii=False))
        raise typer.Exit(error.exit_code) from None
    if is_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        _say(found, is_builtin=policy is None)
    raise typer.Exit(found.verdict.exit_code)


def _say(found: Any, *, is_builtin: bool) -> None:
    from whet.evaluate.compare import say_groups
    from whet.evaluate.verdict import say_signed
    from whet.pipeline.gate import say_policy

    if is_builtin:
        typer.echo("The built-in policy: " + ", ".join(say_policy(found.policy)))
        typer.echo()
    for check in found.verdict.checks:
        typer.echo(f"{MARKS[check.outcome]}  {check.name}: {check.words}")
    if found.verdict.not_asked:
        typer.echo(f"not asked for by the policy: {', '.join(found.verdict.not_asked)}")
    typer.echo()
    for row in found.gains.rows:
        where = f"{row.part}, {row.category}" if row.category else row.part
        around = f"95 % interval {say_signed(row.interval.low)} to {say_signed(row.interval.high)}"
        num = f"{row.num} examples" + (f" in {say_groups(row.num_groups)}" if row.num_groups < row.num else "")
        shown = "" if row.detectable is None else f"; {say_signed(row.detectable)} could be shown with so many"
        typer.echo(f"{where}: {row.live:.3f} -> {row.candidate:.3f}, {say_signed(row.difference)} ({around}), {num}{shown}")
    for turned in found.gains.turned:
        ids = ", ".join(turned.right_to_wrong[:5]) + (", ..." if len(turned.right_to_wrong) > 5 else "")
        typer.echo(
            f"{turned.part}: wrong to right {len(turned.wrong_to_right)}, right to wrong {len(turned.right_to_wrong)}"
            + (f" ({ids})" if ids else "")
        )
    if found.num_others:
        typer.echo(
            f"{found.num_others} other candidates were judged on these questions; each had its own chance to pass by luck."
        )
    typer.echo()
    typer.echo(found.verdict.words)
