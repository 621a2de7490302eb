"""The mix of an epoch: which examples of which source, by weight, under caps, with a floor for the source against forgetting."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from whet.config import Settings
from whet.errors import InputError, SettingsError


class GeneralSettings(Settings):
    """The source that guards against forgetting."""

    source: str
    """Its name."""
    share: float = Field(default=0.1, gt=0, lt=1)
    """Least share of an epoch that comes from it, 0 to 1; the other sources keep their proportions."""


class MixSettings(Settings):
    """How much of an epoch comes from each source. A source is called by its `name`, or by its `path` where it has none."""

    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Weight of each source, relative to their sum; empty takes each source by the number of its examples."""
    caps: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Most rows of a source in one epoch. The next epoch goes on with the examples that were left out."""
    epoch_size: int | None = Field(default=None, ge=1)
    """Rows of an epoch; null takes as many as the sources hold, caps regarded. It is smaller where a source is too scarce."""
    max_repeats: int = Field(default=4, ge=1)
    """Most times that one example is seen in an epoch; 1 never repeats one. Up to four times is nearly as good as new
    examples (Muennighoff et al. 2023, arXiv 2305.16264)."""
    general: GeneralSettings | None = None
    """A source that an epoch holds at least some share of, whatever the weights."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """Rows of each source in every epoch, and why they are not as many as asked for (empty if they are)."""

    rows: dict[str, int]
    limit: str

    @property
    def num_rows(self) -> int:
        return sum(self.rows.values())


def quotas(counts: Mapping[str, int], settings: MixSettings, place: str = "train.mix") -> Quotas:
    """How many rows each source gives to an epoch. counts: examples of each source.

    Weights are decimal numbers taken exactly; what is no whole row goes by largest remainder (Hamilton's method). The general
    source's floor is rounded up. Raises SettingsError, at `place`, with every fault: a source that is not there or not
    weighted, a share that gives no row.
    """
    faults = _name_faults(counts, settings)
    if faults:
        raise SettingsError(place, faults)
    once = {name: min(count, settings.caps.get(name, count)) for name, count in counts.items()}
    most = {name: _most(name, count, settings) for name, count in counts.items()}
    shares, floor = _shares(once, settings)
    wanted = settings.epoch_size or sum(once.values())
    # n * share <= most for every source: no rounding can ask for more than there is.
    scarcest = min(shares, key=lambda name: (most[name] / shares[name], name))
    total = min(wanted, int(most[scarcest] / shares[scarcest]))
    limit = ""
    if total < wanted:
        limit = f"{total} rows an epoch, not {wanted}: {_scarcity(scarcest, counts, settings, shares)}"
    rows = _whole(shares, total, floor)
    for name in (name for name, num in rows.items() if not num):
        why = limit or f"an epoch has {total} rows"
        faults.append(f"{name}: its share of {float(shares[name]):.3g} gives no row ({why}); raise its weight or epoch_size")
    if faults:
        raise SettingsError(place, faults)
    return Quotas(rows, limit)


def mix(
    counts: Mapping[str, int], settings: MixSettings, seed: int, epoch: int, place: str = "train.mix"
) -> list[tuple[str, int]]:
    """The rows of an epoch as (source, number of its example), in random order; the same for the same arguments.

    Every source has a fixed cycle of its examples, drawn from the seed, and an epoch goes on where the last one ended: over a
    run any two examples of a source are seen equally often, to within one. Within an epoch no example comes again before all
    others of its source came. Raises SettingsError as `quotas` does.
    """
    rows = quotas(counts, settings, place).rows
    names = sorted(rows)
    order = _stream(seed, 0, epoch).permutation(np.repeat(np.arange(len(names)), [rows[name] for name in names]))
    queues = [iter(_drawn(counts[name], rows[name], seed, epoch, at)) for at, name in enumerate(names)]
    return [(names[at], next(queues[at])) for at in order.tolist()]


def _drawn(count: int, quota: int, seed: int, epoch: int, source: int) -> list[int]:
    """Numbers of a source's examples for an epoch: each pass over the source reshuffled, a part of a pass last."""
    cycle = _stream(seed, 1, source).permutation(count)
    passes, rest = divmod(quota, count)
    own = _stream(seed, 2, source, epoch)
    part = cycle[(epoch * rest + np.arange(rest)) % count]
    numbers = [own.permutation(count) for _ in range(passes)] + [own.permutation(part)]
    return [int(number) for number in np.concatenate(numbers)]


def _stream(seed: int, *key: int) -> np.random.Generator:
    """Random numbers of a purpose (the first number of the key), independent of those of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _name_faults(counts: Mapping[str, int], settings: MixSettings) -> list[str]:
    known = sorted(name for name, count in counts.items() if count)
    named = [("weights", name) for name in settings.weights] + [("caps", name) for name in settings.caps]
    named += [("general.source", settings.general.source)] if settings.general else []
    faults = []
    for setting, name in named:
        if name in counts and not counts[name]:
            faults.append(f"{setting}: the source {name} holds no training examples, so that its share can't be met")
        elif name not in counts:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            faults.append(f"{setting}: no source of training examples is named {name}; {hint}")
    if settings.weights:
        faults += [f"weights: the source {name} has none; weigh every source" for name in known if name not in settings.weights]
    if not known:
        faults.append("there are no training examples to mix")
    return faults


def _shares(once: Mapping[str, int], settings: MixSettings) -> tuple[dict[str, Fraction], tuple[str, Fraction] | None]:
    """Share of each source with examples, and the general source with its floor if that is what sets its share."""
    weights = {name: Fraction(repr(settings.weights[name])) if settings.weights else Fraction(count)
               for name, count in once.items() if count}  # fmt: skip
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in sorted(weights.items())}
    if settings.general is None or len(shares) == 1:
        return shares, None
    name, least = settings.general.source, Fraction(repr(settings.general.share))
    if shares[name] >= least:
        return shares, None
    scale = (1 - least) / (1 - shares[name])
    return {other: least if other == name else share * scale for other, share in shares.items()}, (name, least)


def _whole(shares: Mapping[str, Fraction], total: int, floor: tuple[str, Fraction] | None) -> dict[str, int]:
    """Whole rows that sum to the total, by largest remainder; a tie goes to the first name."""
    if floor:
        name, least = floor
        num = -int(-least * total // 1)
        others = {other: share / (1 - least) for other, share in shares.items() if other != name}
        return _whole(others, total - num, None) | {name: num}
    rows = {name: int(share * total) for name, share in shares.items()}
    left = total - sum(rows.values())
    for name in sorted(shares, key=lambda name: (rows[name] - shares[name] * total, name))[:left]:
        rows[name] += 1
    return rows


def _most(name: str, count: int, settings: MixSettings) -> int:
    """Rows that a source can give to an epoch."""
    return min(count * settings.max_repeats, settings.caps.get(name, count * settings.max_repeats))


def _scarcity(name: str, counts: Mapping[str, int], settings: MixSettings, shares: Mapping[str, Fraction]) -> str:
    count, share = counts[name], float(shares[name])
    if _most(name, count, settings) < count * settings.max_repeats:
        return f"{name} with a share of {share:.3g} has a cap of {settings.caps[name]}"
    times = "once" if settings.max_repeats == 1 else f"{settings.max_repeats} times"
    return f"{name} with a share of {share:.3g} has {count} examples, each seen {times} at most (max_repeats)"


def sources_of(places: Iterable[str], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of the source that each example comes from.

    places: `Example.source`, which is `file:line`. sources: those of a data folder's manifest, each with its `name` and the
    `files` that it read. Raises InputError for a place that is in no source, or in two of different names.
    """
    names: dict[str, list[str]] = {}
    for source in sources:
        for file in source["files"]:
            names.setdefault(file, []).append(source["name"])
    found: list[str] = []
    for place in places:
        held = set(names.get(place.rpartition(":")[0], ()))
        if len(held) != 1:
            what = f"its file is read by the sources {', '.join(sorted(held))}" if held else "is of no source of this data folder"
            remedy = "Give these sources one name, or take out train.mix" if held else "Build the data again"
            raise InputError(place, f"{what}, so that it can't be mixed by source", remedy)
        found += held
    return found
