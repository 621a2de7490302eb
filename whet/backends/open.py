"""Opens the backend of a device."""

import importlib.util

from whet.backends.base import Backend, OptimizerSettings
from whet.errors import MissingExtraError
from whet.models.base_model import BaseModel


def open_backend(base: BaseModel, optimizer: OptimizerSettings | None = None) -> Backend:
    """The base on this machine's device."""
    for package in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "torch", "running a model")
    from whet.backends.on_torch.backend import TorchBackend

    return TorchBackend(base, optimizer or OptimizerSettings())
