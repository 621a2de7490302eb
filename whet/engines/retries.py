"""When a request that failed is sent again: which answers pass, and how long to wait."""

import datetime
import email.utils
import math
import random

LONGEST_BACKOFF_S = 60.0


def is_passing(status: int) -> bool:
    """Whether an HTTP status may be another one later: too busy, too slow, or the server's own fault."""
    return status in (408, 425, 429) or (500 <= status <= 599 and status not in (501, 505))


def backoff(attempt: int, base_s: float, draw: random.Random) -> float:
    """Seconds to wait after the given number of failures: evenly drawn below a bound that doubles each time (full jitter,
    Brooker 2015, "Exponential Backoff And Jitter").
    """
    return draw.uniform(0, min(LONGEST_BACKOFF_S, base_s * 2.0 ** min(attempt - 1, 30)))


def asked_wait(header: str | None, now: datetime.datetime) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date (RFC 9110, 10.2.3); None where it asks for none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=datetime.UTC)
        seconds = (until - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
