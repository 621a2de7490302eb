"""What a candidate must show before it goes live: the settings of the gate, and how much doubt each look may spend."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from scipy import special

from whet.config import Settings, apply_overrides, load, read_yaml

Changeable = Literal["prompts", "template", "max_tokens", "stop", "temperature", "constraint"]


class ImprovementPolicy(Settings):
    """What must have become better, and by how much."""

    part: str | None = None
    """The part of the suite that decides; null takes its only task part."""
    measure: str | None = None
    """The measure, such as `record`, `token` or a field's name; null takes the part's headline."""
    figure: Literal["accuracy", "precision", "recall", "f1"] | None = None
    """The figure of that measure; null takes the headline's."""
    at_least: float = Field(default=0.05, ge=0, lt=1)
    """Smallest improvement that must be seen; besides, its lower bound must lie above zero."""
    kind: Literal["relative", "absolute"] = "relative"
    """Whether `at_least` and `effect` are shares of the live figure, or differences of the figures themselves."""
    effect: float | None = Field(default=None, gt=0)
    """The true improvement that shall be found with probability `power`: sizes are planned with it. It lies above `at_least`,
    since a candidate that is better by exactly that shows less in half of the cases. null takes twice `at_least`."""

    @model_validator(mode="after")
    def _can_be_planned(self) -> Self:
        if self.effect is not None and self.effect <= self.at_least:
            raise ValueError(f"effect must be above at_least ({self.at_least:g})")
        if self.effect is None and self.at_least == 0:
            raise ValueError("effect must be given where at_least is 0")
        return self

    @property
    def planned(self) -> float:
        return self.effect if self.effect is not None else 2 * self.at_least


class CategoryPolicy(Settings):
    """What each category of every part may lose."""

    tolerance: float = Field(default=0.1, gt=0, lt=1)
    """Largest loss of a category's figure, absolute, that must be excluded."""
    by_name: dict[str, float] = Field(default_factory=dict)
    """Another tolerance for single categories, by name."""
    pool_below: int = Field(default=0, ge=0)
    """Categories with fewer examples than this are judged together, as one; 0 judges each by itself."""

    @model_validator(mode="after")
    def _are_tolerances(self) -> Self:
        for name, tolerance in self.by_name.items():
            if not 0 < tolerance < 1:
                raise ValueError(f"by_name.{name} must lie between 0 and 1 (it is {tolerance:g})")
        return self


class ForgettingPolicy(Settings):
    """What the other parts of the suite may lose, the general ones above all."""

    tolerance: float = Field(default=0.03, gt=0, lt=1)
    """Largest loss of a part's headline, absolute, that must be excluded."""
    by_part: dict[str, float] = Field(default_factory=dict)
    """Another tolerance for single parts, by name."""

    @model_validator(mode="after")
    def _are_tolerances(self) -> Self:
        for name, tolerance in self.by_part.items():
            if not 0 < tolerance < 1:
                raise ValueError(f"by_part.{name} must lie between 0 and 1 (it is {tolerance:g})")
        return self


class RatePolicy(Settings):
    """How many replies may be no answers. In a general part the live system's own rate is allowed on top."""

    unread: float | None = Field(default=0.02, ge=0, le=1)
    """Largest share of replies that can't be read (format errors); null does not ask."""
    ungrounded: float | None = Field(default=0.02, ge=0, le=1)
    """Largest share of span values that do not stand in the source (extraction); null does not ask."""
    error: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of requests that may fail, of either system."""
    left_out: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of a part's examples that may be missing from the comparison, because one of the two gave nothing to
    score."""


class LimitPolicy(Settings):
    """What the candidate may cost; null does not ask."""

    p95_s: float | None = Field(default=None, gt=0)
    """Largest 95th percentile of a request's seconds, in every part."""
    p95_ratio: float | None = Field(default=None, gt=0)
    """The same, as a multiple of the live system's."""
    size_mb: float | None = Field(default=None, gt=0)
    """Most megabytes (millions of bytes) on disk."""
    size_ratio: float | None = Field(default=None, gt=0)
    """The same, as a multiple of the live system's."""
    memory_mb: float | None = Field(default=None, gt=0)
    """Most megabytes of memory at the peak."""


class GatePolicy(Settings):
    """When a candidate is promoted, refused, or neither."""

    improvement: ImprovementPolicy = ImprovementPolicy()
    """What must have become better."""
    categories: CategoryPolicy | None = CategoryPolicy()
    """What categories may lose; null does not ask."""
    forgetting: ForgettingPolicy | None = ForgettingPolicy()
    """What other parts may lose; null does not ask."""
    rates: RatePolicy = RatePolicy()
    """How many replies may be no answers."""
    limits: LimitPolicy = LimitPolicy()
    """What it may cost in time and space."""
    overlap: float | None = Field(default=0.0, ge=0, lt=1)
    """Largest share of a part's questions that may stand in the candidate's training data; such questions decide nothing.
    Where nobody looked, the gate can't tell. null does not ask."""
    allow_changes: tuple[Changeable, ...] = ()
    """In what the candidate may be asked otherwise than the live system."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Largest probability that a candidate that is no better, or lost more than a tolerance, is promoted, all looks together."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """Probability with which a candidate better by `improvement.effect` that lost nothing is promoted at the size asked
    for."""
    looks: int = Field(default=2, ge=1, le=20)
    """How often a candidate may be judged while the suite grows."""
    spending: Literal["even", "late"] = "even"
    """How `alpha` is shared out to the looks: as much to each, or little first and most at the last (after O'Brien, Fleming)."""
    resamples: int = Field(default=9_999, ge=999)
    """Resamples of bootstrap and permutation tests."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""

    def plan(self) -> dict[str, Any]:
        """What must stay as it was at the first look, or the levels say nothing: what is asked for, and how doubt is spent."""
        kept = {"improvement", "categories", "forgetting", "alpha", "looks", "spending"}
        return self.model_dump(mode="json", include=kept)

    def draw(self) -> dict[str, Any]:
        """What a verdict may hang on by luck alone: settled before the first look, or one could draw until it promotes."""
        return self.model_dump(mode="json", include={"seed", "resamples", "power"})

    def alpha_at(self, look: int) -> float:
        """What look 1, 2, ... may spend: the parts add up to `alpha`, so that by Bonferroni's inequality no number of looks
        promotes more bad candidates, however much the suite grows between.

        late: the increments of Lan and DeMets' spending function of O'Brien and Fleming's kind at equal steps (Lan and
        DeMets 1983, Biometrika 70:659). Their correlation is not used, which costs a little power and needs no plan.
        """
        if not 1 <= look <= self.looks:
            raise ValueError(f"look {look} of {self.looks}")
        if self.spending == "even":
            return self.alpha / self.looks
        return self._spent(look) - self._spent(look - 1)

    def _spent(self, look: int) -> float:
        if look == 0:
            return 0.0
        quantile = float(special.ndtri(1 - self.alpha / 2))
        return float(2 * special.ndtr(-quantile / (look / self.looks) ** 0.5))


def read_policy(path: Path, overrides: list[str] | None = None) -> GatePolicy:
    """The policy in a YAML file with key=value overrides; all faults are raised in one SettingsError."""
    raw, places = read_yaml(path)
    apply_overrides(raw, places, overrides or [])
    return load(GatePolicy, raw, places, str(path))
