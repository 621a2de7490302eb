"""Traps planted in adapters, models, runs, exports and figures, in files written as their tools write them; healthy ones are quiet."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from found import alarms, named
from safetensors.numpy import save_file
from typer.testing import CliRunner

from whet.cli.main import app
from whet.doctor.look import diagnose
from whet.errors import InputError
from whet.models.base_model import EMBEDDED_PATH, BaseModel, open_base


def mlx_adapter(folder: Path, scale: float = 20.0, b: float = 0.1, **config: Any) -> Path:
    """A folder as mlx-lm writes it at the end of training."""
    from mlx_lm.utils import save_config

    folder.mkdir()
    tensors = {}
    for number in range(2):
        name = f"model.layers.{number}.self_attn.q_proj"
        tensors |= {f"{name}.lora_a": np.full((64, 4), 0.1, np.float32), f"{name}.lora_b": np.full((4, 64), b, np.float32)}
    save_file(tensors, folder / "adapters.safetensors", {"format": "mlx"})
    save_config({"model": "base", "fine_tune_type": "lora", "num_layers": 2, "iters": 10,
                 "lora_parameters": {"rank": 4, "scale": scale, "dropout": 0.0}} | config, folder / "adapter_config.json")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def peft_adapter(small_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that PEFT wrote, B not zero any more."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("peft") / "adapter"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(small_base.folder), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])
        )
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.save_pretrained(folder)
    return folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


@pytest.mark.end_to_end
def test_a_healthy_adapter_of_peft_gives_no_alarm_on_its_base(peft_adapter: Path, small_base: BaseModel) -> None:
    found = diagnose([peft_adapter], small_base.folder)
    assert not alarms(found), found.findings


@pytest.mark.end_to_end
def test_an_adapter_on_another_base_is_an_error(peft_adapter: Path) -> None:
    assert named(diagnose([peft_adapter], "embedded"), "an adapter of another base").severity == "error"


@pytest.mark.integration
def test_an_adapter_that_never_moved_and_one_of_nan_are_errors(tmp_path: Path) -> None:
    assert "all 2 layers are as they were" in named(diagnose([mlx_adapter(tmp_path / "a", b=0.0)]), "nothing was trained").what
    assert "2 layers hold NaN" in named(diagnose([mlx_adapter(tmp_path / "b", b=math.nan)]), "numbers that are none").what


@pytest.mark.integration
def test_the_strength_that_ollama_does_not_read_is_told_with_its_figure(tmp_path: Path) -> None:
    adapter = mlx_adapter(tmp_path / "adapters", scale=20.0)
    assert "runs at strength 1.0 instead of 20" in named(diagnose([adapter]), "strength that Ollama does not read").why
    (tmp_path / "Modelfile").write_text("FROM ./base.gguf\nADAPTER ./adapters\n")
    found = diagnose([tmp_path / "Modelfile"])
    assert "runs at strength 1.0 instead of 20" in named(found, "an adapter at another strength").what
    assert not alarms(diagnose([mlx_adapter(tmp_path / "one", scale=1.0)]))


@pytest.mark.end_to_end
def test_patterns_that_a_conversion_loses_are_noted(peft_adapter: Path, tmp_path: Path) -> None:
    folder = copied(peft_adapter, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"layers.0.self_attn.q_proj": 16}}))
    assert "alpha_pattern" in named(diagnose([folder]), "what a conversion can lose").what


@pytest.mark.end_to_end
def test_a_torn_adapter_and_a_pickled_one_are_errors(peft_adapter: Path, tmp_path: Path) -> None:
    folder = copied(peft_adapter, tmp_path / "torn")
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(raw[: len(raw) // 2])
    assert named(diagnose([folder]), "an adapter that is not whole").severity == "error"
    folder = copied(peft_adapter, tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert named(diagnose([folder]), "pickle").severity == "error"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copied(EMBEDDED_PATH, tmp_path / "model")


def change(path: Path, **entries: Any) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (found | entries).items() if value is not None}))


def test_a_healthy_model_gives_no_alarm(model: Path) -> None:
    found = diagnose([model])
    assert not alarms(found), found.findings


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code in a model folder"),
        ({"vocab_size": 100}, "a tokenizer of another model"),
        (
            {"rope_theta": None, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}},
            "an entry that mlx-lm does not read",
        ),
    ],
)
def test_a_fault_in_the_config_is_named(model: Path, entries: dict[str, Any], name: str) -> None:
    change(model / "config.json", **entries)
    assert named(diagnose([model]), name).severity == "error"


@pytest.mark.parametrize(("kind", "theta"), [("qwen2", 1e6), ("llama", 1e4), ("qwen3", 777.0), ("unknown", 777.0)])
def test_a_rotation_that_mlx_lm_takes_anyway_is_quiet(model: Path, kind: str, theta: float) -> None:
    change(model / "config.json", model_type=kind, rope_theta=None, rope_parameters={"rope_theta": theta, "rope_type": "default"})
    assert "an entry that mlx-lm does not read" not in {one.name for one in diagnose([model]).findings}


def test_code_that_the_tokenizer_names_is_an_error(model: Path) -> None:
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.XTokenizer", None]})
    finding = named(diagnose([model]), "code in a model folder")
    assert finding.place.endswith("tokenizer_config.json")
    with pytest.raises(InputError, match=r"tokenizer_config.json: names code to run \(auto_map\)"):
        open_base(model)


def test_an_end_that_is_not_the_template_s_and_padding_that_hides_it_are_named(model: Path) -> None:
    change(model / "generation_config.json", eos_token_id=[0])
    change(model / "tokenizer_config.json", pad_token="<|im_end|>")
    found = diagnose([model])
    assert "generation stops at [0]" in named(found, "an end that is not the template's").what
    assert named(found, "padding that hides the end")


def test_a_template_that_speaks_by_itself_and_a_doubled_beginning_are_named(model: Path) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
        + template
    )
    assert "You are a helpful assistant" in named(diagnose([model]), "a template that speaks by itself").what
    (model / "chat_template.jinja").write_text("{{- bos_token -}}" + template)
    change(model / "tokenizer_config.json", bos_token="<|im_start|>")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    number = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_start|>")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [number], "tokens": ["<|im_start|>"]}},
    }  # fmt: skip
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert named(diagnose([model]), "a doubled beginning")


def test_weights_that_never_changed_and_a_merge_into_quantised_ones_are_named(model: Path, tmp_path: Path) -> None:
    assert "to the last bit" in named(diagnose([model], EMBEDDED_PATH), "weights that never changed").what
    change(model / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    (model / "README.md").write_text("Fine-tuned to follow instructions. LoRA and full fine-tuning are supported.")
    assert "merged into a quantised base" not in {one.name for one in diagnose([model]).findings}
    (model / "README.md").write_text("A LoRA adapter was merged into this model.")
    assert "bitsandbytes" in named(diagnose([model]), "merged into a quantised base").what


def test_weights_whose_offsets_lie_are_an_error(model: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert named(diagnose([model]), "weights that are not whole").severity == "error"


def state(folder: Path, history: list[dict[str, Any]], **more: Any) -> Path:
    """trainer_state.json as transformers' Trainer writes it (with NaN where there is one)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(
        json.dumps({"global_step": 100, "log_history": history, "best_model_checkpoint": None} | more)
    )
    return folder


