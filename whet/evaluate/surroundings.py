"""Tells a choice, such as the kind of event, from the characters around a span: naive Bayes."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from whet.records import Span

WINDOW = 12  # characters on each side of a span that are looked at


class BayesChoice:
    """Multinomial naive Bayes, add-one smoothing, over the characters within WINDOW of an anchor and their pairs.

    Left and right of the anchor are told apart.

    P(c | x) ~ P(c) prod P(x_i | c) (Manning, Raghavan, Schütze: Introduction to Information Retrieval, 2008, 13.2).
    """

    def __init__(self, rows: Iterable[tuple[str, Span, str | None]]) -> None:
        """`rows`: text, anchor, and its choice (None where the field is null)."""
        counts: dict[str | None, Counter[str]] = defaultdict(Counter)
        classes = Counter[str | None]()
        for text, anchor, choice in rows:
            classes[choice] += 1
            counts[choice].update(_surroundings(text, anchor))
        self._choices = sorted(classes, key=lambda choice: (choice is None, choice or ""))
        words = sorted({word for counter in counts.values() for word in counter})
        self._column = {word: number for number, word in enumerate(words)}
        table = np.ones((len(self._choices), len(words)))
        for row, choice in enumerate(self._choices):
            table[row] += [counts[choice][word] for word in words]
        self._log_word = np.log(table / table.sum(axis=1, keepdims=True))
        self._log_prior = np.log(np.array([classes[choice] for choice in self._choices], float) / max(1, classes.total()))

    def choose(self, text: str, anchor: Span) -> str | None:
        """The likeliest choice; characters that training never showed say nothing. Null if there was no training."""
        if not self._choices:
            return None
        columns = [self._column[word] for word in _surroundings(text, anchor) if word in self._column]
        return self._choices[int(np.argmax(self._log_prior + self._log_word[:, columns].sum(axis=1)))]


def _surroundings(text: str, anchor: Span) -> list[str]:
    left, right = text[max(0, anchor.start - WINDOW) : anchor.start], text[anchor.end : anchor.end + WINDOW]
    return [
        mark + side[at : at + length]
        for mark, side in (("<", left), (">", right))
        for length in (1, 2)
        for at in range(len(side) - length + 1)
    ]
