"""The few exceptions that a user may see: each says the place, what is wrong, and the remedy."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO


class WhetError(Exception):
    """A fault that the user can mend.

    place: `file:line`, a setting's dotted name, or a folder. what: what was seen. remedy: what to do.
    """

    exit_code = 2

    def __init__(self, place: str, what: str, remedy: str = "") -> None:
        self.place, self.what, self.remedy = place, what, remedy
        super().__init__(": ".join(part for part in (place, what) if part) + (f". {remedy}" if remedy else ""))


class InputError(WhetError):
    """Data, a path or a model folder that can't be used as it is."""


class SettingsError(WhetError):
    """Every fault of a recipe or of its overrides, in one message."""

    def __init__(self, place: str, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        head = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__(place, "\n  ".join([head, *self.faults]))


class ProofError(WhetError):
    """A proof before or after training failed; nothing was trained, or what was trained is not trusted."""


class InterruptedRunError(WhetError):
    """The user stopped a run (Ctrl-C)."""

    exit_code = 130

    def __init__(self, kept: str) -> None:
        super().__init__("", f"stopped; {kept}")


class MissingExtraError(WhetError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__("", f"{purpose} needs {package}", f"Install it with: pip install 'whet[{extra}]'")


def counted(num: int, what: str, one: str = "", more: str = "") -> str:
    """A number and its noun, as messages say them: `1 row`, `2,000 rows`; with a verb `1 layer changes`, `2 layers change`."""
    noun = what if num == 1 else f"{what[:-1]}ies" if what.endswith("ry") else f"{what}s"
    verb = one if num == 1 else more
    return f"{num:,} {noun} {verb}".rstrip()


def open_to_read(path: Path) -> BinaryIO:
    """A binary file; every reason why it can't be opened becomes an InputError."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(str(path), "no such file", "Check the path; it is taken from the folder you stand in") from None
    except IsADirectoryError:
        raise InputError(str(path), "is a folder, a file is needed") from None
    except OSError as error:
        raise InputError(str(path), f"can't be read ({error.strerror})") from None
