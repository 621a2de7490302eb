"""The recipe: one file that describes a specialist; every step reads it."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from whet.backends.base import DeviceSettings
from whet.config import Places, Settings, apply_overrides, load, read_yaml
from whet.data.build import DataSettings
from whet.engines.open import EngineSettings, LocalSettings
from whet.evaluate.calibration import CalibrateSettings
from whet.evaluate.run import EvaluateSettings
from whet.extract.settings import ExtractSettings
from whet.tasks.extraction import ExtractionSettings
from whet.tasks.table import TaskSettings
from whet.train.loop import TrainSettings


class Recipe(Settings):
    """A specialist: its base, its task, its data, how it is trained and evaluated."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the specialist; its run folder is runs/NAME."""
    base: str = "embedded"
    """The base model: a folder in the Hugging Face layout, or `embedded`, the small one that ships with whet."""
    task: TaskSettings
    """What the specialist is asked."""
    data: DataSettings
    """Where its examples come from."""
    train: TrainSettings | None = TrainSettings()
    """How it is trained; null only evaluates the base."""
    device: DeviceSettings = DeviceSettings()
    """Where and how the base is computed."""
    engine: EngineSettings = LocalSettings()
    """Who answers: the base on this machine, or a server."""
    evaluate: EvaluateSettings = EvaluateSettings()
    """How base and specialist are compared."""
    calibrate: CalibrateSettings | None = CalibrateSettings()
    """How the specialist's confidences are calibrated on the valid split (extraction only); null leaves them out."""
    extract: ExtractSettings = ExtractSettings()
    """How a corpus is read with the specialist."""

    @model_validator(mode="after")
    def _rules_speak_of_fields(self) -> Self:
        if isinstance(self.task, ExtractionSettings):
            kinds = {field.name: field.kind for field in self.task.fields}
            for number, rule in enumerate(self.extract.rules):
                if rule.field not in kinds:
                    known = ", ".join(kinds)
                    raise ValueError(f"extract.rules.{number}.field: the task has no field {rule.field!r}; it has {known}")
                if rule.kind == "split" and kinds[rule.field] != "span":
                    raise ValueError(f"extract.rules.{number}.field: {rule.field!r} is no span field, it can't be split")
        return self


def read_recipe(path: Path, overrides: list[str]) -> Recipe:
    """The recipe in a YAML file with key=value overrides; all faults are raised in one SettingsError.

    Paths of data sources start from `data.root`, which is itself taken from the recipe's folder.
    """
    raw, places = read_yaml(path)
    return _load(raw, places, overrides, str(path), path.parent)


def recipe_from(raw: dict[str, Any], overrides: list[str], source: str, folder: Path) -> Recipe:
    """A recipe that is already in memory."""
    return _load(raw, {}, overrides, source, folder)


def _load(raw: dict[str, Any], places: Places, overrides: list[str], source: str, folder: Path) -> Recipe:
    apply_overrides(raw, places, overrides)
    data = raw.get("data")
    if isinstance(data, dict):
        root = data.get("root")
        # On the command line a path starts where the user stands; in the file, where the file stands.
        is_typed = any(override.startswith("data.root=") for override in overrides)
        if root is None or isinstance(root, str):  # anything else is refused with the other faults
            data["root"] = str(Path(root) if is_typed and root else folder / (root or "."))
    train = raw.get("train")
    looks = train.get("looks") if isinstance(train, dict) else None
    if isinstance(looks, dict) and isinstance(looks.get("suite"), str):
        is_typed = any(override.startswith("train.looks") for override in overrides)
        looks["suite"] = looks["suite"] if is_typed else str(folder / looks["suite"])
    return load(Recipe, raw, places, source)
