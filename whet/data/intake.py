"""The reading pass of a data build: each row is adopted, prepared, judged, and spooled or set aside with its reason."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from whet.data.clean import CleanSettings, gold_of, judge, normalised, question_of
from whet.data.rows import Reject
from whet.data.spool import SPLITS, UNDECIDED, Spool, digest
from whet.errors import InputError
from whet.records import Example, example_to_json
from whet.text.prepare import PrepareSettings, prepare_example

SHOWN = 5  # places named in a message
REMEDIES = {
    "empty": "Give these rows a text",
    "over_long": "Shorten them, or raise the length limit",
    "ungrounded": "Mend the gold so that it stands in the text",
    "choice": "Mend the gold, or add the value to the field's choices",
    "conflicting": "Decide which gold is right",
}
NAMES = {
    "empty": "with nothing in it",
    "over_long": "over-long",
    "ungrounded": "with ungrounded gold",
    "choice": "with gold outside its choices",
    "conflicting": "with conflicting gold",
}


class Refusal(Protocol):
    """What a task gives in place of an example that it can't adopt."""

    @property
    def reason(self) -> str: ...


class Adopter(Protocol):
    """What a data build needs of a task."""

    def adopt(self, example: Example, /) -> Example | Refusal:
        """The example as the task needs it, or why it can't be."""
        ...

    def faults(self, example: Example, /) -> tuple[str, ...]:
        """What is wrong with the gold, each as `kind: words`; kinds are "ungrounded", "choice", "empty"."""
        ...


