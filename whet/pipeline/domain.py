"""Prepares a domain set from files: reads them and the suites that it must keep clear of, and writes the set with its card."""

import importlib.metadata
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from whet.data.domain import REASONS, Domain, DomainSettings, Guarded, make_domain, to_row
from whet.data.formats import ExampleFiles
from whet.data.rows import Reject
from whet.data.sources import files_of, read
from whet.errors import InputError
from whet.evaluate.suite import SmallEdition, Suite, read_suite
from whet.pipeline.suite_step import prepare_suite
from whet.records import Example, Message
from whet.storage import hash_file, staged_folder, write_json, write_jsonl, write_text
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings
from whet.tasks.free_qa import FreeQa, FreeQaSettings

NONE_GIVEN = "none given"
SUITE_SUFFIXES = (".yaml", ".yml")
Form = Literal["as_they_are", "conversations"]


@dataclass(frozen=True, slots=True)
class Input:
    """A file, folder or glob of rows, and the licence that its user gives for it."""

    path: Path
    licence: str = NONE_GIVEN


def prepare_domain(
    settings: DomainSettings, inputs: Sequence[Input], against: Sequence[Path], out: Path, form: Form = "as_they_are"
) -> dict[str, Any]:  # fmt: skip
    """Write the domain set into the folder `out`: NAME.jsonl, rejects.jsonl, card.json, README.md; gives the card.

    against: suites, or files of examples, none of whose questions may be in the set. form: "conversations" writes choice
    questions as the conversation that a choice task asks, so that they can be mixed with free questions in one recipe.
    Raises InputError where a source can't be read, no row is left, or choice and free questions are mixed as they are.
    """
    if out.exists() and not (out / "card.json").is_file():
        raise InputError(str(out), "stands there already and is no domain set", "Choose another folder with --out")
    sources = [_source(given) for given in inputs]
    guarded = [question for path in against for question in _guarded(path)]
    counts: Counter[int] = Counter()
    domain = make_domain(_numbered(sources, counts), _faults, guarded, settings)
    if not domain.examples:
        left_out = ", ".join(f"{reason} {num}" for reason, num in domain.counts().items() if num)
        raise InputError(
            str(inputs[0].path), f"no row is left ({left_out or 'nothing was read'})", "Add data, or see why with fewer suites"
        )
    is_choice = {bool(example.choices) for example in domain.examples}
    if len(is_choice) > 1 and form == "as_they_are":
        raise InputError(
            settings.name, "holds choice questions and free ones, and a recipe has one task",
            "Prepare two domains, or give --as conversations",
        )  # fmt: skip
    card = _card(settings, inputs, sources, counts, against, guarded, domain, form)
    rows = [to_row(_as_conversation(example) if form == "conversations" else example) for example in domain.examples]
    with staged_folder(out) as folder:
        write_jsonl(folder / f"{settings.name}.jsonl", rows)
        write_jsonl(folder / "rejects.jsonl", (dropped.to_json() for dropped in domain.dropped))
        card |= {
            "data": {"file": f"{settings.name}.jsonl", "sha256": hash_file(folder / f"{settings.name}.jsonl"), "rows": len(rows)}
        }
        write_json(folder / "card.json", card)
        write_text(folder / "README.md", say_card(card))
    return card


def _source(given: Input) -> ExampleFiles:
    return ExampleFiles(reader="examples", path=given.path.absolute(), mixed="allow")


def _numbered(sources: Sequence[ExampleFiles], counts: "Counter[int]") -> Iterator[Example | Reject]:
    """The rows of all sources, each id once."""
    seen: Counter[str] = Counter()
    for number, source in enumerate(sources):
        for row in read(source, Path.cwd()):
            counts[number] += 1
            if isinstance(row, Example):
                seen[row.id] += 1
                yield row if seen[row.id] == 1 else replace(row, id=f"{row.id}#{seen[row.id]}")
            else:
                yield row


def _faults(example: Example) -> tuple[str, ...]:
    """What is wrong with the gold, as the task that would ask it sees it."""
    task = ChoiceQa(ChoiceQaSettings()) if example.choices else FreeQa(FreeQaSettings())
    adopted = task.adopt(example)
    return task.faults(adopted) if isinstance(adopted, Example) else (adopted.reason,)


