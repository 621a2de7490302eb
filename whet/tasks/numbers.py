"""Numbers in running text, exactly: thousands separators, decimals, fractions and units, as worked sums are answered."""

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

GOLD_MARKER = "####"
"""Stands before the final number in GSM8K's golds (Cobbe et al. 2021, arXiv 2110.14168)."""
MAX_DIGITS = 400  # of one number; a reply that repeats a digit for ever is no number

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    # A minus after a digit, a letter or a bracket is a subtraction. A digit after a Latin letter is a name (H2O, x1).
    r"(?P<sign>(?<![\w)\]])[-+])?\s?[$€£¥]?\s?"
    rf"(?<![A-Za-z_\d.])(?:(?:(?P<mixed>\d+)\s+)?(?P<over>{_WHOLE})\s*/\s*(?P<under>{_WHOLE})(?![\d.])"
    rf"|(?P<plain>{_WHOLE}(?:\.\d+)?|\.\d+)(?P<power>[eE][-+]?\d{{1,3}}(?![\w]))?)"
)
_MINUS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "⁄": "/"})


def number_of(text: str, marker: str | None = None) -> Fraction | None:
    """The last number of a text, or the first one after its last `marker`; None where there is none.

    Exact: 0.1 is one tenth. A unit, a currency sign and a per cent sign are left aside: 50 % is 50, not one half.
    """
    is_marked = marker is not None and marker in text
    if marker is not None and not is_marked:
        return None
    found = _numbers(text.rpartition(marker)[2] if marker is not None else text)
    return (found[0] if is_marked else found[-1]) if found else None


def gold_number(text: str) -> Fraction | None:
    """The number of a gold: what stands after GSM8K's ####, where it has that mark, else its last number."""
    return number_of(text, GOLD_MARKER if GOLD_MARKER in text else None)


def say_number(number: Fraction) -> str:
    """A number as text: whole numbers and finite decimals as such, others as fractions."""
    if number.denominator == 1:
        return str(number.numerator)
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1 and number.denominator < 10**12 and abs(number.numerator) < 10**15:
        return str((Decimal(number.numerator) / Decimal(number.denominator)).normalize())
    return f"{number.numerator}/{number.denominator}"


def _numbers(text: str) -> list[Fraction]:
    """Every number of a text, in order."""
    # A vulgar fraction unfolds to digits that would join those before it: 1½ is 1 1/2, not 11/2.
    spaced = "".join(f" {char}" if unicodedata.decomposition(char).startswith("<fraction>") else char for char in text)
    plain = unicodedata.normalize("NFKC", spaced).translate(_MINUS)
    return [number for found in _NUMBER.finditer(plain) if (number := _value(found)) is not None]


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found.group()) > MAX_DIGITS:
        return None
    if found["plain"] is not None:
        number = Fraction(Decimal(found["plain"].replace(",", "") + (found["power"] or "")))
    else:
        under = int(found["under"].replace(",", ""))
        if under == 0:
            return None
        number = Fraction(int(found["over"].replace(",", "")), under) + int(found["mixed"] or 0)
    return -number if found["sign"] == "-" else number
