"""Settings of TRL, transformers' Trainer and PEFT: what their own code makes of them, by numbers, against the recipe."""

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from whet.errors import InputError
from whet.exchange import trl
from whet.exchange.convert import Imported, export_settings, import_settings
from whet.models.base_model import BaseModel
from whet.recipe import Recipe, recipe_from
from whet.records import Example, Message
from whet.tasks.free_qa import FreeQa, FreeQaSettings
from whet.text.chat import Chat
from whet.train.encode import encode_example
from whet.train.order import steps_per_epoch
from whet.train.schedule import learning_rate_at

ROWS = [{"prompt": [{"role": "user", "content": f"{asked}？"}], "completion": [{"role": "assistant", "content": said}]}
        for asked, said in [("誰卒", "蹇義"), ("何官", "少師"), ("何年", "宣德九年"), ("誰為尚書", "夏原吉"), ("何事", "卒")] * 3]  # fmt: skip
GIVEN = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2.0, "learning_rate": 1e-3,
         "lr_scheduler_type": "cosine", "warmup_steps": 3, "max_length": 128, "weight_decay": 0.05, "adam_beta2": 0.98,
         "max_grad_norm": 0.5, "seed": 7, "bf16": False}  # fmt: skip
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 12, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"]}


def imported(folder: Path, trainer: str = "", **values: Any) -> Imported:
    path = folder / "sft.yaml"
    path.write_text(yaml.safe_dump(values))
    return import_settings(path, trainer)


def recipe(found: Imported) -> Recipe:
    return recipe_from(yaml.safe_load(found.text), [], "test", Path())


@dataclasses.dataclass
class Ran:
    """What TRL did: its trainer after the run, and the learning rate of every step."""

    trainer: Any
    rates: list[float]
    recipe: Recipe


