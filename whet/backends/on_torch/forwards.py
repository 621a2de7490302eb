"""Another forward function for a module, and the way back."""

import types
from collections.abc import Callable
from typing import Any

import torch


def exchange(module: torch.nn.Module, forward: Callable[..., Any], *, is_method: bool = True) -> Callable[[], None]:
    """Let a module compute by `forward`, whose first argument is the module if it is a method; gives what undoes it.

    What was exchanged before comes back, so several are undone in the reverse order.
    """
    before = vars(module).get("forward")
    module.forward = types.MethodType(forward, module) if is_method else forward

    def undo() -> None:
        del module.forward
        if before is not None:
            module.forward = before

    return undo
