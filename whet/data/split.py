"""Splitting by group, stratified and seeded; and the check that no text stands in two splits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from whet.config import Settings
from whet.data.near import Clusters, NearTexts
from whet.data.spool import SPLITS, TEST, TRAIN, UNDECIDED, VALID, Ledger, draw

KINDS = ("exact", "normalised", "near", "group")
"""Kinds of leaks, the strongest first."""
ANY = 0b111  # one bit for each split


class SplitSettings(Settings):
    """How examples are dealt out to train, valid and test where their source does not say it.

    A split that a source gives is not filled up with others. Where no source gives valid, it is taken from the
    undecided rows and from those given as train; test is never taken from rows given as train. A source given
    `as_published` neither lends nor moves a row.
    """

    valid: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the examples that can still be dealt out that go to valid, 0 to 1."""
    test: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of them that go to test, 0 to 1."""
    seed: int = 0
    """Seed of the draw; the same examples and seed give the same split, whatever the order of the rows."""
    group_by: Literal["group", "text"] = "group"
    """What stays together: the document or source that a row names, or only equal texts."""
    stratify_by: Literal["none", "category", "has_records"] = "none"
    """What each split shall have the same shares of."""
    leaks: Literal["stop", "move"] = "stop"
    """What a leak between splits does: stop the build, or move the offending valid or test examples to train."""
    near_threshold: float = Field(default=0.8, gt=0.0, le=1.0)
    """Jaccard similarity of character n-grams, 0 to 1, from which two normalised texts are near-duplicates."""
    ngram: int = Field(default=3, ge=1, le=16)
    """Characters of an n-gram in texts of mostly ideographs, kana or syllables."""
    ngram_alphabetic: int = Field(default=5, ge=1, le=16)
    """Characters of an n-gram in other texts."""
    keep_near_together: bool = True
    """Whether near-duplicates count as one group when examples are dealt out."""

    @model_validator(mode="after")
    def _leave_some_for_train(self) -> "SplitSettings":
        if self.valid + self.test >= 1:
            raise ValueError("valid and test together take everything; train needs some")
        return self


def join(rows: Ledger, near: NearTexts | None, by_group: bool) -> Clusters:
    """Clusters of normalised texts (by `rows.key`) that must stay in one split: same group, or near-duplicates."""
    num = rows.num_keys
    clusters = Clusters(num + int(rows.group.max(initial=-1)) + 1)
    if by_group:
        alive = rows.alive
        for key, group in np.unique(np.stack([rows.key[alive], rows.group[alive]], axis=1), axis=0).tolist():
            clusters.join(key, num + group)
    if near:
        join_near(rows, clusters, near)
    return clusters


def join_near(rows: Ledger, clusters: Clusters, near: NearTexts) -> None:
    """Join the near-duplicates among the rows that are left."""
    alive = np.zeros(rows.num_keys, np.bool_)
    alive[rows.key[rows.alive]] = True
    for left, right, _ in near.pairs(lambda i, j: alive[i] & alive[j] & (clusters.names(i) != clusters.names(j))):
        clusters.join(left, right)


def wanted_splits(rows: Ledger, settings: SplitSettings) -> tuple[NDArray[np.int8], tuple[int, ...]]:
    """For each row the splits that it may go to, as bits [rows], and which splits shall have examples at the end."""
    given = {int(split) for split in np.unique(rows.given)} - {UNDECIDED}
    bits = np.where(rows.given == UNDECIDED, ANY, 1 << np.maximum(rows.given, 0)).astype(np.int8)
    shares = {VALID: settings.valid, TEST: settings.test}
    lends = (rows.given == TRAIN) & ~rows.published
    if VALID not in given and settings.valid:
        bits[lends] |= 1 << VALID
    undecided = bool((rows.given == UNDECIDED).any())
    dealt = {split for split, share in shares.items() if share and undecided and split not in given}
    if settings.valid and lends.any():
        dealt |= {VALID} - given
    return bits, tuple(sorted(given | dealt | ({TRAIN} if undecided else set())))


def assign(rows: Ledger, clusters: Clusters, settings: SplitSettings) -> NDArray[np.int8]:
    """The split of each row, int8 [rows], UNDECIDED for those that were dropped.

    Whole clusters are dealt out in a seeded order, each stratum by itself, to test and valid until these have their
    share, the rest to train. A cluster that a source has put into one split takes its undecided rows along, except into
    a published valid or test.
    """
    bits, _ = wanted_splits(rows, settings)
    labels = np.where(rows.alive, rows.given, UNDECIDED).astype(np.int8)
    alive = np.flatnonzero(rows.alive)
    if not len(alive):
        return labels
    names, unit = np.unique(clusters.names(rows.key[alive]), return_inverse=True)
    frozen = rows.published[alive] & (rows.given[alive] > TRAIN)
    allowed = np.full(len(names), ANY, np.int8)
    np.bitwise_and.at(allowed, unit, np.where(frozen, 0, bits[alive]))
    free = ((bits[alive] & (bits[alive] - 1)) != 0) & ~rows.published[alive] | (rows.given[alive] == UNDECIDED)
    given = {int(split) for split in np.unique(rows.given)}
    one = (allowed & (allowed - 1)) == 0
    decided = np.select([allowed == 1 << TEST, allowed == 1 << VALID], [TEST, VALID], TRAIN).astype(np.int8)
    sizes = np.bincount(unit, weights=free, minlength=len(names)).astype(np.int64)
    open_units = np.flatnonzero(~one & (sizes > 0))
    order, strata = _order(rows, alive, unit, len(names), settings)
    open_units = open_units[np.lexsort((order[open_units], strata[open_units]))]
    shares = {split: share for split, share in ((TEST, settings.test), (VALID, settings.valid)) if split not in given}
    decided[open_units] = _deal(sizes[open_units], allowed[open_units], strata[open_units], shares)
    labels[alive[free]] = decided[unit[free]]
    return labels


def _order(
    rows: Ledger, alive: NDArray[np.int64], unit: NDArray[np.int64], num: int, settings: SplitSettings
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Of each unit its place in the seeded order, and its stratum: that of its member with the smallest draw."""
    drawn = draw(rows.id_hash[alive], settings.seed)
    first = np.full(num, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, unit, drawn)
    strata = np.zeros(num, np.int64)
    if settings.stratify_by != "none":
        value = rows.stratum if settings.stratify_by == "category" else rows.negative.astype(np.int32)
        leads = drawn == first[unit]
        strata[unit[leads]] = value[alive[leads]]
    return first, strata


