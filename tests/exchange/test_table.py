"""Every trainer's settings: told apart, accounted for to the last key, and the same after a way there and back."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import InputError, WhetError
from whet.exchange.convert import Imported, export_settings, import_settings
from whet.exchange.table import TRAINERS, WRITTEN
from whet.recipe import Recipe, recipe_from

AXOLOTL: dict[str, Any] = {
    "base_model": "base", "datasets": [{"path": "train.jsonl", "type": "chat_template"}], "val_set_size": 0.1, "adapter": "qlora",
    "load_in_4bit": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "lora_target_linear": True, "sequence_len": 2048,
    "sample_packing": True, "micro_batch_size": 2, "gradient_accumulation_steps": 4, "num_epochs": 3, "optimizer": "adamw_bnb_8bit",
    "lr_scheduler": "cosine", "learning_rate": 0.0002, "warmup_steps": 10, "bf16": "auto", "flash_attention": True,
    "train_on_inputs": False, "loraplus_lr_ratio": 16,
}  # fmt: skip
LLAMA_FACTORY: dict[str, Any] = {
    "model_name_or_path": "base", "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 8, "lora_target": "all",
    "dataset": "identity,alpaca", "template": "qwen", "cutoff_len": 1024, "val_size": 0.1, "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8, "learning_rate": "1.0e-4", "num_train_epochs": 3.0, "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1, "bf16": True, "ddp_timeout": 180000000, "output_dir": "saves", "quantization_bit": 4, "max_samples": 1000,
}  # fmt: skip
ERNIEKIT: dict[str, Any] = {
    "model_name_or_path": "baidu/ERNIE-4.5-0.3B-Paddle", "stage": "SFT", "fine_tuning": "LoRA", "lora_rank": 32, "max_seq_len": 8192,
    "train_dataset_type": "erniekit", "train_dataset_path": "./sft-train.jsonl", "eval_dataset_path": "./sft-eval.jsonl",
    "batch_size": 1, "gradient_accumulation_steps": 8, "num_train_epochs": 1, "max_steps": -1, "warmup_steps": 20,
    "learning_rate": 1e-4, "lr_scheduler_type": "cosine", "weight_decay": 0.01, "adam_beta2": 0.95, "optim": "adamw_custom",
    "packing": False, "compute_type": "bf16", "recompute": False, "fuse_rope": True, "tensor_parallel_degree": 1,
}  # fmt: skip
MLX: dict[str, Any] = {"model": "base", "iters": 600, "num_layers": 8, "lora_parameters": {"rank": 4, "scale": 10.0, "dropout": 0.1},
                       "mask_prompt": True, "batch_size": 2, "learning_rate": 1e-4}  # fmt: skip
TRL: dict[str, Any] = {"model_name_or_path": "base", "max_length": 512, "use_peft": True, "lora_r": 8, "lora_alpha": 8,
                       "lora_target_modules": "all-linear", "per_device_train_batch_size": 4, "num_train_epochs": 2}  # fmt: skip
PEFT: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "inference_mode": True}
TRAINER: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 2,
    "optim": "adamw_torch",
    "save_strategy": "epoch",
}
FILES = {"axolotl": AXOLOTL, "llama-factory": LLAMA_FACTORY, "erniekit": ERNIEKIT, "mlx-lm": MLX, "trl": TRL, "peft": PEFT,
         "trainer": TRAINER}  # fmt: skip


def imported(folder: Path, values: dict[str, Any], trainer: str = "") -> Imported:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(values))
    return import_settings(path, trainer)


def recipe(found: Imported) -> Recipe:
    return recipe_from(yaml.safe_load(found.text), [], "test", Path())


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_by_its_own_keys(tmp_path: Path, name: str) -> None:
    assert imported(tmp_path, FILES[name]).trainer == name


@pytest.mark.parametrize("values", [{"learning_rate": 1e-4}, {**MLX, **AXOLOTL}, {"seed": 1, "batch_size": 2}])
def test_a_doubt_is_asked_about(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--from"):
        imported(tmp_path, values)
    assert imported(tmp_path, values | {"learning_rate": 1e-4}, "mlx-lm").trainer == "mlx-lm"


def test_axolotl_by_numbers(tmp_path: Path) -> None:
    made = recipe(imported(tmp_path, AXOLOTL))
    train = made.train
    assert train
    assert (train.examples_per_step, train.epochs, train.max_length) == (8, 3.0, 2048)
    assert (train.lora.alpha / train.lora.rank, train.lora.dropout, train.lora.targets) == (2.0, 0.05, "all-linear")
    assert (train.optimizer.name, train.optimizer.b_ratio, train.optimizer.beta2) == ("adamw_8bit", 16.0, 0.999)
    assert (train.warm_up_steps, train.warm_up_from_zero, train.schedule) == (10, True, "cosine")
    assert (made.device.quantize, made.data.split.valid, made.data.clean.over_long) == ("nf4", 0.1, "drop")


@pytest.mark.parametrize(
    ("given", "warm_up", "steps"),
    [({}, 0.03, None), ({"warmup_ratio": 0.1}, 0.1, None), ({"warmup_steps": 0}, 0.0, None), ({"warmup_steps": 7}, None, 7),
     ({"lr_scheduler": "constant"}, 0.0, None)],
)  # fmt: skip
def test_axolotl_warms_up_by_itself_unless_told_otherwise(
    tmp_path: Path, given: dict[str, Any], warm_up: float | None, steps: int | None
) -> None:
    train = recipe(imported(tmp_path, {key: value for key, value in AXOLOTL.items() if key != "warmup_steps"} | given)).train
    assert train
    assert train.warm_up_steps == steps
    assert warm_up is None or (train.warm_up, train.warm_up_from_zero) == (warm_up, warm_up > 0)


@pytest.mark.parametrize(
    ("trainer", "warm_up", "said"),
    [("axolotl", 0.0, {"warmup_steps": 0}), ("axolotl", 0.1, {"warmup_ratio": 0.1}), ("llama-factory", 0.1, {"warmup_ratio": 0.1}),
     ("erniekit", 0.1, {"warmup_ratio": 0.1}), ("trl", 0.1, {"warmup_steps": 0.1}), ("trl", 0.0, {})],
)  # fmt: skip
def test_a_share_as_warm_up_is_written_where_the_trainer_reads_it(
    tmp_path: Path, trainer: str, warm_up: float, said: dict[str, Any]
) -> None:
    made = recipe_from(yaml.safe_load(imported(tmp_path, TRL).text), [f"train.warm_up={warm_up}"], "test", Path())
    values = yaml.safe_load(export_settings(made, trainer).text)
    assert {key: value for key, value in values.items() if key.startswith("warmup")} == said


def test_axolotl_without_rank_is_refused_since_it_has_no_default(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lora_r and lora_alpha are missing"):
        imported(tmp_path, {key: value for key, value in AXOLOTL.items() if key != "lora_alpha"})


def test_llama_factory_takes_twice_the_rank_and_finds_its_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text('{"identity": {"file_name": "identity.json"}}')
    found = imported(tmp_path, LLAMA_FACTORY)
    train = recipe(found).train
    assert train
    assert (train.lora.rank, train.lora.alpha, train.lora.targets) == (8, 16.0, "all-linear")
    assert (train.learning_rate, train.examples_per_step, train.max_length) == (1e-4, 8, 1024)
    sources = next(line.value for line in found.lines if line.setting == "data.sources")
    assert [source["path"] for source in sources] == [str(tmp_path / "data" / "identity.json"), "alpaca"]
    assert recipe(found).device.quantize == "nf4"


@pytest.mark.parametrize(("more", "alpha", "rslora", "b_ratio"), [
    ({}, 64.0, False, 1.0), ({"rslora": True}, 4.0, True, 1.0), ({"rslora_plus": True}, 4.0, True, 4.0), ({"lora_alpha": 32}, 32.0, False, 1.0),
])  # fmt: skip
def test_erniekit_by_numbers(tmp_path: Path, more: dict[str, Any], alpha: float, rslora: bool, b_ratio: float) -> None:
    made = recipe(imported(tmp_path, ERNIEKIT | more))
    train = made.train
    assert train
    assert (train.lora.rank, train.lora.alpha, train.lora.rslora, train.optimizer.b_ratio) == (32, alpha, rslora, b_ratio)
    assert (train.examples_per_step, train.epochs, train.max_length, train.optimizer.beta2) == (8, 1.0, 8192, 0.95)
    assert [source.split for source in made.data.sources] == ["train", "valid"]


VALUES = st.one_of(st.integers(-5, 5000), st.floats(0, 1), st.booleans(), st.text(max_size=8), st.none(),
                   st.lists(st.text(max_size=4), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=3))  # fmt: skip


@settings(max_examples=20)
@given(st.data())
def test_no_key_is_ever_silently_ignored(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a key holds, it makes a line of the recipe, a remark, or an entry of the list; or the file is refused in one line."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    tool = TRAINERS[name].tool
    known = sorted({*FILES[name], *tool.defaults, *tool.quiet, *tool.weighty, *tool.ignored, "no_such_key"})
    changed = data.draw(st.dictionaries(st.sampled_from(known), VALUES, max_size=4))
    folder = tmp_path_factory.mktemp("keys")
    values = FILES[name] | changed
    try:
        found = imported(folder, values, name)
    except WhetError as error:
        assert str(folder) in str(error) or "--from" in str(error)
        return
    told = found.text
    listed = {one.key for one in found.lost}
    assert [key for key in values if key not in listed and key not in told] == []
    assert recipe(found).name == "settings"


POSITIVE = st.floats(1e-7, 1e-1)
TRAINED = st.fixed_dictionaries({
    "epochs": st.integers(1, 9).map(float), "examples_per_step": st.integers(1, 64), "max_length": st.integers(16, 8192),
    "seed": st.integers(0, 2**31), "learning_rate": POSITIVE, "schedule": st.sampled_from(["constant", "linear", "cosine"]),
    "warm_up_steps": st.integers(1, 50), "warm_up_from_zero": st.just(True), "patience": st.none(),
    "lora": st.fixed_dictionaries({"rank": st.integers(1, 256), "alpha": st.integers(1, 512).map(float),
                                   "dropout": st.sampled_from([0.0, 0.05, 0.5]), "dora": st.just(False)}),
    "optimizer": st.fixed_dictionaries({"weight_decay": st.sampled_from([0.0, 0.01]), "beta2": st.sampled_from([0.95, 0.999]),
                                        "max_gradient_norm": st.sampled_from([0.3, 1.0, 1e9])}),
})  # fmt: skip


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "mlx-lm"])
@settings(max_examples=6)
@given(train=TRAINED)
def test_a_recipe_comes_back_as_it_went(tmp_path_factory: pytest.TempPathFactory, name: str, train: dict[str, Any]) -> None:
    if name == "erniekit":  # it has no dropout in the adapter
        train = train | {"lora": train["lora"] | {"dropout": 0.0}}
    raw = {"name": "a", "base": "base", "task": {"kind": "free_qa"}, "train": train,
           "data": {"sources": [{"reader": "examples", "path": "train.jsonl", "split": "train"}]}}  # fmt: skip
    first = recipe_from(raw, [], "test", Path())
    path = tmp_path_factory.mktemp("again") / "again.yaml"
    path.write_text(export_settings(first, name).text)
    assert recipe(import_settings(path, name)).train == first.train


def test_what_a_tool_cannot_say_is_listed_with_the_reason(tmp_path: Path) -> None:
    raw = {"name": "a", "base": "base", "task": {"kind": "free_qa", "system": "Be brief."},
           "train": {"patience": 2, "choose_by": "score", "schedule": "wsd", "order": {"curriculum": "length"},
                     "optimizer": {"name": "muon"}, "lora": {"last_layers": 3, "rank_pattern": {"q_proj": 4}}},
           "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"P": "name"}}]}}  # fmt: skip
    raw["data"]["sources"] = [{"reader": "examples", "path": "a.jsonl"}]  # type: ignore[index]
    made = recipe_from(raw, [], "test", Path())
    for name in WRITTEN:
        found = export_settings(made, name, num_rows=100)
        listed = {one.setting for one in found.unsaid}
        wanted = {"task.system", "train.patience", "train.choose_by", "train.order.curriculum", "train.lora.rank_pattern"}
        assert wanted <= listed, name
        assert yaml.safe_load(found.text) == found.values
        assert all(f"- {setting}" in found.text for setting in listed)
    assert "train.lora.last_layers" not in {one.setting for one in export_settings(made, "mlx-lm", 100).unsaid}
    assert "train.lora.last_layers" in {one.setting for one in export_settings(made, "trl", 100).unsaid}


def test_a_tool_that_counts_steps_asks_for_the_number_of_rows() -> None:
    raw = {"name": "a", "task": {"kind": "free_qa"}, "data": {"sources": [{"reader": "examples", "path": "data/train.jsonl"}]},
           "train": {"epochs": 2, "examples_per_step": 8}}  # fmt: skip
    made = recipe_from(raw, [], "test", Path())
    with pytest.raises(InputError, match="--rows"):
        export_settings(made, "mlx-lm")
    assert export_settings(made, "mlx-lm", 100).values["iters"] == 2 * 13
