"""Quality and time of the same specialist on CHisIEC's test split when its replies are free, JSON only, or grounded.

One adapter answers the same prompts three times, greedily; only task.constraint differs. Scores are strict. The last line is
a JSON object: for each constraint f1, the shares of format errors (replies that can't be read) and of values that don't stand
in the text, and the seconds that all answers took.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specialist import add_arguments, constrained, open_specialist, specialist_engine

from whet.errors import InputError
from whet.evaluate.compare import compare
from whet.evaluate.run import Evaluation, ask_engine, evaluate, read_completions
from whet.evaluate.statistics import Interval, f1_interval, wilson
from whet.pipeline.bench import Bench

KINDS = ("free", "json", "grounded")


@dataclass(frozen=True)
class Outcome:
    """What one constraint gave: counts, shares, and what it cost."""

    f1: float
    f1_interval: tuple[float, float]
    precision: float
    recall: float
    format_errors: float
    """Share of the replies that could not be read."""
    ungrounded: float
    """Share of the values read that do not stand in their text."""
    truncated: float
    """Share of the replies that used up task.max_tokens."""
    num_replies: int
    num_unread: int
    num_values: int
    num_ungrounded: int
    num_cut_records: int
    """Records that the budget cut off in replies that were read all the same."""
    num_tokens: int
    seconds: float
    cpu_seconds: float
    """Of all cores; it tells less of what else the machine does."""


def outcome(found: Evaluation, cpu_seconds: float, folder: Path, groups: Sequence[str]) -> Outcome:
    """The outcome of an evaluation whose answers lie in `folder`; its interval is over groups, one for each example."""
    measure, figure = found.total.headline
    figures, rates, scores = found.total.measures[measure], found.total.rates, found.scores
    interval = f1_interval([score.counts[measure] for score in scores], groups=groups)

    def count(flag: str) -> int:
        return sum(score.flags.get(flag, 0) for score in scores)

    return Outcome(
        f1=figures[figure],
        f1_interval=(interval.low, interval.high),
        precision=figures["precision"],
        recall=figures["recall"],
        format_errors=rates["unread"],
        ungrounded=rates["ungrounded"],
        truncated=rates["truncated"],
        num_replies=len(scores),
        num_unread=count("unread"),
        num_values=count("span_values"),
        num_ungrounded=count("ungrounded"),
        num_cut_records=count("cut_records"),
        num_tokens=sum(completion.num_tokens for completion in read_completions(folder).values()),
        seconds=found.seconds,
        cpu_seconds=cpu_seconds,
    )


def measure(bench: Bench, folder: Path, max_tokens: int | None) -> dict[str, Outcome]:
    """Each constraint's outcome; how they differ is printed."""
    engine, examples = specialist_engine(bench), list(bench.folder.examples("test"))
    groups = {example.id: example.group for example in examples}
    found: dict[str, Evaluation] = {}
    cpu: dict[str, float] = {}
    for kind in KINDS:
        task, limit = constrained(bench, kind, max_tokens), bench.recipe.evaluate.max_error_rate
        before = time.process_time()
        found[kind] = evaluate(kind, ask_engine(engine, task, examples), task, examples, folder / kind, limit)
        cpu[kind] = time.process_time() - before
        print(f"{kind}: {len(examples)} replies in {found[kind].seconds:.1f} s", flush=True)
    for one, other in (("free", "json"), ("json", "grounded"), ("free", "grounded")):
        headline = found[one].total.headline
        print(compare(found[one].scores, found[other].scores, headline, names=(one, other), groups=groups).words)
    return {kind: outcome(found[kind], cpu[kind], folder / kind, [example.group for example in examples]) for kind in KINDS}


def show(outcomes: dict[str, Outcome]) -> None:
    """The outcomes as a table; a share of nothing at all still has the upper end of its interval."""

    def share(num: int, of: int) -> str:
        ends: Interval = wilson(num, of)
        return f"{num} of {of} [{ends.low:.1%}, {ends.high:.1%}]"

    heads = [("", 9), ("F1", 22), ("precision", 10), ("recall", 8), ("unread", 28), ("ungrounded", 28), ("cut", 6)]
    heads += [("tokens", 8), ("s", 7), ("CPU s", 7)]
    print("\n" + " ".join(f"{name:>{width}}" for name, width in heads))
    for kind, its in outcomes.items():
        f1 = f"{its.f1:.3f} [{its.f1_interval[0]:.3f}, {its.f1_interval[1]:.3f}]"
        unread, ungrounded = share(its.num_unread, its.num_replies), share(its.num_ungrounded, its.num_values)
        print(
            f"{kind:>9} {f1:>22} {its.precision:>10.3f} {its.recall:>8.3f} {unread:>28} {ungrounded:>28} "
            f"{its.truncated:>6.1%} {its.num_tokens:>8,} {its.seconds:>7.1f} {its.cpu_seconds:>7.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--max-tokens", type=int, help="another budget of a reply than the recipe's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        try:
            bench = open_specialist(args, Path(place) / "run")
            outcomes = measure(bench, Path(place), args.max_tokens)
        except InputError as error:
            raise SystemExit(str(error)) from None
    show(outcomes)
    said: dict[str, Any] = {kind: asdict(its) for kind, its in outcomes.items()}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
