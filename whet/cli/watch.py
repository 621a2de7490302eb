"""Shows how a run goes on: live bars in a terminal, plain lines in a file or a pipe."""

import math
import sys
import time
from typing import Any

from whet.train.loop import Progress

LINE_EVERY_S = 10.0  # between progress lines where there is no terminal


class TerminalWatch:
    """Tells the person at the terminal; everything goes to standard error, so that output can be piped."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._bar: Any = None
        self._task: Any = None
        self._what = ""
        self._last_line = 0.0

    def begin(self, step: str, is_skipped: bool) -> None:
        self.close()
        self._print(f"[bold]{step}[/bold]" + (" [dim]unchanged, skipped[/dim]" if is_skipped else ""))

    def say(self, words: str) -> None:
        self.close()
        from rich.markup import escape

        self._print(f"  {escape(words)}")

    def count(self, what: str, done: int, total: int | None) -> None:
        self._advance(what, done, total, "")
        if total is not None and done >= total:
            self.close()

    def trained(self, progress: Progress) -> None:
        valid = f" valid {progress.valid_loss:.3f}" if progress.valid_loss is not None else ""
        best = f", best valid {progress.best_loss:.3f}" if math.isfinite(progress.best_loss) else ""
        words = f"loss {progress.loss:.3f}{best}, {progress.tokens_per_s:,.0f} tokens/s"
        self._advance("training", progress.step, progress.num_steps, words, valid)

    def show(self, pieces: list[tuple[str, bool]]) -> None:
        from rich.text import Text

        self.close()
        self._print("  one training row, learnt tokens marked:")
        text = Text()
        for piece, is_learnt in pieces:
            # Brackets as well as colour: a log file and a colour-blind reader see it too.
            text.append(f"⟦{piece}⟧" if is_learnt else piece, style="bold green" if is_learnt else "dim")
        self._console.print(text, soft_wrap=True)

    def close(self) -> None:
        """End the bar that is shown, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
        self._what = ""

    def _print(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=True)

    def _advance(self, what: str, done: int, total: int | None, words: str, note: str = "") -> None:
        if not self._console.is_terminal:
            now = time.monotonic()
            if note or now - self._last_line > LINE_EVERY_S or done == total:
                self._last_line = now
                print(f"  {what} {done}{f' of {total}' if total else ''}  {words}{note}".rstrip(), file=sys.stderr, flush=True)
            return
        if self._bar is None or self._what != what:
            self.close()
            self._open(what)
        self._bar.update(self._task, completed=done, total=total, words=words)

    def _open(self, what: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
        )
        self._task = self._bar.add_task(what, total=None, words="")
        self._what = what
        self._bar.start()
