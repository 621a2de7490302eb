"""Every task by name."""

from typing import Annotated

from pydantic import Field

from whet.tasks.base import Task
from whet.tasks.choice_qa import ChoiceQa, ChoiceQaSettings
from whet.tasks.extraction import Extraction, ExtractionSettings
from whet.tasks.free_qa import FreeQa, FreeQaSettings

TaskSettings = Annotated[ExtractionSettings | ChoiceQaSettings | FreeQaSettings, Field(discriminator="kind")]


def open_task(settings: ExtractionSettings | ChoiceQaSettings | FreeQaSettings) -> Task:
    """The task that these settings describe."""
    if isinstance(settings, ExtractionSettings):
        return Extraction(settings)
    if isinstance(settings, ChoiceQaSettings):
        return ChoiceQa(settings)
    return FreeQa(settings)
