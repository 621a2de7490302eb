"""Settings of mlx-lm: what its own code does with them, by numbers, against what the recipe makes whet do."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from whet.errors import InputError
from whet.exchange.convert import Imported, export_settings, import_settings
from whet.models.base_model import BaseModel
from whet.recipe import Recipe, recipe_from
from whet.records import Example, Message
from whet.tasks.free_qa import FreeQa, FreeQaSettings
from whet.text.chat import Chat
from whet.train.encode import encode_example
from whet.train.schedule import learning_rate_at

pytestmark = pytest.mark.integration
LORA = {"rank": 8, "scale": 20.0, "dropout": 0.0}


def imported(folder: Path, **values: Any) -> Imported:
    path = folder / "lora_config.yaml"
    path.write_text(yaml.safe_dump({"model": "base", "train": True, "iters": 1000} | values))
    return import_settings(path)


def recipe(found: Imported) -> Recipe:
    return recipe_from(yaml.safe_load(found.text), [], "test", Path())


def rates(of: Recipe, num_steps: int) -> list[float]:
    assert of.train
    return [learning_rate_at(of.train, step, num_steps) for step in range(num_steps)]


def test_what_is_not_given_is_what_mlx_lm_takes(tmp_path: Path) -> None:
    from mlx_lm.lora import CONFIG_DEFAULTS

    train = recipe(imported(tmp_path)).train
    assert train
    assert train.lora.rank == CONFIG_DEFAULTS["lora_parameters"]["rank"]
    assert train.lora.alpha / train.lora.rank == CONFIG_DEFAULTS["lora_parameters"]["scale"]
    assert train.lora.last_layers == CONFIG_DEFAULTS["num_layers"]
    assert train.examples_per_step == CONFIG_DEFAULTS["batch_size"]
    assert train.max_steps == CONFIG_DEFAULTS["iters"]
    assert train.max_length == CONFIG_DEFAULTS["max_seq_length"]
    assert train.learning_rate == CONFIG_DEFAULTS["learning_rate"]
    assert train.patience is None


def test_the_table_of_defaults_is_that_of_the_installed_mlx_lm() -> None:
    from mlx_lm.lora import CONFIG_DEFAULTS, build_parser

    from whet.exchange.mlx_lm import TOOL

    for key, value in CONFIG_DEFAULTS.items():
        assert TOOL.defaults.get(key) == value, key
    handled = {*TOOL.defaults, *TOOL.quiet, *TOOL.weighty, "lr_schedule", "resume_adapter_file"}
    assert {action.dest for action in build_parser()._actions} - {"help"} <= handled


@pytest.mark.parametrize(
    "plan",
    [
        {"name": "cosine_decay", "arguments": [1e-4, 1000]},
        {"name": "cosine_decay", "arguments": [1e-4, 300, 1e-6]},
        {"name": "linear_schedule", "arguments": [1e-4, 1e-5, 800]},
    ],
)
def test_the_learning_rate_of_every_step_is_that_of_mlx_lm(tmp_path: Path, plan: dict[str, Any]) -> None:
    import mlx.core as mx
    from mlx_lm.tuner.utils import build_schedule

    theirs = build_schedule(plan)
    found = imported(tmp_path, lr_schedule=plan)
    assert rates(recipe(found), 1000) == pytest.approx(
        [float(theirs(mx.array(step))) for step in range(1000)], rel=1e-4, abs=1e-10
    )
    assert not [line for line in found.differing if "schedule" in line.setting or "warm_up" in line.setting]


def test_behind_a_warm_up_the_rate_is_that_of_the_step_before_as_the_note_says(tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.tuner.utils import build_schedule

    plan = {"name": "cosine_decay", "warmup": 50, "arguments": [1e-4, 950]}
    theirs = [float(build_schedule(plan)(mx.array(step))) for step in range(1000)]
    found = imported(tmp_path, lr_schedule=plan)
    ours = rates(recipe(found), 1000)
    assert ours[:51] == pytest.approx(theirs[:51], rel=1e-4)
    assert ours[50:-1] == pytest.approx(theirs[51:], rel=1e-4, abs=1e-10)
    assert "falls a step later" in next(line.differs for line in found.differing if line.setting == "train.schedule")


def test_steps_and_examples_of_a_step_are_those_that_reach_the_weights(tmp_path: Path) -> None:
    """Counted in mlx-lm's own loop with an optimiser that counts."""
    import mlx.core as mx
    from mlx import nn
    from mlx_lm.tuner.trainer import TrainingArgs, train

    class Counting:
        def __init__(self) -> None:
            self.state: dict[str, Any] = {}
            self.updates = 0
            self.learning_rate = mx.array(0.0)

        def update(self, model: Any, gradients: Any) -> None:
            self.updates += 1

    model, counting = nn.Sequential(nn.Embedding(32, 8)), Counting()

    def loss(model: Any, batch: Any, lengths: Any) -> tuple[Any, Any]:
        return model(batch).sum() / batch.size, mx.array(batch.size)

    values = {"iters": 11, "batch_size": 2, "grad_accumulation_steps": 4}
    rows = [([1, 2, 3], 0)] * 8
    args = TrainingArgs(**values, steps_per_eval=10**6, steps_per_report=10**6, steps_per_save=10**6,
                        adapter_file=str(tmp_path / "a.safetensors"))  # fmt: skip
    with mx.stream(mx.cpu):
        mx.disable_compile()
        try:
            train(model, counting, rows, None, args, loss=loss)
        finally:
            mx.enable_compile()
    found = imported(tmp_path, **values)
    made = recipe(found).train
    assert made
    assert made.max_steps == counting.updates == 2
    assert made.examples_per_step == 2 * 4
    assert "the last 3 of the iterations" in next(line.differs for line in found.differing if line.setting == "train.max_steps")


