"""Settings of TRL's SFT and of transformers' Trainer, and PEFT's adapter_config.json, to a recipe and back."""

from typing import Any

from whet.exchange.draft import Draft, Tool, keys
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
    read_quantized,
    read_schedule,
    read_targets,
)

# Fields and defaults of TrainingArguments, transformers 5.23.0.
_TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0, "max_steps": -1,
    "learning_rate": 5e-5, "lr_scheduler_type": "linear", "warmup_steps": 0, "optim": "adamw_torch_fused", "weight_decay": 0.0,
    "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "seed": 42, "eval_strategy": "no",
    "bf16": False, "fp16": False, "use_cpu": False, "load_best_model_at_end": False, "label_smoothing_factor": 0.0,
    "greater_is_better": None, "dataloader_drop_last": False, "train_sampling_strategy": "random", "report_to": "none",
    "per_device_eval_batch_size": 8, "eval_delay": 0, "save_strategy": "steps", "save_steps": 500, "logging_steps": 500,
    "logging_strategy": "steps", "average_tokens_across_devices": True, "push_to_hub": False, "do_train": False,
    "do_eval": False, "do_predict": False, "remove_unused_columns": True, "hub_strategy": "every_save", "ddp_timeout": 1800,
    "log_level": "passive", "log_level_replica": "warning", "log_on_each_node": True, "logging_nan_inf_filter": True,
    "include_num_input_tokens_seen": "no", "project": "huggingface", "eval_do_concat_batches": True, "include_for_metrics": [],
    "dataloader_num_workers": 0, "dataloader_pin_memory": True, "dataloader_in_order": True, "length_column_name": "length",
    "debug": "", "skip_memory_metrics": True, "local_rank": -1, "hub_always_push": False, "use_cache": False,
}  # fmt: skip
_SPEED = "speed and memory"
_SAVING = "what is saved, printed, or uploaded"
_MACHINES = "many machines; see docs/devices.md"
QUIET = {
    **keys(_SAVING, """
            output_dir logging_dir logging_strategy logging_steps logging_first_step log_on_each_node
            logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to
            run_name project trackio_space_id trackio_bucket_id trackio_static_space_id save_only_model save_strategy
            save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token hub_private_repo
            hub_model_id hub_strategy hub_always_push hub_revision overwrite_output_dir save_safetensors
            prediction_loss_only include_for_metrics batch_eval_metrics skip_memory_metrics debug do_train do_eval
            do_predict restore_callback_states_from_checkpoint log_completions
        """),
    **keys(_SPEED, """
            tf32 bf16_full_eval fp16_full_eval activation_checkpointing activation_checkpointing_kwargs
            gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_liger_kernel
            liger_kernel_config use_cache torch_empty_cache_steps per_device_eval_batch_size eval_on_start
            eval_do_concat_batches eval_use_gather_object eval_accumulation_steps eval_delay dataloader_num_workers
            dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
            dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names length_column_name
            full_determinism use_cpu activation_offloading dataset_num_proc attn_implementation padding_free
            pad_to_multiple_of eval_packing bnb_4bit_quant_storage dataset_streaming runtime_config
            inference_mode data_seed ignore_data_skip train_sampling_strategy
            group_by_length pad_token
        """),
    "metric_for_best_model": "see train.choose_by", "greater_is_better": "see train.choose_by",
    **keys(_MACHINES, """
            average_tokens_across_devices accelerator_config parallelism_config ddp_find_unused_parameters
            ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed
            local_rank ignore_bias_buffers megatron_config megatron_core
        """),
}  # fmt: skip
WEIGHTY = {
    "label_smoothing_factor": "whet learns the answer as it is", "neftune_noise_alpha": "whet adds no noise to embeddings",
    "optim_target_modules": "layer-wise optimisers", "auto_find_batch_size": "the batch would be another where memory is short",
    "resume_from_checkpoint": "a run of whet is taken up by running it again",
    "dataloader_drop_last": "whet trains the rows of the last, smaller step too",
    "model_init_kwargs": "how the model is opened; see device", "trust_remote_code": "whet runs no code from a model folder",
    "router_aux_loss_coef": "no loss beside that of the answers", "chat_template_path": "put the template into the base's folder",
    "dataset_kwargs": "how rows are rendered", "eos_token": "the end of turn is the template's own",
    "truncation_mode": "whet cuts no row", "shuffle_dataset": "whet shuffles every epoch", "loss_type": "whet takes the "
    "cross entropy of the answers", "model_revision": "name the folder of that revision", "lora_target_parameters": "only "
    "linear layers are adapted", "lora_task_type": "causal language models only", "dataset_config": "whet fetches no data",
    "packing_strategy": "whet packs whole rows that do not see each other",
    "init_lora_weights": "another start of the adapter", "bias": "biases are not trained", "exclude_modules": "name the layers "
    "to adapt instead", "lora_bias": "biases are not trained", "layer_replication": "layers are not repeated",
    "trainable_token_indices": "whole embeddings only (train.lora.save_modules)", "target_parameters": "only linear layers are "
    "adapted", "use_qalora": "another adapter", "loftq_config": "another start", "eva_config": "another start",
    "corda_config": "another start", "lora_ga_config": "another start", "alora_invocation_tokens": "another adapter",
    "fan_in_fan_out": "of the base's layers; whet finds it", "layers_pattern": "whet finds the list of layers",
    "revision": "name the folder of that revision", "optim_args": "arguments of the optimiser",
}  # fmt: skip
TRAINER = Tool("transformers' Trainer", _TRAINER, QUIET, WEIGHTY)
# What SFTConfig changes, and ModelConfig and ScriptArguments bring: TRL 1.16.0.
TRL = Tool(
    "TRL",
    _TRAINER | {
        "learning_rate": 2e-5, "bf16": None, "gradient_checkpointing": True, "logging_steps": 10, "max_length": 1024,
        "dataset_text_field": "text", "truncation_mode": "keep_start", "packing": False, "packing_strategy": "bfd",
        "padding_free": False, "pad_to_multiple_of": "auto", "assistant_only_loss": False, "loss_type": "nll",
        "shuffle_dataset": False, "use_peft": False, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05,
        "lora_task_type": "CAUSAL_LM", "use_rslora": False, "use_dora": False, "load_in_8bit": False, "load_in_4bit": False,
        "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": False, "model_revision": "main", "dtype": "float32",
        "dataset_train_split": "train", "dataset_test_split": "test", "dataset_streaming": False, "trust_remote_code": False,
        "activation_offloading": False, "ignore_bias_buffers": False,
    },
    QUIET, WEIGHTY,
    ignored={"max_seq_length": "its name is max_length"},
)  # fmt: skip
# LoraConfig of PEFT 0.21.2.
PEFT = Tool(
    "PEFT",
    {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "fan_in_fan_out": False, "bias": "none", "use_rslora": False,
     "use_dora": False, "init_lora_weights": True, "rank_pattern": {}, "alpha_pattern": {}, "inference_mode": False,
     "megatron_core": "megatron.core", "loftq_config": {}, "use_qalora": False, "qalora_group_size": 16, "lora_bias": False,
     "ensure_weight_tying": False, "peft_type": "LORA", "task_type": None},
    {**QUIET, **dict.fromkeys(("auto_mapping", "peft_version", "task_type", "peft_type", "qalora_group_size"), "about the file")},
    WEIGHTY, knows_all=False,
)  # fmt: skip
TRL_MARKS = ("max_length", "completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_name", "use_peft",
             "packing_strategy", "dataset_num_proc", "truncation_mode", "padding_free", "dataset_train_split")  # fmt: skip
