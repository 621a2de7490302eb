"""What the gate says: each check with its outcome, and one verdict over all."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whet.evaluate.statistics import Interval

Outcome = Literal["pass", "fail", "can't tell"]
Decision = Literal["promote", "refuse", "can't tell"]
EXIT_CODES: dict[Decision, int] = {"promote": 0, "refuse": 1, "can't tell": 2}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the policy asks for.

    figure: what was found; limit: what it is held against; None where there is none. bounds: one-sided bounds of the
    figure at this look's level. num: examples that it rests on; needed: how many it would take to tell, where more would help.
    A check that could not run is "can't tell", never "pass".
    """

    name: str
    outcome: Outcome
    figure: float | None
    limit: float | None
    words: str
    bounds: Interval | None = None
    num: int | None = None
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the candidate may go live. words: one line. alpha: the level of each test at this look. not_asked: checks
    that the policy leaves out.
    """

    decision: Decision
    words: str
    checks: tuple[Check, ...]
    look: int
    looks: int
    alpha: float
    not_asked: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 promote, 1 refuse, 2 can't tell."""
        return EXIT_CODES[self.decision]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, keys as the fields are named."""
        return dataclasses.asdict(self) | {"exit_code": self.exit_code}


def conclude(checks: Sequence[Check], look: int, looks: int, alpha: float, not_asked: Sequence[str]) -> Verdict:
    """One failed check refuses; else one that can't tell leaves it open; only where all pass the candidate is promoted."""
    failed = [check for check in checks if check.outcome == "fail"]
    unclear = [check for check in checks if check.outcome == "can't tell"]
    decision: Decision = "refuse" if failed else "can't tell" if unclear or not checks else "promote"
    if failed:
        words = _first(failed)
    elif unclear:
        words = _first(sorted(unclear, key=_shortage, reverse=True))
    else:
        headline = next((check for check in checks if check.name.startswith("improvement")), None)
        words = (f"{headline.words}; " if headline else "") + f"all {len(checks)} checks pass"
    return Verdict(decision, f"{decision}: {words}", tuple(checks), look, looks, alpha, tuple(not_asked))


def say_signed(number: float) -> str:
    """A difference with its sign; the minus is the typographic one."""
    return "0.000" if round(number, 3) == 0 else f"{number:+.3f}".replace("-", "−")


def _first(checks: Sequence[Check]) -> str:
    more = f" ({len(checks) - 1} more of {'this kind' if len(checks) == 2 else 'these'})" if len(checks) > 1 else ""
    return f"{checks[0].name}: {checks[0].words}{more}"


def _shortage(check: Check) -> float:
    """By what factor a check lacks examples; what no number of examples would mend comes first."""
    return check.needed / max(check.num or 1, 1) if check.needed else float("inf")
