"""Exports with their certificates, judged by llama.cpp and mlx-lm."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import copy_base, random_model
from typer.testing import CliRunner

from whet.cli.main import app
from whet.errors import InputError, ProofError
from whet.export.convert import convert_adapter
from whet.export.go_render import find_go
from whet.models.base_model import EMBEDDED_PATH, open_base
from whet.models.gguf_file import read_gguf
from whet.pipeline.adapter_step import export_gguf_adapter
from whet.pipeline.certify import PLAIN_PROMPTS, Exported, certify, folder_form, mlx_form
from whet.pipeline.export_step import export_gguf_file
from whet.pipeline.ollama_step import OllamaChoices, export_ollama

pytestmark = pytest.mark.integration


def silent(words: str) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def few_prompts() -> Iterator[None]:
    """Two prompts tell as much here as many."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("whet.pipeline.certify.PLAIN_PROMPTS", PLAIN_PROMPTS[:2])
        yield


def test_a_wrong_file_fails_with_the_tensors_and_is_not_kept(tmp_path: Path, llama: Any, monkeypatch: Any) -> None:
    folder = random_model(tmp_path / "m", "Llama")
    with monkeypatch.context() as patched:
        patched.setattr("whet.export.gguf_families.interleave_halves", lambda array, heads: array[::-1].copy())
        # The check reads what should be there by the right order.
        right = __import__("whet.export.tensor_check", fromlist=["worst_tensors"])
        real = right.worst_tensors

        def undone(*given: Any) -> Any:
            patched.undo()
            return real(*given)

        patched.setattr("whet.export.tensor_check.worst_tensors", undone)
        with pytest.raises(ProofError, match="is not the trained model: gguf: "):
            export_gguf_file(str(folder), tmp_path / "m.gguf", "f32", None, silent)
    assert not (tmp_path / "m.gguf").exists()
    faults = json.loads((tmp_path / "m.certificate.json").read_text())["forms"][0]["faults"]
    assert any(fault.startswith("logits: ") for fault in faults)
    blamed = [fault for fault in faults if fault.startswith("tensors: ")]
    assert blamed
    assert all("attn_q" in fault or "attn_k" in fault for fault in blamed)


