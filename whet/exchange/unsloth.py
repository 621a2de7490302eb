"""Settings that stand in a script for Unsloth, or for TRL and PEFT without it, to a recipe."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from whet.exchange import trl
from whet.exchange.draft import Draft, Tool
from whet.exchange.reading import Settings
from whet.exchange.script import IS_UNSLOTH
from whet.exchange.sources import Named, read_data, read_length, say_learnt
from whet.exchange.trainer import (
    LoraNames,
    Names,
    read_course,
    read_device,
    read_lora,
    read_optimizer,
    read_quantized,
    read_schedule,
    read_targets,
)

_MORE_QUIET = {
    **dict.fromkeys(("model.device_map", "model.token", "model.fast_inference", "model.gpu_memory_utilization", "data.split",
                     "model.dtype", "model.torch_dtype", "model.attn_implementation", "data.name", "dataset_num_proc",
                     "instruction_part", "response_part", "model.use_gradient_checkpointing"), "how it is run"),
    "data.path": "the kind of file", "random_state": "seed of the adapter's start; see train.seed",
    "finetune_vision_layers": "text only", "finetune_language_layers": "all layers are adapted",
    "finetune_attention_modules": "see train.lora.targets", "finetune_mlp_modules": "see train.lora.targets",
}  # fmt: skip
_MORE_WEIGHTY = {"model.max_lora_rank": "of answering", "model.rope_scaling": "the base's config says it",
                 "model.trust_remote_code": "whet runs no code from a model folder"}  # fmt: skip
# FastLanguageModel.from_pretrained and get_peft_model; and what Unsloth puts in place of SFTConfig's defaults
# (unsloth/models/rl.py, 2025). TrainingArguments it leaves alone.
_MODEL = {"max_length": 2048, "load_in_4bit": True, "lora_r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "use_rslora": False,
          "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
          "gradient_checkpointing": "unsloth", "bias": "none", "random_state": 3407, "full_finetuning": False}  # fmt: skip
_CONFIG = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "weight_decay": 0.01, "warmup_ratio": 0.1,
           "seed": 3407, "optim": "adamw_8bit", "learning_rate": 5e-5}  # fmt: skip
_RENAMED = {
    "model.model_name": "model_name_or_path", "model.pretrained_model_name_or_path": "model_name_or_path",
    "model.max_seq_length": "max_length", "model.load_in_4bit": "load_in_4bit", "model.load_in_8bit": "load_in_8bit",
    "model.full_finetuning": "full_finetuning", "lora.r": "lora_r", "lora.target_modules": "lora_target_modules",
    "lora.modules_to_save": "lora_modules_to_save", "lora.use_gradient_checkpointing": "gradient_checkpointing",
    "train.max_seq_length": "max_length", "trainer.max_seq_length": "max_length",
}  # fmt: skip
MARKS: tuple[str, ...] = ()


def tool_of(values: Mapping[str, Any]) -> Tool:
    """The tool with the defaults that hold for a script's calls."""
    plain = any(key.startswith("arguments.") for key in values)
    base = dict(trl.TRAINER.defaults if plain else trl.TRL.defaults)
    quiet, weighty = {**trl.TRL.quiet, **_MORE_QUIET}, {**trl.TRL.weighty, **_MORE_WEIGHTY}
    if values.get(IS_UNSLOTH):
        # Beside TrainingArguments SFTTrainer still has its own settings.
        defaults = {**trl.TRL.defaults, **base, **({} if plain else _CONFIG), **_MODEL}
        return Tool("Unsloth", defaults, quiet, weighty, knows_all=False)
    lora = {"lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}  # LoraConfig's, not ModelConfig's
    return Tool("TRL", {**trl.TRL.defaults, **base, **lora}, quiet, weighty, knows_all=False)


def flatten(settings: Settings) -> tuple[Settings, list[str]]:
    """The arguments of all calls under the names of `trl sft`, and what to remark about those that say one thing twice."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    words = []
    order = ("model.", "lora.", "trainer.", "arguments.", "train.", "data.")
    for key in sorted(settings.values, key=lambda key: next((n for n, part in enumerate(order) if key.startswith(part)), -1)):
        if key == IS_UNSLOTH:
            continue
        part, _, name = key.partition(".")
        new = _RENAMED.get(key) or (key if part in ("model", "data") else name)
        if new in values and values[new] != settings.values[key]:
            words.append(f"{new} is {values[new]!r} in one call and {settings.values[key]!r} in another; the latter is taken "
                         f"({settings.place(key)}).")  # fmt: skip
        values[new], places[new] = settings.values[key], settings.place(key)
    return replace(settings, values=values, places=places), words


def draft_of(settings: Settings) -> Draft:
    """The draft of a script, read."""
    tool = tool_of(settings.values)
    flat, words = flatten(settings)
    has_lora = any(key.startswith("lora.") for key in settings.values)
    draft = Draft(tool, flat)
    draft.remarks += words
    for one in settings.computed:
        draft.remark(f"{one} is known only when the script runs: set it yourself.")
    names = Names()
    draft.copy("base", "model_name_or_path", "text")
    _read_rows(draft, flat)
    read_length(draft, "max_length", cuts=True)
    if draft.get("packing", "any", False) is True:
        draft.lose("packing", "whet packs whole rows that do not see each other: the loss is that of separate rows", "other")
    read_course(draft, names)
    read_optimizer(draft, names)
    read_schedule(draft, names)
    read_device(draft)
    if not has_lora or draft.get("full_finetuning", "any", False) is True:
        draft.put("train.method", "full", "full_finetuning")
        return draft
    read_lora(draft, LoraNames())
    read_targets(draft, "lora_target_modules", ("all-linear",), "leaves it to PEFT's choice for the model")
    read_quantized(draft)
    return draft


def _read_rows(draft: Draft, settings: Settings) -> None:
    files = draft.get("data.data_files", "any", None)
    path = draft.get("data.path", "text", None)
    named = []
    if files is not None:
        for split, each in files.items() if isinstance(files, dict) else [("train", files)]:
            for one in each if isinstance(each, list) else [each]:
                named.append(Named(str(one), "valid" if split in ("test", "validation", "eval") else "train"))
    elif path and path not in ("json", "csv", "parquet", "text"):
        named.append(Named(str(Path(path)), "train"))
    read_data(draft, named, "data.data_files", "data.path")
    masked = draft.get("train_on_responses_only", "any", False) is True or draft.get("assistant_only_loss", "any", False) is True
    if masked or draft.get("completion_only_loss", "any", None) is True:
        say_learnt(draft, None, "all", "train_on_responses_only")
    else:
        say_learnt(draft, "Without train_on_responses_only the whole text of a row is learnt.", "last", "train_on_responses_only")
    if draft.has("dataset_text_field"):
        draft.remark("The script makes the text of each row itself (dataset_text_field); whet renders rows with the template of "
                     "the base's folder: compare a prompt.", "dataset_text_field")  # fmt: skip
