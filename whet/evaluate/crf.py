"""A baseline that labels every character: a linear-chain conditional random field (CRFsuite)."""

import functools
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from whet.evaluate.composing import Found, Kind
from whet.records import Example, Span

# Chosen once among ten settings on the dev split of CHisIEC (entities) and the valid split of the demo corpus, never on
# a user's data. Characters three away: F1 0.58 against 0.53 on the demo, 0.755 against 0.771 on CHisIEC; kept, since a
# baseline stands beside the specialist in the demo first. Triples: +0.003 and -0.007, half as long again; left out.
L1, L2, MAX_ITERATIONS = 0.1, 0.05, 100
REACH = 3  # characters looked at on each side

_CLASSES = {
    **dict.fromkeys("〇一二三四五六七八九十百千萬万元正", "n"), **dict.fromkeys("甲乙丙丁戊己庚辛壬癸", "s"),
    **dict.fromkeys("子丑寅卯辰巳午未申酉戌亥", "b"), **dict.fromkeys("年月日", "t"),
}  # fmt: skip


class CrfFinder:
    """Finds typed spans with BIOES labels; L-BFGS with c1, c2 fixed beforehand, nothing is tuned on what is scored.

    Where gold spans overlap, the earlier and then the longer one is learnt; the other can't be labelled.
    """

    def __init__(self, train: Sequence[Example], golds: Sequence[Sequence[Found]]) -> None:
        """`golds`: the gold spans of each training example."""
        import pycrfsuite

        self._kinds = sorted({entry.kind for gold in golds for entry in gold}, key=str)
        self._tagger: Any = pycrfsuite.Tagger()
        if self._kinds:
            self._learn(train, golds)

    def _learn(self, train: Sequence[Example], golds: Sequence[Sequence[Found]]) -> None:
        import pycrfsuite

        numbers = {kind: number for number, kind in enumerate(self._kinds)}
        trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
        trainer.set_params({"c1": L1, "c2": L2, "max_iterations": MAX_ITERATIONS})
        for example, gold in zip(train, golds, strict=True):
            if example.text:
                trainer.append(pycrfsuite.ItemSequence(features(example.text)), encode(len(example.text), gold, numbers))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "crf"
            trainer.train(str(path))
            self._model = path.read_bytes()  # the tagger reads from these bytes: they live as long as it does
        self._tagger.open_inmemory(self._model)

    def find(self, text: str) -> list[Found]:
        """The typed spans of a text."""
        if not text or not self._kinds:
            return []
        labels = self._tagger.tag(features(text))
        return [Found(span, self._kinds[number]) for span, number in decode(labels)]


def encode(length: int, gold: Sequence[Found], numbers: dict[Kind, int]) -> list[str]:
    """BIOES labels of a text's characters: O, or a letter and the number of the kind, such as B3."""
    labels = ["O"] * length
    for span, kind in sorted(gold, key=lambda entry: (entry.span.start, -entry.span.end)):
        if span.start < span.end and all(label == "O" for label in labels[span.start : span.end]):
            number = numbers[kind]
            inside = [f"I{number}"] * (span.end - span.start - 2)
            one = span.end - span.start == 1
            labels[span.start : span.end] = [f"S{number}"] if one else [f"B{number}", *inside, f"E{number}"]
    return labels


def decode(labels: Sequence[str]) -> Iterator[tuple[Span, int]]:
    """Spans of BIOES labels with the number of their kind; only whole ones: S, or B, then I of that kind, then E."""
    start = -1
    for at, label in enumerate(labels):
        letter, number = label[0], label[1:]
        if letter == "S":
            yield Span(at, at + 1), int(number)
        if letter == "E" and start >= 0 and labels[start][1:] == number:
            yield Span(start, at + 1), int(number)
        if letter == "B":
            start = at
        elif letter != "I" or start < 0 or labels[start][1:] != number:
            start = -1


def features(text: str) -> list[list[str]]:
    """Per character: the characters and pairs around it, and the classes of the characters near it."""
    edge = ["#"] * REACH
    signs = [*edge, *map(_sign, text), *edge]
    classes = "#" * REACH + "".join(map(_class, text)) + "#" * REACH
    rows = []
    for m in range(REACH, REACH + len(text)):
        a, b, c, d, e, f, g = signs[m - 3 : m + 4]
        rows.append(
            [
                "*", "0" + d, "-1" + c, "-2" + b, "-3" + a, "+1" + e, "+2" + f, "+3" + g,
                "p-" + c + d, "p+" + d + e, "p--" + b + c, "p++" + e + f, "p+-" + c + e,
                "c" + classes[m], "c-" + classes[m - 2 : m + 1], "c+" + classes[m : m + 3],
            ]
        )  # fmt: skip
    return rows


@functools.lru_cache(maxsize=65536)
def _sign(character: str) -> str:
    """A character as a string that C and UTF-8 can carry: itself, or its code point (controls, lone surrogates, #)."""
    return character if character.isprintable() and character not in "# " else f"\\{ord(character):x};"


@functools.lru_cache(maxsize=65536)
def _class(character: str) -> str:
    return _CLASSES.get(character) or unicodedata.category(character)[0]
