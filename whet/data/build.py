"""A recipe's data section to a versioned data folder: read, clean, split, show that nothing leaks, write."""

import contextlib
import importlib.metadata
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from whet.config import Settings
from whet.data.clean import CleanSettings, drop_duplicates, drop_near, drop_negatives
from whet.data.intake import SHOWN, Adopter, Intake, RejectsFile, listed, stop_at
from whet.data.near import Clusters, NearTexts, ngrams
from whet.data.sources import Source, files_of, read
from whet.data.split import (
    KINDS,
    Leaks,
    SplitSettings,
    assign,
    find_leaks,
    join,
    join_near,
    move_to_train,
    wanted_splits,
)  # fmt: skip
from whet.data.spool import SPLITS, STATES, UNDECIDED, Ledger, Spool, hash_split
from whet.errors import InputError
from whet.records import Example
from whet.storage import hash_file, read_json, staged_folder, write_json, write_jsonl
from whet.text.prepare import PrepareSettings

Progress = Callable[[str, int], None]
READ_STAGES = ("rejected", "not_adopted", "empty", "over_long", "ungrounded", "choice")
PAIRS_KEPT = 200
TEXT_KEPT = 120  # characters of a text in a leak's report
SAID = 24  # and in a message


class DataSettings(Settings):
    """What the examples are made of."""

    root: Path | None = None
    """Folder that relative source paths start from; null: the recipe's own folder."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """The files to read, each with its reader."""
    prepare: PrepareSettings = PrepareSettings()
    """How texts are made uniform."""
    clean: CleanSettings = CleanSettings()
    """Which examples are left out."""
    split: SplitSettings = SplitSettings()
    """How examples are dealt out to train, valid and test."""
    max_bad_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Largest share of rows that can't be used, 0 to 1; with more the build stops."""


@dataclass(frozen=True)
class Manifest:
    """What a data folder was made of, by what, and what became of every row.

    funnel: rows by stage; "read" is the sum of all others but "moved_for_leak", whose rows are counted elsewhere too.
    statistics: by split the numbers of examples, records, negatives, characters, tokens (null if not counted).
    """

    version: str
    """Of whet."""
    sources: list[dict[str, Any]]
    funnel: dict[str, int]
    faults: dict[str, int]
    """Rows with a fault of each kind, those that were kept too."""
    settings: dict[str, Any]
    token_limit: int | None
    split_hash: str
    leaks: dict[str, Any]
    statistics: dict[str, dict[str, int | None]]

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows are in no split, by the stage that left them out."""
        return {stage: num for stage, num in self.funnel.items() if num and stage not in ("read", "moved_for_leak", *SPLITS)}


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a data folder."""
    try:
        return Manifest(**read_json(folder / "manifest.json"))
    except TypeError:
        place = str(folder / "manifest.json")
        raise InputError(place, "is no manifest of this version", "Build the data again") from None


def build(
    settings: DataSettings,
    task: Adopter,
    out: Path,
    count_tokens: Callable[[Example], int] | None = None,
    token_limit: int | None = None,
    progress: Progress | None = None,
    root: Path = Path(),
) -> Manifest:
    """Build the data folder `out`: train, valid, test, rejects and leaks as JSONL, and the manifest.

    count_tokens: the tokens of an example's whole conversation, answer included. progress: told (stage, rows so far).
    root: the recipe's folder. Memory grows by about 1 KB a row whatever its length, time with the rows. The same
    input and settings give the same bytes. Raises InputError if the data can't be used as the settings ask; then
    `<out>.rejects.jsonl` and `<out>.leaks.jsonl` hold what was found.
    """
    root = root / settings.root if settings.root else root
    with staged_folder(out) as folder, _kept_on_failure(folder, out), contextlib.ExitStack() as stack:
        spool, rejects = Spool(folder), RejectsFile(folder / "rejects.jsonl")
        stack.callback(spool.remove)
        stack.callback(rejects.close)
        intake = Intake(task, settings.prepare, settings.clean, spool, rejects, count_tokens, token_limit)
        return _Build(settings, spool, rejects, intake, out, folder, progress or (lambda stage, num: None)).run(root)


