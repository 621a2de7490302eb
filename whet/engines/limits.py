"""Keeps requests below so many a minute, in requests and in tokens."""


class Pace:
    """A leaky bucket: what is taken is spread evenly, and nothing is saved up for a burst.

    Between any two moments, no more is started than the minutes between them allow, and one piece beside. Times are seconds
    of any clock that never goes back.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._rate = per_minute / 60 if per_minute else None
        self._free_at = 0.0

    def soonest(self, now: float) -> float:
        """When the next piece may start."""
        return max(now, self._free_at)

    def take(self, start: float, amount: float) -> None:
        """A piece of this size starts at that time, which `soonest` gave or which is later."""
        if self._rate:
            self._free_at = max(self._free_at, start) + amount / self._rate

    def correct(self, difference: float) -> None:
        """A piece turned out larger (or smaller, below zero) than was taken for it."""
        if self._rate:
            self._free_at += difference / self._rate
