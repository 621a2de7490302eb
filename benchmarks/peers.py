"""The peers that a user would take instead: TRL's SFTTrainer and transformers' Trainer, each with PEFT, on the same rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from random_models import dtype_on

from whet.train.encode import Row

IGNORED = -100


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How a peer is set. Its default, or what was found to be its best."""

    system: Literal["trl", "plain"]
    batch: int = 8
    """Rows of a micro-batch; as many micro-batches are accumulated as make a step."""
    style: Literal["padded", "flat", "packed"] = "padded"
    """flat: the rows of a micro-batch one after the other in one row, without padding (padding_free, DataCollatorWithFlattening).
    packed: TRL's packing, over the whole data set; steps no longer hold the same rows, so it is measured in the search only."""
    is_checkpointed: bool = False
    is_sorted: bool = True
    """Rows of a step stand by length, so that micro-batches are padded little: length grouping that keeps each step's rows."""
    workers: int = 0
    """Processes of the data loader."""
    logging_steps: int = 0
    """0 logs nothing."""

    def name(self) -> str:
        parts = [self.system, self.style, str(self.batch)]
        parts += ["checkpointed"] * self.is_checkpointed + ["unsorted"] * (not self.is_sorted)
        return " ".join(parts + [f"{self.workers} workers"] * (self.workers > 0))


# What TRL does when nothing is said, but for bf16, which would not be the same arithmetic, and the length limit of 1,024,
# which would cut the longest rows.
TRL_DEFAULT = PeerSettings("trl", 8, "padded", is_checkpointed=True, is_sorted=False, logging_steps=10)


def ordered(rows: Sequence[Row], settings: PeerSettings) -> list[Row]:
    """A step's rows in the order in which the peer takes them."""
    return sorted(rows, key=lambda row: -row.num_tokens) if settings.is_sorted else list(rows)


def batches_of(rows: Sequence[Row], settings: PeerSettings) -> list[list[int]]:
    """Lengths of the rows of each micro-batch of a step."""
    lengths = [row.num_tokens for row in ordered(rows, settings)]
    return [lengths[at : at + settings.batch] for at in range(0, len(lengths), settings.batch)]


def load_peer(folder: Path, device: str = "cpu") -> Any:
    """The model with the adapter that all systems start from."""
    import transformers
    from peft import PeftModel

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path, dtype = str(folder / "model"), dtype_on(device)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True).to(device)
    return PeftModel.from_pretrained(model, str(folder / "adapter"), is_trainable=True)


@dataclass
class Run:
    """What a peer's training gave: seconds and mean loss of each step."""

    seconds: list[float]
    losses: list[float]
    cpu: list[float] = field(default_factory=list)
    """Seconds of the processor: with one thread they do not tell of what else runs on the machine."""


def train_peer(
    model: Any, steps: Sequence[Sequence[Row]], settings: PeerSettings, learning_rate: float, folder: Path,
    after_step: Callable[[int], None] = lambda step: None, device: str = "cpu",
) -> Run:  # fmt: skip
    """Train `steps`, each with its rows, in their order; every step has the same number of rows.

    Constant learning rate, AdamW without decay, gradients clipped to 1: as whet is set beside it.
    """
    import transformers
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening, PreTrainedTokenizerFast, TrainerCallback

    rows = [row for step in steps for row in ordered(step, settings)]
    columns = {
        "input_ids": [[*row.prompt_ids, *row.answer_ids] for row in rows],
        "labels": [[*[IGNORED] * len(row.prompt_ids), *row.answer_ids] for row in rows],
    }
    given = _arguments(settings, len(steps), len(steps[0]), learning_rate, folder, device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder / "model"), local_files_only=True)
    if settings.system == "trl":
        from trl import SFTConfig, SFTTrainer

        kind: Any = SFTTrainer
        longest = max(row.num_tokens for row in rows)
        length = max(longest, 2048) if settings.style == "packed" else None
        args: Any = SFTConfig(
            **given, max_length=length, padding_free=settings.style == "flat", packing=settings.style == "packed",
        )  # fmt: skip
        more: dict[str, Any] = {}
    else:
        kind, args = transformers.Trainer, transformers.TrainingArguments(**given)
        flat = settings.style == "flat"
        more = {"data_collator": DataCollatorWithFlattening() if flat else DataCollatorForSeq2Seq(tokenizer, model=None)}
    run = Run([], [])

    class Timed(kind):  # type: ignore[misc]
        """Adds up the loss of a step's micro-batches, which the trainer has scaled already."""

        def training_step(self, *positional: Any, **named: Any) -> Any:
            loss = super().training_step(*positional, **named)
            self.summed = getattr(self, "summed", 0.0) + float(loss)
            return loss

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.before, self.cpu_before = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            run.seconds.append(time.perf_counter() - self.before)
            run.cpu.append(time.process_time() - self.cpu_before)
            run.losses.append(trainer.summed)
            trainer.summed = 0.0
            after_step(len(run.seconds))
            self.before, self.cpu_before = time.perf_counter(), time.process_time()

    data: Any = Dataset.from_dict(columns)
    trainer = Timed(model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()], **more)
    trainer.train()
    return run


def _arguments(
    settings: PeerSettings, num_steps: int, rows_per_step: int, learning_rate: float, folder: Path, device: str
) -> dict[str, Any]:  # fmt: skip
    """Arguments that both trainers take."""
    return {
        "output_dir": str(folder / "peer"),
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": max(1, rows_per_step // settings.batch),
        "num_train_epochs": 1,
        "max_steps": num_steps if settings.style != "packed" else -1,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.99,
        "max_grad_norm": 1.0,
        "gradient_checkpointing": settings.is_checkpointed,
        "train_sampling_strategy": "sequential",
        "dataloader_num_workers": settings.workers,
        "dataloader_pin_memory": False,
        "logging_strategy": "steps" if settings.logging_steps else "no",
        "logging_steps": settings.logging_steps or 500,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": device != "cpu",
        "seed": 0,
    }


def peer_loss(model: Any, rows: Sequence[Row]) -> float:
    """Mean loss a learnt token over rows, one row at a time."""
    import torch

    model.eval()
    total = count = 0.0
    device = next(model.parameters()).device
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]], device=device)
            at = slice(len(row.prompt_ids) - 1, -1)
            logits = model(input_ids=ids, use_cache=False).logits[0, at].float()
            target = ids[0, len(row.prompt_ids) :]
            total += torch.nn.functional.cross_entropy(logits, target, reduction="sum").item()
            count += len(row.answer_ids)
    return total / count