def _deal(
    sizes: NDArray[np.int64], allowed: NDArray[np.int8], strata: NDArray[np.int64], shares: dict[int, float]
) -> NDArray[np.int8]:
    """The split of each unit, in the order given; what a stratum falls short of its share, the next one makes up."""
    splits = np.full(len(sizes), TRAIN, np.int8)
    filled = dict.fromkeys(shares, 0)
    # Of the rows that a split may take, so that rows given as train lend to valid alone.
    seen = dict.fromkeys(shares, 0)
    for stratum in np.unique(strata):
        units = np.flatnonzero(strata == stratum)
        for split, share in shares.items():
            seen[split] += int(sizes[units][(allowed[units] >> split) & 1 == 1].sum())
            target = round(seen[split] * share)
            for at in units.tolist():
                if splits[at] == TRAIN and allowed[at] >> split & 1 and filled[split] + sizes[at] <= target:
                    splits[at] = split
                    filled[split] += int(sizes[at])
    for split, share in shares.items():  # at least one example, if train keeps one too
        may = np.flatnonzero((splits == TRAIN) & ((allowed >> split) & 1 == 1))
        if share and not filled[split] and len(may) > 1:
            splits[may[np.argmin(sizes[may])]] = split
    return splits


@dataclass(frozen=True)
class Leaks:
    """Rows of valid and test that stand in an earlier split too; all arrays are [leaks].

    `rows`: the offenders, `partners`: a row of the earlier split, `kinds`: index into KINDS, `reported_only`: one of
    the two is in a published valid or test.
    """

    rows: NDArray[np.int64]
    partners: NDArray[np.int64]
    kinds: NDArray[np.int8]
    similarity: NDArray[np.float32]
    reported_only: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    def counts(self, labels: NDArray[np.int8], mask: NDArray[np.bool_] | None = None) -> dict[str, dict[str, int]]:
        """Numbers by kind and by pair of splits, such as {"exact": {"train-test": 3}}; all kinds are there."""
        found: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        for at in np.flatnonzero(np.ones(len(self), np.bool_) if mask is None else mask).tolist():
            pair = f"{SPLITS[labels[self.partners[at]]]}-{SPLITS[labels[self.rows[at]]]}"
            kind = found[KINDS[self.kinds[at]]]
            kind[pair] = kind.get(pair, 0) + 1
        return found


