"""Settings of axolotl's YAML to a recipe and back."""

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

_SPEED, _SAVING = "speed and memory", "what is saved, printed, or uploaded"
# Defaults: axolotl's own schemas (src/axolotl/utils/schemas: training.py, peft.py, config.py), of 2026, and, for what these
# leave to the Trainer, transformers' TrainingArguments. lora_r and lora_alpha have none there: they must be given.
TOOL = Tool(
    "axolotl",
    {
        "gradient_accumulation_steps": 1, "micro_batch_size": 1, "train_on_inputs": False, "weight_decay": 0.0,
        "optimizer": "adamw_torch_fused", "lr_scheduler": "cosine", "num_epochs": 1.0, "sequence_len": 512,
        "lora_dropout": 0.0, "load_in_8bit": False, "load_in_4bit": False, "val_set_size": 0.0, "seed": 42, "max_steps": -1,
        "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
        "excess_length_strategy": "drop", "sample_packing": False, "group_by_length": False, "strict": False,
        "shuffle_merged_datasets": True,
        "eval_strategy": "no", "loraplus_lr_embedding": 1e-6, "merge_method": "memory_efficient", "pad_to_sequence_len": False,
        "gradient_checkpointing": False, "relora_prune_method": "magnitude", "qlora_sharded_model_loading": False,
    },
    quiet={
        **keys(_SAVING, """
            output_dir logging_steps save_steps saves_per_epoch save_strategy save_total_limit save_safetensors
            wandb_project wandb_entity wandb_watch wandb_name wandb_run_id wandb_log_model wandb_mode
            mlflow_tracking_uri mlflow_experiment_name mlflow_run_name hub_model_id hub_strategy push_dataset_to_hub
            use_wandb use_mlflow use_comet comet_project_name use_tensorboard debug strict dataset_prepared_path
            eval_table_size eval_max_new_tokens eval_sample_packing plot_loss report_to logging_dir
            resume_from_checkpoint auto_resume_from_checkpoints local_rank hf_use_auth_token merge_lora merge_method
            lora_model_dir lora_on_cpu save_first_step save_only_model profiler_steps include_tokens_per_second
        """),
        **keys(_SPEED, """
            flash_attention flash_attn_cross_entropy flash_attn_rms_norm sdp_attention xformers_attention
            attn_implementation flex_attention eager_attention s2_attention tf32 pad_to_sequence_len torch_compile
            torch_compile_backend gradient_checkpointing_kwargs eval_batch_size dataloader_num_workers
            dataloader_pin_memory dataloader_prefetch_factor dataset_processes dataset_num_proc low_cpu_mem_usage
            torch_dtype liger_rope liger_rms_norm liger_glu_activation liger_swiglu liger_layer_norm
            liger_fused_linear_cross_entropy plugins lora_mlp_kernel lora_qkv_kernel lora_o_kernel lora_kernels
            unsloth_cross_entropy_loss group_by_length sample_packing_group_size sample_packing_bin_size
            activation_offloading bfloat16 float16 is_llama_derived_model is_mistral_derived_model is_qwen_derived_model
            model_type tokenizer_type tokenizer_use_fast tokenizer_legacy eval_sequence_len chunked_cross_entropy
            cut_cross_entropy layer_offloading device_map max_memory gpu_memory_limit shuffle_merged_datasets
            embeddings_skip_upcast fp32_norms use_kernels
        """),
        **keys("many machines; see docs/devices.md", """
            deepspeed fsdp fsdp_config fsdp_version ddp ddp_timeout ddp_bucket_cap_mb tensor_parallel_size
            context_parallel_size sequence_parallel_degree dp_shard_size dp_replicate_size ray_num_workers use_ray
            qlora_sharded_model_loading
        """),
        "chat_template": "whet takes the template of the base's folder: put this one there if it is another",
        "sample_packing": "whet packs whole rows that do not see each other: the loss is that of separate rows",
        "tokenizer_config": "whet takes the tokenizer of the base's folder", "loraplus_lr_embedding": "no embedding is adapted",
        "early_stopping_patience": "set train.patience", "evals_per_epoch": "set train.validate_every",
        "lora_fan_in_fan_out": "whet finds it", "bnb_config_kwargs": "how the base is quantised; whet takes NF4, double",
    },
    weighty={
        "rl": "preference training; whet learns answers", "relora": "another kind of training", "unfrozen_parameters": "parts of "
        "the base", "trust_remote_code": "whet runs no code from a model folder", "special_tokens": "the tokens of the base's "
        "folder are taken", "tokens": "new tokens need train.lora.save_modules and a tokenizer that has them",
        "added_tokens_overrides": "the tokenizer of the base's folder is taken", "neftune_noise_alpha": "whet adds no noise",
        "noisy_embedding_alpha": "whet adds no noise", "lora_target_parameters": "only linear layers are adapted",
        "peft_layers_pattern": "whet finds the list of layers", "peft_init_lora_weights": "another start of the adapter",
        "loftq_config": "another start of the adapter", "peft": "another way to quantise", "gptq": "another quantisation",
        "embedding_lr": "one learning rate", "embedding_lr_scale": "one learning rate", "lr_groups": "one learning rate",
        "cosine_constant_lr_ratio": "the cosine falls to the end", "lr_quadratic_warmup": "the warm-up is a straight line",
        "batch_size": "the Trainer of axolotl works it out; set gradient_accumulation_steps", "auto_find_batch_size": "the batch "
        "would be another where memory is short", "dataset_exact_deduplication": "set data.clean.duplicates: drop",
        "pretraining_dataset": "whet learns answers", "default_system_message": "set task.system", "roles_to_train": "the last "
        "answer is learnt", "base_model_config": "the config of the base's folder is taken", "revision_of_model": "name the "
        "folder of that revision", "overrides_of_model_config": "the config of the base's folder is taken",
        "min_sample_len": "short rows are learnt too", "reward_model": "whet learns answers", "process_reward_model": "whet "
        "learns answers", "adam_epsilon2": "an argument of another optimiser", "adam_beta3": "an argument of another optimiser",
        "optim_args": "arguments of the optimiser", "optim_target_modules": "layer-wise optimisers",
    },
    ignored={"lora_rank": "its name is lora_r", "per_device_train_batch_size": "its name is micro_batch_size",
             "num_train_epochs": "its name is num_epochs", "lora_scale": "its name is lora_alpha"},
    knows_all=False,
)  # fmt: skip
MARKS = ("base_model", "micro_batch_size", "sequence_len", "num_epochs", "sample_packing", "val_set_size", "adapter",
         "lora_target_linear", "train_on_inputs", "dataset_prepared_path", "pad_to_sequence_len", "flash_attention")  # fmt: skip