@pytest.fixture(scope="module")
def ran(small_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """A short run of TRL's SFTTrainer with GIVEN and LORA, and the recipe that was made of the same settings."""
    import warnings

    pytest.importorskip("trl", reason="needs whet's extra bench")
    folder = tmp_path_factory.mktemp("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, PEFT and datasets, about each other
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        rates: list[float] = []

        class Rates(TrainerCallback):  # type: ignore[misc]
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
                rates.append(more["optimizer"].param_groups[0]["lr"])

        config = SFTConfig(output_dir=str(folder), use_cpu=True, save_strategy="no", report_to="none", gradient_checkpointing=False,
                           disable_tqdm=True, dataset_num_proc=None, logging_strategy="no", **GIVEN)  # fmt: skip
        lora = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        trainer = SFTTrainer(str(small_base.folder), config, train_dataset=Dataset.from_list(ROWS), peft_config=lora,
                             callbacks=[Rates()])  # fmt: skip
        trainer.train()
        trainer.save_model(str(folder / "adapter"))
    yield Ran(trainer, rates, recipe(imported(folder, model_name_or_path="base", **GIVEN, **LORA)))


@pytest.mark.end_to_end
def test_the_learning_rate_of_every_step_is_that_of_the_real_trainer(ran: Ran) -> None:
    train = ran.recipe.train
    assert train
    num_steps = round(train.epochs * steps_per_epoch(len(ROWS), train.examples_per_step))
    assert num_steps == len(ran.rates) == ran.trainer.state.global_step == 8
    ours = [learning_rate_at(train, step, num_steps) for step in range(num_steps)]
    assert ours == pytest.approx(ran.rates, rel=1e-9, abs=1e-15)


@pytest.mark.end_to_end
def test_a_step_has_as_many_examples_and_the_optimiser_the_same_numbers(ran: Ran) -> None:
    train = ran.recipe.train
    assert train
    assert train.examples_per_step == ran.trainer.get_total_train_batch_size(ran.trainer.args)
    group = ran.trainer.optimizer.param_groups[0]
    ours = train.optimizer
    assert (ours.beta1, ours.beta2) == group["betas"]
    assert (ours.epsilon, ours.weight_decay) == (group["eps"], group["weight_decay"])
    assert ours.max_gradient_norm == ran.trainer.args.max_grad_norm


@pytest.mark.end_to_end
def test_the_strength_is_the_scaling_of_the_layers_of_peft(ran: Ran) -> None:
    train = ran.recipe.train
    assert train
    scalings = {module.scaling["default"] for module in ran.trainer.model.modules() if hasattr(module, "lora_A")}
    assert scalings == {train.lora.alpha / train.lora.rank}
    names = {name.rpartition(".")[2] for name, module in ran.trainer.model.named_modules() if hasattr(module, "lora_A")}
    assert names == set(train.lora.targets)


@pytest.mark.end_to_end
def test_the_same_tokens_of_the_same_rows_are_learnt(ran: Ran, chat: Chat) -> None:
    """TRL learns what the template writes behind the end of turn too: white space here."""
    task = FreeQa(FreeQaSettings())
    for given, theirs in zip(ROWS, ran.trainer.train_dataset, strict=True):
        turns = tuple(Message(**turn) for turn in [*given["prompt"], *given["completion"]])
        row = encode_example(Example("e", turns[0].content, "a:1", "g", messages=turns), task, chat)
        learnt = [label for label in theirs["labels"] if label != -100]
        assert theirs["input_ids"][-len(learnt) :] == learnt
        assert row.prompt_ids == tuple(theirs["input_ids"][: -len(learnt)])
        assert row.answer_ids == tuple(learnt[: len(row.answer_ids)])
        assert chat.tokenizer.decode(learnt[len(row.answer_ids) :]).strip() == ""


@pytest.mark.end_to_end
def test_the_adapter_config_of_the_run_gives_the_same_adapter(ran: Ran) -> None:
    found = import_settings(Path(ran.trainer.args.output_dir) / "adapter" / "adapter_config.json")
    train, wanted = recipe(found).train, ran.recipe.train
    assert found.trainer == "peft"
    assert train
    assert wanted
    assert (train.lora.rank, train.lora.alpha, sorted(train.lora.targets)) == (4, 12.0, sorted(wanted.lora.targets))


@pytest.mark.end_to_end
def test_all_arguments_as_json_are_read_and_the_pickle_of_them_is_refused(ran: Ran, tmp_path: Path) -> None:
    path = tmp_path / "training_args.json"
    path.write_text(ran.trainer.args.to_json_string())
    found = import_settings(path)
    assert found.trainer == "trl"
    assert not [lost for lost in found.lost if lost.weight == "unread"]
    train, wanted = recipe(found).train, ran.recipe.train
    assert train
    assert wanted
    assert train.model_copy(update={"lora": wanted.lora, "method": "lora"}) == wanted
    pickled = Path(ran.trainer.args.output_dir) / "adapter" / "training_args.bin"
    with pytest.raises(InputError, match="which can run code when it is opened; whet does not open it"):
        import_settings(pickled)


@pytest.mark.end_to_end
def test_the_tables_hold_every_field_and_default_of_the_installed_versions(ran: Ran) -> None:
    from peft import LoraConfig
    from transformers import TrainingArguments
    from trl import ModelConfig, ScriptArguments, SFTConfig

    for tool, kinds in ((trl.TRAINER, (TrainingArguments,)), (trl.TRL, (SFTConfig, ModelConfig, ScriptArguments))):
        for kind in kinds:
            for field in dataclasses.fields(kind):
                has_default = field.default is not dataclasses.MISSING
                default = field.default if has_default else field.default_factory()  # type: ignore[misc]
                if field.name in tool.defaults:
                    assert tool.defaults[field.name] == default, field.name
                else:
                    assert default in (None, False, {}), f"{field.name}: {default}"
    known = {*READ, *trl.TRL.defaults, *trl.TRL.quiet, *trl.TRL.weighty}
    kinds = (SFTConfig, ModelConfig, ScriptArguments)
    assert {field.name for kind in kinds for field in dataclasses.fields(kind)} - known == set()
    known = {"r", "target_modules", "modules_to_save", "layers_to_transform", "base_model_name_or_path",
             *trl.PEFT.defaults, *trl.PEFT.quiet, *trl.PEFT.weighty}  # fmt: skip
    assert {field.name for field in dataclasses.fields(LoraConfig)} - known == PEFT_LEFT


READ = {"model_name_or_path", "dataset_name", "datasets", "completion_only_loss", "lora_target_modules", "lora_modules_to_save",
        "eval_steps", "lr_scheduler_kwargs", "optim_args", "gradient_checkpointing"}  # fmt: skip
PEFT_LEFT = {"velora_config", "monteclora_config", "use_bdlora", "arrow_config", "kasa_config"}
"""Relatives of LoRA that are listed by name, as keys that whet does not know."""


@pytest.mark.parametrize(
    ("name", "more", "warm_up"),
    [
        ("linear", {}, 0), ("linear", {}, 6), ("cosine", {}, 5), ("constant_with_warmup", {}, 7), ("constant", {}, 4),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, 5), ("cosine_with_min_lr", {"min_lr": 2e-5}, 0),
        ("polynomial", {"lr_end": 1e-6}, 3),
    ],
)  # fmt: skip
@pytest.mark.end_to_end
def test_the_learning_rate_is_that_of_every_schedule_of_transformers(tmp_path: Path, name: str, more: Any, warm_up: int) -> None:
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-4)
    scheduler = get_scheduler(name, optimizer, warm_up, 40, scheduler_specific_kwargs=more)
    theirs = []
    for _ in range(40):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    found = imported(tmp_path, max_length=64, max_steps=40, learning_rate=2e-4, lr_scheduler_type=name, warmup_steps=warm_up,
                     lr_scheduler_kwargs=more)  # fmt: skip
    train = recipe(found).train
    assert train
    assert train.max_steps == 40
    assert [learning_rate_at(train, step, 40) for step in range(40)] == pytest.approx(theirs, rel=1e-9, abs=1e-15)
    assert not [line for line in found.differing if line.setting in ("train.schedule", "train.warm_up_steps")]


