"""Share of right offsets on Chinese text: whet's choice among occurrences against langextract's alignment, on the same replies.

A specialist answers each passage once, grounded; whet places the values of its reply, and langextract places the same values,
which it gets through its provider interface. Passages are CHisIEC's test texts, and the chunks that langextract cuts out of
documents of 20 texts. Only records that are right by their texts are held against gold, so that the placing alone is measured;
and all gold records as replies, as if the model were perfect. langextract is given its best chance: several ways to write the
reply, its tokenizer for CJK, fuzzy alignment on and off; its best setting is taken after the fact, for each kind of passage.
The last line is a JSON object: shares of the records with right, wrong and no offsets in the specialist's replies to single
texts, their ratio, and all cases.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offsets import SHAPES, Found, Passage, Places, cut, hold, items, join, shares
from specialist import add_arguments, constrained, open_data, open_specialist, specialist_engine

from whet.engines.base import Engine
from whet.errors import WhetError
from whet.evaluate.compare import say_p
from whet.evaluate.shares import mcnemar
from whet.records import Completion, Example, Span
from whet.tasks.base import Unread
from whet.tasks.extraction import Extraction

PEER = Path(__file__).with_name("langextract_peer.py")
HEADLINE = "specialist's pairs, texts"
DEFAULT = "regex tokenizer, fuzzy, one item a record"  # what langextract does when nothing is said
SHOWN = (DEFAULT, "unicode tokenizer, fuzzy, one item a record", "unicode tokenizer, exact, one item a record")
SETTINGS: dict[str, dict[str, Any]] = {
    "regex tokenizer, fuzzy": {"tokenizer": "regex"},
    "unicode tokenizer, fuzzy": {"tokenizer": "unicode"},
    "unicode tokenizer, fuzzy, whole values only": {"tokenizer": "unicode", "lesser": False},
    "unicode tokenizer, exact": {"tokenizer": "unicode", "fuzzy": False},
    "unicode tokenizer, fuzzy, difflib": {"tokenizer": "unicode", "exact": "difflib"},
}
WORDS = {
    "records": "one item a record",
    "fields": "one call a field",
    "ordered": "one item a value, by first occurrence",
    "distinct": "each text once, by first occurrence",
    "gold": "each mention once, in gold's order",
}


@dataclass(frozen=True)
class Kind:
    """How texts become passages."""

    name: str
    per_document: int
    chunk_chars: int
    is_asked: bool = False
    """Whether the specialist is asked; the gold records are always taken as replies too."""


KINDS = (
    Kind("texts", 1, 1000, True),
    Kind("documents, chunks of 100", 20, 100, True),  # characters: two texts, about as long as what the specialist learnt from
    Kind("documents, chunks of 1000", 20, 1000),  # langextract's default
)


class Case:
    """Passages with a reply to each: the records that were said, and where whet puts them."""

    def __init__(
        self, name: str, kind: Kind, passages: Sequence[Passage], is_gold: bool, task: Extraction, replies: Sequence[Completion]
    ) -> None:
        """Read the replies as whet does; one that can't be read says nothing to either system."""
        began = time.perf_counter()
        answers = [task.read(passage.example(), reply) for passage, reply in zip(passages, replies, strict=True)]
        self.seconds = time.perf_counter() - began
        names = [rule.name for rule in task.rules if rule.kind == "span"]
        self.name, self.chunk_chars, self.is_gold = name, kind.chunk_chars, is_gold
        self.passages = [passage.only(names) for passage in passages]
        self.said = [
            () if isinstance(answer, Unread) else tuple({name: record[name] for name in names} for record in answer.records)
            for answer in answers
        ]
        self.num_unread = sum(isinstance(answer, Unread) for answer in answers)

    def held(self, places: Sequence[Places]) -> list[Found]:
        """Places of every record held against gold."""
        rows = zip(self.passages, self.said, places, strict=True)
        return [found for passage, said, placed in rows for found in hold(passage, said, placed)]

    def ours(self) -> list[Found]:
        """Where whet puts the records."""
        return self.held([[{n: v and v.span for n, v in record.items()} for record in said] for said in self.said])


