"""Settings of mlx-lm (its YAML, or the adapter_config.json that it writes) to a recipe and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.exchange.draft import Draft, Tool
from whet.exchange.said import Said
from whet.exchange.sources import Named, read_data, read_length, say_learnt
from whet.exchange.trainer import NO_CLIPPING

LORA = {"rank": 8, "dropout": 0.0, "scale": 20.0}
TOOL = Tool(
    "mlx-lm",
    # CONFIG_DEFAULTS of mlx_lm/lora.py, 0.32.2.
    {
        "fine_tune_type": "lora", "optimizer": "adam", "seed": 0, "num_layers": 16, "batch_size": 4, "iters": 1000,
        "val_batches": 25, "learning_rate": 1e-5, "steps_per_report": 10, "steps_per_eval": 200, "save_every": 100,
        "test": False, "test_batches": 500, "max_seq_length": 2048, "grad_checkpoint": False, "grad_accumulation_steps": 1,
        "clear_cache_threshold": 0, "lora_parameters": LORA, "mask_prompt": False, "adapter_path": "adapters", "train": False,
        "model": "Qwen/Qwen3-0.6b", "data": "mlx-community/WikiSQL", "trust_remote_code": False,
        "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}},
    },
    quiet={
        "steps_per_report": "how often it prints", "save_every": "how often it saves; see train.checkpoints",
        "adapter_path": "where it saves; whet takes --out", "test_batches": "whet tests on the whole test split",
        "val_batches": "whet validates on the whole valid split", "report_to": "see train.trackers",
        "project_name": "see train.trackers", "clear_cache_threshold": "memory", "config": "the file itself",
        "train": "what it is asked to do", "test": "what it is asked to do", "verbose": "what it prints",
        "prompt_cache_file": "answering", "mask_prompt": "what is learnt",
    },
    weighty={
        "hf_dataset": "a data set that is fetched; give its files as data.sources",
        "prompt_feature": "names of keys; whet reads the known formats", "text_feature": "names of keys",
        "completion_feature": "names of keys", "chat_feature": "names of keys",
        "trust_remote_code": "whet runs no code from a model folder",
    },
    ignored={
        "lora_layers": "its name is num_layers", "lora_rank": "write it as lora_parameters: {rank: ...}",
        "lora_alpha": "write alpha / rank as lora_parameters: {scale: ...}", "epochs": "it counts iters",
        "gradient_accumulation_steps": "its name is grad_accumulation_steps", "max_length": "its name is max_seq_length",
        "warmup": "write it inside lr_schedule", "weight_decay": "write it inside optimizer_config",
        "alpha": "write alpha / rank as lora_parameters: {scale: ...}",
    },
)  # fmt: skip
MARKS = ("iters", "lora_parameters", "num_layers", "max_seq_length", "fine_tune_type", "mask_prompt", "grad_checkpoint",
         "steps_per_report", "steps_per_eval", "val_batches", "lr_schedule", "grad_accumulation_steps", "adapter_path",
         "resume_adapter_file", "lora_layers")  # fmt: skip


def read(draft: Draft) -> None:
    """Put what mlx-lm would do into the draft."""
    draft.copy("base", "model", "text")
    _read_data(draft)
    _read_course(draft)
    _read_optimizer(draft)
    _read_schedule(draft)
    _read_adapter(draft)
    if draft.get("grad_checkpoint", "flag"):
        draft.put("device.checkpoint_activations", True, "grad_checkpoint")
    draft.lose("resume_adapter_file", "training goes on from an adapter there; whet starts a fresh one")


def _read_data(draft: Draft) -> None:
    folder = draft.get("data", "text")
    path = Path(folder)
    splits: tuple[Any, ...] = ("train", "valid", "test")
    found = [split for split in splits if (path / f"{split}.jsonl").is_file()]
    named = [Named(f"{folder.rstrip('/')}/{split}.jsonl", split) for split in found or ("train", "valid")]
    read_data(draft, named, "data")
    if not found:
        draft.put("data.sources", draft.lines["data.sources"].value, "data",
                  differs="no train.jsonl was found there: put the paths of your files here; whet fetches no data")  # fmt: skip
    is_masked = draft.get("mask_prompt", "flag")
    say_learnt(draft, None if is_masked else "mlx-lm learns the prompt too.", "last", "mask_prompt")
    draft.remark("mlx-lm learns one padding token (id 0) behind each row that is padded, and what the template writes behind the "
                 "end of turn; whet learns neither.")  # fmt: skip


def _read_course(draft: Draft) -> None:
    read_length(draft, "max_seq_length", cuts=True)
    batch, accumulation, iters = (draft.get(key, "whole") for key in ("batch_size", "grad_accumulation_steps", "iters"))
    draft.put("train.examples_per_step", batch * accumulation, "batch_size", "grad_accumulation_steps",
              differs="micro-batches count alike there; here every learnt token does" if accumulation > 1 else "")  # fmt: skip
    steps = iters // accumulation if accumulation > 0 else 0
    if steps < 1:
        raise draft.fault("iters", f"iters: {iters} with grad_accumulation_steps: {accumulation} makes no step",
                          "mlx-lm would train nothing; raise iters")  # fmt: skip
    left = iters % accumulation
    draft.put("train.max_steps", steps, "iters", "grad_accumulation_steps",
              differs=f"the last {left} of the iterations never reach the weights there" if left else "")  # fmt: skip
    draft.put("train.epochs", float(steps), "iters")
    draft.copy("train.seed", "seed", "whole", differs="the same seed gives another order of rows and another start")
    every = draft.get("steps_per_eval", "whole")
    draft.put("train.validate_every", max(1, every // accumulation), "steps_per_eval")
    draft.put("train.patience", None)
    draft.remark("mlx-lm keeps the weights of the last step; whet keeps those with the lowest validation loss.")
    draft.remark("mlx-lm sorts rows by the number of keys of their JSON objects and never trains the rows of an incomplete last "
                 "batch; whet shuffles all rows every epoch.")  # fmt: skip


def _read_optimizer(draft: Draft) -> None:
    name = str(draft.get("optimizer", "text")).lower()
    every = draft.get("optimizer_config", "table") or {}
    said = every.get(name)
    own: dict[str, Any] = said if isinstance(said, dict) else {}
    ours = {"adam": "adamw", "adamw": "adamw", "muon": "muon", "adafactor": "adafactor"}.get(name)
    differs = ""
    if ours is None:
        differs = f"whet has no {name}; adamw takes its place, and the learning rate may not suit it"
    elif ours == "adamw" and not own.get("bias_correction", False):
        differs = "no bias correction there: its first steps are up to 3.2 times as large as here, and alike after about 1,000"
    draft.put("train.optimizer.name", ours or "adamw", "optimizer", differs=differs)
    given = own.get("betas")
    betas = given if isinstance(given, list) and len(given) == 2 else [0.9, 0.999]
    if ours == "adamw" or ours is None:
        draft.put("train.optimizer.beta1", betas[0], "optimizer_config", said=f"optimizer_config.{name}.betas")
        draft.put("train.optimizer.beta2", betas[1], "optimizer_config", said=f"optimizer_config.{name}.betas")
        draft.put("train.optimizer.epsilon", own.get("eps", 1e-8), "optimizer_config", said=f"optimizer_config.{name}.eps")
    # AdamW and Muon of mlx.optimizers decay by 0.01 unless told otherwise, Adam and Adafactor not at all.
    decay = own.get("weight_decay", 0.01 if name in ("adamw", "muon") else 0.0) if name != "adam" else 0.0
    draft.put("train.optimizer.weight_decay", decay, "optimizer_config", said=f"optimizer_config.{name}.weight_decay")
    draft.put("train.optimizer.max_gradient_norm", NO_CLIPPING, differs="mlx-lm clips no gradient; none reaches this norm")
    for key in sorted(set(own) - {"betas", "eps", "weight_decay", "bias_correction"}):
        draft.remark(f"optimizer_config.{name}.{key} has no counterpart in whet.")


def _read_schedule(draft: Draft) -> None:
    plan = draft.get("lr_schedule", "table", None)
    if not plan:
        draft.copy("train.learning_rate", "learning_rate", "number")
        draft.put("train.schedule", "constant", "lr_schedule")
        draft.put("train.warm_up", 0.0, "lr_schedule")
        return
    name, arguments, warm_up = plan.get("name"), plan.get("arguments"), plan.get("warmup", 0)
    if not isinstance(arguments, list) or not arguments or not all(_is_number(value) for value in arguments) or arguments[0] <= 0:
        raise draft.fault("lr_schedule", "lr_schedule needs arguments, numbers that begin with a learning rate above 0")
    if not isinstance(warm_up, int) or isinstance(warm_up, bool) or warm_up < 0:
        raise draft.fault("lr_schedule", f"lr_schedule.warmup is {warm_up!r}, and a number of steps is needed")
    top = float(arguments[0])
    given = draft.get("learning_rate", "number")
    draft.put("train.learning_rate", top, "lr_schedule", said=f"lr_schedule.arguments: {arguments}",
              differs=f"learning_rate: {given:g} does nothing beside lr_schedule" if draft.has("learning_rate") and given != top
              else "")  # fmt: skip
    kind, fall, least, differs = _shape(name, arguments)
    if warm_up and kind != "constant":
        differs += (
            f"{'; ' if differs else ''}behind the warm-up it stays at the top for one step there, so that it falls a step later"
        )
    draft.put("train.schedule", kind, "lr_schedule", said=f"lr_schedule.name: {name!r}", differs=differs)
    if fall:
        draft.put("train.decay_steps", fall, "lr_schedule", said="lr_schedule.arguments")
    if least:
        draft.put("train.min_rate", least, "lr_schedule", said="lr_schedule.arguments: its end over its top")
    if not warm_up:
        draft.put("train.warm_up", 0.0, "lr_schedule")
        return
    begin = plan.get("warmup_init", 0.0)
    draft.put("train.warm_up_steps", warm_up, "lr_schedule", said=f"lr_schedule.warmup: {warm_up}",
              differs=f"it begins at {begin:g} there, at 0 here" if _is_number(begin) and begin else "")  # fmt: skip
    draft.put("train.warm_up_from_zero", True, "lr_schedule", said="lr_schedule.warmup_init")


def _shape(name: Any, arguments: list[float]) -> tuple[str, int, float, str]:
    """Schedule, steps of its fall, its end as a share of its top, and where it differs."""
    if name == "cosine_decay" and len(arguments) >= 2 and arguments[1] >= 1:
        least = arguments[2] / arguments[0] if len(arguments) > 2 else 0.0
        if 0 <= least <= 1:
            return "cosine", int(arguments[1]), least, ""
    if name == "linear_schedule" and len(arguments) == 3 and arguments[2] >= 1 and 0 <= arguments[1] <= arguments[0]:
        return "linear", int(arguments[2]), arguments[1] / arguments[0], ""
    return "constant", 0, 0.0, f"whet has no schedule {name} with {arguments}; the rate stays constant"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_adapter(draft: Draft) -> None:
    kind, layers = draft.get("fine_tune_type", "text"), draft.get("num_layers", "whole")
    last = layers if layers > 0 else None
    if kind == "full":
        draft.put("train.method", "full", "fine_tune_type")
        draft.put("train.full.last_layers", last, "num_layers")
        draft.lose("lora_parameters", "does nothing with fine_tune_type: full", "unread")
        return
    lora: Mapping[str, Any] = draft.get("lora_parameters", "table") or {}
    lacking = [key for key in LORA if not _is_number(lora.get(key))]
    differs = f"lora_parameters lacks {', '.join(lacking)}, on which mlx-lm stops; its defaults are taken" if lacking else ""
    rank, scale, dropout = ((lora[key] if key not in lacking else LORA[key]) for key in ("rank", "scale", "dropout"))
    draft.put("train.lora.rank", rank, "lora_parameters", differs=differs, said=f"lora_parameters.rank: {rank}")
    draft.put("train.lora.alpha", float(scale) * rank, "lora_parameters",
              said=f"lora_parameters.scale: {scale:g}, which is alpha / rank")  # fmt: skip
    draft.put("train.lora.dropout", dropout, "lora_parameters", said=f"lora_parameters.dropout: {dropout}")
    if kind == "dora":
        draft.put("train.lora.dora", True, "fine_tune_type")
    if last:
        draft.put("train.lora.last_layers", last, "num_layers")
    keys = lora.get("keys")
    if isinstance(keys, list) and keys:
        draft.put("train.lora.targets", [str(key).rpartition(".")[2] for key in keys], "lora_parameters",
                  said="lora_parameters.keys", differs="whet takes the last part of each name")  # fmt: skip
    for key in sorted(set(lora) - {*LORA, "keys"}):
        draft.remark(f"lora_parameters.{key}: mlx-lm does not read it.")


def write(said: Said) -> dict[str, Any]:
    """The YAML of mlx-lm that means what a recipe says."""
    lora = said.lora
    values: dict[str, Any] = {"model": said.take("base"), "train": True, **_data(said)}
    values["fine_tune_type"] = "full" if said.take("train.method") == "full" else "dora" if lora and lora.dora else "lora"
    last = said.take("train.full.last_layers") if lora is None else said.take("train.lora.last_layers")
    values |= {"num_layers": last or -1, "mask_prompt": True, "seed": said.take("train.seed"),
               "max_seq_length": said.take("train.max_length"), "batch_size": said.take("train.examples_per_step"),
               "iters": said.steps("iterations (iters)"), "grad_checkpoint": said.take("device.checkpoint_activations"),
               "steps_per_eval": said.take("train.validate_every") or 200}  # fmt: skip
    if lora is not None:
        said.take("train.lora.rank", "train.lora.alpha", "train.lora.dropout", "train.lora.dora", "train.lora.rslora")
        scale = lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)
        values["lora_parameters"] = {"rank": lora.rank, "scale": scale, "dropout": lora.dropout}
        if said.take("train.lora.targets") != "all-linear":
            said.cannot("train.lora.targets", "mlx-lm wants the paths inside a layer, such as self_attn.q_proj: add "
                        f"lora_parameters.keys for {', '.join(lora.targets)}")  # fmt: skip
    _write_optimizer(said, values)
    _write_schedule(said, values)
    return values


def _data(said: Said) -> dict[str, Any]:
    folders = {str(Path(path).parent) for path, _ in said.sources()}
    names = all(Path(path).name == f"{split}.jsonl" for path, split in said.sources())
    if len(folders) == 1 and names:
        return {"data": folders.pop()}
    said.cannot("data.sources", "mlx-lm reads train.jsonl, valid.jsonl and test.jsonl of one folder: write them with "
                "`whet data convert`")  # fmt: skip
    return {"data": "data"}


def _write_optimizer(said: Said, values: dict[str, Any]) -> None:
    optimizer = said.optimizer
    name = said.take("train.optimizer.name")
    decay, clip = said.take("train.optimizer.weight_decay"), said.take("train.optimizer.max_gradient_norm")
    beta1, beta2, epsilon = (said.take(f"train.optimizer.{key}") for key in ("beta1", "beta2", "epsilon"))
    if name in ("muon", "adafactor"):
        values |= {"optimizer": name, "optimizer_config": {name: {"weight_decay": decay}}}
    else:
        if name != "adamw":
            said.cannot("train.optimizer.name", f"mlx-lm has no {name}; adamw is written")
        own = {"betas": [beta1, beta2], "eps": epsilon, "weight_decay": decay, "bias_correction": True}
        values |= {"optimizer": "adamw", "optimizer_config": {"adamw": own}}
    if clip < NO_CLIPPING:
        said.cannot("train.optimizer.max_gradient_norm", f"mlx-lm clips no gradient (here at {clip:g})")
    if optimizer.b_ratio != 1:
        said.cannot("train.optimizer.b_ratio", "mlx-lm has one learning rate")


def _write_schedule(said: Said, values: dict[str, Any]) -> None:
    train = said.train
    top = said.take("train.learning_rate")
    values["learning_rate"] = top
    kind, least = said.take("train.schedule"), said.take("train.min_rate")
    steps, warm_up = values["iters"], said.warm_up_steps(values["iters"])
    fall = said.take("train.decay_steps") or max(1, steps - warm_up)
    if kind == "constant":
        if not warm_up:
            return
        plan: dict[str, Any] = {"name": "linear_schedule", "arguments": [top, top, 1]}
    elif kind == "linear":
        plan = {"name": "linear_schedule", "arguments": [top, top * least, fall]}
    else:
        if kind == "wsd":
            said.cannot("train.schedule", "mlx-lm has no schedule that stays and then falls; cosine_decay is written")
        plan = {"name": "cosine_decay", "arguments": [top, fall, top * least]}
    if warm_up:
        plan["warmup"] = warm_up
        if kind != "constant":
            said.cannot("train.warm_up", "behind the warm-up mlx-lm stays at the top for one step", is_nearly=True)
        if not train.warm_up_from_zero:
            said.cannot("train.warm_up", "mlx-lm warms up from a rate of 0, whet from the first part", is_nearly=True)
    values["lr_schedule"] = plan
