"""Settings of ERNIEKit's YAML to a recipe and back."""

from typing import Any

from whet.exchange.draft import Draft, Tool, keys
from whet.exchange.said import Said
from whet.exchange.sources import Named, read_data, read_length, say_learnt
from whet.exchange.to_trainer import write_course, write_optimizer
from whet.exchange.trainer import Names, read_course, read_optimizer, read_schedule

# Defaults: erniekit/hparams (data_args.py, finetuning_args.py, model_args.py) of 2025, which build on paddleformers'
# TrainingArguments; lora_alpha: -1 becomes twice the rank, or 4 with rslora (erniekit's sft workflow).
TOOL = Tool(
    "ERNIEKit",
    {
        "stage": "SFT", "fine_tuning": "LoRA", "max_seq_len": 4096, "batch_size": 1, "gradient_accumulation_steps": 1,
        "num_train_epochs": 3.0, "max_steps": -1, "learning_rate": 5e-5, "lr_scheduler_type": "linear", "warmup_steps": 0,
        "warmup_ratio": 0.0, "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0, "optim": "adamw", "seed": 42, "lora_rank": 8, "lora_alpha": -1, "rslora": False,
        "rslora_plus": False, "lora_plus_scale": 1.0, "packing": True, "evaluation_strategy": "no", "compute_type": "bf16",
        "random_shuffle": True, "num_samples_each_epoch": 6000000, "mix_strategy": "random", "use_template": True,
        "encode_one_turn": False, "train_dataset_prob": "1.0", "eval_dataset_prob": "1.0", "eval_dataset_type": "erniekit",
        "layerwise_lr_decay_bound": 1.0, "mask_out_eos_token": True, "greedy_intokens": True, "in_tokens_batching": True,
    },
    quiet={
        **keys("what is saved or printed", """
            output_dir logging_dir logging_steps save_steps save_strategy save_total_limit disable_tqdm do_train do_eval
            do_predict unified_checkpoint unified_checkpoint_config disable_ckpt_quant max_evaluate_steps
            max_estimate_samples sft_benchmark overwrite_output_dir download_hub ignore_data_skip
        """),
        **keys("speed and memory", """
            fuse_rope fuse_linear fuse_softmax_mask fuse_rms_norm fuse_swiglu use_sparse_head_and_loss_fn
            use_fused_head_and_loss_fn use_flash_attention use_attn_mask_startend_row_indices use_sparse_flash_attn
            release_grads tensorwise_offload_optimizer recompute_use_reentrant recompute_granularity fp16_opt_level
            amp_master_grad amp_custom_white_list amp_custom_black_list dataloader_num_workers prefetch_factor
            buffer_size greedy_intokens in_tokens_batching loss_subbatch_seqlen offload_optim gc_interval
            pre_alloc_memory use_recompute_loss_fn packing dataset_type
        """),
        **keys("many machines; see docs/devices.md", """
            tensor_parallel_degree pipeline_parallel_degree pipeline_parallel_config sharding sharding_parallel_degree
            sharding_parallel_config sequence_parallel moe_group virtual_pp_degree pp_seg_method use_sp_callback
            server_tp_degree hybrid_parallel_topo_order
        """),
    },
    weighty={
        "layerwise_lr_decay_bound": "one learning rate for all layers",
        "num_samples_each_epoch": "an epoch of whet is every row once",
        "train_dataset_prob": "set train.mix.weights", "eval_dataset_prob": "whet validates on every row",
        "lora_path": "training goes on from an adapter there; whet starts a fresh one",
        "hidden_dropout_prob": "no dropout in the base",
        "attention_probs_dropout_prob": "no dropout in the base",
        "min_lr": "set train.min_rate", "decay_steps": "set train.decay_steps",
        "encode_one_turn": "whet renders the whole conversation",
        "use_template": "whet asks with the template of the base's folder",
        "num_nextn_predict_layers": "one token is predicted at a time",
        "use_fp8": "no 8-bit floats", "random_shuffle": "whet shuffles",
        "mix_strategy": "set train.mix", "multimodal": "text only", "mask_out_eos_token": "the end of turn is learnt",
    },
    ignored={"max_seq_length": "its name is max_seq_len", "cutoff_len": "its name is max_seq_len",
             "lora_r": "its name is lora_rank",
             "per_device_train_batch_size": "its name is batch_size", "num_epochs": "its name is num_train_epochs"},
    knows_all=False,
)  # fmt: skip
MARKS = ("max_seq_len", "fine_tuning", "train_dataset_path", "train_dataset_type", "eval_dataset_path", "compute_type",
         "fuse_rope", "amp_master_grad", "tensor_parallel_degree", "weight_quantize_algo")  # fmt: skip
NAMES = Names("batch_size", evaluations="evaluation_strategy")
_ADAM = {"adamw_custom": "adamw", "adamw_mini": "adamw"}


def read(draft: Draft) -> None:
    """Put what ERNIEKit would do into the draft."""
    stage = draft.get("stage", "text")
    if stage.upper() != "SFT":
        raise draft.fault("stage", f"stage: {stage} does not learn the answers of a text model", "whet imports stage: SFT")
    draft.copy("base", "model_name_or_path", "text",
               differs="weights named -Paddle are not in the Hugging Face layout: take the -PT release of the model")  # fmt: skip
    _read_rows(draft)
    read_length(draft, "max_seq_len", cuts=False)
    read_course(draft, NAMES)
    if draft.get("packing", "flag"):
        draft.remark(f"With packing a row of the batch holds as many examples as fit into max_seq_len, so that a step there sees "
                     f"more than {draft.lines['train.examples_per_step'].value} examples: raise train.examples_per_step by the "
                     "number of examples that fit into one row.")  # fmt: skip
    read_optimizer(draft, NAMES)
    read_schedule(draft, NAMES)
    dtype = draft.get("compute_type", "text")
    if dtype in ("bf16", "fp16"):
        draft.put("device.dtype", dtype, "compute_type")
    else:
        draft.lose("compute_type", "numbers of another kind")
    if draft.get("recompute", "flag", False):
        draft.put("device.checkpoint_activations", True, "recompute")
    _read_adapter(draft)