def ask_peer(python: str, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What langextract says to the jobs, in the interpreter that has it; a version of None where it is not installed."""
    try:
        done = subprocess.run([python, str(PEER)], input=json.dumps(jobs), capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"--langextract-python: {error}") from None
    if done.returncode == 0:
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said
    if "No module named 'langextract'" in done.stderr:
        return {"version": None}
    raise SystemExit(f"langextract failed in {python}:\n{done.stderr}")


def make_cases(
    what: str, task: Extraction, examples: Sequence[Example], engine: Engine | None, python: str | None
) -> Iterator[tuple[Case, list[str]]]:
    """Each case of these examples with its documents; without langextract only texts, which it would not cut."""
    for kind in KINDS:
        documents = join(examples, kind.per_document)
        texts = [text for text, _ in documents]
        chunks = [[[0, len(text)]] for text in texts]
        if python is not None:
            job = {"documents": texts, "chunk_chars": kind.chunk_chars, "tokenizer": "unicode"}
            chunks = ask_peer(python, [job])["results"][0]["chunks"]
        elif kind.per_document > 1:
            continue
        passages = cut(documents, chunks)
        assert len({passage.text for passage in passages}) == len(passages), "langextract is given replies by the text"
        golds = [Completion(task.reply(passage.example()), "stop") for passage in passages]
        yield Case(f"gold {what}, {kind.name}", kind, passages, True, task, golds), texts
        if kind.is_asked and engine is not None:
            replies = engine.answer([task.ask(passage.example()) for passage in passages])
            yield Case(f"specialist's {what}, {kind.name}", kind, passages, False, task, replies), texts


@dataclass
class Theirs:
    """What langextract makes of a case in one setting."""

    setting: str
    found: list[Found]
    seconds: float


def align(case: Case, documents: Sequence[str], python: str) -> list[Theirs]:
    """langextract in every setting, and with every way to write the reply."""
    tried: list[tuple[str, list[dict[str, Any]]]] = []
    for shape in (*SHAPES, *(["gold"] if case.is_gold else [])):
        calls = [items(passage, said, shape) for passage, said in zip(case.passages, case.said, strict=True)]
        for setting, given in SETTINGS.items():
            jobs = []
            for at in range(max(map(len, calls))):
                replies = {
                    passage.text: json.dumps({"extractions": call[at] if at < len(call) else []}, ensure_ascii=False)
                    for passage, call in zip(case.passages, calls, strict=True)
                }
                jobs.append({"documents": documents, "chunk_chars": case.chunk_chars, "replies": replies, **given})
            tried.append((f"{setting}, {WORDS[shape]}", jobs))
    answers = ask_peer(python, [job for _, jobs in tried for job in jobs])
    results = iter(answers["results"])
    theirs = []
    for setting, jobs in tried:
        mine = [next(results) for _ in jobs]
        found = case.held(read_places(case, [row for result in mine for rows in result["extractions"] for row in rows]))
        theirs.append(Theirs(setting, found, sum(result["seconds"] for result in mine)))
    return theirs


def read_places(case: Case, extractions: Sequence[dict[str, Any]]) -> list[Places]:
    """Where langextract puts the values of each record said."""
    places: list[list[dict[str, Span | None]]] = [[{} for _ in said] for said in case.said]
    for row in extractions:
        number = row["attributes"]["passage"]
        start = case.passages[number].start
        span = row["span"] and Span(row["span"][0] - start, row["span"][1] - start)
        for record in row["attributes"]["records"]:
            places[number][record][row["class"]] = span
    return places


def say(what: str, figures: dict[str, Any], seconds: float) -> str:
    """One line of the table."""
    parts = []
    for its in (figures, figures["values"], figures["repeated_values"]):
        shown = [its[name] for name in ("right_offsets", "wrong_offsets", "no_offsets")]
        parts.append(" / ".join("-" if share is None else f"{share:.1%}" for share in shown) + f" of {its['num']}")
    return f"  {what:<72} {parts[0]:>30} {parts[1]:>30} {parts[2]:>30} {seconds:>6.2f}"


def measure(case: Case, documents: Sequence[str], python: str | None, is_every: bool) -> dict[str, Any]:
    """Both systems on a case; prints the table, gives the figures."""
    ours = case.ours()
    print(
        f"\n{case.name}: {len(case.passages)} passages, {sum(map(len, case.said))} records said, {case.num_unread} unread, "
        f"{len(ours)} right by text.  Right / wrong / no offsets of records, values, values that stand repeatedly; seconds"
    )
    said: dict[str, Any] = {"whet": shares(ours) | {"seconds": case.seconds}, "langextract": None}
    print(say("whet", said["whet"], case.seconds))
    if python is None:
        return said
    tried = align(case, documents, python)
    best = max(tried, key=lambda one: num_right(one.found))
    for one in tried:
        if is_every or one is best or one.setting in SHOWN:
            print(say(one.setting + (" (best)" if one is best else ""), shares(one.found), one.seconds), flush=True)
    default = next(one for one in tried if one.setting == DEFAULT)
    test = mcnemar([one.record == "right" for one in best.found], [one.record == "right" for one in ours])
    print(
        f"  whet less langextract's best, records: {test.difference:+.3f} [{test.interval.low:+.3f}, {test.interval.high:+.3f}], "
        f"{say_p(test.p_value)}"
    )
    said["langextract"] = shares(best.found) | {
        "seconds": best.seconds,
        "setting": best.setting,
        "by_default": shares(default.found),
        "p_value": test.p_value,
    }
    return said


def num_right(found: Sequence[Found]) -> tuple[int, int]:
    """Records and values with gold's offsets."""
    return sum(one.record == "right" for one in found), sum(fate == "right" for one in found for _, fate in one.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--split", default="test", choices=["test", "valid"], help="the texts; neither was trained on")
    parser.add_argument(
        "--langextract-python", default=sys.executable, help="a Python that has langextract (pip install langextract)"
    )
    parser.add_argument(
        "--every", action="store_true", help="show every setting of langextract, not the best and the default alone"
    )
    args = parser.parse_args()
    version = ask_peer(args.langextract_python, [])["version"]
    python = args.langextract_python if version else None
    if python is None:
        print(f"langextract is not installed in {args.langextract_python}: it is not measured (--langextract-python)")
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            bench = open_specialist(args, Path(place) / "run")
            entities = open_data("chisiec-entities.yaml", "chisiec/ner", args.data, Path(place) / "entities")
            pairs = list(bench.folder.examples(args.split)), list(entities.folder.examples(args.split))
            cases = itertools.chain(
                make_cases("pairs", constrained(bench, "grounded"), pairs[0], specialist_engine(bench), python),
                make_cases("entities", constrained(entities, "grounded"), pairs[1], None, python),
            )
            for case, documents in cases:
                measured[case.name] = measure(case, documents, python, args.every)
        except WhetError as error:
            raise SystemExit(str(error)) from None
    head = measured[HEADLINE]
    ours, theirs = head["whet"], head["langextract"]
    ratio = ours["right_offsets"] / theirs["right_offsets"] if theirs and theirs["right_offsets"] else None
    print(json.dumps({"whet": ours, "langextract": theirs, "ratio": ratio, "version": version, "cases": measured}))


if __name__ == "__main__":
    main()
