"""A baseline that knows the strings of the training records by heart and finds them again, longest first."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from whet.evaluate.composing import Found, Kind
from whet.records import Example, Span

MIN_SHARE = 0.5


class DictionaryFinder:
    """Finds the training strings, left to right, the longest at each place, not overlapping.

    A string keeps the kind that it has most often. It is dropped if fewer than MIN_SHARE of the places where the
    dictionary finds it in the training texts are gold spans of that kind; since dropping one lets shorter ones
    through, this is repeated until nothing is dropped. Only training texts are looked at.
    """

    def __init__(self, train: Sequence[Example], golds: Sequence[Sequence[Found]]) -> None:
        """`golds`: the gold spans of each training example."""
        kinds: dict[str, Counter[Kind]] = defaultdict(Counter)
        for example, gold in zip(train, golds, strict=True):
            for span, kind in gold:
                kinds[example.text[span.start : span.end]][kind] += 1
        self._fill(
            {string: min(counts, key=lambda kind: (-counts[kind], str(kind))) for string, counts in kinds.items() if string}
        )
        while dropped := self._unreliable(train, golds):
            self._fill({string: kind for string, kind in self.kinds.items() if string not in dropped})

    def _fill(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = dict(kinds)
        by_first: dict[str, set[int]] = defaultdict(set)
        for string in kinds:
            by_first[string[0]].add(len(string))
        self._lengths = {first: sorted(lengths, reverse=True) for first, lengths in by_first.items()}

    def _unreliable(self, train: Sequence[Example], golds: Sequence[Sequence[Found]]) -> set[str]:
        places, right = Counter[str](), Counter[str]()
        for example, gold in zip(train, golds, strict=True):
            known = set(gold)
            for entry in self.find(example.text):
                string = example.text[entry.span.start : entry.span.end]
                places[string] += 1
                right[string] += entry in known
        return {string for string, count in places.items() if right[string] < MIN_SHARE * count}

    def find(self, text: str) -> list[Found]:
        """The typed spans of a text."""
        found, at = [], 0
        while at < len(text):
            for length in self._lengths.get(text[at], ()):
                kind = self.kinds.get(text[at : at + length])
                if kind is not None and at + length <= len(text):
                    found.append(Found(Span(at, at + length), kind))
                    at += length
                    break
            else:
                at += 1
        return found