def _read_rows(draft: Draft) -> None:
    named = []
    for key, split in (("train_dataset_path", "train"), ("eval_dataset_path", "valid")):
        for path in str(draft.get(key, "text", "") or "").split(","):
            if path.strip():
                named.append(Named(path.strip(), split))  # type: ignore[arg-type]
    read_data(draft, named, "train_dataset_path", "eval_dataset_path")
    for key in ("train_dataset_type", "eval_dataset_type"):
        draft.lose(key, "whet detects the format row by row", "other")
    say_learnt(draft, None, "all", "train_dataset_path")


def _read_adapter(draft: Draft) -> None:
    if draft.get("fine_tuning", "text").lower() != "lora":
        draft.put("train.method", "full", "fine_tuning")
        for key in ("lora_rank", "lora_alpha", "rslora", "lora_plus_scale"):
            draft.lose(key, "does nothing without fine_tuning: LoRA", "unread")
        return
    rank, alpha, scale = (
        draft.get("lora_rank", "whole"),
        draft.get("lora_alpha", "number"),
        draft.get("lora_plus_scale", "number"),
    )
    has_rslora = draft.get("rslora", "flag") or draft.get("rslora_plus", "flag")
    if draft.get("rslora_plus", "flag"):
        alpha, scale = 4, 4.0
    if alpha == -1:
        alpha = 4 if has_rslora else 2 * rank
    differs = ""
    if alpha != (4 if has_rslora else 2 * rank):
        differs = f"some versions of ERNIEKit ignore lora_alpha and take {4 if has_rslora else 2 * rank}"
    draft.put("train.lora.rank", rank, "lora_rank")
    draft.put("train.lora.alpha", float(alpha), "lora_alpha", differs=differs)
    draft.put("train.lora.targets", "all-linear", "fine_tuning")
    draft.put("train.lora.dropout", 0.0, "fine_tuning")
    if has_rslora:
        draft.put("train.lora.rslora", True, "rslora")
    if scale != 1:
        draft.put("train.optimizer.b_ratio", float(scale), "lora_plus_scale")
    quantized = draft.get("weight_quantize_algo", "any", None)
    if quantized == "nf4":
        draft.put(
            "device.quantize",
            "nf4",
            "weight_quantize_algo",
            differs="Paddle's NF4 there, bitsandbytes' with double quantisation here",
        )
    elif quantized in ("weight_only_int8", "wint8"):
        draft.put("device.quantize", "int8", "weight_quantize_algo", differs="Paddle's int8 there, bitsandbytes' here")
    elif quantized:
        draft.lose("weight_quantize_algo", "whet holds bases in NF4 or int8; with a mixture of both the nearest is int8")


def write(said: Said) -> dict[str, Any]:
    """The YAML of ERNIEKit that means what a recipe says."""
    values: dict[str, Any] = {"model_name_or_path": said.take("base"), "stage": "SFT", "do_train": True}
    for key, split in (("train", "train"), ("eval", "valid")):
        paths = [path for path, of in said.sources() if of == split]
        if paths:
            values |= {f"{key}_dataset_path": ",".join(paths), f"{key}_dataset_type": ",".join(["erniekit"] * len(paths)),
                       f"{key}_dataset_prob": ",".join([f"{1 / len(paths):g}"] * len(paths))}  # fmt: skip
    said.cannot("task.kind", "rows must be src and tgt: whet data convert --to erniekit", is_nearly=True)
    values |= {"max_seq_len": said.take("train.max_length"), "packing": False}
    said.take("data.clean.over_long")
    values |= write_course(said, NAMES) | write_optimizer(said, NAMES)
    if values["optim"] not in ("adamw_torch",):
        said.cannot("train.optimizer.name", "ERNIEKit trains with AdamW; adamw is written")
    values["optim"] = "adamw"
    dtype = said.take("device.dtype")
    values["compute_type"] = dtype if dtype in ("bf16", "fp16") else "bf16"
    if dtype not in ("bf16",):
        said.cannot("device.dtype", f"{dtype} here; compute_type: {values['compute_type']} is written", is_nearly=True)
    values["recompute"] = said.take("device.checkpoint_activations")
    if said.lora is None:
        values["fine_tuning"] = "Full"
    else:
        lora = said.lora
        said.take("train.lora.rank", "train.lora.alpha", "train.lora.rslora", "train.optimizer.b_ratio")
        values |= {"fine_tuning": "LoRA", "lora_rank": lora.rank, "lora_alpha": lora.alpha, "rslora": lora.rslora,
                   "lora_plus_scale": said.optimizer.b_ratio}  # fmt: skip
        if float(lora.alpha).is_integer():
            values["lora_alpha"] = int(lora.alpha)
        else:
            said.cannot("train.lora.alpha", "ERNIEKit takes a whole number")
    quantize = said.take("device.quantize")
    if quantize:
        values["weight_quantize_algo"] = {"nf4": "nf4", "int8": "weight_only_int8"}[quantize]
    return values
