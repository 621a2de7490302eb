"""How many examples a wanted effect needs, and how small a difference a suite can show, before the run or after too small a one.

alpha: one-sided probability of calling a candidate better (or no worse) that is not. power: probability of finding the
effect where it is there. discordance: share of the examples on which the two systems differ in being right.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from whet.evaluate.margin import CountsEvidence, Evidence, Shares, tango_z

CAUTION = 0.8
"""How sure a pilot's discordance or spread must be to lie below what is planned with: a size planned on the estimate
itself is too small in half of the cases (Browne 1995, Stat. Med. 14:1933)."""
MOST = 1_000_000  # examples; a plan that needs more is no plan
TYPICAL_DISCORDANCE = 0.2


def power_of_shares(num: int, discordance: float, effect: float, alpha: float, at_least: float = 0.0) -> float:
    """Probability that McNemar's exact test finds a candidate better that gains `effect` on `num` examples, exactly computed.

    With `at_least` the difference seen must reach that too. The number of pairs that differ is binomial, and of these the number
    that were gained is.
    """
    if not 0 < effect <= discordance <= 1:
        raise ValueError("the effect is above zero and no larger than the discordance, a share")
    differing = _likely(num, discordance)
    fewest = np.maximum(_fewest_gained(differing, alpha), np.ceil((differing + at_least * num) / 2 - 1e-9))
    found = stats.binom.sf(fewest - 1, differing, (discordance + effect) / (2 * discordance))
    return float((stats.binom.pmf(differing, num, discordance) * found).sum())


def needed_for_shares(discordance: float, effect: float, alpha: float, power: float, at_least: float = 0.0) -> int:
    """Fewest examples at which `power_of_shares` reaches `power`; it stays about there with more (the test is discrete)."""
    if effect <= at_least:
        raise ValueError("an effect that is no larger than the difference asked for is seen in half of the cases at best")
    discordance = min(1.0, max(discordance, effect))
    spread = max(discordance - effect**2, 0.0) ** 0.5
    if (float(special.ndtri(power)) * spread / (effect - at_least)) ** 2 > MOST:  # spares long sums
        return MOST
    return _fewest(lambda num: power_of_shares(num, discordance, effect, alpha, at_least) >= power)


def detectable_share(num: int, alpha: float, power: float, discordance: float = TYPICAL_DISCORDANCE) -> float | None:
    """Smallest gain in accuracy that `num` examples show with this power; None where even the largest would not be."""
    if num < 1 or power_of_shares(num, 1.0, 1.0, alpha) < power:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        if power_of_shares(num, max(discordance, middle), middle, alpha) >= power:
            high = middle
        else:
            low = middle
    return high


def power_of_margin(num: float, discordance: float, tolerance: float, alpha: float, effect: float = 0.0) -> float:
    """Probability that Tango's test shows a loss above `tolerance` to be excluded, where the true difference is `effect`.

    Normal approximation to the score statistic at the expected counts.
    """
    gained, lost = num * (discordance + effect) / 2, num * (discordance - effect) / 2
    spread = (num * max(discordance - effect**2, 0.0)) ** 0.5
    distance = num * (effect + tolerance)
    seen = tango_z(gained, lost, num, -tolerance)
    if seen <= 0:
        return 0.0
    under_margin = distance / seen  # the statistic's own standard error
    slack = distance - float(special.ndtri(1 - alpha)) * under_margin
    return float(slack > 0) if spread == 0 else float(special.ndtr(slack / spread))


def needed_for_margin(discordance: float, tolerance: float, alpha: float, power: float) -> int:
    """Fewest examples at which a system that is as good as the other is shown to lose no more than `tolerance`."""
    return _fewest(lambda num: power_of_margin(num, discordance, tolerance, alpha) >= power)


def needed_units(spread: float, effect: float, alpha: float, power: float, at_least: float = 0.0) -> int:
    """Fewest units at which a mean difference `effect` is found above zero, and seen to be `at_least`.

    spread: standard deviation of one unit's part in the difference. Normal approximation with Guenther's correction for
    Student's distribution (Guenther 1981, Am. Stat. 35:243). However small the spread is, as many units are asked
    for as exclude the effect's opposite when all agree.
    """
    if effect <= at_least:
        raise ValueError("an effect that is no larger than the difference asked for is seen in half of the cases at best")
    quantile, reach = float(special.ndtri(1 - alpha)), float(special.ndtri(power))
    for_zero = ((quantile + reach) * spread / effect) ** 2 + quantile**2 / 2
    for_least = (reach * spread / (effect - at_least)) ** 2
    for_agreement = quantile**2 * (1 - effect) / effect
    return min(MOST, int(np.ceil(max(for_zero, for_least, for_agreement, 2))))


def detectable_mean(num_units: int, spread: float, alpha: float, power: float) -> float:
    """Smallest mean difference that so many units show with this power."""
    quantile, reach = float(special.ndtri(1 - alpha)), float(special.ndtri(power))
    by_spread: float = (quantile + reach) * spread / max(num_units - quantile**2 / 2, 1) ** 0.5
    return max(by_spread, quantile**2 / (num_units + quantile**2))


def plan_better(pilot: Evidence, effect: float, alpha: float, power: float, at_least: float = 0.0) -> int:
    """Examples that a candidate better by `effect` needs to be found so, planned with a pilot's discordance or spread."""
    if isinstance(pilot, Shares):
        return _widened(needed_for_shares(discordance_of(pilot), effect, alpha, power, at_least), pilot)
    return _in_examples(needed_units(spread_of(pilot), effect, alpha, power, at_least), pilot)