TRAINER_MARKS = ("per_device_train_batch_size", "num_train_epochs", "lr_scheduler_type", "adam_beta1", "optim",
                 "dataloader_num_workers", "save_strategy", "eval_strategy", "max_grad_norm")  # fmt: skip
PEFT_MARKS = ("peft_type", "r", "target_modules", "inference_mode", "base_model_name_or_path")
NAMES = Names(warm_up_share="warmup_steps")
_PEFT_NAMES = LoraNames(rank="r", targets="target_modules", saved="modules_to_save")


def read_trainer(draft: Draft) -> None:
    """Put what transformers' Trainer would do into the draft; the model and the rows are its script's own."""
    draft.copy("base", "model_name_or_path", "text")
    read_data(draft, ())
    draft.put("train.method", "full", differs="the arguments say nothing of an adapter: with one, set method: lora")
    _read_run(draft)


def read_trl(draft: Draft) -> None:
    """Put what `trl sft` would do into the draft."""
    draft.copy("base", "model_name_or_path", "text")
    _read_rows(draft)
    read_length(draft, "max_length", cuts=True)
    if draft.get("packing", "flag"):
        draft.lose("packing", "TRL joins rows into one of max_length; with bfd_split or wrapped it cuts them. whet packs whole "
                   "rows that do not see each other: the loss is that of separate rows", "other")  # fmt: skip
    _read_run(draft)
    if not draft.get("use_peft", "flag"):
        draft.put("train.method", "full", "use_peft",
                  differs="`trl sft` makes an adapter only with use_peft: true" if draft.has("lora_r") else "")  # fmt: skip
        for key in (
            "lora_r",
            "lora_alpha",
            "lora_dropout",
            "lora_target_modules",
            "lora_modules_to_save",
            "use_rslora",
            "use_dora",
        ):
            draft.lose(key, "does nothing without use_peft: true", "unread")
        return
    read_lora(draft, LoraNames())
    read_targets(
        draft, "lora_target_modules", ("all-linear",), "leaves it to PEFT, which takes the attention's q and v for most models"
    )
    read_quantized(draft)
    dtype = draft.get("dtype", "text")
    if dtype in ("bfloat16", "float16"):
        draft.put("device.dtype", {"bfloat16": "bf16", "float16": "fp16"}[dtype], "dtype")


