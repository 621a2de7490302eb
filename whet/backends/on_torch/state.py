"""Writes all that the next training step depends on into safetensors and JSON, and puts it back bit for bit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from whet.backends.on_torch.optimizers import JoinedOptimizer, set_rate
from whet.errors import InputError
from whet.storage import read_json, write_json

TENSORS, SCALARS = "state.safetensors", "state.json"
Scalars = dict[str, dict[str, Any]]
REMEDY = "Start from another checkpoint, or train from the beginning"


def save_state(folder: Path, model: Any, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    """Write the trained weights and the optimiser's state by the weights' names, and the loss scale, into an existing folder.

    Random numbers are no part of it: they are a function of seed and step.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = _trained(model)
    tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
    scalars: Scalars = {}
    for name, weight in weights.items():
        if weight not in optimizer.state:
            continue  # no step was taken with it yet
        scalars[name] = {}
        for key, value in optimizer.state[weight].items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{name}/{key}"] = value.detach()
            else:
                scalars[name][key] = value
    facts = {
        "optimizer": _kind(optimizer),
        "groups": _groups(weights, optimizer),
        "scalars": scalars,
        "tensors": _kinds(tensors),
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    try:
        save_file(dict(_unshared(tensors)), folder / TENSORS)
    except SafetensorError as error:
        raise InputError(str(folder), f"the state can't be written ({error})", "Free some space") from None
    write_json(folder / SCALARS, facts)


def load_state(folder: Path, model: Any, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    """Put back what `save_state` wrote, into a model and an optimiser made with the same settings.

    InputError names the first tensor or value that is missing, left over, or of another shape or kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = _read_facts(folder)
    try:
        stored = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise InputError(str(folder / TENSORS), f"can't be read ({error})", REMEDY) from None
    weights = _trained(model)
    _check_same(folder, "optimiser", facts["optimizer"], _kind(optimizer))
    _check_same(folder, "loss scale", facts["scaler"] is not None, scaler is not None)
    _check_groups(folder, facts["groups"], _groups(weights, optimizer))
    _check_tensors(folder, facts["tensors"], _kinds(stored))
    try:
        wanted = _places(folder, weights, optimizer, facts)
    except InputError:
        optimizer.state.clear()  # as it was before its first step
        raise
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])
    for name, values in facts["scalars"].items():
        optimizer.state[weights[name]].update(values)
    if scaler is not None:
        scaler.load_state_dict(facts["scaler"])


def _places(
    folder: Path, weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Where each stored tensor goes; nothing stored may be without a place, and no place without something stored."""
    _start(optimizer)
    places: dict[str, torch.Tensor] = {f"weight/{name}": weight for name, weight in weights.items()}
    scalars: Scalars = facts["scalars"]
    for name, weight in weights.items():
        if name not in scalars:
            optimizer.state.pop(weight, None)
            continue
        state = optimizer.state[weight]
        places |= {f"optimizer/{name}/{key}": value for key, value in state.items() if isinstance(value, torch.Tensor)}
        plain = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
        _check_same(folder, f"state of {name}", sorted(scalars[name]), sorted(plain))
    _check_tensors(folder, _kinds(places), facts["tensors"])
    return places


def _start(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser make its state, where and how it wants it, by a step at rate 0 with gradients of zero."""
    set_rate(optimizer, 0.0)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _kind(optimizer: torch.optim.Optimizer) -> list[str]:
    parts = optimizer.parts if isinstance(optimizer, JoinedOptimizer) else [optimizer]
    return [type(part).__name__ for part in parts]


def _groups(weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The optimiser's groups with names of weights, and with the settings that steps depend on, the rate left out."""
    names = {id(weight): name for name, weight in weights.items()}
    told = []
    for group in optimizer.param_groups:
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in group.items()}
        told.append({**settings, "params": [names[id(weight)] for weight in group["params"]], "lr": None})
    return told


def _kinds(tensors: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    """Kind of number and shape of each tensor, as JSON has them."""
    return {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())}


def _unshared(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that share no memory, which safetensors refuses: 8-bit optimisers have one table for all weights."""
    seen = set()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        yield name, tensor.clone() if place in seen and tensor.numel() else tensor.contiguous()
        seen.add(place)


def _read_facts(folder: Path) -> dict[str, Any]:
    facts = read_json(folder / SCALARS)
    keys = {"optimizer": list, "groups": list, "scalars": dict, "tensors": dict}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in keys.items()):
        raise InputError(str(folder / SCALARS), "is no state of a training run", REMEDY)
    return {"scaler": None, **facts}


def _check_groups(folder: Path, saved: list[dict[str, Any]], here: list[dict[str, Any]]) -> None:
    _check_same(folder, "number of the optimiser's groups", len(saved), len(here))
    for before, now in zip(saved, here, strict=True):
        for key in sorted(before.keys() | now.keys()):
            _check_same(folder, f"optimiser's {key}", before.get(key), now.get(key))


def _check_same(folder: Path, what: str, saved: Any, here: Any) -> None:
    if saved != here:
        raise InputError(str(folder), f"the {what} was {_short(saved)} when it was saved, and is {_short(here)}", REMEDY)


def _check_tensors(folder: Path, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    """The same names, each with the same kind and shape."""
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found:
            raise InputError(str(folder), f"{name} is missing", REMEDY)
        if name not in wanted:
            raise InputError(str(folder), f"{name} has no place in this run", REMEDY)
        if found[name] != wanted[name]:
            raise InputError(str(folder), f"{name} is {_short(found[name])}, not {_short(wanted[name])}", REMEDY)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
