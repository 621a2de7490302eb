"""Traps planted in Modelfiles as Ollama's users write them; healthy ones are quiet."""

import json
import shutil
from pathlib import Path

import pytest
from converted_gguf import TEMPLATE, Pair, adapter_file, converted, write_pair
from found import alarms, named

from whet.doctor.look import diagnose
from whet.export.go_render import find_go
from whet.models.base_model import EMBEDDED_PATH

pytestmark = pytest.mark.integration  # Go is started for most of them
needs_go = pytest.mark.skipif(find_go() is None, reason="the command go is not found")


@pytest.fixture(scope="module")
def llama_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
LEGACY = """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
HEALTHY = {
    "over the messages": f'FROM ./m.gguf\nTEMPLATE """{CHATML}"""\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 2048\n',
    "turn by turn": f'FROM ./m.gguf\nTEMPLATE """{LEGACY}"""\nPARAMETER stop <|im_start|>\nPARAMETER stop "<|im_end|>"\n',
    "with a system text": f'FROM ./m.gguf\nSYSTEM """You are brief."""\nTEMPLATE """{CHATML}"""\n',
    "of a model's name": 'FROM qwen2.5:7b\nPARAMETER temperature 0\nSYSTEM "You are brief."\n',
    "with a comment, in small letters": f'# mine\nfrom ./m.gguf\ntemplate """{CHATML}"""\nLICENSE """Apache 2.0"""\n',
}  # fmt: skip


@needs_go
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_modelfile_that_says_what_was_trained_is_quiet(kind: str, tmp_path: Path) -> None:
    converted(tmp_path / "m.gguf")
    (tmp_path / "Modelfile").write_text(HEALTHY[kind])
    found = diagnose([tmp_path], "embedded")
    assert not alarms(found), found.findings


PLANTED = {
    "a line break less": (CHATML.replace("{{ .Content }}<|im_end|>\n", "{{ .Content }}<|im_end|>"), "error", "in a conversation of user, from token"),
    "turns that are never ended": (LEGACY.replace("{{ .Response }}<|im_end|>\n", ""), "warning", "in a conversation of user, assistant, user, from token"),
    "a space before the question": (CHATML.replace("{{ .Content }}", " {{ .Content }}"), "error", "from token"),
    "another family": ("[INST] {{ .Prompt }} [/INST]", "error", "neither TEMPLATE nor a stop names '<|im_end|>'"),
    "no system text": (LEGACY.replace("{{ .System }}", "").replace("{{ if .System }}", "{{ if false }}"), "error", "in a conversation of system, user"),
}  # fmt: skip


@needs_go
@pytest.mark.parametrize("kind", PLANTED)
def test_a_template_that_is_not_the_trained_one_is_told_with_its_place(kind: str, tmp_path: Path) -> None:
    template, severity, words = PLANTED[kind]
    (tmp_path / "Modelfile").write_text(f'FROM ./m.gguf\nTEMPLATE """{template}"""\n')
    finding = named(diagnose([tmp_path / "Modelfile"], "embedded"), "another template")
    assert finding.severity == severity
    assert words in finding.what


def test_a_modelfile_without_the_question_the_system_text_or_a_base_is_named(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text('TEMPLATE """<|im_start|>user\n<|im_end|>"""\n')
    found = diagnose([path])
    assert named(found, "a template without the question")
    assert named(found, "no base")
    path.write_text('FROM x\nSYSTEM """Be brief."""\nTEMPLATE """### {{ .Prompt }}"""\n')
    assert named(diagnose([path]), "a system message that is not sent").severity == "error"


def with_bos(folder: Path) -> Path:
    """The embedded base with a template that writes a beginning."""
    shutil.copytree(EMBEDDED_PATH, folder)
    (folder / "chat_template.jinja").write_text("{{- bos_token -}}" + TEMPLATE)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(told | {"bos_token": "<|endoftext|>"}))
    return folder


@needs_go
@pytest.mark.parametrize(
    ("adds", "writes", "name"),
    [(True, True, "a doubled beginning"), (False, False, "a missing beginning"), (True, False, ""), (False, True, "")],
)
def test_the_beginning_stands_once(adds: bool, writes: bool, name: str, tmp_path: Path) -> None:
    base = with_bos(tmp_path / "base")
    converted(tmp_path / "m.gguf", template="{{- bos_token -}}" + TEMPLATE, bos="<|endoftext|>", adds_bos=adds)
    start = "<|endoftext|>" if writes else ""
    (tmp_path / "Modelfile").write_text(f'FROM ./m.gguf\nTEMPLATE """{start}{CHATML}"""\n')
    assert [finding.name for finding in alarms(diagnose([tmp_path / "Modelfile"], base))] == [name][: bool(name)]


def test_adapters_that_ollama_does_not_apply_rightly_are_named(llama_pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    adapter_file(tmp_path / "a.gguf", llama_pair[1], 80.0, layers=(0,))
    adapter_file(tmp_path / "q.gguf", llama_pair[1], 80.0, layers=(0,), arch="qwen2")
    converted(tmp_path / "llama.gguf", arch="llama")
    converted(tmp_path / "small.gguf", arch="llama", kind="Q8_0")
    converted(tmp_path / "qwen.gguf")
    path.write_text("FROM ./qwen.gguf\nADAPTER ./q.gguf\n")
    assert "a model of the family qwen2" in named(diagnose([path]), "an adapter that Ollama does not apply").what
    path.write_text("FROM ./qwen.gguf\nADAPTER ./a.gguf\n")
    assert named(diagnose([path]), "an adapter of another base").severity == "error"
    path.write_text("FROM ./small.gguf\nADAPTER ./a.gguf\n")
    assert named(diagnose([path]), "an adapter on a quantised base")
    path.write_text("FROM ./llama.gguf\nADAPTER ./a.gguf\n")  # its attn_v is not in the small file
    assert "2 of its tensors have no weight" in named(diagnose([path]), "an adapter of another base").what
    path.write_text("FROM llama3.2\nADAPTER ./a.gguf\n")
    assert not alarms(diagnose([path]))


@needs_go
@pytest.mark.parametrize(
    "template",
    [
        '{{ define "x" }}{{ template "x" . }}{{ template "x" . }}{{ end }}{{ template "x" . }}<|im_end|>{{ .Prompt }}',
        '{{ define "x" }}{{ template "x" (printf "%s%s" . .) }}{{ end }}{{ template "x" "aaaaaaaa" }}<|im_end|>{{ .Prompt }}',
        '{{ define "x" }}{{ . }}{{ template "x" (printf "%s%s" . .) }}{{ end }}{{ template "x" "aaaaaaaa" }}<|im_end|>{{ .Prompt }}',
        "{{ .Prompt }}<|im_end|>{{ if }}",
        "{{ .Prompt.Secret }}<|im_end|>{{ .Messages.Pop }}",
    ],
)
def test_a_template_that_loops_or_grows_is_a_note(template: str, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(f'FROM ./m.gguf\nTEMPLATE """{template}"""\n')
    found = diagnose([tmp_path / "Modelfile"], "embedded")
    assert [(one.severity, one.name) for one in found.findings] == [("note", "not looked at")]
    assert "Go does not render it" in found.findings[0].what