def _read_rows(draft: Draft) -> None:
    named = []
    mixture = draft.get("datasets", "list", None) or []
    for one in mixture:
        files = one.get("data_files") if isinstance(one, dict) else None
        for split, path in files.items() if isinstance(files, dict) else [("train", files)]:
            paths = path if isinstance(path, list) else [path]
            named += [Named(str(each), "valid" if split in ("test", "validation") else "train") for each in paths if each]
    data = draft.get("dataset_name", "text", None)
    if data:
        named.append(Named(data, "train"))
        draft.lose("dataset_train_split", "whet fetches no data", "other")
        draft.lose("dataset_test_split", "whet fetches no data", "other")
    read_data(draft, named, "dataset_name", "datasets")
    only = draft.get("completion_only_loss", "flag", None)
    if only is False:
        say_learnt(draft, "TRL learns the prompt too.", "last", "completion_only_loss")
    elif not draft.get("assistant_only_loss", "flag"):
        say_learnt(draft, "TRL learns the prompt too where rows are messages or text; rows of prompt and completion it masks.",
                   "last", "assistant_only_loss")  # fmt: skip
    else:
        say_learnt(draft, None, "all", "assistant_only_loss")
    draft.lose("dataset_text_field", "names of keys; whet reads the known formats", "other")


def _read_run(draft: Draft) -> None:
    read_course(draft, NAMES)
    read_optimizer(draft, NAMES)
    read_schedule(draft, NAMES)
    read_device(draft)


def read_peft(draft: Draft) -> None:
    """Put the adapter of an adapter_config.json into the draft; how it was trained it does not say."""
    kind = draft.get("peft_type", "text")
    if kind != "LORA":
        raise draft.fault("peft_type", f"is an adapter of the type {kind}", "whet knows LoRA and its relatives only")
    draft.copy("base", "base_model_name_or_path", "text")
    read_data(draft, ())
    read_lora(draft, _PEFT_NAMES)
    read_targets(draft, "target_modules", ("all-linear",), "has a choice of its own for each model")
    for key in ("rank_pattern", "alpha_pattern"):
        if draft.get(key, "table"):
            draft.put(f"train.lora.{key}", draft.get(key, "table"), key)
    draft.remark("An adapter's config says nothing of how it was trained: all of train but lora is whet's own default.")


def write(said: Said) -> dict[str, Any]:
    """The YAML of `trl sft --config` that means what a recipe says."""
    values: dict[str, Any] = {"model_name_or_path": said.take("base")}
    files: dict[str, list[str]] = {}
    for path, split in said.sources():
        files.setdefault(split, []).append(path)
    values["datasets"] = [{"path": "json", "data_files": {"train": files.get("train", [])}, "split": "train"}]
    if set(files) - {"train"}:
        said.unsaid.append(_held_out(said, sorted(set(files) - {"train"})))
    values |= {"max_length": said.take("train.max_length"), "completion_only_loss": True}
    values |= write_course(said, NAMES) | write_optimizer(said, NAMES) | write_device(said)
    said.cannot("task.kind", "rows must be prompt and completion for their prompts to be masked: whet data convert --to "
                "prompt-completion", is_nearly=True)  # fmt: skip
    if said.lora is not None:
        values |= {"use_peft": True} | write_lora(said, LoraNames())
        targets = said.take("train.lora.targets")
        values["lora_target_modules"] = "all-linear" if targets == "all-linear" else list(targets)
    quantize = said.take("device.quantize")
    if quantize == "nf4":
        values |= {"load_in_4bit": True, "use_bnb_nested_quant": True}
    elif quantize == "int8":
        values["load_in_8bit"] = True
    if values.get("bf16") or values.get("fp16"):
        values["dtype"] = "bfloat16" if values.get("bf16") else "float16"
    return values


def _held_out(said: Said, splits: list[str]) -> Any:
    from whet.exchange.said import Unsaid

    return Unsaid("data.sources", ", ".join(splits), "`trl sft` reads one split of a mixture: evaluate these with whet")
