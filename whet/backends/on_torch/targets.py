"""Finds the modules of a model that an adapter's settings name, and refuses names that would do nothing."""

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from whet.backends.base import LoraSettings
from whet.errors import InputError


@dataclass(frozen=True, slots=True)
class Targets:
    """Modules by their full names, and the short names that PEFT finds exactly these by."""

    adapted: list[str]
    target_modules: list[str]
    saved: list[str]
    modules_to_save: list[str]
    layers: list[int] | None
    layers_name: str
    """The last part of the name of the list of layers."""


def find_targets(model: Any, settings: LoraSettings) -> Targets:
    """What an adapter with these settings changes on a model; InputError names the setting that matches nothing."""
    names = {name: module for name, module in model.named_modules() if name}
    saved = _find_saved(model, names, settings)
    layers_name, layers = "", None
    linear = [n for n in _linear_names(names) if not any(n == s or n.startswith(f"{s}.") for s in saved)]
    if settings.last_layers is not None:
        path, stack = decoder_layers(model)
        layers = last_layers(len(stack), settings.last_layers, "train.lora.last_layers")
        linear = [n for n in linear if any(n.startswith(f"{path}.{number}.") for number in layers)]
        layers_name = path.rpartition(".")[2]
    adapted, short = _find_adapted(model, linear, settings)
    if any(_selected(name, short) and name not in adapted for name in linear):
        short = adapted
    for field, patterns in (("rank_pattern", settings.rank_pattern), ("alpha_pattern", settings.alpha_pattern)):
        _check_patterns(f"train.lora.{field}", list(patterns), adapted)
    modules_to_save = list(settings.save_modules)
    # PEFT takes every module whose name ends so, without a dot in between: `norm` would take input_layernorm too.
    if {n for n in names if n.endswith(tuple(modules_to_save))} != set(saved):
        modules_to_save = saved
    return Targets(adapted, short, saved, modules_to_save, layers, layers_name)


def decoder_layers(model: Any) -> tuple[str, torch.nn.ModuleList]:
    """The list of a model's layers, from the embeddings to the head, with its full name."""
    number = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == number:
            return name, module
    raise InputError("train", "the layers of this model are not in a list that whet knows", "Leave last_layers out")


def last_layers(number: int, wanted: int, place: str) -> list[int]:
    """Numbers of the last layers of a model with that many."""
    if wanted > number:
        raise InputError(place, f"is {wanted}, and this base has {number} layers", f"Give at most {number}, or leave it out")
    return list(range(number - wanted, number))


def is_tied(model: Any) -> bool:
    """Whether the head's weight is the embedding's."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def name_of(model: Any, wanted: Any) -> str:
    """Full name of a module of a model."""
    return next(name for name, module in model.named_modules() if module is wanted)


def _linear_names(names: dict[str, Any]) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in names.items() if isinstance(module, torch.nn.Linear | Conv1D)]


def _find_adapted(model: Any, linear: list[str], settings: LoraSettings) -> tuple[list[str], list[str]]:
    """Full names of the linear modules to adapt, and the endings of names that were asked for."""
    place, head = "train.lora.targets", model.get_output_embeddings()
    head_name = name_of(model, head) if head is not None else None
    if settings.targets == "all-linear":
        adapted = [name for name in linear if name != head_name]
        if not adapted:
            raise InputError(place, "there is no linear layer to adapt in what is left of this base", "Look at save_modules")
        return adapted, sorted({name.rpartition(".")[2] for name in adapted})
    for target in settings.targets:
        if not any(_ends_with(name, target) for name in linear):
            raise _unknown(place, target, linear, "linear layer")
    adapted = [name for name in linear if _selected(name, settings.targets)]
    if head_name in adapted and is_tied(model):
        raise InputError(
            place,
            f"{head_name} is tied to the embedding of this base, and an adapter would untie them",
            "Train both whole: train.lora.save_modules=[embed_tokens]",
        )
    if not adapted:
        raise InputError(place, "names no layer", "Name some, or take all-linear")
    return adapted, list(settings.targets)


def _find_saved(model: Any, names: dict[str, Any], settings: LoraSettings) -> list[str]:
    """Full names of the modules that are trained whole."""
    place, found = "train.lora.save_modules", []
    for wanted in settings.save_modules:
        matched = [name for name in names if _ends_with(name, wanted)]
        weights = [weight for name in matched for weight in names[name].parameters()]
        if not weights:
            with_weights = [name for name, module in names.items() if any(True for _ in module.parameters())]
            raise _unknown(place, wanted, with_weights, "module with weights")
        if not all(weight.is_floating_point() for weight in weights):
            raise InputError(
                place, f"{wanted} is quantised and can't be trained whole", "Leave it out, or leave device.quantize out"
            )
        found += [name for name in matched if name not in found]
    return found


def _check_patterns(place: str, patterns: list[str], adapted: list[str]) -> None:
    """Every pattern must decide for some module; the first one that matches a module does, as in PEFT."""
    try:
        compiled = {pattern: re.compile(rf"(.*\.)?({pattern})$") for pattern in patterns}
    except re.error as error:
        raise InputError(place, f"{error.pattern!r} is no regular expression ({error})") from None
    deciding = {next((p for p in patterns if compiled[p].match(name)), None) for name in adapted}
    for pattern in patterns:
        if pattern not in deciding:
            if any(compiled[pattern].match(name) for name in adapted):
                raise InputError(place, f"{pattern!r} decides for no layer: those before it take them all", "Put it first")
            raise _unknown(place, pattern, adapted, "adapted layer")


def _ends_with(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")


def _selected(name: str, endings: Iterable[str]) -> bool:
    return any(_ends_with(name, ending) for ending in endings)


def _unknown(place: str, wanted: str, names: Collection[str], kind: str) -> InputError:
    """An error with the nearest names."""
    short = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
    near = difflib.get_close_matches(wanted.rpartition(".")[2], short, n=3, cutoff=0.5)
    told = f"Did you mean {' or '.join(near)}?" if near else f"This base has: {', '.join(short[:12]) or 'none'}"
    return InputError(place, f"{wanted!r} matches no {kind} that this run adapts", told)
