"""Settings of LLaMA-Factory's YAML to a recipe and back."""

from pathlib import Path
from typing import Any, Literal

from whet.errors import InputError
from whet.exchange import trl
from whet.exchange.draft import Draft, Tool, keys
from whet.exchange.reading import read_settings
from whet.exchange.said import Said
from whet.exchange.sources import Named, read_data, read_length, say_learnt
from whet.exchange.to_trainer import write_course, write_device, write_lora, write_optimizer
from whet.exchange.trainer import (
    LoraNames,
    Names,
    read_course,
    read_device,
    read_lora,
    read_optimizer,
    read_schedule,
    read_targets,
)

# Defaults: LLaMA-Factory's src/llamafactory/hparams (data_args.py, finetuning_args.py, model_args.py), of 2026; the rest is the
# Trainer's. lora_alpha is twice the rank where it is not given.
TOOL = Tool(
    "LLaMA-Factory",
    {**trl.TRAINER.defaults} | {
        "stage": "sft", "finetuning_type": "lora", "cutoff_len": 2048, "train_on_prompt": False, "mask_history": False,
        "dataset_dir": "data", "val_size": 0.0, "lora_rank": 8, "lora_dropout": 0.0, "lora_target": "all", "use_rslora": False,
        "use_dora": False, "loraplus_lr_embedding": 1e-6, "pissa_init": False, "pissa_iter": 16, "neat_packing": False,
        "packing": None, "mix_strategy": "concat", "streaming": False, "overwrite_cache": False, "quantization_type": "nf4",
        "double_quantization": True, "quantization_method": "bnb", "use_unsloth": False, "flash_attn": "auto", "pure_bf16": False,
        "enable_thinking": True, "trust_remote_code": False, "preprocessing_batch_size": 1000, "plot_loss": False,
        "disable_shuffling": False, "freeze_vision_tower": True, "freeze_multi_modal_projector": True, "upcast_layernorm": False,
        "ignore_pad_token_for_loss": True, "disable_gradient_checkpointing": False, "learning_rate": 5e-5,
    },
    quiet={
        **trl.TRAINER.quiet,
        **keys("what is saved or printed", """
            overwrite_cache preprocessing_batch_size preprocessing_num_workers tokenized_path media_dir plot_loss
            use_swanlab swanlab_project swanlab_mode swanlab_run_name swanlab_workspace swanlab_api_key swanlab_logdir
            include_effective_tokens_per_second compute_accuracy eval_on_each_dataset eval_num_beams streaming
            buffer_size cache_dir use_fast_tokenizer hf_hub_token ms_hub_token om_hub_token print_param_status
            ray_run_name ray_num_workers predict_with_generate do_sample temperature top_p max_new_tokens
        """),
        **keys("speed and memory", """
            flash_attn use_unsloth enable_liger_kernel use_unsloth_gc low_cpu_mem_usage upcast_layernorm
            upcast_lmhead_output shift_attn rope_scaling_ quantization_device_map pure_bf16 use_kv_cache
            disable_gradient_checkpointing loraplus_lr_embedding freeze_vision_tower freeze_multi_modal_projector
            ignore_pad_token_for_loss offload_folder infer_dtype packing neat_packing
        """),
        "template": "whet takes the template of the base's folder: compare the prompts, some templates add a system message",
        "enable_thinking": "the template of the base's folder says it", "mix_strategy": "see train.mix",
        "pissa_iter": "of pissa_init",
    },
    weighty={
        **trl.TRAINER.weighty, "max_samples": "cut the file yourself", "interleave_probs": "set train.mix.weights",
        "pissa_init": "another start of the adapter", "pissa_convert": "of pissa_init",
        "create_new_adapter": "whet starts a fresh adapter", "adapter_name_or_path": "training goes on from an adapter there; "
        "whet starts a fresh one", "use_galore": "another optimiser", "use_apollo": "another optimiser", "use_badam": "another "
        "optimiser", "use_adam_mini": "another optimiser", "use_muon": "set train.optimizer.name: muon", "use_dft_loss":
        "another loss", "use_llama_pro": "more layers", "resize_vocab": "new tokens need train.lora.save_modules", "rope_scaling":
        "the base's config says it", "tool_format": "tools stand in the system message", "default_system": "set task.system",
        "freeze_trainable_layers": "set train.full.last_layers", "disable_shuffling": "whet shuffles every epoch",
        "new_special_tokens": "new tokens need train.lora.save_modules", "add_tokens": "new tokens need train.lora.save_modules",
        "early_stopping_steps": "set train.patience", "model_revision": "name the folder of that revision",
    },
    ignored={"max_length": "its name is cutoff_len", "max_seq_length": "its name is cutoff_len",
             "lora_r": "its name is lora_rank",
             "lora_target_modules": "its name is lora_target", "load_in_4bit": "its name is quantization_bit: 4"},
    knows_all=False,
)  # fmt: skip
MARKS = ("finetuning_type", "stage", "cutoff_len", "template", "dataset_dir", "lora_target", "quantization_bit", "val_size",
         "train_on_prompt", "neat_packing", "overwrite_cache")  # fmt: skip
NAMES = Names()
LORA = LoraNames("lora_rank", targets="lora_target", saved="additional_target")


