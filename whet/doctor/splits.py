"""Reads example files for the doctor: the rows of each split, what shapes they have, and what could not be read."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whet.data.clean import normalised, question_of
from whet.data.formats import ExampleFiles, raw_rows, read_examples
from whet.data.rows import DataFile, Reject, Tally
from whet.data.shapes import detect
from whet.doctor.offsets import count_offsets, is_standoff
from whet.records import Example
from whet.storage import hash_text

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "test": "test",
}
MOST_ROWS = 50_000  # of a file; the figures then speak of the first ones, and a note says so
SPARE = ("id", "idx", "source", "meta", "metadata", "category", "difficulty", "timestamp")


@dataclass(slots=True)
class Rows:
    """The rows of one split."""

    name: str
    paths: tuple[Path, ...]
    examples: list[Example] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    shapes: dict[str, str] = field(default_factory=dict)
    """Of each row by its place: its format."""
    feedback: Counter[str] = field(default_factory=Counter)
    """Rows of a review queue by what they are: unreviewed, corrected, unchecked."""
    cut: list[tuple[Path, int]] = field(default_factory=list)
    """Files of which the first rows alone were read, and how many."""
    offsets: tuple[int, int, int] = (0, 0, 0)
    """Entities of stand-off rows; those whose offsets point elsewhere; those of them that are off by one."""
    keys: list[str] = field(default_factory=list)
    """Hash of each example's normalised question."""
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return ", ".join(str(path) for path in self.paths[:2])


def split_of(path: Path) -> str:
    """The split that a file's name says, or else its folder's whole name; train where neither says one."""
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    folder = SPLIT_WORDS.get(path.absolute().parent.name.lower(), "train")
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), folder)


def read_rows(paths: list[Path]) -> list[Rows]:
    """The rows of all files by split. InputError where a file can't be read at all."""
    found: dict[str, Rows] = {}
    for path in paths:
        name = split_of(path)
        rows = found.setdefault(name, Rows(name, ()))
        rows.paths = (*rows.paths, path)
        _read_file(rows, path)
    for rows in found.values():
        for example in rows.examples:
            text = normalised(question_of(example))
            key = hash_text(text)
            rows.keys.append(key)
            rows.texts[key] = text
    return [found[name] for name in ("train", "valid", "test") if name in found]


def _read_file(rows: Rows, path: Path) -> None:
    file = DataFile(path, str(path))
    source = ExampleFiles(reader="examples", path=path, mixed="allow", ignore_keys=SPARE)
    num_standoff = 0
    for number, row in enumerate(raw_rows(source, Tally(), file)):
        if number >= MOST_ROWS:
            rows.cut.append((path, number))
            break
        if not isinstance(row, Reject) and isinstance(row.value, dict):
            kind = _feedback(row.value)
            if kind:
                rows.feedback[kind] += 1
            if is_standoff(row.value):
                first, second, third = count_offsets(row.value)
                rows.offsets = (rows.offsets[0] + first, rows.offsets[1] + second, rows.offsets[2] + third)
                num_standoff += 1
            rows.shapes[row.place] = detect(row.value) or "unknown"
            rows.formats[rows.shapes[row.place]] += 1
    if set(rows.formats) == {"unknown"} and (rows.feedback or num_standoff):
        return
    for number, found in enumerate(read_examples(source, (file,), Tally())):
        if number >= MOST_ROWS:
            break
        (rows.examples if isinstance(found, Example) else rows.rejects).append(found)  # type: ignore[arg-type]


def _feedback(row: dict[str, Any]) -> str:
    """What a row of a review queue is; empty for any other row."""
    if not ("model_output" in row or "extracted_data" in row):
        return ""
    if row.get("correction") or row.get("corrections") or row.get("corrected_output"):
        return "corrected"
    return "unchecked" if row.get("needs_review") is False and not row.get("validation") else "unreviewed"
