"""Every trainer by name: whose settings a file is, how they become a recipe, and how a recipe becomes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from whet.errors import InputError
from whet.exchange import axolotl, erniekit, llama_factory, mlx_lm, trl, unsloth
from whet.exchange.draft import Draft, Tool
from whet.exchange.reading import Settings
from whet.exchange.said import Said


@dataclass(frozen=True, slots=True)
class Trainer:
    """A trainer whose settings whet reads, and writes where `write` is given."""

    tool: Tool
    marks: tuple[str, ...]
    """Keys that tell its files from those of others."""
    read: Callable[[Draft], None]
    write: Callable[[Said], dict[str, Any]] | None = None


TRAINERS: dict[str, Trainer] = {
    "mlx-lm": Trainer(mlx_lm.TOOL, mlx_lm.MARKS, mlx_lm.read, mlx_lm.write),
    "axolotl": Trainer(axolotl.TOOL, axolotl.MARKS, axolotl.read, axolotl.write),
    "llama-factory": Trainer(llama_factory.TOOL, llama_factory.MARKS, llama_factory.read, llama_factory.write),
    "erniekit": Trainer(erniekit.TOOL, erniekit.MARKS, erniekit.read, erniekit.write),
    "trl": Trainer(trl.TRL, trl.TRL_MARKS, trl.read_trl, trl.write),
    "trainer": Trainer(trl.TRAINER, trl.TRAINER_MARKS, trl.read_trainer),
    "peft": Trainer(trl.PEFT, trl.PEFT_MARKS, trl.read_peft),
}
NAMES = (*TRAINERS, "unsloth")
WRITTEN = tuple(name for name, trainer in TRAINERS.items() if trainer.write)


def detect(settings: Settings) -> str:
    """The name of the trainer that a file is for, by the keys that it alone has; InputError where that leaves a doubt."""
    if settings.is_script:
        return "unsloth"
    found = {name: len(set(trainer.marks) & set(settings.values)) for name, trainer in TRAINERS.items()}
    if any(number for name, number in found.items() if name != "trainer"):
        found["trainer"] = 0  # many are built on it and share its keys
    best = max(found, key=lambda name: found[name])
    rivals = sorted(
        name for name, number in found.items() if name != best and number and (number >= 3 or 2 * number >= found[best])
    )
    if not found[best] or rivals:
        seen = f"has keys of {', '.join(sorted([best, *rivals]))}" if rivals else "has no key that tells whose settings they are"
        raise InputError(str(settings.path), seen, f"Say it with --from: {', '.join(NAMES)}")
    return best


def draft(settings: Settings, name: str = "") -> tuple[str, Draft]:
    """The name of the trainer, found out where none is given, and the finished draft of a recipe."""
    name = name or detect(settings)
    if name not in NAMES:
        raise InputError("--from", f"{name!r} is no trainer that whet knows", f"Known: {', '.join(NAMES)}")
    if (name == "unsloth") != settings.is_script:
        kind = "a script" if settings.is_script else "no script"
        raise InputError(str(settings.path), f"is {kind}", "Scripts are read with --from unsloth, and no other file is")
    if name == "unsloth":
        made = unsloth.draft_of(settings)
    else:
        made = Draft(TRAINERS[name].tool, settings)
        TRAINERS[name].read(made)
    made.finish()
    return name, made
