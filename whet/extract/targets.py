"""The files that an extraction writes: the output, its accepted and its other records, what failed, the summary."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.extract.rows import Row
from whet.extract.state import FILE, STANDARD_INPUT_FILE, State
from whet.extract.write import Format, columns_of, format_of, writing
from whet.storage import write_json, write_jsonl
from whet.tasks.extraction import FieldSettings


@dataclass(frozen=True, slots=True)
class Targets:
    """Where the records go, and in which form."""

    out: Path
    format: str | None = None
    """Of all the files; None goes by the end of each name."""
    accepted: Path | None = None
    """A file of the accepted records alone."""
    review: Path | None = None
    """A file of the records that are not accepted."""
    is_spreadsheet: bool = False

    @property
    def state(self) -> Path:
        """The folder of the state."""
        return self._beside("state")

    @property
    def failed(self) -> Path:
        """What could not be read or answered, with reasons."""
        return self._beside("failed.jsonl")

    @property
    def summary(self) -> Path:
        """What the extraction has come to."""
        return self._beside("summary.json")

    def _beside(self, what: str) -> Path:
        return self.out.with_name(f"{self.out.name}.{what}")

    def _files(self) -> list[tuple[Path, Format, bool | None]]:
        """Each file, its format, and which records it takes: all (None), the accepted ones, the others."""
        wanted = ((self.out, None), (self.accepted, True), (self.review, False))
        return [(path, format_of(path, self.format), which) for path, which in wanted if path]

    def check(self, fields: Sequence[FieldSettings], *, is_anew: bool) -> None:
        """InputError where the files can't be written, or where one is there that no extraction wrote."""
        folder = next((path for path in (self.out, self.accepted, self.review) if path and path.is_dir()), None)
        if folder:
            raise InputError(str(folder), "is a folder, a file is needed")
        files = self._files()
        if len({path.absolute() for path, *_ in files}) < len(files):
            raise InputError("--accepted, --review", "two files have the same name", "Give each a name of its own")
        for path, format_, _ in files:
            if format_ == "jsonl":
                continue
            columns = columns_of(fields)
            twice = next((name for name in columns if columns.count(name) > 1), None)
            if twice:
                raise InputError(str(path), f"two columns would be named {twice}", "Write JSONL, or name the field otherwise")
        if self.out.exists() and not self.state.exists() and not is_anew:
            raise InputError(
                str(self.out), "is there already, and without its state", "Choose another -o, or overwrite it: --anew"
            )

    def sources(self, inputs: Sequence[str]) -> tuple[str, ...]:
        """The inputs without what this extraction wrote before, as `*` names it too.

        InputError where nothing is left, and where a file that is to be written is one of the sources.
        """
        files = [path for path in (self.out, self.accepted, self.review) if path]
        for path in files:
            if path.is_file() and not self.state.exists() and any(_holds(Path(name), path) for name in inputs if name != "-"):
                raise InputError(str(path), "is one of the inputs, and would be overwritten", "Give another name to write to")
        own = {path.resolve() for path in (*files, self.state, self.failed, self.summary)} if self.state.exists() else set()
        left = tuple(name for name in inputs if name == "-" or Path(name).resolve() not in own)
        if inputs and not left:
            raise InputError(inputs[0], "is what this extraction wrote itself", "Name files or folders with documents to read")
        return left

    def leaves_out(self) -> Callable[[Path], bool]:
        """Whether a file or folder below an input was written by an extraction, this one or another, and is no source."""
        own = {path.absolute() for path, *_ in self._files()}
        return lambda path: is_output(path) or path.absolute() in own

    def claim(self, state: State, *, is_anew: bool) -> None:
        """Note in the state which files are written, once that is open. InputError where one is there that is another's."""
        known = set(state.fact("targets", []))
        files = [path for path, _, which in self._files() if which is not None]
        other = next((path for path in files if path.exists() and str(path.absolute()) not in known), None)
        if other is not None and not is_anew:
            raise InputError(str(other), "is there already, and this extraction did not write it", "Choose another name")
        state.set_fact("targets", sorted(known | {str(path.absolute()) for path in files}))
        self.passing.unlink(missing_ok=True)

    def write(self, rows: Iterator[Row], fields: Sequence[FieldSettings]) -> dict[str, Any]:
        """Write all files in one pass over the rows; gives, by file, its rows and its cells that look like formulas."""
        counts: dict[str, Any] = {}
        with ExitStack() as stack:
            opened = [
                (str(path), stack.enter_context(writing(path, format_, fields, is_spreadsheet=self.is_spreadsheet)), which)
                for path, format_, which in self._files()
            ]
            for name, *_ in opened:
                counts[name] = {"rows": 0}
            for row in rows:
                for name, writer, which in opened:
                    if which is None or (row["is_accepted"] is True) == which:
                        writer.write(row)
                        counts[name]["rows"] += 1
            for name, writer, _ in opened:
                if writer.num_formulas:
                    counts[name]["formulas"] = writer.num_formulas
        return counts

    @property
    def passing(self) -> Path:
        """Where standard input is put while it is read."""
        return self.state / f"{STANDARD_INPUT_FILE}.new"

    def keep_standard_input(self) -> None:
        """The output is now of the standard input that was read last, if any was."""
        if self.passing.exists():
            self.passing.replace(self.state / STANDARD_INPUT_FILE)

    def write_failed(self, state: State) -> int:
        """Write what failed; there is no such file where nothing did. Gives how many lines it has."""
        num = write_jsonl(self.failed, state.failures())
        if not num:
            self.failed.unlink()
        return num

    def write_summary(self, figures: Mapping[str, Any]) -> None:
        """Write what the extraction has come to."""
        write_json(self.summary, figures)


def is_output(path: Path) -> bool:
    """Whether an extraction wrote a file or folder: its state, or what lies beside that."""
    if path.name.endswith(".state"):
        return (path / FILE).is_file()
    ends = (".failed.jsonl", ".summary.json", "")
    outs = (path.name.removesuffix(end) for end in ends if path.name.endswith(end))
    return any((path.with_name(f"{out}.state") / FILE).is_file() for out in outs)


def _holds(source: Path, path: Path) -> bool:
    """Whether an input is this file, or a folder that it lies in."""
    return path.resolve() == source.resolve() or (source.is_dir() and path.resolve().is_relative_to(source.resolve()))
