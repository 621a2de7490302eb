"""Opens the engine that a recipe names."""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from whet.config import Settings
from whet.engines.base import Engine
from whet.engines.http import HttpSettings


class LocalSettings(Settings):
    """The base on this machine, with the adapter that was trained on it."""

    kind: Literal["local"] = "local"
    """The engine's name."""


EngineSettings = Annotated[LocalSettings | HttpSettings, Field(discriminator="kind")]


def open_engine(settings: LocalSettings | HttpSettings, local: Callable[[], Engine]) -> Engine:
    """The engine of the settings; `local` opens the one on this machine, and is called where it is meant only."""
    if isinstance(settings, HttpSettings):
        from whet.engines.http import HttpEngine

        return HttpEngine(settings)
    return local()