def test_without_llama_cpp_the_file_is_written_and_not_judged(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("whet.export.llama_cpp.find_llama", lambda: None)
    said: list[str] = []
    export_gguf_file(str(random_model(tmp_path / "m", "Qwen2")), tmp_path / "m.gguf", "f16", None, said.append)
    assert json.loads((tmp_path / "m.certificate.json").read_text())["status"] == "not judged"
    assert any("not judged" in words and "llama-cpp-python" in words for words in said)


@pytest.mark.end_to_end
@pytest.mark.parametrize("is_written", [True, False])
def test_mlx_needs_the_base_of_its_rotation(is_written: bool, tmp_path: Path) -> None:
    """transformers 5 writes rope_theta below rope_parameters, mlx-lm reads it above: whether it stands there decides."""
    folder = random_model(tmp_path / "m", "Qwen2")
    config = json.loads((folder / "config.json").read_text())
    assert "rope_theta" not in config
    if is_written:
        (folder / "config.json").write_text(json.dumps(config | {"rope_theta": config["rope_parameters"]["rope_theta"]}))
    base = open_base(folder)
    exported, forms = Exported(base, None, None, base.folder, "m"), [folder_form("hf", "fp32", base), mlx_form(base, "fp32")]
    if not is_written:
        with pytest.raises(ProofError, match="mlx: logits: "):
            certify(exported, lambda num: forms, silent)
        return
    made = certify(exported, lambda num: forms, silent)
    assert [(form.name, form.status) for form in made.forms] == [("hf", "passed"), ("mlx", "passed")]
    assert made.forms[1].found is not None
    assert 0 < made.forms[1].found.largest < 1e-3


@pytest.fixture(scope="module")
def ollama_folder(tmp_path_factory: pytest.TempPathFactory, few_prompts: None) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("ollama") / "out"
    return out, export_ollama("embedded", out, OllamaChoices("f16"), silent)


def test_a_folder_for_ollama(ollama_folder: Any) -> None:
    out, made = ollama_folder
    assert sorted(path.name for path in out.iterdir()) == [
        "Modelfile", "certificate.html", "certificate.json", "whet-embedded-f16.gguf",
    ]  # fmt: skip
    text = (out / "Modelfile").read_text()
    assert text.startswith('FROM ./whet-embedded-f16.gguf\nTEMPLATE """')
    for line in ('PARAMETER stop "<|im_end|>"', "PARAMETER num_ctx 2048", "PARAMETER temperature 0"):
        assert line in text.splitlines()
    assert ("same ids" in made.template[0]) is (find_go() is not None)


def test_a_wrong_folder_leaves_its_certificate_alone(tmp_path: Path, llama: Any, monkeypatch: Any) -> None:
    folder = random_model(tmp_path / "m", "Llama")
    monkeypatch.setattr("whet.export.gguf_families.interleave_halves", lambda array, heads: array[::-1].copy())
    with pytest.raises(ProofError, match=f"{tmp_path / 'out'}: is not the trained model"):
        export_ollama(str(folder), tmp_path / "out", OllamaChoices("f32"), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "out.certificate.html", "out.certificate.json"]


@pytest.mark.parametrize(("kind", "is_right"), [("right", True), ("wrong", False)])
def test_a_template_of_ones_own_is_checked(kind: str, is_right: bool, ollama_folder: Any, tmp_path: Path) -> None:
    if find_go() is None:
        pytest.skip("the command go is not found")
    own = tmp_path / "own.txt"
    turn = "<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n"
    own.write_text("{{ range .Messages }}" + (turn if is_right else turn.strip()) + "{{ end }}<|im_start|>assistant\n")
    choices = OllamaChoices("f16", template=own, is_proved=False)
    if is_right:
        export_ollama("embedded", tmp_path / "out", choices, silent)
        assert own.read_text() in (tmp_path / "out" / "Modelfile").read_text()
        return
    with pytest.raises(InputError, match="other ids than the model's own"):
        export_ollama("embedded", tmp_path / "out", choices, silent)
    assert not (tmp_path / "out").exists()


def fake_ollama(folder: Path, code: int) -> None:
    folder.mkdir()
    program = folder / "ollama"
    program.write_text(
        f'#!/bin/sh\necho "$@" > "{folder}/asked"\npwd >> "{folder}/asked"\nhead -1 Modelfile\necho refused >&2\nexit {code}\n'
    )
    program.chmod(0o755)


@pytest.mark.parametrize("code", [0, 1])
def test_ollama_is_called_in_the_folder(code: int, tmp_path: Path, monkeypatch: Any) -> None:
    fake_ollama(tmp_path / "bin", code)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    model = str(random_model(tmp_path / "m", "Qwen2"))
    choices = OllamaChoices("f16", create_as="officials:1", is_proved=False)
    if code:
        with pytest.raises(InputError, match=r"ollama refuses \(refused\)"):
            export_ollama(model, tmp_path / "out", choices, silent)
    else:
        export_ollama(model, tmp_path / "out", choices, silent)
    assert (tmp_path / "bin" / "asked").read_text().splitlines() == ["create officials:1 -f Modelfile", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (OllamaChoices("q9"), "is no type"),
        (OllamaChoices(create_as="Bad Name"), "is no name for a model"),
        (OllamaChoices(is_adapter=True), "does not apply adapters to qwen2 models"),
    ],
)
def test_ollama_refuses_before_anything_is_written(
    choices: OllamaChoices, words: str, tmp_path: Path, write_adapter: Any
) -> None:
    with pytest.raises(InputError, match=words):
        export_ollama(str(write_adapter), tmp_path / "out", OllamaChoices(**{**_fields(choices), "base": "embedded"}), silent)
    assert not (tmp_path / "out").exists()


def _fields(choices: OllamaChoices) -> dict[str, Any]:
    return {name: getattr(choices, name) for name in choices.__dataclass_fields__}


