"""A suite: the parts on which systems are measured alike, each a task on a source of questions, with its role and budget."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from whet.config import Places, Settings, apply_overrides, load, read_yaml
from whet.data.sources import Source
from whet.data.split import SplitSettings
from whet.evaluate.results import Role
from whet.tasks.table import TaskSettings
from whet.text.prepare import PrepareSettings


class FileQuestions(Settings):
    """Questions from local files, through the readers that recipes use."""

    kind: Literal["files"] = "files"
    """Where the questions come from."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """The files, each with its reader; their splits are not looked at."""
    prepare: PrepareSettings = PrepareSettings()
    """How texts are made uniform."""


class RunQuestions(Settings):
    """The held-out questions of a run folder, as its data step made them."""

    kind: Literal["run"] = "run"
    """Where the questions come from."""
    path: Path
    """The run folder; a relative one starts from the suite's root."""
    split: Literal["test", "valid"] = "test"
    """The split that is asked. A small edition is always drawn from valid."""


class HubQuestions(Settings):
    """Questions from a data set of the Hugging Face Hub; needs the package datasets, and a network or its cache."""

    kind: Literal["hub"] = "hub"
    """Where the questions come from."""
    dataset: str
    """Its name, such as allenai/ai2_arc."""
    subset: str | None = None
    """Its configuration, such as ARC-Challenge."""
    split: str = "test"
    """Its split."""
    revision: str | None = None
    """Commit or tag; null takes the newest, which may change under you."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Columns to rename before the rows are read as one of the example formats."""


QuestionSource = Annotated[FileQuestions | RunQuestions | HubQuestions, Field(discriminator="kind")]


class ShotSettings(Settings):
    """Examples that are shown before each question, as turns of the conversation."""

    num: int = Field(default=5, ge=1, le=64)
    """How many."""
    data: QuestionSource
    """Where they come from; one that is among the questions is not shown."""
    same_category: bool = True
    """Show examples of the question's own category only, where it has one that they know."""


class SmallEdition(Settings):
    """The few questions that are asked again and again while a run trains."""

    num_questions: int = Field(default=50, ge=5)
    """Most questions a part."""
    is_apart: bool = True
    """Where they are drawn from a part's own data, leave them out of the full suite: an adapter is not judged by the questions
    that it was chosen by. At most a quarter of a part's questions are taken."""


class PartSettings(Settings):
    """One part of a suite."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Its name, which is its folder's name too."""
    role: Role = "task"
    """task: what a specialist is for. general: what it must not forget."""
    task: TaskSettings | None = None
    """What is asked; null takes the task of the run that the questions come from."""
    data: QuestionSource
    """Where the questions come from."""
    small_data: QuestionSource | None = None
    """Where the small edition's questions come from; null draws them from `data` (of a run, from its valid split)."""
    max_questions: int | None = Field(default=None, ge=1)
    """Most distinct questions, drawn by the suite's seed; null asks all."""
    max_chars: int | None = Field(default=None, ge=1)
    """Longest question in characters, its choices included; longer ones are left out for all systems alike."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a reply; null takes the task's."""
    shots: ShotSettings | None = None
    """Examples shown before each question; null shows none."""
    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Largest share of rows that may be no use as questions, 0 to 1; they are counted, and with more there is no suite."""

    @model_validator(mode="after")
    def _has_a_task(self) -> Self:
        if self.task is None and not isinstance(self.data, RunQuestions):
            raise ValueError("a part whose questions come from no run needs a task")
        return self


class Suite(Settings):
    """What systems are measured on: the same questions, prompts and budgets for all."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """Name of the suite."""
    root: Path | None = None
    """Folder that relative paths start from; null: the suite's own folder."""
    parts: Annotated[tuple[PartSettings, ...], Field(min_length=1)]
    """Its parts, in the order in which they are asked."""
    max_error_rate: float = Field(default=0.05, ge=0, lt=1)
    """Largest share of requests that may fail; above it a part has no score."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draw of questions and of the resamples."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals."""
    resamples: int = Field(default=9999, ge=99)
    """Resamples of the bootstrap."""
    small: SmallEdition | None = None
    """The small edition that a training run may ask; null: there is none."""
    near: SplitSettings = SplitSettings()
    """What counts as near where questions are compared with training data: near_threshold, ngram, ngram_alphabetic."""

    @field_validator("parts")
    @classmethod
    def _names_differ(cls, parts: tuple[PartSettings, ...]) -> tuple[PartSettings, ...]:
        names = [part.name.casefold() for part in parts]
        if len(set(names)) != len(names):
            raise ValueError("two parts have the same name")
        return parts

    @model_validator(mode="after")
    def _compares_only(self) -> Self:
        told = self.near.model_fields_set - {"near_threshold", "ngram", "ngram_alphabetic"}
        if told and self.near != SplitSettings():
            raise ValueError(f"near: {', '.join(sorted(told))} does nothing here; nothing is split")
        return self


def read_suite(path: Path, overrides: list[str] | None = None) -> Suite:
    """The suite in a YAML file with key=value overrides; all faults are raised in one SettingsError.

    Relative paths start from `root`, which is itself taken from the suite's folder.
    """
    raw, places = read_yaml(path)
    apply_overrides(raw, places, overrides or [])
    return suite_from(raw, places, str(path), path.parent, is_typed=any(o.startswith("root=") for o in overrides or []))


def suite_from(raw: dict[str, Any], places: Places, source: str, folder: Path, *, is_typed: bool = False) -> Suite:
    """A suite that is already in memory. is_typed: its root comes from the command line, so it starts where the user stands."""
    root = raw.get("root")
    if root is None or isinstance(root, str):  # anything else is refused with the other faults
        raw["root"] = str(Path(root) if is_typed and root else folder / (root or "."))
    return load(Suite, raw, places, source)
