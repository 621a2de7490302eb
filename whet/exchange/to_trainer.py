"""A recipe in the words of transformers' Trainer: what TRL, LLaMA-Factory, ERNIEKit and, under other names, axolotl read."""

from collections.abc import Mapping
from typing import Any

from whet.exchange.said import Said
from whet.exchange.trainer import NO_CLIPPING, LoraNames, Names

OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit", "adafactor": "adafactor",
    "lion": "lion_32bit",
}  # fmt: skip


def write_course(said: Said, names: Names, steps_key: str = "max_steps") -> dict[str, Any]:
    """Batches, duration, seed, validation."""
    train = said.train
    values: dict[str, Any] = {names.micro_batch: said.take("train.examples_per_step"), names.accumulation: 1}
    said.take("train.epochs", "train.max_steps")
    if train.max_steps is not None and train.epochs >= train.max_steps:
        values[steps_key] = train.max_steps
    else:
        values[names.epochs] = train.epochs
        if train.max_steps is not None:
            said.cannot("train.max_steps", "the epochs alone say how long; whichever ends first ends a run of whet")
    values["seed"] = said.take("train.seed")
    if said.take("train.validate_every") is not None:
        values |= {names.evaluations: "steps", "eval_steps": train.validate_every}
    return values


def write_optimizer(said: Said, names: Names) -> dict[str, Any]:
    """Optimiser and the learning rate over the steps."""
    kind = said.take("train.optimizer.name")
    if kind not in OPTIMIZERS:
        said.cannot("train.optimizer.name", f"{said.tool} has no {kind} of this kind; adamw_torch is written")
    clip = said.take("train.optimizer.max_gradient_norm")
    values: dict[str, Any] = {
        "learning_rate": said.take("train.learning_rate"),
        names.optimizer: OPTIMIZERS.get(kind, "adamw_torch"),
        "weight_decay": said.take("train.optimizer.weight_decay"),
        "max_grad_norm": 0.0 if clip >= NO_CLIPPING else clip,
    }
    if kind in ("adamw", "adamw_8bit", "paged_adamw_8bit"):
        for setting in ("beta1", "beta2", "epsilon"):
            values[f"adam_{setting}"] = said.take(f"train.optimizer.{setting}")
    return values | write_schedule(said, names)


def write_schedule(said: Said, names: Names) -> dict[str, Any]:
    """The schedule and its warm-up."""
    train = said.train
    kind, least = said.take("train.schedule"), said.take("train.min_rate")
    more: dict[str, Any] = {}
    wanted = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}.get(kind, "warmup_stable_decay")
    if kind == "linear" and least:
        wanted, more = "polynomial", {"lr_end": least * train.learning_rate, "power": 1.0}
    elif kind == "cosine" and least:
        wanted, more = "cosine_with_min_lr", {"min_lr_rate": least}
    elif kind == "wsd":
        share = said.take("train.decay") or 0.2
        steps = _steps(said)
        if steps is None:
            said.cannot("train.decay", "it wants the steps of the fall: set lr_scheduler_kwargs.num_decay_steps to "
                        f"{share:g} of all steps (--rows N would tell)")  # fmt: skip
        else:
            more = {"num_decay_steps": max(1, round(share * steps)), "decay_type": "1-sqrt", "min_lr_ratio": least}
    if train.decay_steps is not None:
        said.cannot("train.decay_steps", "the rate falls over all steps that are left there")
    values: dict[str, Any] = {names.schedule: wanted} | ({"lr_scheduler_kwargs": more} if more else {})
    said.take("train.warm_up", "train.warm_up_steps", "train.warm_up_from_zero")
    warm_up = train.warm_up if train.warm_up_steps is None else train.warm_up_steps
    if warm_up:
        values["warmup_steps" if warm_up >= 1 else names.warm_up_share] = warm_up
        if not train.warm_up_from_zero:
            said.cannot("train.warm_up_from_zero", "the warm-up begins at a rate of 0 there, and at its first part here",
                        is_nearly=True)  # fmt: skip
    return values


def _steps(said: Said) -> int | None:
    has_all = said.train.max_steps is not None and said.train.epochs >= said.train.max_steps
    return said.steps("steps") if has_all or said.num_rows is not None else None


def write_lora(said: Said, names: LoraNames) -> dict[str, Any]:
    """The adapter, but for its targets; nothing for full fine-tuning."""
    lora = said.lora
    if lora is None:
        return {}
    values: dict[str, Any] = {
        names.rank: said.take("train.lora.rank"), names.alpha: said.take("train.lora.alpha"),
        names.dropout: said.take("train.lora.dropout"),
    }  # fmt: skip
    if said.take("train.lora.rslora"):
        values[names.rslora] = True
    if said.take("train.lora.dora"):
        values[names.dora] = True
    if said.take("train.lora.save_modules"):
        values[names.saved] = list(lora.save_modules)
    return values


def write_device(said: Said) -> dict[str, Any]:
    """Numbers and memory."""
    kind = said.take("device.dtype")
    values: dict[str, Any] = {kind: True} if kind in ("bf16", "fp16") else {}
    values["gradient_checkpointing"] = said.take("device.checkpoint_activations")
    return values
