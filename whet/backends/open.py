"""Opens the backend of a device."""

import importlib.util
import platform
import sys

from whet.backends.base import Backend, DeviceSettings, OptimizerSettings
from whet.backends.processes import is_launched
from whet.errors import InputError, MissingExtraError
from whet.models.base_model import BaseModel


def open_backend(base: BaseModel, optimizer: OptimizerSettings | None = None, device: DeviceSettings | None = None) -> Backend:
    """The base on the device that the settings name."""
    optimizer, device = optimizer or OptimizerSettings(), device or DeviceSettings()
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    if device.kind == "mlx" or (device.kind == "auto" and is_apple and not _missing("mlx", "mlx_lm")):
        for package in _missing("mlx", "mlx_lm"):
            raise MissingExtraError(package, "mlx", "running a model on MLX")
        if is_launched():
            raise InputError("--devices", "MLX trains in one process", "Leave it out, or set device.kind=cpu")
        from whet.backends.on_mlx.backend import MlxBackend

        return MlxBackend(base, optimizer, device)
    for package in _missing("torch", "transformers", "peft"):
        raise MissingExtraError(package, "torch", "running a model")
    from whet.backends.on_torch.backend import TorchBackend

    return TorchBackend(base, optimizer, device)


def _missing(*packages: str) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is None]