@pytest.mark.parametrize("name", ["inverse_sqrt", "reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_whet_lacks_is_named(tmp_path: Path, name: str) -> None:
    found = imported(tmp_path, max_length=64, lr_scheduler_type=name)
    assert f"whet has no schedule {name}" in next(line.differs for line in found.lines if line.setting == "train.schedule")


def test_without_use_peft_trl_trains_the_whole_model_and_so_does_the_recipe(tmp_path: Path) -> None:
    found = imported(tmp_path, max_length=64, lora_r=8, lora_alpha=16)
    train = recipe(found).train
    assert train
    assert train.method == "full"
    assert {one.key for one in found.lost if one.weight == "unread"} == {"lora_r", "lora_alpha"}


def test_what_is_not_given_is_what_trl_takes(tmp_path: Path) -> None:
    train = recipe(imported(tmp_path, dataset_name="data.jsonl", use_peft=True)).train
    assert train
    assert (train.max_length, train.examples_per_step, train.epochs, train.learning_rate) == (1024, 8, 3.0, 2e-5)
    assert (train.lora.rank, train.lora.alpha, train.lora.dropout) == (16, 32.0, 0.05)
    assert (train.schedule, train.warm_up, train.optimizer.beta2, train.seed) == ("linear", 0.0, 0.999, 42)


def test_rslora_and_dora_keep_their_meaning(tmp_path: Path) -> None:
    train = recipe(imported(tmp_path, max_length=64, **LORA | {"use_rslora": True, "use_dora": True})).train
    assert train
    assert (train.lora.rslora, train.lora.dora) == (True, True)
    assert train.lora.alpha / math.sqrt(train.lora.rank) == 6.0


def test_back_and_forth_the_recipe_is_the_same(tmp_path: Path) -> None:
    first = recipe(imported(tmp_path, model_name_or_path="base", load_in_4bit=True, use_bnb_nested_quant=True, **GIVEN, **LORA))
    (tmp_path / "again.yaml").write_text(export_settings(first, "trl").text)
    again = recipe(import_settings(tmp_path / "again.yaml"))
    assert again.train == first.train
    assert again.device == first.device


def test_a_pattern_of_peft_stays_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"],
                                "rank_pattern": {"layers.0.self_attn.q_proj": 4}, "alpha_pattern": {"q_proj": 8}}))  # fmt: skip
    train = recipe(import_settings(path)).train
    assert train
    assert train.lora.rank_pattern == {"layers.0.self_attn.q_proj": 4}
    assert train.lora.alpha_pattern == {"q_proj": 8.0}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("said", "is_kept"),
    [
        ({}, True), ({"gradient_checkpointing": False}, False), ({"activation_checkpointing": False}, False),
        ({"activation_checkpointing": False, "gradient_checkpointing": True}, False),
        ({"activation_checkpointing": True, "gradient_checkpointing": False}, True),
    ],
)  # fmt: skip
def test_activations_are_kept_as_trl_keeps_them(said: dict[str, Any], is_kept: bool, tmp_path: Path) -> None:
    """TRL recomputes them where nothing is said; its newer name for it wins over the older one."""
    from trl import SFTConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older name is on its way out
        assert SFTConfig(output_dir=str(tmp_path / "x"), use_cpu=True, bf16=False, **said).activation_checkpointing is is_kept
    path = tmp_path / "sft.yaml"
    path.write_text(yaml.safe_dump({"model_name_or_path": "base", "dataset_name": "data", "max_length": 512} | said))
    made = import_settings(path)
    assert made.raw.get("device", {}).get("checkpoint_activations", False) is is_kept
    assert not [lost.key for lost in made.lost if "checkpointing" in lost.key and lost.weight == "unread"]


def test_transformers_trainer_keeps_all_activations(tmp_path: Path) -> None:
    path = tmp_path / "args.json"
    path.write_text('{"per_device_train_batch_size": 4, "num_train_epochs": 1, "optim": "adamw_torch"}')
    assert "checkpoint_activations" not in import_settings(path, "trainer").raw.get("device", {})
