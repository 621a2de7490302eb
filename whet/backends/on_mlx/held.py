"""Several adapters of one model in memory, one of them on it at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx.utils import tree_unflatten

from whet.backends.on_mlx.adapter import MlxAdapter, load_adapter, remove_adapter
from whet.backends.replies import unheld


class Held:
    """Adapters by name. They are read once; changing from one to another exchanges layers and computes nothing."""

    def __init__(self, model: Any, folders: Mapping[str, Path]) -> None:
        self._model = model
        self._adapters: dict[str, MlxAdapter] = {}
        self._on: str | None = None
        for name, folder in folders.items():
            # Read on the bare model: an adapter wraps the base's own layers.
            self._adapters[name] = load_adapter(model, folder)
            remove_adapter(model, self._adapters[name])

    def put(self, name: str | None) -> None:
        """Put an adapter on the model, or leave it bare."""
        if name is not None and name not in self._adapters:
            raise unheld(name, self._adapters)
        if name == self._on:
            return
        if self._on is not None:
            remove_adapter(self._model, self._adapters[self._on])
        if name is not None:
            self._model.update_modules(tree_unflatten(list(self._adapters[name].layers.items())))
        self._on = name