@contextlib.contextmanager
def _kept_on_failure(folder: Path, out: Path) -> Iterator[None]:
    """What was set aside is copied out of the staged folder if the build fails; older copies go."""
    names = ("rejects.jsonl", "leaks.jsonl")
    for name in names:
        _beside(out, name).unlink(missing_ok=True)
    try:
        yield
    except InputError:
        for name in names:
            path = folder / name
            if path.exists() and path.stat().st_size:
                shutil.copyfile(path, _beside(out, name))
        raise


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.name}.{name}")


class _Build:
    """One build from the first row to the manifest."""

    def __init__(
        self,
        settings: DataSettings,
        spool: Spool,
        rejects: RejectsFile,
        intake: Intake,
        out: Path,
        folder: Path,
        progress: Progress,
    ) -> None:
        self._settings, self._spool, self._rejects, self._intake = settings, spool, rejects, intake
        self._out, self._folder, self._progress = out, folder, progress
        self._faults: Counter[str] = Counter()

    def run(self, root: Path) -> Manifest:
        self._read(root)
        rows = self._spool.close_writing()
        _, wanted = wanted_splits(rows, self._settings.split)
        near = self._index(rows)
        clusters = self._clean(rows, near)
        labels = assign(rows, clusters, self._settings.split)
        self._drop_repeated(rows, labels)
        leaks = self._heal(rows, labels, near, clusters)
        self._write(rows, labels)
        manifest = self._describe(rows, labels, leaks, root)
        self._refuse_empty_splits(wanted, manifest)
        write_json(self._folder / "manifest.json", asdict(manifest))
        return manifest

    def _read(self, root: Path) -> None:
        for source in self._settings.sources:
            counts = self._intake.begin_source(source.name or source.path.as_posix(), source.split, source.as_published)
            for row in read(source, root, counts.tally):
                self._intake.take(row)
                if self._intake.num_read % 500 == 0:
                    self._progress("read", self._intake.num_read)
        self._progress("read", self._intake.num_read)
        self._intake.check(self._settings.max_bad_share, _beside(self._out, "rejects.jsonl"))

    def _index(self, rows: Ledger) -> NearTexts:
        """All distinct normalised questions, to be asked for near ones."""
        self._progress("compare", rows.num_keys)
        _, first = np.unique(rows.key, return_index=True)
        split = self._settings.split

        def grams_of(key: int) -> NDArray[np.uint64]:
            return ngrams(self._spool.key(int(first[key])), split.ngram, split.ngram_alphabetic)

        return NearTexts(rows.num_keys, grams_of, split.near_threshold)

    def _clean(self, rows: Ledger, near: NearTexts) -> Clusters:
        """Leave out what the settings say; gives what must stay together of the rest."""
        clean, split = self._settings.clean, self._settings.split
        self._drop_repeated(rows, rows.given.copy())
        if clean.near_duplicates == "drop":
            alike = Clusters(rows.num_keys)
            join_near(rows, alike, near)
            self._faults["near_duplicate"] += drop_near(rows, rows.given, alike.names(np.arange(rows.num_keys)))
        if clean.negative_share is not None:
            drop_negatives(rows, rows.given, clean.negative_share, split.seed)
        return join(rows, near if split.keep_near_together else None, split.group_by == "group")

    def _drop_repeated(self, rows: Ledger, pools: NDArray[np.int8]) -> None:
        """Leave out repeated texts of a pool, in `pools` too; two golds for one text stop the build if so set."""
        self._faults.update(drop_duplicates(rows, pools, self._settings.clean))
        pools[~rows.alive] = UNDECIDED
        if self._settings.clean.conflicting == "stop":
            found = np.flatnonzero(rows.state == STATES.index("conflicting"))
            if len(found):
                self._list_dropped(rows)
                shown = [
                    f"{self._place(row)}: the text of {self._place(int(rows.partner[row]))}, another gold"
                    for row in found[:SHOWN].tolist()
                ]
                stop_at({"conflicting": shown}, {"conflicting": len(found)}, _beside(self._out, "rejects.jsonl"))

    def _heal(self, rows: Ledger, labels: NDArray[np.int8], near: NearTexts, clusters: Clusters) -> dict[str, Any]:
        """Look for leaks, write them down, and stop or move them; gives the report."""
        split = self._settings.split
        by_group = split.group_by == "group"
        leaks = find_leaks(rows, labels, near, by_group)
        counts, num_own = leaks.counts(labels), int((~leaks.reported_only).sum())
        write_jsonl(self._folder / "leaks.jsonl", (self._pair(leaks, at, labels) for at in range(len(leaks))))
        report: dict[str, Any] = {
            "policy": split.leaks, "near_threshold": split.near_threshold, "num_compared": int(rows.alive.sum()),
            "found": counts, "num_found": len(leaks), "num_reported_only": int(leaks.reported_only.sum()), "moved": 0,
            "pairs": [self._pair(leaks, at, labels) for at in range(min(len(leaks), PAIRS_KEPT))],
        }  # fmt: skip
        if num_own and split.leaks == "stop":
            self._stop_at_leaks(leaks, labels, num_own)
        while num_own:
            if not split.keep_near_together:
                join_near(rows, clusters, near)
            moved = move_to_train(rows, labels, leaks, clusters)
            assert moved, "a leak that can't be moved"
            report["moved"] += moved
            self._drop_repeated(rows, labels)
            leaks = find_leaks(rows, labels, near, by_group)
            num_own = int((~leaks.reported_only).sum())
        # Counted again: a row that was moved to train may now stand in a published test split too.
        left = {"left": leaks.counts(labels), "num_left": len(leaks), "num_partly_compared": near.num_capped}
        return report | left | {"num_reported_only": int(leaks.reported_only.sum())}

    def _stop_at_leaks(self, leaks: Leaks, labels: NDArray[np.int8], num: int) -> None:
        own = np.flatnonzero(~leaks.reported_only)
        pairs = [self._pair(leaks, int(at), labels) for at in own[:SHOWN]]
        shown = [
            f"{pair['place']} ({pair['split']}) and {pair['partner_place']} ({pair['partner_split']}): {pair['kind']}"
            + (f" {pair['similarity']:.2f}" if pair["kind"] == "near" else "")
            + f": {pair['text'][:SAID]}"
            for pair in pairs
        ]
        numbers = [
            f"{kind} {number} ({splits})"
            for kind, by_pair in leaks.counts(labels, ~leaks.reported_only).items()
            for splits, number in by_pair.items()
        ]
        raise InputError(
            pairs[0]["place"],
            f"{num} example{'s' * (num > 1)} leak{'s' * (num == 1)} between splits, {', '.join(numbers)}",
            "Set data.split.leaks=move to put the offenders into train, or as_published: true on the source whose split"
            f" must stay as it is. {listed(shown, num, _beside(self._out, 'leaks.jsonl'))}",
        )

    def _pair(self, leaks: Leaks, at: int, labels: NDArray[np.int8]) -> dict[str, Any]:
        """One leak as plain JSON."""
        row, partner = int(leaks.rows[at]), int(leaks.partners[at])
        here, there = self._spool.row(row), self._spool.row(partner)
        return {
            "kind": KINDS[leaks.kinds[at]],
            "similarity": round(float(leaks.similarity[at]), 4),
            "reported_only": bool(leaks.reported_only[at]),
            "split": SPLITS[labels[row]], "place": here["source"], "id": here["id"], "text": here["text"][:TEXT_KEPT],
            "partner_split": SPLITS[labels[partner]], "partner_place": there["source"], "partner_id": there["id"],
            "partner_text": there["text"][:TEXT_KEPT],
        }  # fmt: skip

    def _place(self, row: int) -> str:
        return str(self._spool.row(row)["source"])

    def _list_dropped(self, rows: Ledger) -> None:
        """Add what cleaning left out to the rejects."""
        said = {
            "exact_duplicate": "the text and gold of {}",
            "conflicting": "the text of {}, with another gold",
            "near_duplicate": "nearly the text of {}",
            "negative": "no records; there are more such examples than data.clean.negative_share allows",
        }
        for row in np.flatnonzero(rows.state).tolist():
            stage, partner = STATES[rows.state[row]], int(rows.partner[row])
            seen = said[stage].format(self._place(partner) if partner >= 0 else "")
            body = self._spool.row(row)
            self._rejects.add(stage, place=body["source"], seen=seen, remedy="", row=body)

    def _write(self, rows: Ledger, labels: NDArray[np.int8]) -> None:
        """The three splits in the order of their sources, and the rejects."""
        for number, name in enumerate(SPLITS):
            with (self._folder / f"{name}.jsonl").open("wb") as file:
                for row in np.flatnonzero(labels == number).tolist():
                    file.write(self._spool.line(row))
        self._list_dropped(rows)
        self._progress("write", int(rows.alive.sum()))

    def _describe(self, rows: Ledger, labels: NDArray[np.int8], leaks: dict[str, Any], root: Path) -> Manifest:
        stages = {name: rows.state == number for number, name in enumerate(STATES) if number}
        stages |= {name: labels == number for number, name in enumerate(SPLITS)}
        funnel = {"read": self._intake.num_read}
        funnel |= {stage: self._intake.total(stage) for stage in READ_STAGES}
        funnel |= {name: int(mask.sum()) for name, mask in stages.items()} | {"moved_for_leak": leaks["moved"]}
        sources = [
            {
                "name": source.name, "split": source.split, "as_published": source.as_published,
                "files": {file.name: hash_file(file.path) for file in files_of(said, root)},
                "reader": dict(sorted(source.tally.items())),
                "counts": {"read": source.counts["read"]} | {stage: source.counts[stage] for stage in READ_STAGES}
                | {name: int((mask & (rows.source == number)).sum()) for name, mask in stages.items()},
            }
            for number, (source, said) in enumerate(zip(self._intake.sources, self._settings.sources, strict=True))
        ]  # fmt: skip
        return Manifest(
            version=importlib.metadata.version("whet"),
            sources=sources,
            funnel=funnel,
            faults={kind: number for kind, number in sorted((self._intake.faults + self._faults).items()) if number},
            settings=self._settings.model_dump(mode="json"),
            token_limit=self._intake.token_limit,
            split_hash=hash_split(
                (str(self._spool.row(row)["id"]), SPLITS[labels[row]]) for row in np.flatnonzero(labels >= 0).tolist()
            ),
            leaks=leaks,
            statistics={name: self._count(rows, labels == number) for number, name in enumerate(SPLITS)},
        )

    def _count(self, rows: Ledger, mask: NDArray[np.bool_]) -> dict[str, int | None]:
        return {
            "examples": int(mask.sum()),
            "records": int(rows.num_records[mask].sum()),
            "negatives": int(rows.negative[mask].sum()),
            "characters": int(rows.num_chars[mask].sum()),
            "tokens": int(rows.num_tokens[mask].sum()) if self._intake.counts_tokens else None,
        }

    def _refuse_empty_splits(self, wanted: tuple[int, ...], manifest: Manifest) -> None:
        """Refuse a split that shall have examples and has none, and a train split from which nothing can be learnt."""
        funnel, train = manifest.funnel, manifest.statistics["train"]
        empty = [SPLITS[split] for split in wanted if not funnel[SPLITS[split]]]
        where = " and ".join(empty) or ("" if wanted else "any split")
        if not where and train["examples"] and train["examples"] == train["negatives"]:
            where = "train that have a record"
        if where:
            steps = ", ".join(f"{stage} {number}" for stage, number in funnel.items() if number)
            raise InputError(
                self._rejects.first[0].partition(": ")[0] if self._rejects.first else str(self._out),
                f"no examples are left in {where} ({steps or 'nothing was read'})",
                "Add data, change data.split, or loosen data.clean; are the names of tags and fields right? "
                + (listed(self._rejects.first, sum(manifest.left_out.values()), _beside(self._out, "rejects.jsonl"))
                   if self._rejects.first else ""),
            )  # fmt: skip
