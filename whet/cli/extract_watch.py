"""Shows how an extraction goes on: a live bar in a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from whet.errors import counted
from whet.extract.progress import Tally

SHOW_EVERY_S = 0.2
LINE_EVERY_S = 10.0


class ExtractWatch:
    """Tells the person at the terminal, on standard error; the bar is taken away at the end."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, tally: Tally) -> None:
        """Show where a pass is, but not too often."""
        now = time.monotonic()
        is_terminal = self._console.is_terminal
        if now - self._last < (SHOW_EVERY_S if is_terminal else LINE_EVERY_S):
            return
        self._last = now
        words = say_progress(tally)
        if not is_terminal:
            print(f"  {', '.join(words)}", file=sys.stderr, flush=True)
            return
        if self._bar is None:
            self._open()
        self._bar.words = words[1:]
        self._bar.update(self._task, completed=tally.share or 0.0, total=1.0 if tally.share is not None else None, left=words[0])

    def _open(self) -> None:
        from rich.progress import BarColumn, TextColumn

        from whet.cli.bars import WordyBar

        columns = TextColumn("  extract"), BarColumn(bar_width=24), TextColumn("{task.fields[left]}")
        self._bar = WordyBar(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("extract", total=None, left="")
        self._bar.start()


def say_progress(tally: Tally) -> tuple[str, ...]:
    """How far it is and how long it will take, then counts and speeds."""
    from whet.evaluate.report import say_time

    counts, seconds = tally.counts, max(tally.seconds, 1e-9)
    left = tally.seconds_left
    where = [] if tally.share is None else [f"{100 * tally.share:.0f} %"]
    where += [] if left is None else [f"{say_time(left)} left"]
    words = [
        f"document {counts['documents']:,}",
        f"{counted(counts['chunks'], 'chunk')} ({counts['chunks'] / seconds:.3g}/s)",
        f"{counted(counts['records'], 'record')} ({counts['records'] / seconds:.3g}/s)",
        f"{counts['tokens'] / seconds:,.0f} tokens/s",
    ]
    words += [f"{counts['known']:,} known"] if counts["known"] else []
    bad = counts["failed"] + counts["cut"]
    words += [f"{bad:,} failed or cut"] if bad else []
    return (", ".join(where) or "reading", *words)
