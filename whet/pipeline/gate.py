"""Judges the result of a candidate against the live system's, and keeps the ledger of looks beside them."""

import datetime
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError, WhetError
from whet.evaluate.gains import Gains, tell_gains
from whet.evaluate.gate import Facts, judge
from whet.evaluate.policy import GatePolicy
from whet.evaluate.results import SuiteResult, System, read_result
from whet.evaluate.verdict import Verdict
from whet.pipeline.as_result import PART, groups_of_run, result_of_run
from whet.storage import canonical, hash_text, locked, read_json, read_jsonl, write_json

LEDGER = "looks.json"
VERSION = 2
KEYS = {"candidate", "live", "questions", "look", "plan", "draw", "verdict", "date", "label"}


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict and what stands behind it. num_others: other candidates judged on the same questions before; each has its own
    chance to be promoted wrongly.
    """

    candidate: str
    live: str
    verdict: Verdict
    gains: Gains
    policy: GatePolicy
    ledger: Path
    num_others: int

    def to_json(self) -> dict[str, Any]:
        """One object for machines; "verdict" is promote, refuse or can't tell, and `error` is null."""
        row = self.verdict.to_json()
        return {
            "verdict": row.pop("decision"), "error": None, "candidate": self.candidate, "live": self.live, **row,
            **self.gains.to_json(), "other_candidates": self.num_others, "ledger": str(self.ledger),
            "policy": self.policy.model_dump(mode="json"),
        }  # fmt: skip


def judge_folders(candidate: Path, live: Path, policy: GatePolicy, ledger: Path | None = None) -> Judged:
    """The verdict about two folders of results: of a suite, or runs (then their held-out answers are the only part).

    The look is written into the ledger, beside the live result's folder unless named. The same candidate on the same
    questions is the same look again; on other questions (a grown suite) the next one. InputError where seed, resamples or power
    are not those of its first look.
    """
    ours, theirs = read_side(candidate), read_side(live)
    if ours.folder.resolve() == theirs.folder.resolve():
        raise InputError(str(candidate), "is held against itself", "Name the live system's result with --against")
    path = ledger or theirs.folder.parent / LEDGER
    with locked(path.parent):
        rows = _read_ledger(path)
        key = {"candidate": _hash_system(ours.system), "live": _hash_system(theirs.system), "questions": _hash_questions(theirs)}
        plan = hash_text(canonical(policy.plan()))
        own = [row for row in rows if row["candidate"] == key["candidate"] and row["live"] == key["live"]]
        _refuse_new_draw(path, own, policy)
        same = next((row for row in own if row["questions"] == key["questions"]), None)
        look = int(same["look"]) if same else 1 + max((int(row["look"]) for row in own), default=0)
        facts = Facts(_groups(live, theirs), look, is_plan_changed=any(row["plan"] != plan for row in own))
        verdict = judge(ours, theirs, policy, facts)
        if same is None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            said = {
                "look": look, "plan": plan, "draw": policy.draw(), "verdict": verdict.decision, "date": now,
                "label": ours.system.label,
            }  # fmt: skip
            write_json(path, {"version": VERSION, "looks": [*rows, key | said]})
    others = {row["candidate"] for row in rows if row["live"] == key["live"] and row["questions"] == key["questions"]}
    gains = tell_gains(ours, theirs, policy, facts)
    labels = ours.system.label, theirs.system.label
    return Judged(*labels, verdict, gains, policy, path, len(others - {key["candidate"]}))


def read_side(path: Path) -> SuiteResult:
    """The result in a folder: of a suite where it holds result.json, else of a run."""
    if (path / "result.json").is_file():
        return read_result(path)
    try:
        return result_of_run(path)
    except InputError as error:
        if (path / "recipe.json").is_file() or (path / "answers.jsonl").is_file():
            raise
        raise InputError(
            str(path), "is neither the result of a suite nor a run that was evaluated",
            "Make one: whet evaluate WHAT --suite SUITE, or whet evaluate RUN",
        ) from error  # fmt: skip


def _groups(path: Path, result: SuiteResult) -> dict[str, Mapping[str, Hashable]]:
    """The group of each example, part by part, as far as it is known."""
    if set(result.parts) == {PART} and not (path / "result.json").is_file():
        return {PART: groups_of_run(path)}
    found: dict[str, Mapping[str, Hashable]] = {}
    for name in result.parts:
        rows = read_jsonl(result.folder / name / "answers.jsonl")
        found[name] = {row["id"]: row["group"] for row in rows if row.get("group")}
    return found


def _hash_system(system: System) -> str:
    return hash_text(canonical([system.kind, dict(system.identity) or system.label]))


def _hash_questions(result: SuiteResult) -> str:
    return hash_text(canonical({name: part.questions for name, part in result.parts.items()}))


def _read_ledger(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = read_json(path)
    version = found.get("version") if isinstance(found, dict) else None
    if type(version) is int and version != VERSION:
        raise InputError(
            str(path), f"is a ledger of version {version}, this whet writes version {VERSION}",
            "Judge with the whet that wrote it, or put it aside and begin a ledger anew with fresh questions",
        )  # fmt: skip
    rows = found.get("looks") if isinstance(found, dict) and type(version) is int else None
    if not isinstance(rows, list) or any(not isinstance(row, dict) or row.keys() != KEYS for row in rows):
        raise InputError(
            str(path), "is no ledger of looks", "Put back what whet wrote; without it nobody knows how often was looked"
        )
    return rows


def _refuse_new_draw(path: Path, own: list[dict[str, Any]], policy: GatePolicy) -> None:
    """InputError where this candidate was judged with other draws: whoever may draw again draws until it promotes."""
    now = policy.draw()
    for row in own:
        changed = [name for name, value in now.items() if row["draw"].get(name) != value]
        if changed:
            before = ", ".join(f"{name} {row['draw'].get(name)}" for name in changed)
            raise InputError(
                f"{path}, look {row['look']}", f"this candidate was judged with {before}, not with "
                + ", ".join(f"{name} {now[name]}" for name in changed),
                "Set it back; what luck may decide is settled at the first look",
            )  # fmt: skip


def say_policy(policy: GatePolicy) -> list[str]:
    """The settings that decide, one a line."""
    from whet.config import explain

    return [f"{name}: {value}" for name, value, _, _ in explain(policy)]


def as_error(error: WhetError) -> dict[str, Any]:
    """What a machine is told where a fault of the user's left nothing to judge: its verdict is null."""
    return {
        "verdict": None, "exit_code": error.exit_code,
        "error": {"place": error.place, "what": error.what, "remedy": error.remedy},
    }  # fmt: skip
