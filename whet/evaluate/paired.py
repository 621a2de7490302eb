"""Two systems' outcomes on the same examples as arrays, so that parts and categories of them can be tested quickly."""

import difflib
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError
from whet.evaluate.compare import is_right
from whet.evaluate.statistics import number_groups
from whet.records import Counts, Score

FIGURES = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Outcomes of the live system and of a candidate, row by row the same example.

    figure: "accuracy", whose outcomes are 0 or 1 [examples], or "precision", "recall" or "f1", whose outcomes are counts
    tp, fp, fn [examples, 3]. groups: number of each example's group [examples], None where each is its own.
    num_left_out: examples that one of the two did not answer in a way that can be scored. num_leaked: examples left out because
    they stand in training data.
    """

    figure: str
    ids: tuple[str, ...]
    live: NDArray[np.int64]
    candidate: NDArray[np.int64]
    categories: NDArray[np.str_]
    groups: NDArray[np.int64] | None
    num_left_out: int = 0
    num_leaked: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, names: Collection[str]) -> "Pairs":
        """The pairs of these categories alone."""
        at = np.flatnonzero(np.isin(self.categories, list(names)))
        return Pairs(
            self.figure,
            tuple(self.ids[index] for index in at),
            self.live[at],
            self.candidate[at],
            self.categories[at],
            None if self.groups is None else _numbered(self.groups[at]),
        )

    def sizes(self) -> dict[str, int]:
        """How many pairs each category has, by name."""
        names, counts = np.unique(self.categories, return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def pair_up(
    live: Sequence[Score],
    candidate: Sequence[Score],
    headline: tuple[str, str],
    *,
    place: str,
    groups: Mapping[str, Hashable] | None = None,
    leaked: Collection[str] = (),
) -> Pairs:
    """Pair two systems' scores by example, in the live system's order.

    headline: measure and figure. An engine's error, or a choice that could not be read, has no outcome: its pair is left
    out and counted, as are the `leaked` ones. InputError (at `place`) where the two did not answer the same examples, or
    the measure is unknown. Whether anything is left is for the caller to see.
    """
    of_live, of_candidate = ({score.example_id: score for score in side} for side in (live, candidate))
    if len(of_live) < len(live) or len(of_candidate) < len(candidate):
        raise InputError(place, "an example is scored twice", "Evaluate again")
    if of_live.keys() != of_candidate.keys():
        other = sorted(of_live.keys() ^ of_candidate.keys())
        what = f"not the same questions: {len(other)} were put to one of the two only, such as {other[0]}"
        raise InputError(place, what, "Evaluate both on the same suite")
    left_out = frozenset(leaked)
    kept = [id_ for id_ in of_live if id_ not in left_out]
    ids = [id_ for id_ in kept if _has_outcome(of_live[id_]) and _has_outcome(of_candidate[id_])]
    sides = [[by_id[id_] for id_ in ids] for by_id in (of_live, of_candidate)]
    rows = [_outcomes(side, headline, place) for side in sides]
    return Pairs(
        headline[1],
        tuple(ids),
        rows[0],
        rows[1],
        np.array([score.category for score in sides[0]], dtype=np.str_),
        number_groups([groups[id_] for id_ in ids]) if groups and all(id_ in groups for id_ in ids) else None,
        len(kept) - len(ids),
        len(of_live) - len(kept),
    )


def _has_outcome(score: Score) -> bool:
    return score.status != "error" and (score.right is not None or bool(score.counts))


def _outcomes(scores: Sequence[Score], headline: tuple[str, str], place: str) -> NDArray[np.int64]:
    measure, figure = headline
    if figure == "accuracy":
        return np.array([is_right(score, measure) for score in scores], dtype=np.int64)
    rows = [_counts(score, measure, place) for score in scores]
    return np.array([(c.tp, c.fp, c.fn) for c in rows], dtype=np.int64).reshape(-1, 3)


def _counts(score: Score, measure: str, place: str) -> Counts:
    found = score.counts.get(measure)
    if found is None:
        near = difflib.get_close_matches(measure, score.counts, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(score.counts) or 'right or wrong alone'}"
        raise InputError(place, f"no measure is named {measure}", hint)
    return found


def _numbered(groups: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Groups of a part of the examples, numbered anew; None where no two of these share one."""
    _, numbers = np.unique(groups, return_inverse=True)
    return None if len(numbers) == 0 or numbers.max() + 1 == len(groups) else numbers.astype(np.int64)