def logged(losses: list[float], norms: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": 10 * at, "loss": loss, "grad_norm": norms, "learning_rate": 1e-4} for at, loss in enumerate(losses, 1)]


FALLING = [3.0 * 0.93**at + 0.3 for at in range(40)]


@pytest.mark.parametrize(
    ("history", "name", "words"),
    [
        (logged([*FALLING[:20], math.nan, math.nan]), "loss that is no number", "NaN"),
        (logged([0.0] * 12), "loss 0.0", "12 of 12"),
        (logged(FALLING, norms=0.0), "nothing was trained", "all 40"),
        (logged([*FALLING[:20], 40.0, *FALLING[20:]]), "loss that leaps", "to 40 at step 210"),
        (logged([*FALLING, 1.9, 1.8, 2.0, 2.2, 2.1, 2.3, 2.5]), "divergence", "ends at 2.5"),
        (
            [*logged(FALLING), {"step": 100, "eval_loss": 0.5}, {"step": 400, "eval_loss": 0.9}],
            "the last kept, not the best",
            "step 100",
        ),
    ],
)
def test_a_run_that_went_wrong_is_told_from_its_log(tmp_path: Path, history: list[dict[str, Any]], name: str, words: str) -> None:
    finding = named(diagnose([state(tmp_path / "run", history)]), name)
    assert words in finding.what


def test_a_run_that_went_well_gives_no_alarm(tmp_path: Path) -> None:
    history = [*logged(FALLING), {"step": 100, "eval_loss": 0.9}, {"step": 400, "eval_loss": 0.5}]
    found = diagnose([state(tmp_path / "run", history)])
    assert not alarms(found), found.findings


def checkpoint(folder: Path, *names: str) -> Path:
    state(folder, logged(FALLING[:5]))
    save_file({"w": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_a_checkpoint_without_its_optimiser_and_a_torn_one_are_named(tmp_path: Path) -> None:
    whole = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
    checkpoint(tmp_path / "good" / "checkpoint-5", *whole)
    assert not alarms(diagnose([tmp_path / "good"]))
    checkpoint(tmp_path / "bare" / "checkpoint-5")
    assert "optimizer, schedule, random state" in named(diagnose([tmp_path / "bare"]), "a resume that forgets").what
    checkpoint(tmp_path / "torn" / "checkpoint-5", *whole)
    weights = checkpoint(tmp_path / "torn" / "checkpoint-10", *whole) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert "checkpoint-10" in named(diagnose([tmp_path / "torn"]), "a torn checkpoint").place


GOOD = {"benchmark_name": "b", "model_name": "m", "accuracy": 0.62, "num_questions": 200, "num_correct": 124, "num_errors": 0,
        "details": {"category_accuracy": {"law": 0.7, "art": 0.54}, "latencies_ms": [900.0] * 200}}  # fmt: skip


def result(path: Path, **more: Any) -> Path:
    path.write_text(json.dumps(GOOD | more))
    return path


def test_a_result_of_failed_and_repeated_questions_is_an_error_and_a_plain_one_is_not(tmp_path: Path) -> None:
    names = ["history", "biology", "security", "mathematics", "philosophy"]
    bad = result(tmp_path / "bad.json", accuracy=0.4, num_questions=250, num_correct=100, num_errors=250,
                 details={"category_accuracy": dict(zip(names, [0.0, 0.0, 0.0, 1.0, 1.0], strict=True)), "latencies_ms": [1.2] * 250})  # fmt: skip
    found = diagnose([bad])
    assert {one.name for one in found.findings if one.severity == "error"} >= {
        "errors scored as answers",
        "repeated questions",
        "a constant answer",
    }
    assert not alarms(diagnose([result(tmp_path / "good.json")]))


def test_two_results_are_held_against_each_other(tmp_path: Path) -> None:
    one = result(tmp_path / "a.json")
    two = result(tmp_path / "b.json", accuracy=0.65, num_correct=130)
    assert "intervals overlap" in named(diagnose([one, two]), "a difference inside the noise").what
    other = result(tmp_path / "c.json", num_questions=100, num_correct=62, details={})
    assert named(diagnose([one, other]), "other questions")
    worse = result(tmp_path / "d.json", accuracy=0.8, num_correct=160, details={"category_accuracy": {"law": 1.0, "art": 0.2}})
    paid = named(diagnose([one, worse]), "a gain that is paid for elsewhere")
    assert "worse on art" in paid.what
    assert paid.place == str(worse)


def test_a_modelfile_that_leaves_out_what_was_trained_is_named(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text('FROM ./model.gguf\nSYSTEM You are brief.\nTEMPLATE """### {{ .Prompt }}\n### """\nPARAMETER stop "###"\n')
    found = diagnose([path], "embedded")
    assert named(found, "a system message that is not sent")
    assert "'<|im_end|>'" in named(found, "another template").what
    good = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    path.write_text(f'FROM ./model.gguf\nSYSTEM You are brief.\nTEMPLATE """{good}"""\nPARAMETER stop "<|im_end|>"\n')
    assert not alarms(diagnose([path], "embedded"))
    path.write_text("FROM base:7b-q4_0\nADAPTER ./lora.gguf\n")
    assert named(diagnose([path]), "an adapter on a quantised base")


def test_a_gguf_file_that_lies_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") * 2)
    assert named(diagnose([tmp_path / "m.gguf"]), "a GGUF file that is not whole").severity == "error"


def test_exit_codes_go_by_severity_and_json_holds_everything(tmp_path: Path) -> None:
    runner = CliRunner()
    good, bad = state(tmp_path / "good", logged(FALLING)), state(tmp_path / "bad", logged([0.0] * 12))
    warned = state(tmp_path / "warned", logged([*FALLING[:20], 40.0, *FALLING[20:]]))
    assert runner.invoke(app, ["doctor", str(good)]).exit_code == 0
    assert runner.invoke(app, ["doctor", str(warned)]).exit_code == 1
    said = runner.invoke(app, ["doctor", str(bad), "--json"])
    assert said.exit_code == 3
    found = json.loads(said.stdout)
    assert found["looked_at"] == {"runs": 1}
    assert {"severity", "name", "place", "what", "why", "remedy"} == set(found["findings"][0])
    plain = runner.invoke(app, ["doctor", str(bad)])
    assert "ERROR  loss 0.0" in plain.stdout
    with pytest.raises(InputError, match="no such file"):
        runner.invoke(app, ["doctor", str(tmp_path / "none")], catch_exceptions=False)
