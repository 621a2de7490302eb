"""The order of a run's rows as a function of (seed, step): shuffled, mixed by source, or from easy to hard."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from whet.backends.base import Backend, Pack
from whet.config import Settings
from whet.data.mix import MixSettings, mix, quotas
from whet.errors import InputError
from whet.records import Example
from whet.train.encode import Row


class OrderSettings(Settings):
    """In which order rows are trained.

    A curriculum draws its rows at random from the easiest ones, a share that grows to all of them (competence-based learning:
    Platanios et al. 2019, arXiv 1903.09848), without replacement: every row is still trained in every epoch.
    """

    curriculum: Literal["none", "length", "loss", "field"] = "none"
    """What makes a row hard: its number of tokens, its loss under the base (a pass over all rows before the first step), or a
    number of its example; none shuffles every epoch."""
    curriculum_field: Literal["category", "num_records"] = "category"
    """The number that `field` goes by: the example's category (which a source may read from another key: `category_key`), or how
    many records its gold has."""
    curriculum_share: float = Field(default=0.01, gt=0, lt=1)
    """Share of the rows, the easiest, that the first one is drawn from."""
    curriculum_epochs: int = Field(default=1, ge=1)
    """Epochs, from the first one on, that go from easy to hard; later ones are shuffled. Each begins with a larger share."""

    @model_validator(mode="after")
    def _refuse_what_does_nothing(self) -> Self:
        fields = type(self).model_fields
        for name in ("curriculum_share", "curriculum_epochs"):
            if self.curriculum == "none" and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} does nothing without a curriculum")
        if self.curriculum != "field" and self.curriculum_field != fields["curriculum_field"].default:
            raise ValueError("curriculum_field is for curriculum field only")
        return self


def steps_per_epoch(num_rows: int, rows_per_step: int) -> int:
    """Steps that see every row once; the last one may be smaller."""
    return -(-num_rows // rows_per_step)


class Order:
    """The rows of every step of a run, as a pure function of what it is made of: there is no cursor to save.

    difficulty: one number a row; needed where the settings have a curriculum. sources: the name of each row's source; needed
    where there is a mix, which then says which rows an epoch has. Without one, an epoch has every row once.
    """

    def __init__(
        self,
        num_rows: int,
        rows_per_step: int,
        seed: int,
        *,
        settings: OrderSettings | None = None,
        difficulty: Sequence[float] | None = None,
        mixing: MixSettings | None = None,
        sources: Sequence[str] | None = None,
    ) -> None:
        settings = settings or OrderSettings()
        assert (settings.curriculum != "none") == (difficulty is not None), "a curriculum goes with difficulties"
        assert (mixing is not None) == (sources is not None), "a mix goes with sources"
        self.rows_per_step, self._seed, self._settings = rows_per_step, seed, settings
        self._num_rows, self._mixing, self._by_source = num_rows, mixing, _numbers_by_source(sources or ())
        self._counts = {name: len(numbers) for name, numbers in self._by_source.items()}
        self._rank: list[int] | None = None
        if difficulty is not None:
            # The place of each row among all, from easy to hard; equally hard ones by their number.
            self._rank = np.argsort(np.argsort(np.asarray(difficulty, dtype=np.float64), kind="stable")).tolist()
        self._held: tuple[int, list[int]] | None = None
        self.mix_limit = ""
        """Why an epoch has fewer rows than the mix asks for; empty if it has them."""
        self.rows_per_epoch = num_rows
        if mixing is not None:
            found = quotas(self._counts, mixing)
            self.rows_per_epoch, self.mix_limit = found.num_rows, found.limit

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see an epoch's rows; the last one may be smaller."""
        return steps_per_epoch(self.rows_per_epoch, self.rows_per_step)

    def rows(self, step: int) -> list[int]:
        """Numbers of the rows that a step (from 0) trains."""
        epoch, at = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[at * self.rows_per_step : (at + 1) * self.rows_per_step]

    def epoch(self, epoch: int) -> list[int]:
        """Numbers of an epoch's rows in their order. Do not change the list."""
        if self._held is None or self._held[0] != epoch:
            self._held = epoch, self._draw(epoch)
        return self._held[1]

    def _draw(self, epoch: int) -> list[int]:
        generator = np.random.Generator(np.random.Philox(key=[self._seed, epoch]))
        is_graded = self._rank is not None and epoch < self._settings.curriculum_epochs
        if self._mixing is not None:
            rows = [self._by_source[name][at] for name, at in mix(self._counts, self._mixing, self._seed, epoch)]
        elif not is_graded:
            return [int(number) for number in generator.permutation(self._num_rows)]
        else:
            rows = list(range(self._num_rows))
        if not is_graded or self._rank is None:
            return rows
        rows.sort(key=self._rank.__getitem__)
        return _from_easy_to_hard(rows, generator, self._competence_at(epoch))

    def _competence_at(self, epoch: int) -> float:
        """Share of the rows that an epoch's first row is drawn from: square-root competence over all epochs of the curriculum."""
        return competence(self._settings.curriculum_share, epoch / self._settings.curriculum_epochs)


