"""The data that settings name, as sources of a recipe, and what whet does with rows that the tool does otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whet.exchange.draft import Draft

EXAMPLE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
NO_DATA = "data/train.jsonl"
VALID_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Named:
    """One file or data set that the settings name."""

    path: str
    split: Literal["train", "valid", "test"] | None
    name: str = ""


def read_data(draft: Draft, named: Sequence[Named], *keys: str, valid: float | None = None) -> None:
    """The sources, and a validation split where none is named. valid: the share that the tool itself would hold out.

    Rows that others repeat are kept, so that the rows are the same; a row that is too long stops the build by default.
    """
    sources: list[dict[str, Any]] = []
    missing = []
    for one in named or (Named(NO_DATA, "train"),):
        source: dict[str, Any] = {"reader": "examples", "path": one.path}
        sources.append(source | ({"split": one.split} if one.split else {}) | ({"name": one.name} if one.name else {}))
        if not Path(one.path).suffix.lower().endswith(EXAMPLE_SUFFIXES) and not Path(one.path).exists():
            missing.append(one.path)
    differs = ""
    if not named:
        differs = "the settings name no data: put the path of your file here"
    elif missing:
        differs = f"whet fetches no data: put the files of {', '.join(missing)} here"
    draft.put("data.sources", sources, *keys, differs=differs)
    draft.put("data.clean.duplicates", "keep")
    draft.put("data.clean.conflicting", "keep")
    has_valid = any(one.split == "valid" for one in named)
    draft.put("data.split.test", 0.0)
    if not has_valid:
        share = valid or VALID_SHARE
        words = "" if valid else (
            f"{draft.tool.name} holds nothing out and trains on these rows too; whet chooses the adapter by them"
        )  # fmt: skip
        draft.put("data.split.valid", share, differs=words)


def say_learnt(draft: Draft, prompt: str | None, turns: Literal["last", "all"], key: str) -> None:
    """What the loss is taken on. prompt: why it is taken on the prompt too; None where it is not."""
    if prompt:
        draft.remark(f"{prompt} whet learns the last answer and its end of turn, never the prompt ({draft.say(key)}).", key)
    elif turns == "all":
        draft.remark(f"In conversations of several turns {draft.tool.name} learns every answer; whet learns the last one. "
                     f"Rows of one question and one answer are learnt alike ({draft.say(key)}).", key)  # fmt: skip


def read_length(draft: Draft, key: str, cuts: bool) -> None:
    """Most tokens of a row. cuts: whether longer ones are cut there, which whet never does."""
    length = draft.get(key, "whole")
    if length is None:
        return
    there = "cuts the end off, which is the answer" if cuts else "drops them"
    draft.put("train.max_length", length, key, differs=f"for longer rows: {draft.tool.name} {there}; whet "
              + ("stops and names them (or: data.clean.over_long: drop)" if cuts else "drops and lists them"))  # fmt: skip
    if not cuts:
        draft.put("data.clean.over_long", "drop", key)