@pytest.fixture
def write_adapter(tmp_path: Path) -> Path:
    """An adapter folder of the embedded base."""
    import warnings

    import peft
    import torch
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED_PATH, dtype=torch.float32)
        peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        export_ollama("embedded", tmp_path, OllamaChoices(), silent)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = copy_base(tmp_path / "m")
    (folder / "chat_template.jinja").write_text(
        "{%- for message in messages -%}{{- '<|im_start|>' + loop.index | string + message['content'] + '<|im_end|>' -}}{%- endfor -%}"
    )
    with pytest.raises(InputError, match="--template FILE"):
        export_ollama(str(folder), tmp_path / "out", OllamaChoices("f16"), silent)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def strong_adapter(tmp_path: Path) -> tuple[Path, Path]:
    """A Llama base, and an adapter of PEFT's that acts on q, k and v at strength 20."""
    import warnings

    import peft
    import torch
    import transformers

    base = random_model(tmp_path / "m", "Llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        settings = peft.LoraConfig(r=4, lora_alpha=80, target_modules=["q_proj", "k_proj", "v_proj"], task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, settings)
        torch.manual_seed(0)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        adapted.save_pretrained(tmp_path / "tuned")
    return base, tmp_path / "tuned"


def test_an_adapter_alone_is_judged_on_its_base(strong_adapter: Any, tmp_path: Path, llama: Any) -> None:
    base, folder = strong_adapter
    said: list[str] = []
    written = export_gguf_adapter(str(folder), tmp_path / "a.gguf", str(base), said.append)
    assert (written.alpha, written.num_layers) == (80.0, 6)
    certificate = json.loads((tmp_path / "a.certificate.json").read_text())
    [form] = certificate["forms"]
    assert (certificate["status"], form["name"], form["judge"]) == ("passed", "adapter on its base", "llama.cpp")
    assert form["found"]["num_greedy"] + form["found"]["num_ties"] == form["found"]["num_prompts"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"m", "tuned", "a.gguf", "a.certificate.json", "a.certificate.html"}


@pytest.mark.parametrize("factor", [1 / 20, 1.05])
def test_an_adapter_at_another_strength_is_not_kept(
    factor: float, strong_adapter: Any, tmp_path: Path, llama: Any, monkeypatch: Any
) -> None:
    """At strength 1 instead of 20, and at a strength that is off by a twentieth."""
    base, folder = strong_adapter
    import gguf

    plain = gguf.GGUFWriter.add_float32
    monkeypatch.setattr(
        "gguf.GGUFWriter.add_float32",
        lambda self, key, value: plain(self, key, value * (factor if key == "adapter.lora.alpha" else 1)),
    )
    with pytest.raises(ProofError, match="is not the trained model: adapter on its base: logits"):
        export_gguf_adapter(str(folder), tmp_path / "a.gguf", str(base), silent)
    assert not (tmp_path / "a.gguf").exists()
    assert json.loads((tmp_path / "a.certificate.json").read_text())["status"] == "failed"


def test_an_adapter_as_a_command(strong_adapter: Any, tmp_path: Path, monkeypatch: Any) -> None:
    base, folder = strong_adapter
    monkeypatch.setattr("whet.export.llama_cpp.find_llama", lambda: None)
    asked = ["export", "gguf", str(folder), "--base", str(base), "--adapter", "-o", str(tmp_path / "a.gguf")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert f"adapter: {tmp_path / 'a.gguf'} (6 layers, alpha 80)" in done.output
    assert "not judged" in done.output
    assert read_gguf(tmp_path / "a.gguf").fields["adapter.lora.alpha"] == 80.0
    with pytest.raises(InputError, match="is written in f32"):
        CliRunner().invoke(app, [*asked, "--type", "q8_0"], catch_exceptions=False)
    with pytest.raises(InputError, match="the adapter was made for"):
        export_gguf_adapter(str(folder), tmp_path / "b.gguf", "embedded", silent)
    assert not (tmp_path / "b.gguf").exists()


def test_an_adapter_of_mlx_lm_s_is_judged_too(strong_adapter: Any, tmp_path: Path, llama: Any) -> None:
    base, folder = strong_adapter
    convert_adapter(folder, "mlx-lm", tmp_path / "mlx", open_base(base))
    export_gguf_adapter(str(tmp_path / "mlx"), tmp_path / "a.gguf", str(base), silent)
    assert json.loads((tmp_path / "a.certificate.json").read_text())["status"] == "passed"
