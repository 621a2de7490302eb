"""A progress bar with figures below it, wrapped between figures at the width of the terminal."""

from collections.abc import Iterable

from rich.console import RenderableType
from rich.padding import Padding
from rich.progress import Progress
from rich.text import Text


class WordyBar(Progress):
    """rich's bars with `words` below; a figure is never broken over two lines."""

    words: tuple[str, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.words:
            yield Padding(Text("\n".join(fill(self.words, self.console.width - 3))), (0, 0, 0, 2))


def fill(words: Iterable[str], width: int) -> list[str]:
    """Lines of at most `width` columns, broken between words only; a longer word has a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f", {word}"
        else:
            lines = [*lines[:-1], f"{lines[-1]},", word] if lines else [word]
    return lines