NAMES = Names("micro_batch_size", "gradient_accumulation_steps", "num_epochs", "optimizer", "lr_scheduler")
LORA = LoraNames(rslora="peft_use_rslora", dora="peft_use_dora", layers="peft_layers_to_transform")
# Types of axolotl's datasets that are no chats: their prompt is written in words of axolotl's own.
_OWN_PROMPTS = ("alpaca", "gpteacher", "oasst", "reflection", "explainchoice", "concisechoice", "summarizetldr", "context_qa")


def read(draft: Draft) -> None:
    """Put what axolotl would do into the draft."""
    draft.copy("base", "base_model", "text")
    _read_rows(draft)
    read_length(draft, "sequence_len", cuts=draft.get("excess_length_strategy", "text") == "truncate")
    read_course(draft, NAMES)
    read_optimizer(draft, NAMES)
    if draft.get("cosine_min_lr_ratio", "number", None) and draft.get("lr_scheduler", "text") == "cosine":
        draft.put("train.min_rate", draft.get("cosine_min_lr_ratio", "number"), "cosine_min_lr_ratio")
    read_schedule(draft, NAMES)
    _read_own_warm_up(draft)
    read_device(draft)
    _read_adapter(draft)


def _read_own_warm_up(draft: Draft) -> None:
    """Where nothing is said of a warm-up axolotl makes one of its own (core/builders/base.py)."""
    if draft.has("warmup_steps") or draft.has("warmup_ratio") or draft.get("lr_scheduler", "text") == "constant":
        return
    said = "neither warmup_steps nor warmup_ratio is given; axolotl takes 3 % of the steps, 100 at most"
    draft.put("train.warm_up", 0.03, said=said, differs="there it is never longer than 100 steps")
    draft.put("train.warm_up_from_zero", True, said=said)