def test_the_strength_is_that_of_the_layers_that_mlx_lm_makes(tmp_path: Path) -> None:
    from mlx import nn
    from mlx_lm.tuner.lora import LoRALinear

    made = recipe(imported(tmp_path, lora_parameters=LORA | {"rank": 6, "scale": 7.5})).train
    assert made
    layer = LoRALinear.from_base(nn.Linear(4, 4), r=6, scale=7.5)
    assert made.lora.alpha / made.lora.rank == layer.scale
    assert made.lora.rank == layer.lora_a.shape[1]


@pytest.mark.parametrize("kind", ["messages", "completions"])
def test_with_mask_prompt_the_same_tokens_are_learnt_but_for_what_the_remark_names(
    base: BaseModel, chat: Chat, kind: str
) -> None:
    from mlx_lm.tuner.datasets import create_dataset
    from transformers import AutoTokenizer

    asked, said = "誰為少師？", "蹇義"
    rows = {"messages": {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]},
            "completions": {"prompt": asked, "completion": said}}  # fmt: skip
    theirs = create_dataset([rows[kind]], AutoTokenizer.from_pretrained(base.folder), SimpleNamespace(mask_prompt=True))
    ids, offset = theirs.process(rows[kind])
    example = Example("e", asked, "a:1", "g", messages=(Message("user", asked), Message("assistant", said)))
    row = encode_example(example, FreeQa(FreeQaSettings()), chat)
    assert row.prompt_ids == tuple(ids[:offset])
    learnt = ids[offset:]
    assert row.answer_ids == tuple(learnt[: len(row.answer_ids)])
    assert chat.tokenizer.decode(learnt[len(row.answer_ids) :]).strip() == ""


def test_mlx_lm_does_learn_a_padding_token_as_the_remark_says(tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.tuner.trainer import default_loss

    batch = mx.array([[5, 6, 7, 0, 0]])
    _, learnt = default_loss(lambda ids: mx.zeros((*ids.shape, 8)), batch, mx.array([[1, 3]]))
    assert int(learnt) == 3  # 6 and 7, and one 0
    assert any("one padding token" in words for words in imported(tmp_path, mask_prompt=True).remarks)


def test_adam_of_mlx_begins_as_much_faster_as_the_note_says() -> None:
    import mlx.core as mx
    import mlx.optimizers

    moved = []
    for has_correction in (False, True):
        optimizer = mlx.optimizers.Adam(1.0, bias_correction=has_correction)
        weights = {"w": mx.array([0.0])}
        weights = optimizer.apply_gradients({"w": mx.array([1.0])}, weights)
        moved.append(float(weights["w"][0]))
    assert moved[0] / moved[1] == pytest.approx(3.16, abs=0.05)


def test_adapter_config_json_of_a_run_is_read_as_its_yaml_was(tmp_path: Path) -> None:
    """mlx-lm writes all arguments of a run there."""
    from mlx_lm.lora import CONFIG_DEFAULTS
    from mlx_lm.utils import save_config

    ran = CONFIG_DEFAULTS | {"model": "base", "train": True, "num_layers": 4, "iters": 60}
    save_config(dict(ran), tmp_path / "adapter_config.json")
    found = import_settings(tmp_path / "adapter_config.json")
    assert found.trainer == "mlx-lm"
    assert recipe(found).train == recipe(imported(tmp_path, num_layers=4, iters=60)).train


def test_a_key_that_mlx_lm_ignores_is_named_with_the_right_one(tmp_path: Path) -> None:
    lost = {one.key: one for one in imported(tmp_path, lora_layers=8, lora_alpha=16, batchsize=2).lost}
    assert lost["lora_layers"].weight == lost["lora_alpha"].weight == lost["batchsize"].weight == "unread"
    assert "num_layers" in lost["lora_layers"].why
    assert "did you mean batch_size?" in lost["batchsize"].why


def test_a_learning_rate_beside_a_schedule_does_nothing_and_is_named(tmp_path: Path) -> None:
    found = imported(tmp_path, learning_rate=1e-3, lr_schedule={"name": "cosine_decay", "arguments": [1e-5, 100]})
    assert "learning_rate: 0.001 does nothing" in next(
        line.differs for line in found.lines if line.setting == "train.learning_rate"
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"iters": 2, "grad_accumulation_steps": 4}, "makes no step"),
        ({"batch_size": "four"}, "batch_size is 'four', and a whole number is needed"),
        ({"lr_schedule": {"name": "cosine_decay"}}, "lr_schedule needs arguments"),
        ({"lora_parameters": [1]}, "a table of keys is needed"),
    ],
)
def test_what_mlx_lm_would_stop_on_is_refused_with_its_place(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        imported(tmp_path, **values)


def test_full_fine_tuning_of_the_last_layers_stays_what_it_is(tmp_path: Path) -> None:
    found = imported(tmp_path, fine_tune_type="full", num_layers=2, lora_parameters=LORA)
    made = recipe(found).train
    assert made
    assert (made.method, made.full.last_layers) == ("full", 2)
    assert json.dumps([one.key for one in found.lost if one.weight == "unread"]) == '["lora_parameters"]'


def test_back_and_forth_the_recipe_is_the_same(tmp_path: Path) -> None:
    plan = {"name": "cosine_decay", "arguments": [1e-4, 1000, 1e-5]}
    first = recipe(imported(tmp_path, lora_parameters=LORA, optimizer="adamw", lr_schedule=plan, mask_prompt=True))
    written = export_settings(first, "mlx-lm")
    (tmp_path / "again.yaml").write_text(written.text)
    again = recipe(import_settings(tmp_path / "again.yaml"))
    assert again.train == first.train
    assert again.device == first.device
