"""What all tools on top of transformers' Trainer share: duration, batches, optimiser, schedule, LoRA as PEFT means it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whet.exchange.draft import Draft

NO_CLIPPING = 1e9
"""A gradient norm that nothing reaches: whet always clips, other tools may not."""
OPTIMIZERS = {
    "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "adamw": "adamw", "adamw_apex_fused": "adamw",
    "adamw_custom": "adamw", "adamw_torch_xla": "adamw", "adamw_torch_npu_fused": "adamw", "paged_adamw": "adamw",
    "paged_adamw_32bit": "adamw", "adamw_bnb_8bit": "adamw_8bit", "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit", "adafactor": "adafactor", "lion_32bit": "lion", "paged_lion_32bit": "lion",
    "lion_8bit": "lion", "paged_lion_8bit": "lion", "lion": "lion", "muon": "muon",
}  # fmt: skip
_OTHERWISE_KEPT = {"paged_adamw": "32 bits, paged to the host", "paged_adamw_32bit": "32 bits, paged to the host",
                   "paged_lion_32bit": "paged to the host", "lion_8bit": "moments in 8 bits",
                   "paged_lion_8bit": "moments in 8 bits, paged to the host"}  # fmt: skip
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine", "warmup_stable_decay": "wsd", "polynomial": "linear", "cosine_with_restarts": "cosine",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Names:
    """What a tool calls the arguments of the Trainer."""

    micro_batch: str = "per_device_train_batch_size"
    accumulation: str = "gradient_accumulation_steps"
    epochs: str = "num_train_epochs"
    optimizer: str = "optim"
    schedule: str = "lr_scheduler_type"
    evaluations: str = "eval_strategy"
    warm_up_share: str = "warmup_ratio"
    """Takes the warm-up as a share of the steps. The Trainer takes it as warmup_steps since version 5; an older one reads a
    warmup_steps below 1 as none."""


def read_course(draft: Draft, names: Names) -> None:
    """Examples a step, steps, seed, validation: one process is taken for granted, and said."""
    micro, accumulation = draft.get(names.micro_batch, "whole"), draft.get(names.accumulation, "whole")
    draft.put(
        "train.examples_per_step", micro * accumulation, names.micro_batch, names.accumulation,
        differs=f"with several processes {draft.tool.name} multiplies this by their number",
    )  # fmt: skip
    read_duration(draft, names.epochs)
    draft.copy("train.seed", "seed", "whole", differs="the same seed gives another order of rows and another start")
    how = draft.get(names.evaluations, "text", "no")
    steps = draft.get("eval_steps", "number")
    if how == "steps" and steps and float(steps).is_integer() and steps >= 1:
        draft.put("train.validate_every", int(steps), "eval_steps")
    elif how == "steps" and steps:
        draft.lose("eval_steps", "a share of the steps; whet counts steps (train.validate_every)", "other")
    elif steps:
        draft.lose("eval_steps", f"does nothing without {names.evaluations}: steps", "unread")
    draft.put("train.patience", None)
    if not draft.get("load_best_model_at_end", "flag", False):
        draft.remark(f"{draft.tool.name} keeps the weights of the last step; whet keeps those with the lowest validation loss.")


def read_duration(draft: Draft, epochs_key: str) -> None:
    """max_steps wins over epochs where it is positive, as in the Trainer; null and -1 leave it to the epochs."""
    steps, epochs = draft.get("max_steps", "whole", -1), draft.get(epochs_key, "number")
    if steps > 0:
        draft.put("train.max_steps", steps, "max_steps")
        draft.put("train.epochs", float(steps), "max_steps")  # an epoch has a step at least, so that max_steps decides
        draft.lose(epochs_key, "does nothing beside max_steps", "unread")
        return
    differs = "" if float(epochs).is_integer() else "a part of an epoch is rounded up there and rounded here: one step at most"
    draft.put("train.epochs", float(epochs), epochs_key, differs=differs)


def read_optimizer(draft: Draft, names: Names) -> None:
    """Optimiser, its moments, decay, clipping, largest rate."""
    draft.copy("train.learning_rate", "learning_rate", "number")
    wanted = draft.get(names.optimizer, "text")
    kind = OPTIMIZERS.get(wanted)
    if kind is None:
        draft.put("train.optimizer.name", "adamw", names.optimizer,
                  differs=f"whet has no {wanted}; adamw takes its place, and the learning rate may not suit it")  # fmt: skip
    else:
        lost = _OTHERWISE_KEPT.get(wanted, "")
        draft.put("train.optimizer.name", kind, names.optimizer,
                  differs=f"its moments ({lost}) are held plainly here; the steps are alike" if lost else "")  # fmt: skip
    draft.copy("train.optimizer.weight_decay", "weight_decay", "number")
    if kind in (None, "adamw", "adamw_8bit", "paged_adamw_8bit"):
        for setting, key in (("beta1", "adam_beta1"), ("beta2", "adam_beta2"), ("epsilon", "adam_epsilon")):
            draft.copy(f"train.optimizer.{setting}", key, "number")
    clip = draft.get("max_grad_norm", "number")
    draft.put("train.optimizer.max_gradient_norm", clip or NO_CLIPPING, "max_grad_norm",
              differs="" if clip else "0 means no clipping there; no gradient reaches this norm")  # fmt: skip
    draft.lose("optim_args", "arguments of the optimiser that whet has no settings for")


def read_schedule(draft: Draft, names: Names) -> None:
    """The learning rate over the steps, step for step that of transformers."""
    wanted = draft.get(names.schedule, "text")
    more = draft.get("lr_scheduler_kwargs", "any", None) or {}
    more = dict(more) if isinstance(more, Mapping) else {}
    kind, differs, extra = _schedule(wanted, more, draft.get("learning_rate", "number"))
    draft.put("train.schedule", kind, names.schedule, *(("lr_scheduler_kwargs",) if more else ()), differs=differs)
    for setting, value in extra.items():
        draft.put(f"train.{setting}", value, "lr_scheduler_kwargs")
    if wanted == "constant":  # its warm-up is not read by transformers
        for key in ("warmup_steps", "warmup_ratio"):
            draft.lose(key, "the schedule constant has no warm-up; constant_with_warmup has", "unread")
        draft.put("train.warm_up", 0.0, names.schedule)
        return
    read_warm_up(draft)


def _schedule(wanted: str, more: Mapping[str, Any], rate: float) -> tuple[str, str, dict[str, Any]]:  # noqa: PLR0911
    """The schedule, where it differs, and the settings beside it."""
    kind = SCHEDULES.get(wanted)
    if kind is None:
        return "constant", f"whet has no schedule {wanted}; the rate stays constant", {}
    if wanted == "cosine_with_restarts" and more.get("num_cycles", 1) != 1:
        return kind, f"it starts anew {more['num_cycles']} times there and falls once here", {}
    if wanted == "polynomial":
        end = _number(more.get("lr_end"), 1e-7)
        if _number(more.get("power"), 1.0) != 1:
            return kind, f"a power of {more['power']} there, a straight line here", {"min_rate": end / rate}
        return kind, "", {"min_rate": end / rate}
    if wanted == "cosine_with_min_lr":
        least = more.get("min_lr_rate")
        return kind, "", {"min_rate": _number(least, _number(more.get("min_lr"), 0.0) / rate)}
    if wanted == "cosine" and _number(more.get("num_cycles"), 0.5) != 0.5:
        return kind, f"{more['num_cycles']} waves there, half a wave here", {}
    if wanted == "warmup_stable_decay":
        shape = more.get("decay_type", "cosine")
        words = f"it falls as {shape} over {more.get('num_decay_steps')} steps there, as 1 - sqrt over a share of them here"
        exact = "its length is a number of steps there, a share of them here (train.decay): set it to steps over all steps"
        least = _number(more.get("min_lr_ratio"), 0.0)
        return kind, exact if shape == "1-sqrt" else words, {"min_rate": least} if least else {}
    return kind, "", {}


def _number(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


def read_warm_up(draft: Draft) -> None:
    """Steps or a share of them; transformers begin at a rate of 0, and so does the recipe then."""
    steps, share = draft.get("warmup_steps", "number"), draft.get("warmup_ratio", "number") or 0.0
    key = "warmup_steps" if steps else "warmup_ratio"
    if steps and steps >= 1:
        draft.put("train.warm_up_steps", int(steps), key)
        draft.lose("warmup_ratio", "does nothing beside warmup_steps", "unread")
    elif steps or share:
        draft.put("train.warm_up", float(steps or share), key,
                  differs="a part of a step is rounded up there and rounded here: one step at most")  # fmt: skip
    else:
        draft.put("train.warm_up", 0.0, "warmup_steps")
        return
    draft.put("train.warm_up_from_zero", True, key)


def read_device(draft: Draft) -> None:
    """Numbers and memory."""
    for key, dtype in (("bf16", "bf16"), ("fp16", "fp16")):
        if draft.get(key, "any", None) in (True, "true", "full"):
            draft.put("device.dtype", dtype, key)
        elif draft.get(key, "any", None) == "auto":
            draft.put("device.dtype", "auto", key, differs="each takes what the device is good at")
    # transformers 5 calls it activation_checkpointing, and takes the older name too. TRL does it where nothing is said.
    found = {key: draft.get(key, "any") for key in ("gradient_checkpointing", "activation_checkpointing")}
    key = "activation_checkpointing" if draft.has("activation_checkpointing") else "gradient_checkpointing"
    if found[key] in (True, "true", "offload", "unsloth"):
        draft.put("device.checkpoint_activations", True, key)
    if draft.get("use_cpu", "flag", False):
        draft.put("device.kind", "cpu", "use_cpu")


def read_quantized(draft: Draft, four: str = "load_in_4bit", eight: str = "load_in_8bit") -> None:
    """A base held in 4 or 8 bits by bitsandbytes."""
    if draft.get(four, "flag", False):
        kind = draft.get("bnb_4bit_quant_type", "text", "nf4")
        differs = "" if kind == "nf4" else f"{kind} there, NF4 here"
        if "use_bnb_nested_quant" in draft.tool.defaults and not draft.get("use_bnb_nested_quant", "flag", False):
            differs = "single quantisation there, double here: the same 4-bit weights, their scales rounded once more"
        draft.put("device.quantize", "nf4", four, differs=differs)
    elif draft.get(eight, "flag", False):
        draft.put("device.quantize", "int8", eight)


@dataclass(frozen=True, slots=True)
class LoraNames:
    """What a tool calls the settings of an adapter."""

    rank: str = "lora_r"
    alpha: str = "lora_alpha"
    dropout: str = "lora_dropout"
    targets: str = "lora_target_modules"
    rslora: str = "use_rslora"
    dora: str = "use_dora"
    saved: str = "lora_modules_to_save"
    layers: str = "layers_to_transform"
    b_ratio: str = "loraplus_lr_ratio"


def read_lora(draft: Draft, names: LoraNames, alpha: float | None = None) -> None:
    """Rank, strength and places of an adapter. alpha: what the tool makes of a missing one."""
    rank = draft.copy("train.lora.rank", names.rank, "whole")
    strength = alpha if alpha is not None else draft.get(names.alpha, "number")
    if strength is not None:
        draft.put("train.lora.alpha", float(strength), *((names.alpha,) if alpha is None else (names.alpha, names.rank)))
        if draft.get(names.rslora, "any", None) is True:
            draft.put("train.lora.rslora", True, names.rslora)
        elif rank:
            draft.lines["train.lora.alpha"] = _strength(draft, rank, float(strength))
    draft.copy("train.lora.dropout", names.dropout, "number")
    if draft.get(names.dora, "any", None) is True:
        draft.put("train.lora.dora", True, names.dora)
    saved = _listed(draft.get(names.saved, "any", None))
    if saved:
        draft.put("train.lora.save_modules", saved, names.saved)
    if draft.get(names.b_ratio, "number", None):
        draft.put("train.optimizer.b_ratio", float(draft.get(names.b_ratio, "number")), names.b_ratio)
    read_layers(draft, names.layers)


def _strength(draft: Draft, rank: int, alpha: float) -> Any:
    from dataclasses import replace

    line = draft.lines["train.lora.alpha"]
    return replace(line, said=f"{line.said}; strength alpha / rank = {alpha / rank:g}")


def read_targets(draft: Draft, key: str, every: tuple[str, ...], otherwise: str) -> None:
    """The layers to adapt. every: the words that mean all linear layers. otherwise: what a missing key means there."""
    given = draft.get(key, "any")
    targets = _listed(given)
    if not targets:
        differs = f"{draft.tool.name} {otherwise}" if otherwise else ""
        draft.put("train.lora.targets", "all-linear", key, differs=differs)
    elif set(targets) & set(every):
        draft.put("train.lora.targets", "all-linear", key)
    elif isinstance(given, str) and re.search(r"[\\^$*+?()|\[\]]", given):
        draft.put("train.lora.targets", "all-linear", key,
                  differs=f"a regular expression there, {given[:60]!r}; name the layers here")  # fmt: skip
    else:
        draft.put("train.lora.targets", targets, key)


def read_layers(draft: Draft, key: str) -> None:
    """Layers by number: whet says how many of the last ones."""
    layers = draft.get(key, "any", None)
    if isinstance(layers, int) and not isinstance(layers, bool):
        layers = [layers]
    if not layers:
        return
    numbers = sorted(layers) if isinstance(layers, list) and all(isinstance(number, int) for number in layers) else []
    is_run = bool(numbers) and numbers == list(range(numbers[0], numbers[-1] + 1))
    draft.put("train.lora.last_layers", len(layers), key,
              differs=f"whet adapts the last layers: right if {numbers[-1]} is the number of the last one" if is_run
              else "whet adapts the last layers only, these are others")  # fmt: skip


def _listed(value: Any) -> list[str]:
    """Names as a list, whether they are given as a list or as text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(part) for part in value] if isinstance(value, list) else []
