"""Examples on disk while a data folder is built, and in memory only a few numbers for each of them."""

import dataclasses
import hashlib
import json
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whet.records import Example, example_to_json
from whet.storage import canonical

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST, UNDECIDED = 0, 1, 2, -1
STATES = ("kept", "exact_duplicate", "conflicting", "near_duplicate", "negative")
"""What became of an example after it was read: its place in this tuple is its number in `Ledger.state`."""
_NUMBERS = ("given", "published", "source", "stratum", "negative", "num_records", "num_chars", "num_tokens")
T = TypeVar("T", bound=np.generic)


def draw(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A seeded random number for each id hash, the same whatever the order of the rows.

    splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
    """
    start = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")
    z = hashes ^ np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def digest(text: str, size: int = 16) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


@dataclasses.dataclass
class Ledger:
    """One number each for every example that was read; all arrays are [rows].

    `key`, `exact`, `group` and `gold` are dense ids: equal numbers mean the same normalised question, the same
    question, group, gold.
    """

    key: NDArray[np.int64]
    exact: NDArray[np.int64]
    group: NDArray[np.int64]
    gold: NDArray[np.int64]
    id_hash: NDArray[np.uint64]
    given: NDArray[np.int8]
    """The split that the source says, or UNDECIDED."""
    published: NDArray[np.bool_]
    source: NDArray[np.int16]
    stratum: NDArray[np.int32]
    negative: NDArray[np.bool_]
    """No record in it, though the task is to find records."""
    num_records: NDArray[np.int32]
    num_chars: NDArray[np.int32]
    num_tokens: NDArray[np.int32]
    state: NDArray[np.int8]
    partner: NDArray[np.int64]
    """For what was dropped: the row that it repeats, or -1."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def num_keys(self) -> int:
        return int(self.key.max()) + 1 if len(self) else 0

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows are still kept."""
        return np.equal(self.state, 0)

    def drop(self, row: int, reason: str, partner: int) -> None:
        self.state[row] = STATES.index(reason)
        self.partner[row] = partner


class Spool:
    """A file of example rows and a file of their normalised questions, both read back by number.

    A row costs about 120 bytes of memory while it is read, whatever the length of its text.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = folder / "rows.spool", folder / "keys.spool"
        self._files: list[Any] = [path.open("w+b") for path in self._paths]
        self._ends = array("Q", [0]), array("Q", [0])
        self._digests = {name: bytearray() for name in ("key", "exact", "group", "gold", "id")}
        self._columns = {name: array("i") for name in _NUMBERS}
        self._strata: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ends[0]) - 1

    def add(self, example: Example, question: str, key: str, gold: str, **numbers: int) -> None:
        """Put an example at the end. question, key, gold: as data/clean.py makes them.

        numbers: given, published, source, num_tokens. Raises UnicodeEncodeError, and adds nothing, if the example holds
        half a character (a lone surrogate).
        """
        line = (json.dumps(example_to_json(example), ensure_ascii=False) + "\n").encode()
        for file, ends, data in zip(self._files, self._ends, (line, key.encode()), strict=True):
            file.write(data)
            ends.append(ends[-1] + len(data))
        texts = {"key": key, "exact": question, "group": example.group, "gold": gold, "id": example.id}
        for name, text in texts.items():
            self._digests[name] += digest(text)
        numbers["stratum"] = self._strata.setdefault(example.category, len(self._strata))
        numbers["negative"] = example.records == ()
        numbers["num_records"] = len(example.records or ())
        numbers["num_chars"] = len(example.text)
        for name, column in self._columns.items():
            column.append(numbers[name])

    def close_writing(self) -> Ledger:
        """The numbers of all rows; from now on rows can be read and no more be added."""
        for file in self._files:
            file.flush()

        def ids(name: str) -> NDArray[np.int64]:
            digests = np.frombuffer(self._digests.pop(name), "V16")
            return np.unique(digests, return_inverse=True)[1].astype(np.int64)

        def numbers(name: str, kind: type[T]) -> NDArray[T]:
            return np.array(self._columns.pop(name), kind)

        size = len(self)
        return Ledger(
            key=ids("key"),
            exact=ids("exact"),
            group=ids("group"),
            gold=ids("gold"),
            id_hash=np.frombuffer(self._digests.pop("id"), "<u8")[::2].astype(np.uint64),
            given=numbers("given", np.int8),
            published=numbers("published", np.bool_),
            source=numbers("source", np.int16),
            stratum=numbers("stratum", np.int32),
            negative=numbers("negative", np.bool_),
            num_records=numbers("num_records", np.int32),
            num_chars=numbers("num_chars", np.int32),
            num_tokens=numbers("num_tokens", np.int32),
            state=np.zeros(size, np.int8),
            partner=np.full(size, -1, np.int64),
        )

    def line(self, row: int) -> bytes:
        """The JSON line of an example."""
        return self._read(0, row)

    def row(self, row: int) -> dict[str, Any]:
        """The example as plain JSON."""
        value: dict[str, Any] = json.loads(self.line(row))
        return value

    def key(self, row: int) -> str:
        """The normalised question of an example."""
        return self._read(1, row).decode()

    def _read(self, which: int, row: int) -> bytes:
        start, end = self._ends[which][row : row + 2]
        return os.pread(self._files[which].fileno(), end - start, start)  # not mapped: mapped pages count as memory

    def remove(self) -> None:
        """Close and delete both files."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            path.unlink(missing_ok=True)


def hash_split(names: Iterator[tuple[str, str]]) -> str:
    """SHA-256 over the sorted lines `["id","split"]`: the same for the same split, whatever the order of the rows."""
    return hashlib.sha256("\n".join(sorted(canonical(list(pair)) for pair in names)).encode()).hexdigest()