def _guarded(path: Path) -> Iterator[Guarded]:
    """Every question of a suite, drawn or not, or of a file of examples."""
    if path.suffix.lower() in SUITE_SUFFIXES:
        suite = read_suite(path)
        with tempfile.TemporaryDirectory() as scratch:
            for whole, is_small in _editions(suite):
                for part in prepare_suite(whole, Path(scratch), is_small=is_small):
                    yield from (Guarded(suite.name, part.settings.name, example) for example in part.questions.examples)
        return
    for row in read(ExampleFiles(reader="examples", path=path.absolute(), mixed="allow"), Path.cwd()):
        if isinstance(row, Example):
            yield Guarded(path.name, "all", row)


def _editions(suite: Suite) -> Iterator[tuple[Suite, bool]]:
    """The suite with all that its sources hold: another seed or size must not bring a question in that was let through."""
    parts = tuple(part.model_copy(update={"max_questions": None, "max_chars": None, "shots": None}) for part in suite.parts)
    yield suite.model_copy(update={"parts": parts, "small": None}), False
    if suite.small is not None:  # of a run it is drawn from another split
        yield suite.model_copy(update={"parts": parts, "small": SmallEdition(num_questions=10**9, is_apart=False)}), True


def _as_conversation(example: Example) -> Example:
    """A choice question as the messages that the choice task asks, its letter as the reply."""
    if not example.choices:
        return example
    task = ChoiceQa(ChoiceQaSettings())
    reply = Message("assistant", task.reply(example))
    return replace(example, choices=(), answer=None, messages=(*task.ask(example).messages, reply))


def _card(
    settings: DomainSettings, inputs: Sequence[Input], sources: Sequence[ExampleFiles], counts: "Counter[int]",
    against: Sequence[Path], guarded: Sequence[Guarded], domain: Domain, form: Form,
) -> dict[str, Any]:  # fmt: skip
    """All that is said of the set, as plain JSON; it depends on the inputs alone."""
    kept = domain.kept
    return {
        "name": settings.name,
        "version": importlib.metadata.version("whet"),
        "settings": settings.model_dump(mode="json"),
        "form": form,
        "sources": [
            {
                "path": given.path.as_posix(), "licence": given.licence, "rows": counts[number],
                "files": {file.path.name: hash_file(file.path) for file in files_of(source, Path.cwd())},
            }
            for number, (given, source) in enumerate(zip(inputs, sources, strict=True))
        ],
        "against": [
            {"path": path.as_posix(), "sha256": hash_file(path) if path.is_file() else None,
             "questions": sum(one.suite == name for one in guarded)}
            for path, name in ((path, _name_of(path)) for path in against)
        ],
        "read": domain.num_read,
        "kept": len(domain.examples),
        "asked_for": settings.size,
        "left_out": domain.counts(),
        "categories": {name: {"good": domain.there[name], "kept": kept.get(name, 0)} for name in sorted(domain.there)},
    }  # fmt: skip


def _name_of(path: Path) -> str:
    return read_suite(path).name if path.suffix.lower() in SUITE_SUFFIXES else path.name


def say_card(card: dict[str, Any]) -> str:
    """The card as a page of Markdown."""
    asked = card["asked_for"]
    short = f", of {asked:,} asked for" if asked and asked > card["kept"] else ""
    lines = [
        f"# {card['name']}", "",
        f"{card['kept']:,} examples{short}, made from {card['read']:,} rows by whet {card['version']}.", "",
        "## Sources", "", "| source | licence, as given | rows | files (SHA-256) |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for source in card["sources"]:
        files = "<br>".join(f"{_cell(name)} `{digest}`" for name, digest in source["files"].items())
        lines.append(f"| {_cell(source['path'])} | {_cell(source['licence'])} | {source['rows']:,} | {files} |")
    lines += ["", "## Kept apart from", ""]
    if card["against"]:
        lines += ["| suite | questions |", "| --- | --- |"]
        lines += [f"| {_cell(one['path'])} | {one['questions']:,} |" for one in card["against"]]
    else:
        lines.append("Nothing was given to compare with: whether these questions stand in a test is not known.")
    lines += ["", "## Left out", "", "| reason | rows | meaning |", "| --- | --- | --- |"]
    lines += [f"| {reason} | {num:,} | {REASONS[reason]} |" for reason, num in card["left_out"].items()]
    lines += ["", "Every such row is in rejects.jsonl with its place.", "", "## Categories", ""]
    lines += ["| category | good rows | kept |", "| --- | --- | --- |"]
    lines += [f"| {_cell(name) or '(none)'} | {one['good']:,} | {one['kept']:,} |" for name, one in card["categories"].items()]
    lines += ["", f"Data: {card['data']['file']}, SHA-256 `{card['data']['sha256']}`.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