class RejectsFile:
    """Every row that is left out, with the stage that left it out and why; one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self.first: list[str] = []
        """The first few, each as `place: what was seen`."""

    def add(self, stage: str, **said: Any) -> None:
        if len(self.first) < SHOWN:
            self.first.append(f"{said['place']}: {said['seen']}")
        line = json.dumps({"stage": stage} | said, ensure_ascii=False)
        try:
            self._file.write(line + "\n")
        except UnicodeEncodeError:  # half a character: written as an escape, so that it is not lost
            self._file.write(json.dumps({"stage": stage} | said) + "\n")

    def close(self) -> None:
        self._file.close()


@dataclass
class SourceCounts:
    """What came out of one source."""

    name: str
    split: str | None
    as_published: bool
    counts: Counter[str] = field(default_factory=Counter)
    tally: Counter[str] = field(default_factory=Counter)
    """What the reader counted by the way."""


class Intake:
    """Takes the rows of all sources in turn.

    `sources` counts by stage; `faults` what was found of each kind, kept rows included; `stopping` the first places of
    the kinds whose policy is to stop, `bad` of the rows that could not be used at all, and `fatal` of those among them
    that stop the build however few they are.
    """

    def __init__(
        self,
        task: Adopter,
        prepare: PrepareSettings,
        clean: CleanSettings,
        spool: Spool,
        rejects: RejectsFile,
        count_tokens: Callable[[Example], int] | None,
        token_limit: int | None,
    ) -> None:
        self._task, self._prepare, self._clean = task, prepare, clean
        self._spool, self._rejects = spool, rejects
        self._count_tokens, self.token_limit = count_tokens, token_limit
        self.counts_tokens = count_tokens is not None
        self._ids: set[bytes] = set()
        self.sources: list[SourceCounts] = []
        self.faults: Counter[str] = Counter()
        self.stopping: dict[str, list[str]] = {}
        self.bad: list[tuple[str, str, str]] = []
        self.fatal: list[tuple[str, str, str]] = []
        self.num_read = 0

    def begin_source(self, name: str, split: str | None, as_published: bool) -> SourceCounts:
        """All rows taken from now on are this source's."""
        self.sources.append(SourceCounts(name, split, as_published))
        return self.sources[-1]

    def take(self, row: Example | Reject) -> None:
        """Spool one row, or set it aside."""
        self.num_read += 1
        source = self.sources[-1]
        source.counts["read"] += 1
        place = row.place if isinstance(row, Reject) else row.source
        if isinstance(row, Reject):
            remedy = row.remedy or (f"The nearest known format is {row.nearest}" if row.nearest else "")
            self._refuse("rejected", place, row.seen, remedy, **_without_place(row.to_json()))
            if row.stops and len(self.fatal) < SHOWN:
                self.fatal.append((place, row.seen, remedy))
            return
        adopted = self._task.adopt(row)
        if not isinstance(adopted, Example):
            self._refuse("not_adopted", place, adopted.reason, "", remedy="", row=example_to_json(row))
            return
        self._judge(prepare_example(adopted, self._prepare))

    def _judge(self, example: Example) -> None:
        """Spool an example unless its faults speak against it."""
        faults = list(self._task.faults(example))
        try:
            num_tokens = self._count_tokens(example) if self._count_tokens else 0
        except InputError as error:
            # The chat template can't hold this row: it has a mark of the template in it, say.
            self._refuse(
                "not_adopted", example.source, error.what, error.remedy, remedy=error.remedy, row=example_to_json(example)
            )
            return
        if self.token_limit is not None and num_tokens > self.token_limit:
            faults.append(f"over_long: {num_tokens} tokens with its answer; the limit is {self.token_limit}")
        self.faults.update({fault.partition(":")[0] for fault in faults})
        if faults:
            kind, policy = judge(faults, self._clean)
            words = [fault.partition(": ")[2] for fault in faults if fault.startswith(kind)]
            if policy != "keep":
                self._set_aside(example, kind, "; ".join(words), stop=policy == "stop")
                return
        question = question_of(example)
        source = self.sources[-1]
        self._spool.add(
            self._with_own_id(example),
            question,
            normalised(question),
            gold_of(example),
            given=SPLITS.index(source.split) if source.split else UNDECIDED,
            published=source.as_published,
            source=len(self.sources) - 1,
            num_tokens=num_tokens,
        )

    def _set_aside(self, example: Example, kind: str, words: str, *, stop: bool) -> None:
        self.sources[-1].counts[kind] += 1
        self._rejects.add(kind, place=example.source, seen=words, remedy=REMEDIES[kind], row=example_to_json(example))
        if stop:
            self.stopping.setdefault(kind, [])
            if len(self.stopping[kind]) < SHOWN:
                self.stopping[kind].append(f"{example.source}: {words}")

    def _refuse(self, stage: str, place: str, seen: str, remedy: str, /, **said: Any) -> None:
        self.sources[-1].counts[stage] += 1
        if len(self.bad) < SHOWN:
            self.bad.append((place, seen, remedy))
        self._rejects.add(stage, **{"place": place, "seen": seen} | said)

    def _with_own_id(self, example: Example) -> Example:
        """The example under an id that no other has: the second of a kind gets #2."""
        name, number = example.id, 1
        while (key := digest(name, 8)) in self._ids:
            number += 1
            name = f"{example.id}#{number}"
        self._ids.add(key)
        return example if number == 1 else replace(example, id=name)

    def total(self, stage: str) -> int:
        """How many rows of all sources ended in a stage."""
        return sum(source.counts[stage] for source in self.sources)

    def check(self, max_bad_share: float, rejects_path: Path) -> None:
        """Raise InputError if too many rows are bad, or if a fault was found whose policy is to stop."""
        num_bad = self.total("rejected") + self.total("not_adopted")
        is_too_many = num_bad > max_bad_share * self.num_read
        if is_too_many or self.fatal:
            first = [*self.fatal, *(bad for bad in self.bad if bad not in self.fatal)][:SHOWN]
            rows = [f"{place}: {seen}" + (f" ({remedy})" if remedy else "") for place, seen, remedy in first]
            why = f"data.max_bad_share={max_bad_share:g} allows less" if is_too_many else "one like the first is enough to stop"
            way = "" if self.fatal else ", or raise data.max_bad_share to go on without them"
            raise InputError(
                first[0][0],
                f"{num_bad} of {self.num_read} rows can't be used; {why}",
                f"Mend them{way}. " + listed(rows, num_bad, rejects_path),
            )
        stop_at(self.stopping, {kind: self.total(kind) for kind in self.stopping}, rejects_path)


def stop_at(stopping: Mapping[str, Sequence[str]], numbers: Mapping[str, int], rejects_path: Path) -> None:
    """Raise one InputError about all kinds of faults whose policy is to stop, if there are any.

    stopping: by kind its first rows, each as `place: words`; numbers: by kind how many there are.
    """
    if not stopping:
        return
    remedies = [
        f"{REMEDIES[kind]}, or set data.clean.{kind}={'first' if kind == 'conflicting' else 'drop'} to go on. "
        for kind in stopping
    ]
    rows = [f"{row} ({NAMES[kind]})" for kind, shown in stopping.items() for row in shown]
    place = next(iter(stopping.values()))[0].split(": ", 1)[0]
    what = ", ".join(f"{numbers[kind]} row{'s' * (numbers[kind] != 1)} {NAMES[kind]}" for kind in stopping)
    raise InputError(place, what, "".join(remedies) + listed(rows, sum(numbers.values()), rejects_path))


def listed(rows: Sequence[str], num: int, path: Path) -> str:
    """The first rows below one another, and where all of them are."""
    head = f"All {num} are in {path}; the first:" if num > len(rows) else f"Listed in {path}:"
    return "\n  ".join([head, *rows])


def _without_place(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in ("place", "seen")}
