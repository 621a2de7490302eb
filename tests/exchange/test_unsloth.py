"""Settings out of training scripts: what literals say, by which defaults, and what only a run would tell."""

from pathlib import Path

import pytest
import yaml

from whet.errors import InputError
from whet.exchange.convert import Imported, import_settings
from whet.recipe import Recipe, recipe_from
from whet.train.schedule import learning_rate_at

NOTEBOOK = """
from unsloth import FastLanguageModel, is_bfloat16_supported
import torch
max_seq_length = 2048
load_in_4bit = True
model, tokenizer = FastLanguageModel.from_pretrained(model_name="unsloth/llama-3-8b-bnb-4bit", max_seq_length=max_seq_length,
                                                    dtype=None, load_in_4bit=load_in_4bit)
model = FastLanguageModel.get_peft_model(model, r=16, target_modules=["q_proj", "k_proj"], lora_alpha=32, lora_dropout=0,
    bias="none", use_gradient_checkpointing="unsloth", random_state=3407, use_rslora=False, loftq_config=None)
open("ran", "w").write("it ran")
dataset = load_dataset("json", data_files={"train": "train.jsonl", "validation": "valid.jsonl"})
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=dataset, packing=False, args=%s(
    per_device_train_batch_size=2, gradient_accumulation_steps=4, warmup_steps=5, max_steps=60, learning_rate=2e-4,
    fp16=not is_bfloat16_supported(), logging_steps=1, lr_scheduler_type="linear", output_dir="outputs"))
trainer = train_on_responses_only(trainer, instruction_part="<|user|>", response_part="<|assistant|>")
"""


def imported(folder: Path, script: str) -> Imported:
    path = folder / "train.py"
    path.write_text(script)
    return import_settings(path)


def recipe(found: Imported) -> Recipe:
    return recipe_from(yaml.safe_load(found.text), [], "test", Path())


def test_a_script_is_read_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = imported(tmp_path, NOTEBOOK % "SFTConfig")
    made = recipe(found)
    train = made.train
    assert not (tmp_path / "ran").exists()
    assert found.trainer == "unsloth"
    assert train
    assert (train.lora.rank, train.lora.alpha, list(train.lora.targets)) == (16, 32.0, ["q_proj", "k_proj"])
    assert (train.examples_per_step, train.max_steps, train.max_length) == (8, 60, 2048)
    assert [learning_rate_at(train, step, 60) for step in (0, 5, 60 - 1)] == pytest.approx([0.0, 2e-4, 2e-4 / 55])
    assert (made.device.quantize, made.device.checkpoint_activations) == ("nf4", True)
    assert [(str(source.path), source.split) for source in made.data.sources] == [
        ("train.jsonl", "train"),
        ("valid.jsonl", "valid"),
    ]
    assert any("fp16 = not is_bfloat16_supported() is known only when the script runs" in words for words in found.remarks)


def test_unsloth_changes_the_defaults_of_sftconfig_and_not_those_of_training_arguments(tmp_path: Path) -> None:
    with_config = recipe(imported(tmp_path, NOTEBOOK % "SFTConfig")).train
    plain = recipe(imported(tmp_path, NOTEBOOK % "TrainingArguments")).train
    assert with_config
    assert plain
    assert (with_config.optimizer.name, with_config.optimizer.weight_decay, with_config.seed) == ("adamw_8bit", 0.01, 3407)
    assert (plain.optimizer.name, plain.optimizer.weight_decay, plain.seed) == ("adamw", 0.0, 42)


def test_without_unsloth_the_defaults_are_those_of_trl_and_peft(tmp_path: Path) -> None:
    script = """
model = AutoModelForCausalLM.from_pretrained("base")
trainer = SFTTrainer(model, args=SFTConfig(max_length=256), peft_config=LoraConfig(lora_alpha=24))
"""
    found = imported(tmp_path, script)
    train = recipe(found).train
    assert train
    assert found.raw["base"] == "base"
    assert (train.lora.rank, train.lora.alpha, train.learning_rate, train.max_length) == (8, 24.0, 2e-5, 256)


def test_a_name_that_is_bound_twice_is_not_believed(tmp_path: Path) -> None:
    script = "r = 8\nfor r in range(3): pass\nmodel = FastLanguageModel.get_peft_model(model, r=r, lora_alpha=16)\n"
    found = imported(tmp_path, script)
    assert any("r = r is known only when the script runs" in words for words in found.remarks)


def test_one_argument_with_two_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learning_rate is given twice"):
        imported(tmp_path, "a = SFTConfig(learning_rate=1e-4)\nb = SFTConfig(learning_rate=1e-5)\n")
