"""Shows how a run goes on: live bars in a terminal, plain lines in a file or a pipe."""

import math
import sys
import time
from typing import Any

from whet.train.course import Progress, TrainResult

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
        self._advance(what, done, total)
        if total is not None and done >= total:
            self.close()

    def trained(self, progress: Progress) -> None:
        words, left = (*say_course(progress), *say_pace(progress)), say_left(progress)
        note = f"validation {progress.valid_loss:.3f}" if progress.valid_loss is not None else ""
        self._advance("training", progress.step, progress.num_steps, words, left, note)

    def ended(self, result: TrainResult) -> None:
        """Draw the whole course of a training, what came before a resume included."""
        self.close()
        if not self._console.is_terminal:
            return
        from whet.cli.curve import can_show, draw_losses_as_text

        is_unicode = can_show(self._console.encoding)
        curves = result.train_curve, result.valid_curve
        for line in draw_losses_as_text(*curves, result.best_step, self._console.width - 3, is_unicode):
            self._console.print(f"  {line}", markup=False, no_wrap=True)

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

    def _advance(
        self, what: str, done: int, total: int | None, words: tuple[str, ...] = (), left: str = "", note: str = ""
    ) -> None:
        """One step further: a line where there is no terminal, at least every LINE_EVERY_S, and always where there is a note."""
        if not self._console.is_terminal:
            now = time.monotonic()
            if note or now - self._last_line > LINE_EVERY_S or done == total:
                self._last_line = now
                told = ", ".join(part for part in (note, *words, left) if part)
                print(f"  {what} {done}{f' of {total}' if total else ''}  {told}".rstrip(), file=sys.stderr, flush=True)
            return
        if self._bar is None or self._what != what:
            self.close()
            self._open(what, bool(words))
        self._bar.words = words
        self._bar.update(self._task, completed=done, total=total, left=left)

    def _open(self, what: str, is_training: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

        from whet.cli.bars import WordyBar

        # The loop's own estimate leaves out what came before a resume; rich's would not.
        left = TextColumn("{task.fields[left]}") if is_training else TimeRemainingColumn()
        columns = TextColumn("  {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), left
        self._bar = WordyBar(*columns, console=self._console, transient=False)
        self._task = self._bar.add_task(what, total=None, left="")
        self._what = what
        self._bar.start()


def say_course(progress: Progress) -> tuple[str, ...]:
    """The losses and what drives them."""
    best = (f"best validation {progress.best_loss:.3f}",) if math.isfinite(progress.best_loss) else ()
    return (f"loss {progress.loss:.3f}", *best, f"learning rate {progress.learning_rate:.2g}")


def say_pace(progress: Progress) -> tuple[str, ...]:
    """Speed, what sharing saves or padding costs, and memory."""
    found = [f"{progress.examples_per_s:.3g} examples/s", f"{progress.tokens_per_s:,.0f} tokens/s"]
    if progress.num_tokens:
        share = progress.num_computed / progress.num_tokens
        why = "prefix shared" if share < 1 else "padding" if share > 1 else "nothing shared"
        found.append(f"{why}: computes {100 * share:.0f} % of the tokens")
    if progress.peak_memory:
        found.append(f"peak memory {say_bytes(progress.peak_memory)}")
    return tuple(found)


def say_left(progress: Progress) -> str:
    """The time until the last step; nothing at the end, or before it is known."""
    from whet.evaluate.report import say_time

    is_known = math.isfinite(progress.seconds_left) and progress.step < progress.num_steps
    return f"{say_time(progress.seconds_left)} left" if is_known else ""


def say_bytes(num: int) -> str:
    return f"{num / 2**30:.1f} GiB" if num >= 2**30 else f"{num / 2**20:.0f} MiB"
