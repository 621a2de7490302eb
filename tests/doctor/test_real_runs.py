"""Folders that TRL and mlx-lm themselves wrote: the healthy ones are quiet, and what is taken from them or planted is found."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from whet.doctor.look import Diagnosis, diagnose
from whet.models.base_model import BaseModel

ROWS = [{"prompt": [{"role": "user", "content": f"{number * 7}年何人為第{number * 13}官？"}],
         "completion": [{"role": "assistant", "content": f"少師{number}"}]} for number in range(24)]  # fmt: skip


def names(found: Diagnosis) -> set[str]:
    return {finding.name for finding in found.findings if finding.severity != "note"}


@pytest.fixture(scope="module")
def trl_run(small_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of TRL's SFTTrainer with checkpoints and evaluations."""
    pytest.importorskip("trl", reason="needs whet's extra bench")
    folder = tmp_path_factory.mktemp("trl") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
                           disable_tqdm=True, logging_steps=1, save_steps=3, eval_steps=3, eval_strategy="steps", max_steps=6,
                           per_device_train_batch_size=4, learning_rate=1e-3)  # fmt: skip
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
        trainer = SFTTrainer(str(small_base.folder), config, train_dataset=Dataset.from_list(ROWS),
                             eval_dataset=Dataset.from_list(ROWS[:4]), peft_config=lora)  # fmt: skip
        trainer.train()
    return folder


@pytest.mark.end_to_end
def test_a_run_of_trl_is_quiet_until_something_is_taken_from_it(trl_run: Path, small_base: BaseModel, tmp_path: Path) -> None:
    last = trl_run / "checkpoint-6"
    assert names(diagnose([trl_run])) == set()
    assert names(diagnose([last], small_base.folder)) <= {"pickle"}
    run = tmp_path / "run"
    shutil.copytree(trl_run, run)
    (run / "checkpoint-6" / "optimizer.pt").unlink()
    found = diagnose([run])
    assert names(found) == {"a resume that forgets"}
    assert "lacks optimizer" in found.findings[0].what
    weights = run / "checkpoint-6" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "a torn checkpoint" in names(diagnose([run]))
    state = run / "checkpoint-6" / "trainer_state.json"
    told = json.loads(state.read_text())
    for row in told["log_history"]:
        row.update({key: float("nan") for key in ("loss", "grad_norm") if key in row})
    state.write_text(json.dumps(told))
    assert "loss that is no number" in names(diagnose([run]))


@pytest.mark.end_to_end
def test_a_run_of_mlx_lm_is_told_its_strength_and_nothing_else(small_base: BaseModel, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.lora import CONFIG_DEFAULTS, run

    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(small_base.folder, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"rope_theta": (config.get("rope_parameters") or {}).get("rope_theta", 10000.0)})
    )
    data.mkdir()
    for name, rows in (("train", ROWS[:16]), ("valid", ROWS[16:])):
        plain = [{"prompt": row["prompt"][0]["content"], "completion": row["completion"][0]["content"]} for row in rows]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain))
    args: dict[str, Any] = CONFIG_DEFAULTS | {"model": str(model), "train": True, "data": str(data), "num_layers": 2, "batch_size": 4, "iters": 4,
                                              "adapter_path": str(tmp_path / "adapters"), "learning_rate": 1e-3, "save_every": 2,
                                              "mask_prompt": True, "steps_per_eval": 2, "val_batches": 1}  # fmt: skip
    with mx.stream(mx.cpu):
        run(SimpleNamespace(**args))
    found = diagnose([tmp_path / "adapters", data], model)
    assert names(found) == {"strength that Ollama does not read"}
    assert "instead of 20" in next(one.why for one in found.findings if one.name == "strength that Ollama does not read")
    assert any(finding.name == "a resume that forgets" for finding in found.findings)