def _read_rows(draft: Draft) -> None:
    named = []
    for key, split in (("datasets", "train"), ("test_datasets", "valid")):
        for one in draft.get(key, "list", None) or []:
            if not isinstance(one, dict) or not isinstance(one.get("path"), str):
                raise draft.fault(key, f"{key} has an entry without a path")
            files = one.get("data_files") or one["path"]
            named += [Named(str(path), split) for path in (files if isinstance(files, list) else [files])]  # type: ignore[arg-type]
            _say_type(draft, one)
    share = draft.get("val_set_size", "number")
    if share and share >= 1:
        draft.lose("val_set_size", "a number of rows; whet takes a share (data.split.valid)", "other")
    read_data(draft, named, "datasets", "test_datasets", "val_set_size", valid=share if 0 < share < 1 else None)
    prompt = "axolotl learns the prompt too." if draft.get("train_on_inputs", "any", False) is True else None
    say_learnt(draft, prompt, "all", "train_on_inputs")


def _say_type(draft: Draft, one: dict[str, Any]) -> None:
    kind = one.get("type")
    name = kind if isinstance(kind, str) else "its own type" if isinstance(kind, dict) else "no type"
    if name.partition(".")[0] in _OWN_PROMPTS or isinstance(kind, dict):
        draft.remark(f"datasets: {one['path']} of the type {name} is asked in axolotl's own words around instruction and input; "
                     "whet asks with the base's chat template. The ids of the prompt differ.")  # fmt: skip
    left = sorted(set(one) - {"path", "type", "data_files", "ds_type", "split", "name"})
    if left:
        draft.remark(
            f"datasets: {one['path']} also says {', '.join(left)}, which whet reads from the rows' own keys or not at all."
        )


def _read_adapter(draft: Draft) -> None:
    kind = draft.get("adapter", "text", None)
    if kind is None:
        draft.put("train.method", "full", "adapter")
        return
    if kind not in ("lora", "qlora"):
        raise draft.fault("adapter", f"adapter: {kind} is of a kind that whet does not have", "lora and qlora can be imported")
    if not draft.has("lora_r") or not draft.has("lora_alpha"):
        raise draft.fault("adapter", "lora_r and lora_alpha are missing, and axolotl has no defaults for them", "Give both")
    read_lora(draft, LORA)
    if draft.get("lora_target_linear", "any", None) is True:
        draft.put("train.lora.targets", "all-linear", "lora_target_linear")
        draft.lose("lora_target_modules", "all linear layers are adapted anyway", "other")
    else:
        read_targets(draft, "lora_target_modules", ("all-linear", "all_linear"), "leaves it to PEFT's choice for the model")
    read_quantized(draft)
    if kind == "qlora" and "device.quantize" not in draft.lines:
        draft.put("device.quantize", "nf4", "adapter", differs="axolotl wants load_in_4bit: true beside it")


def write(said: Said) -> dict[str, Any]:
    """The YAML of axolotl that means what a recipe says."""
    values: dict[str, Any] = {"base_model": said.take("base")}
    rows: dict[str, Any] = {"datasets": [], "test_datasets": []}
    for path, split in said.sources():
        if split == "test":
            continue
        key = "datasets" if split == "train" else "test_datasets"
        rows[key].append({"path": path, "ds_type": "json", "type": "chat_template", "split": "train"})
    values |= {key: found for key, found in rows.items() if found}
    if not rows["test_datasets"]:
        values["val_set_size"] = said.take("data.split.valid")
    said.cannot("task.kind", "rows must be messages for the type chat_template: whet data convert --to messages; of several "
                "answers all are learnt there", is_nearly=True)  # fmt: skip
    values |= {"train_on_inputs": False, "sequence_len": said.take("train.max_length")}
    policy = said.take("data.clean.over_long")
    values["excess_length_strategy"] = "drop" if policy == "drop" else "raise"
    values |= write_course(said, NAMES) | {"warmup_steps": 0} | write_optimizer(said, NAMES) | write_device(said)
    if "warmup_ratio" in values:
        del values["warmup_steps"]  # axolotl refuses both; without either it warms up by itself
    if said.lora is not None:
        values |= {"adapter": "lora"} | write_lora(said, LORA)
        targets = said.take("train.lora.targets")
        if targets == "all-linear":
            values["lora_target_linear"] = True
        else:
            values["lora_target_modules"] = list(targets)
        if said.take("train.optimizer.b_ratio") != 1:
            values["loraplus_lr_ratio"] = said.optimizer.b_ratio
    quantize = said.take("device.quantize")
    if quantize == "nf4":
        values |= {"adapter": "qlora", "load_in_4bit": True}
    elif quantize == "int8":
        values["load_in_8bit"] = True
    return values