def competence(start: float, done: float) -> float:
    """Share of the easiest rows that may be drawn when a share `done` of the curriculum is over (Platanios et al., eq. 7)."""
    return math.sqrt(done * (1 - start**2) + start**2)


def _from_easy_to_hard(rows: Sequence[int], generator: np.random.Generator, start: float) -> list[int]:
    """Rows, given from easy to hard, drawn without replacement from the easiest competence(start, done) share of them."""
    chances = generator.random(len(rows)).tolist()
    pool: list[int] = []
    drawn = []
    num_open = 0
    for at, chance in enumerate(chances):
        wanted = max(at + 1, math.ceil(competence(start, at / len(rows)) * len(rows)))
        pool += rows[num_open:wanted]
        num_open = max(num_open, wanted)
        pick = int(chance * len(pool))
        pool[pick], pool[-1] = pool[-1], pool[pick]
        drawn.append(pool.pop())
    return drawn


def _numbers_by_source(sources: Iterable[str]) -> dict[str, list[int]]:
    by_source: dict[str, list[int]] = {}
    for number, name in enumerate(sources):
        by_source.setdefault(name, []).append(number)
    return by_source


def difficulties(
    settings: OrderSettings, rows: Sequence[Row], examples: Sequence[Example], base_losses: Callable[[], Sequence[float]]
) -> list[float] | None:
    """How hard each row is; None without a curriculum. examples: those of the rows, in their order.

    base_losses: gives each row's mean loss under the base; called for that curriculum only. Raises InputError for an example
    whose field is no number.
    """
    match settings.curriculum:
        case "none":
            return None
        case "length":
            return [float(row.num_tokens) for row in rows]
        case "loss":
            return list(base_losses())
    return [_field(example, settings.curriculum_field) for example in examples]


def _field(example: Example, name: Literal["category", "num_records"]) -> float:
    if name == "num_records":
        return float(len(example.records or ()))
    try:
        number = float(example.category)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        remedy = "Set `category_key` of its source to the key of the difficulty, or train.order.curriculum to something else"
        raise InputError(example.source, f"its category {example.category!r} is no number to order by", remedy)
    return number


def base_losses(backend: Backend, packs: Sequence[tuple[Pack, Sequence[int]]], num_rows: int) -> list[float]:
    """Mean loss of each row a learnt token, in nats, with the adapter as it stands (a fresh one changes nothing).

    packs: those of `batches.pack_numbered`.
    """
    losses = [math.inf] * num_rows
    for pack, numbers in packs:
        leaves = zip(numbers, pack.leaves, backend.log_likelihoods(pack), strict=True)
        for number, leaf, likelihood in leaves:
            losses[number] = -likelihood / max(1, pack.segments[leaf].num_learnt)
    return losses