def find_leaks(rows: Ledger, labels: NDArray[np.int8], near: NearTexts, by_group: bool) -> Leaks:
    """Every row of valid and test that has an equal, nearly equal or same-group row in an earlier split.

    Each comes once, under its strongest kind. It looks at the splits alone, not at how they were made.
    """
    best = np.full((len(KINDS), len(rows)), -1, np.int64)
    similarity = np.ones((len(rows)), np.float32)
    best[0], best[1] = _shared(rows.exact, labels), _shared(rows.key, labels)
    for row, partner, value in _near_leaks(rows, labels, near):
        best[2, row] = partner
        if max(best[0, row], best[1, row]) < 0:
            similarity[row] = value
    if by_group:
        best[3] = _shared(rows.group, labels)
    found = best >= 0
    offenders = np.flatnonzero(found.any(axis=0))
    kinds = found[:, offenders].argmax(axis=0)
    partners = best[kinds, offenders]
    published = rows.published[offenders] | (rows.published[partners] & (labels[partners] != TRAIN))
    similarity[offenders[kinds == KINDS.index("group")]] = 0
    return Leaks(offenders, partners, kinds.astype(np.int8), similarity[offenders], published)


def _shared(ids: NDArray[np.int64], labels: NDArray[np.int8]) -> NDArray[np.int64]:
    """For each row the first row with the same id in an earlier split, or -1."""
    partners = np.full(len(ids), -1, np.int64)
    rows = np.flatnonzero(labels != UNDECIDED)
    order = rows[np.lexsort((rows, labels[rows], ids[rows]))]
    _, start, group = np.unique(ids[order], return_index=True, return_inverse=True)
    first = order[start][group]
    leaks = labels[order] > labels[first]
    partners[order[leaks]] = first[leaks]
    return partners


def _near_leaks(rows: Ledger, labels: NDArray[np.int8], near: NearTexts) -> Iterator[tuple[int, int, float]]:
    """(row, a near row in an earlier split, similarity) for each row that has one."""
    lowest, highest = np.full(rows.num_keys, 9, np.int8), np.full(rows.num_keys, -1, np.int8)
    used = np.flatnonzero(labels != UNDECIDED)
    np.minimum.at(lowest, rows.key[used], labels[used])
    np.maximum.at(highest, rows.key[used], labels[used])
    reached = np.full(rows.num_keys, 9, np.int8)  # the earliest split in which a near text was found so far
    partner, similarity = np.full(rows.num_keys, -1, np.int64), np.zeros(rows.num_keys, np.float32)

    def gains(key: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.asarray((lowest[other] < highest[key]) & (lowest[other] < reached[key]))

    for left, right, value in near.pairs(lambda i, j: gains(i, j) | gains(j, i)):
        for key, other in ((left, right), (right, left)):
            if gains(np.array([key]), np.array([other]))[0]:
                reached[key], partner[key], similarity[key] = lowest[other], other, value
    first_row = np.full((rows.num_keys, len(SPLITS)), -1, np.int64)
    first_row[rows.key[used[::-1]], labels[used[::-1]]] = used[::-1]
    for row in used[labels[used] > reached[rows.key[used]]].tolist():
        key = rows.key[row]
        yield row, int(first_row[partner[key], reached[key]]), float(similarity[key])


def move_to_train(rows: Ledger, labels: NDArray[np.int8], leaks: Leaks, clusters: Clusters) -> int:
    """Put the clusters of the offenders into train, all but their published rows; gives how many rows moved.

    The whole cluster, because its other rows would leak as soon as the offender stands in train.
    """
    offending = np.unique(clusters.names(rows.key[leaks.rows[~leaks.reported_only]]))
    moving = (labels > TRAIN) & ~rows.published & np.isin(clusters.names(rows.key), offending)
    labels[moving] = TRAIN
    return int(moving.sum())
