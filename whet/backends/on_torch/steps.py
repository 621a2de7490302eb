"""What updates carry besides weights and optimiser: their count, from which random numbers follow, and the loss scale."""

from typing import Any

import numpy as np

START, GROW_AFTER = 2.0**15, 2_000  # as in Micikevicius et al. 2018, arXiv 1710.03740
LARGEST = 2.0**24


class Steps:
    """The number of updates, and for fp16 the factor that keeps small gradients above zero."""

    def __init__(self, seed: int, *, is_scaled: bool) -> None:
        self.seed, self.count = seed, 0
        self.is_scaled = is_scaled
        self.scale = START if is_scaled else 1.0
        self.num_good = 0

    def random_seed(self, rank: int) -> int:
        """Seed of a rank's dropout in the next update: a function of run, update and rank, so that nothing else must be saved."""
        return int(np.random.SeedSequence([self.seed, self.count, rank]).generate_state(1, np.uint64)[0] >> 1)

    def overflow(self) -> bool:
        """The gradients overflowed: halve the scale. False where that can't help."""
        if not self.is_scaled or self.scale <= 1:
            return False
        self.scale, self.num_good = self.scale / 2, 0
        return True

    def done(self) -> None:
        """An update has ended."""
        self.count += 1
        self.num_good += 1
        if self.is_scaled and self.num_good >= GROW_AFTER and self.scale < LARGEST:
            self.scale, self.num_good = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "scale": self.scale, "num_good": self.num_good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.scale, self.num_good = int(state["count"]), float(state["scale"]), int(state["num_good"])
