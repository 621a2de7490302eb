"""Holds an output to the settings that made its answers: what other settings would say is never mixed into it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.extract.state import FILE, STANDARD_INPUT_FILE, State

SHOWN = 3  # differences that the message names


def open_state(folder: Path, decisive: Mapping[str, Any], *, is_anew: bool) -> State:
    """The state in a folder, bound to these settings; refused where it was made with others.

    decisive: all that decides what the answers are, as plain JSON.
    """
    if is_anew:
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm", STANDARD_INPUT_FILE):
            (folder / name).unlink(missing_ok=True)
    state = State(folder)
    try:
        before = state.fact("settings")
        if before is not None and before != decisive:
            differences = list(_differences(before, decisive, ""))
            more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
            raise InputError(
                str(folder),
                f"was made with other settings: {'; '.join(differences[:SHOWN])}{more}",
                "Give another -o, or start over with --anew",
            )
        state.set_fact("settings", decisive)
        state.commit()
    except BaseException:
        state.close()
        raise
    return state


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    """Each setting that differs, with both values."""
    if name == "code" and before != now:
        rooms = [room for room in now if before.get(room) != now[room]]
        yield f"whet's own code has changed ({', '.join(rooms) or 'less of it counts'})"
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (left, right) in enumerate(zip(before, now, strict=True)):
            yield from _differences(left, right, f"{name}.{number}")
    elif before != now:
        yield f"{name} is {_short(now)}, it was {_short(before)}"


def _short(value: Any) -> str:
    words = "nothing" if value is None else str(value)
    return words if len(words) <= 40 else f"{words[:12]}…"