def plan_margin(pilot: Evidence, tolerance: float, alpha: float, power: float) -> int:
    """Examples that a candidate as good as the live system needs to be shown to lose no more than `tolerance`."""
    if isinstance(pilot, Shares):
        return _widened(needed_for_margin(discordance_of(pilot), tolerance, alpha, power), pilot)
    return _in_examples(needed_units(spread_of(pilot), tolerance, alpha, power), pilot)


def detectable(pilot: Evidence, alpha: float, power: float) -> float | None:
    """Smallest improvement that as many examples as the pilot's show with this power."""
    if isinstance(pilot, Shares):
        return detectable_share(int(pilot.effective), alpha, power, discordance_of(pilot))
    return detectable_mean(pilot.num_units, spread_of(pilot), alpha, power)


def discordance_of(pilot: Shares) -> float:
    """An upper limit (Wilson's) of the share of pairs that differ."""
    num, share, z = pilot.effective, pilot.discordance, float(special.ndtri(CAUTION))
    centre = share + z * z / (2 * num)
    reach = z * (share * (1 - share) / num + z * z / (4 * num * num)) ** 0.5
    return float(min(1.0, (centre + reach) / (1 + z * z / num)))


def spread_of(pilot: Evidence) -> float:
    """An upper limit of the standard deviation of one unit's part in the difference, from the pilot's resamples."""
    if not isinstance(pilot, CountsEvidence) or pilot.num_units < 2:
        return 1.0
    freedom = pilot.num_units - 1
    seen = float(pilot.differences.std()) * pilot.num_units**0.5
    return float(seen * (freedom / float(special.chdtri(freedom, CAUTION))) ** 0.5)


def _widened(num: int, pilot: Shares) -> int:
    """As many examples as so many independent ones are worth, where examples share groups as the pilot's do."""
    return min(MOST, int(np.ceil(num * pilot.num / pilot.effective)))


def _in_examples(num_units: int, pilot: Evidence) -> int:
    return min(MOST, int(np.ceil(num_units * pilot.num / pilot.num_units)))


def _fewest_gained(differing: NDArray[np.int64], alpha: float) -> NDArray[np.int64]:
    """Fewest gains among so many pairs that differ at which McNemar's exact test finds a gain; one too many where none do."""
    found = np.ceil(differing / 2 + float(special.ndtri(1 - alpha)) * differing**0.5 / 2).astype(np.int64)
    found = np.clip(found, 1, differing + 1)
    while (short := (special.bdtrc(found - 1.0, differing, 0.5) > alpha) & (found <= differing)).any():
        found = found + short
    while (spare := (found > 1) & (special.bdtrc(found - 2.0, differing, 0.5) <= alpha)).any():
        found = found - spare
    return found


def _likely(num: int, share: float) -> NDArray[np.int64]:
    """The counts of a binomial that hold all but a billionth of its probability."""
    mean, spread = num * share, (num * share * (1 - share)) ** 0.5
    return np.arange(max(0, int(mean - 6.5 * spread - 8)), min(num, int(mean + 6.5 * spread + 8)) + 1)


def _fewest(is_enough: Callable[[int], bool]) -> int:
    """The smallest number of examples that is enough, by doubling and halving."""
    high = 2
    while not is_enough(high):
        if high >= MOST:
            return MOST
        high = min(MOST, 2 * high)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high
