"""Turns example files of any format into one of another, row by row, and lists what the other can't say."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.data.formats import SUFFIXES, ExampleFiles, raw_rows
from whet.data.json_rows import JsonRow
from whet.data.rows import Reject, Tally, find_files
from whet.data.said_as import NAMES, CantSayError, write_row
from whet.data.shapes import FormatName, RowFault, detect, refuse
from whet.data.talk import Talk, read_talk
from whet.errors import InputError
from whet.storage import staged_file

PLACES = 3  # that a message names for each kind


@dataclass(slots=True)
class Converted:
    """What became of the rows: how many were written, and by kind how many lost something or were left out, and where first."""

    read: int = 0
    written: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    """Rows of each format that was read."""

    @property
    def listed(self) -> bool:
        """Whether anything was lost or left out."""
        return bool(self.lost or self.left_out)

    def note(self, counter: Counter[str], kind: str, place: str) -> None:
        counter[kind] += 1
        places = self.places.setdefault(kind, [])
        if len(places) < PLACES:
            places.append(place)


def losses_path(out: Path) -> Path:
    """Where the list of what was lost stands."""
    return out.with_name(f"{out.name}.losses.jsonl")


def convert(source: Path, out: Path, name: str, render: Callable[[Talk], str] | None = None) -> Converted:
    """Write the rows of a file or folder as JSONL (as a JSON list where `out` ends in .json), one at a time.

    name: a key of said_as.NAMES. render: see `write_row`. Every row that lost something or was left out is in
    `losses_path(out)` with its place and the kind. Raises InputError for files that can't be read or of which no row could be
    written; then nothing is.
    """
    if name not in NAMES:
        raise InputError("--to", f"{name!r} is no format that rows are written in", f"Known: {', '.join(NAMES)}")
    settings, tally, found = ExampleFiles(reader="examples", path=source, mixed="allow"), Tally(), Converted()
    files = find_files(settings, Path(), SUFFIXES, tally)
    if any(file.path.resolve() == out.resolve() for file in files):
        raise InputError(str(out), "is the file that is read", "Give another name with -o")
    is_list = out.suffix.lower() == ".json"
    losses = losses_path(out)
    with staged_file(out) as staged, staged_file(losses) as noted:
        with staged.open("w", encoding="utf-8", newline="\n") as file, noted.open("w", encoding="utf-8", newline="\n") as list_:
            for number, row in enumerate(_rows(settings, files, tally, NAMES[name], found, render, list_.write)):
                lead = ("[\n" if not number else ",\n") if is_list else ""
                file.write(lead + json.dumps(row, ensure_ascii=False) + ("" if is_list else "\n"))
            file.write("\n]\n" if is_list else "")
        if not found.written:
            kind, _ = found.left_out.most_common(1)[0] if found.left_out else ("no rows", 0)
            place = found.places.get(kind, [str(source)])[0]
            raise InputError(place, f"no row can be written as {name}: {kind}", "Choose another format with --to")
    if not found.listed:
        losses.unlink(missing_ok=True)
    return found


def _rows(
    settings: ExampleFiles, files: Any, tally: Tally, name: FormatName, found: Converted, render: Any, note: Callable[[str], Any]
) -> Iterator[dict[str, Any]]:
    """The rows that can be written; what was lost is noted on the way."""

    def tell(counter: Counter[str], kind: str, place: str, is_left_out: bool) -> None:
        found.note(counter, kind, place)
        note(json.dumps({"place": place, "kind": kind, "left_out": is_left_out}, ensure_ascii=False) + "\n")

    for file in files:
        for row in raw_rows(settings, tally, file):
            found.read += 1
            if isinstance(row, Reject):
                tell(found.left_out, row.seen, row.place, True)
                continue
            try:
                talk = _talk(row, found)
                written, lost = write_row(talk, name, render)
                json.dumps(written, ensure_ascii=False).encode("utf-8")
            except RowFault as fault:
                tell(found.left_out, fault.seen, row.place, True)
            except CantSayError as fault:
                tell(found.left_out, f"has {fault}", row.place, True)
            except UnicodeEncodeError:
                tell(found.left_out, "half of a surrogate pair", row.place, True)
            else:
                for kind in lost:
                    tell(found.lost, kind, row.place, False)
                found.written += 1
                yield written


def _talk(row: JsonRow, found: Converted) -> Talk:
    if not isinstance(row.value, dict):
        raise RowFault("no object", "Give each row the keys of a known format")
    name = detect(row.value)
    if name is None:
        refuse(row.value, None, row.value.keys())
        raise AssertionError("refuse() lets no row of unknown format pass")
    found.formats[name] += 1
    return read_talk(row.value, name)
