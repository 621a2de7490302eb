"""Near-duplicates: MinHash over character n-grams finds candidates, the exact Jaccard similarity decides."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from whet.data.spool import draw

NUM_HASHES = 128
MISS = 1e-3  # largest share of pairs exactly at the threshold that no band may catch
MAX_BUCKET = 128  # in larger buckets each member meets its WINDOW next neighbours only, so that time stays linear
WINDOW = 16
BATCH = 2048  # texts sketched at once
CHUNK = 1 << 13  # pairs compared at once
FIRST_WIDE = 0x2E80  # from here on scripts write about a word or syllable a character (CJK, kana, hangul)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Grams = NDArray[np.uint64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
Wanted = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


def ngrams(text: str, ngram: int, ngram_alphabetic: int) -> Grams:
    """The set of a text's character n-grams as sorted 64-bit hashes; empty if the text is shorter than one.

    `ngram` characters where most are ideographs, syllables or kana, else `ngram_alphabetic`.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    size = ngram if 2 * np.count_nonzero(codes >= FIRST_WIDE) >= len(codes) else ngram_alphabetic
    if len(codes) < size:
        return np.zeros(0, np.uint64)
    hashes = np.full(len(codes) - size + 1, size, np.uint64)
    for at in range(size):
        hashes = hashes * _FACTOR + codes[at : len(codes) - size + 1 + at]
    return np.unique(hashes)


def jaccard(left: Grams, right: Grams) -> float:
    """Size of the intersection over size of the union; 0 for two empty sets."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / max(1, len(left) + len(right) - common)


def sketch(grams: Iterable[Grams], num: int, seed: int = 1) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """MinHash signatures, uint32 [num, NUM_HASHES], of `num` n-gram sets, and the sets' sizes, int [num].

    The share of equal places in two signatures estimates the sets' Jaccard similarity. rensa's RMinHash, after
    Dahlgaard, Knudsen, Thorup 2017, "Fast similarity sketching".
    """
    import rensa

    signatures, sizes = np.zeros((num, NUM_HASHES), np.uint32), np.zeros(num, np.int64)
    source = iter(grams)
    for at in range(0, num, BATCH):
        batch = list(itertools.islice(source, BATCH))
        sizes[at : at + len(batch)] = [len(each) for each in batch]
        ends = np.cumsum([0, *map(len, batch)]).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(batch), ends, NUM_HASHES, seed)
        signatures[at : at + len(batch)] = matrix.to_rows()
    return signatures, sizes


def choose_bands(threshold: float) -> tuple[int, int]:
    """Number of bands and hashes a band: the longest bands that miss at most MISS of the pairs at the threshold.

    A pair of similarity s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, "Mining
    of massive datasets", section 3.4).
    """
    fitting = [r for r in range(1, 17) if (1 - threshold**r) ** (NUM_HASHES // r) <= MISS]
    rows = max(fitting, default=1)
    return NUM_HASHES // rows, rows


class NearTexts:
    """A set of distinct texts that can be asked for its near pairs.

    grams_of: the n-gram set of a text by its number. `num_capped`: texts in buckets too large to be compared in full.
    """

    def __init__(self, num: int, grams_of: Callable[[int], Grams], threshold: float) -> None:
        self._grams = functools.lru_cache(maxsize=8192)(grams_of)
        self._threshold = threshold
        self._bands, self._rows = choose_bands(threshold)
        self._signatures, sizes = sketch((grams_of(at) for at in range(num)), num)
        self._long_enough = np.flatnonzero(sizes)
        self.num_capped = 0

    def pairs(self, wanted: Wanted) -> Iterator[tuple[int, int, float]]:
        """Pairs (i, j, similarity) with a similarity of at least the threshold; a pair can come more than once.

        wanted: given int [pairs] twice, a mask of the pairs that are still of interest; it is asked again for each pair
        just before that is verified, so that whole clusters cost no more than the chain that holds them together.
        """
        capped = np.zeros((self._bands, len(self._signatures)), np.bool_)
        for band in range(self._bands):
            for left, right in self._candidates(band, capped):
                mask = wanted(left, right)
                for i, j in zip(*self._plausible(left[mask], right[mask], band, capped), strict=True):
                    if not wanted(np.array([i]), np.array([j]))[0]:
                        continue
                    similarity = jaccard(self._grams(int(i)), self._grams(int(j)))
                    if similarity >= self._threshold:
                        yield int(i), int(j), similarity
        self.num_capped = int(capped.any(axis=0).sum())

    def _candidates(self, band: int, capped: NDArray[np.bool_]) -> Iterator[Pairs]:
        """Pairs that share a band; `capped` [bands, texts] is told which texts are in too large a bucket."""
        keys = self._keys(band)
        # Neighbours in a large bucket should be alike, and their splits mixed: order by the next band, then by chance.
        nearer, chance = self._keys((band + 1) % self._bands), draw(self._long_enough.astype(np.uint64), band)
        order = np.lexsort((chance, nearer, keys))
        keys, texts = keys[order], self._long_enough[order]
        _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        large = sizes[group] > MAX_BUCKET
        capped[band, texts[large]] = True
        active = np.flatnonzero(sizes[group] > 1)
        for step in range(1, MAX_BUCKET):
            active = active[active + step < len(keys)]
            active = active[keys[active + step] == keys[active]]
            if step > WINDOW:
                active = active[~large[active]]
            if not len(active):
                return
            for start in range(0, len(active), CHUNK):
                part = active[start : start + CHUNK]
                yield texts[part], texts[part + step]

    def _keys(self, band: int) -> NDArray[np.uint64]:
        keys = np.zeros(len(self._long_enough), np.uint64)
        for column in range(band * self._rows, (band + 1) * self._rows):
            keys = keys * _FACTOR + self._signatures[self._long_enough, column] + np.uint64(1)
        return keys

    def _plausible(self, left: NDArray[np.int64], right: NDArray[np.int64], band: int, capped: NDArray[np.bool_]) -> Pairs:
        """Those pairs whose signatures don't rule the threshold out and that no earlier band has brought up."""
        equal = self._signatures[left] == self._signatures[right]
        spread = math.sqrt(self._threshold * (1 - self._threshold) / NUM_HASHES)
        mask = equal.mean(axis=1) >= self._threshold - 4.5 * spread
        if band:
            earlier = equal[:, : band * self._rows].reshape(len(left), band, self._rows).all(axis=2)
            mask &= ~(earlier & ~capped[:band, left].T).any(axis=1)
        return left[mask], right[mask]


class Clusters:
    """Sets that are joined step by step (union-find); the smallest number of a set is its name."""

    def __init__(self, num: int) -> None:
        self._parents = np.arange(num)

    def join(self, left: int, right: int) -> None:
        left, right = self._find(left), self._find(right)
        self._parents[max(left, right)] = min(left, right)

    def names(self, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """The set that each member is in."""
        names = self._parents[members]
        while True:
            above = self._parents[names]
            if np.array_equal(above, names):
                return names
            names = above

    def _find(self, at: int) -> int:
        parents = self._parents
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = int(parents[at])
        return at
