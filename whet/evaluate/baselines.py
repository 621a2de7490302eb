"""The two honest baselines of an extraction task: a dictionary of the training strings, and a CRF on characters."""

from collections.abc import Sequence
from typing import Protocol

from whet.evaluate.composing import Composer, Found
from whet.evaluate.crf import CrfFinder
from whet.evaluate.dictionary import DictionaryFinder
from whet.records import Example, Record
from whet.tasks.extraction import FieldSettings


class Finder(Protocol):
    """Finds typed spans in a text."""

    def find(self, text: str) -> list[Found]:
        """The typed spans of a text, in its order, not overlapping."""
        ...


class Predictor:
    """A fitted baseline."""

    def __init__(self, finder: Finder, composer: Composer) -> None:
        self.finder, self.composer = finder, composer

    def predict(self, text: str) -> tuple[Record, ...]:
        """The records of a text; every span value stands in it, word for word."""
        return self.composer.compose(text, self.finder.find(text))


class Baseline(Protocol):
    """A way to learn extraction without a language model."""

    name: str

    def fit(self, train: Sequence[Example], fields: Sequence[FieldSettings]) -> Predictor:
        """Learn from examples with gold records; InputError if the task has no span field."""
        ...


class Dictionary:
    """The strings of the training records, looked up (see DictionaryFinder)."""

    name = "dictionary"

    def fit(self, train: Sequence[Example], fields: Sequence[FieldSettings]) -> Predictor:
        """Learn from examples with gold records."""
        composer = Composer(train, fields)
        return Predictor(DictionaryFinder(train, [composer.typed(example) for example in train]), composer)


class Crf:
    """A linear-chain CRF over characters (see CrfFinder)."""

    name = "crf"

    def fit(self, train: Sequence[Example], fields: Sequence[FieldSettings]) -> Predictor:
        """Learn from examples with gold records."""
        composer = Composer(train, fields)
        return Predictor(CrfFinder(train, [composer.typed(example) for example in train]), composer)


BASELINES: tuple[Baseline, ...] = (Dictionary(), Crf())