def read(draft: Draft) -> None:
    """Put what LLaMA-Factory would do into the draft."""
    stage, kind = draft.get("stage", "text"), draft.get("finetuning_type", "text")
    if stage != "sft":
        raise draft.fault("stage", f"stage: {stage} does not learn answers", "whet imports stage: sft")
    if kind not in ("lora", "full"):
        raise draft.fault(
            "finetuning_type", f"finetuning_type: {kind} is of a kind that whet does not have", "lora and full can be"
        )
    draft.copy("base", "model_name_or_path", "text")
    _read_rows(draft)
    read_length(draft, "cutoff_len", cuts=True)
    if draft.get("packing", "flag", False) and not draft.get("neat_packing", "flag"):
        draft.remark("With packing and without neat_packing, the rows that LLaMA-Factory packs into one see each other; in "
                     "whet they never do.")  # fmt: skip
    read_course(draft, NAMES)
    read_optimizer(draft, NAMES)
    read_schedule(draft, NAMES)
    read_device(draft)
    if "device.checkpoint_activations" not in draft.lines and not draft.get("disable_gradient_checkpointing", "flag"):
        draft.put("device.checkpoint_activations", True, "disable_gradient_checkpointing")
    if kind == "full":
        draft.put("train.method", "full", "finetuning_type")
        for key in ("lora_rank", "lora_alpha", "lora_dropout", "lora_target"):
            draft.lose(key, "does nothing with finetuning_type: full", "unread")
        return
    alpha = draft.get("lora_alpha", "number", None)
    read_lora(draft, LORA, alpha or 2 * draft.get("lora_rank", "whole"))
    read_targets(draft, "lora_target", ("all",), "")
    bits = draft.get("quantization_bit", "whole", None)
    if bits in (4, 8):
        draft.put("device.quantize", {4: "nf4", 8: "int8"}[bits], "quantization_bit")
    elif bits:
        draft.lose("quantization_bit", f"{bits} bits; whet holds bases in 4 or 8")


def _read_rows(draft: Draft) -> None:
    folder = draft.get("dataset_dir", "text")
    known = _dataset_info(draft, folder)
    named = []
    for key, split in (("dataset", "train"), ("eval_dataset", "valid")):
        for name in str(draft.get(key, "any", "") or "").strip("[]").split(","):
            plain = name.strip().strip("'\"")
            if plain:
                named.append(Named(known.get(plain, plain), split))  # type: ignore[arg-type]
    size = draft.get("val_size", "number")
    if size >= 1:
        draft.lose("val_size", "a number of rows; whet takes a share (data.split.valid)", "other")
    read_data(draft, named, "dataset", "eval_dataset", "dataset_dir", "val_size", valid=size if 0 < size < 1 else None)
    prompt = "LLaMA-Factory learns the prompt too." if draft.get("train_on_prompt", "flag") else None
    turns: Literal["last", "all"] = "last" if draft.get("mask_history", "flag") else "all"
    say_learnt(draft, prompt, turns, "train_on_prompt" if prompt else "mask_history")


def _dataset_info(draft: Draft, folder: str) -> dict[str, str]:
    """Paths of the local files that dataset_info.json gives names to, where it can be found beside the settings."""
    for base in (draft.settings.path.parent / folder, Path(folder)):
        info = base / "dataset_info.json"
        if not info.is_file():
            continue
        try:
            entries = read_settings(info).values
        except InputError as error:
            draft.remark(f"dataset_info.json can't be read: {error.what}.")
            return {}
        return {name: str(base / one["file_name"]) for name, one in entries.items()
                if isinstance(one, dict) and isinstance(one.get("file_name"), str)}  # fmt: skip
    draft.remark(f"No dataset_info.json was found in {folder}: the names of data sets stand where paths are due.")
    return {}


def write(said: Said) -> dict[str, Any]:
    """The YAML of LLaMA-Factory that means what a recipe says."""
    values: dict[str, Any] = {"model_name_or_path": said.take("base"), "stage": "sft", "do_train": True}
    by_split: dict[str, list[str]] = {}
    for path, split in said.sources():
        by_split.setdefault(split, []).append(Path(path).stem if split == "train" else f"{Path(path).stem}_{split}")
    values["dataset"] = ",".join(by_split.get("train", []))
    if by_split.get("valid"):
        values["eval_dataset"] = ",".join(by_split["valid"])
    else:
        values["val_size"] = said.take("data.split.valid")
    files = ", ".join(path for path, _ in said.sources())
    said.cannot(
        "data.sources", f"LLaMA-Factory calls files by names: add these to its dataset_info.json: {files}", is_nearly=True
    )
    said.cannot(
        "task.kind", "name the base's template (template:), and compare a prompt: each tool writes its own", is_nearly=True
    )
    values |= {"cutoff_len": said.take("train.max_length"), "train_on_prompt": False, "mask_history": True}
    values |= write_course(said, NAMES) | write_optimizer(said, NAMES)
    device = write_device(said)
    values["disable_gradient_checkpointing"] = not device.pop("gradient_checkpointing")
    values |= device
    if said.lora is None:
        values["finetuning_type"] = "full"
    else:
        targets = said.take("train.lora.targets")
        values |= {"finetuning_type": "lora", "lora_target": "all" if targets == "all-linear" else ",".join(targets)}
        values |= write_lora(said, LORA)
        if "additional_target" in values:
            values["additional_target"] = ",".join(values["additional_target"])
        if said.take("train.optimizer.b_ratio") != 1:
            values["loraplus_lr_ratio"] = said.optimizer.b_ratio
    quantize = said.take("device.quantize")
    if quantize:
        values |= {"quantization_bit": {"nf4": 4, "int8": 8}[quantize]}
    return values
