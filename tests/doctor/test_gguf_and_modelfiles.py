"""Traps planted in GGUF files and Modelfiles as llama.cpp's converters and Ollama's users write them; healthy ones are quiet."""

import json
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from whet.doctor.finding import Finding
from whet.doctor.gguf_files import ENDS
from whet.doctor.look import Diagnosis, diagnose
from whet.export.gguf_adapter import write_gguf_adapter
from whet.export.gguf_families import interleave_halves
from whet.export.go_render import find_go
from whet.export.llama_cpp import find_llama
from whet.models.base_model import EMBEDDED_PATH, open_base
from whet.models.lora import read_lora

needs_go = pytest.mark.skipif(find_go() is None, reason="the command go is not found")
TOKENIZER: dict[str, Any] = json.loads((EMBEDDED_PATH / "tokenizer.json").read_text())
TEMPLATE = (EMBEDDED_PATH / "chat_template.jinja").read_text()
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


def named(found: Diagnosis, name: str) -> Finding:
    hits = [finding for finding in found.findings if finding.name == name]
    assert hits, [finding.name for finding in found.findings]
    assert hits[0].place
    assert hits[0].why
    assert hits[0].remedy
    return hits[0]


def alarms(found: Diagnosis) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity != "note"]


def names_of_tokens() -> tuple[list[str], list[int]]:
    """Tokens and kinds as llama.cpp's converter lists them: added ones by their flag, rows without a token padded."""
    rows = json.loads((EMBEDDED_PATH / "config.json").read_text())["vocab_size"]
    names, kinds = [f"[PAD{number}]" for number in range(rows)], [UNUSED] * rows
    for name, number in TOKENIZER["model"]["vocab"].items():
        names[number], kinds[number] = name, NORMAL
    for token in TOKENIZER["added_tokens"]:
        names[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    return names, kinds


def converted(
    path: Path,
    *,
    template: str | None = TEMPLATE,
    rename: dict[str, str] | None = None,
    swap: tuple[int, int] | None = None,
    eos: str = "<|im_end|>",
    bos: str = "",
    adds_bos: bool | None = None,
    rows: int | None = None,
    kind: str = "F16",
    arch: str = "qwen2",
) -> Path:
    """A model's file, field by field as llama.cpp's converter writes them, with two small tensors."""
    names, kinds = names_of_tokens()
    if swap:
        names[swap[0]], names[swap[1]] = names[swap[1]], names[swap[0]]
    names = [(rename or {}).get(name, name) for name in names]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("model")
    writer.add_name("m")
    writer.add_size_label("7M")
    writer.add_block_count(1)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in TOKENIZER["model"]["merges"]])
    writer.add_eos_token_id(names.index(eos))
    if bos:
        writer.add_bos_token_id(names.index(bos))
    if adds_bos is not None:
        writer.add_add_bos_token(adds_bos)
    if template is not None:
        writer.add_chat_template(template)
    quantised = gguf.GGMLQuantizationType[kind]
    for name, shape in (("token_embd.weight", (rows or len(names), 64)), ("blk.0.attn_q.weight", (64, 64))):
        writer.add_tensor(name, gguf.quantize(np.zeros(shape, np.float32), quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# The same template in other words: white space of the source, a comment, a loop by number, other quotes.
HARMLESS = {
    "itself": TEMPLATE,
    "a comment and blank lines": "{# chat #}\n{%- if true -%}\n  {%- endif -%}\n" + TEMPLATE,
    "another loop": "{% for message in messages %}{{ '<|im_start|>' + message.role }}\n{{ message['content'] + '<|im_end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}{{ \"<|im_start|>assistant\\n\" }}{% endif %}",
}  # fmt: skip
HARMFUL = {
    "a line break less": ("{%- for message in messages -%}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' -}}{%- endfor -%}"
    "{{- '<|im_start|>assistant\\n' -}}", "from token"),
    "a system text of its own": ("{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are kind.<|im_end|>\\n' -}}{%- endif -%}" + TEMPLATE,
    "system\\nYou a"),
    "no system text": ("{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('none') -}}{%- endif -%}" + TEMPLATE, "refuses a conversation of system"),
    "another family": ("{%- for message in messages -%}{{- '[INST] ' + message['content'] + ' [/INST]' -}}{%- endfor -%}", "in a conversation of user"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_converted_model_is_quiet_however_its_template_is_written(kind: str, tmp_path: Path) -> None:
    found = diagnose([converted(tmp_path / "m.gguf", template=HARMLESS[kind])], "embedded")
    assert not found.findings, found.findings


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_template_that_gives_other_tokens_is_an_error_with_its_place(kind: str, tmp_path: Path) -> None:
    template, words = HARMFUL[kind]
    finding = named(diagnose([converted(tmp_path / "m.gguf", template=template)], "embedded"), "another template")
    assert finding.severity == "error"
    assert words in finding.what


def test_a_file_without_a_template_is_named_where_one_was_trained(tmp_path: Path) -> None:
    path = converted(tmp_path / "m.gguf", template=None)
    assert named(diagnose([path], "embedded"), "no template").severity == "warning"
    assert named(diagnose([path]), "no template").severity == "warning"  # its vocabulary has turns
    plain = converted(tmp_path / "p.gguf", template=None, rename={"<|im_start|>": "<|x|>", "<|im_end|>": "<|y|>"}, eos="<|y|>")
    assert not alarms(diagnose([plain]))  # a model that continues texts


def test_an_end_that_no_runner_knows_is_named_and_known_ones_are_quiet(tmp_path: Path) -> None:
    odd = {"<|im_end|>": "<|finis|>"}
    template = TEMPLATE.replace("<|im_end|>", "<|finis|>")
    other = next(
        token["content"] for token in TOKENIZER["added_tokens"] if token["content"] not in ("<|im_end|>", "<|im_start|>")
    )
    found = diagnose([converted(tmp_path / "m.gguf", template=template, rename=odd, eos=other)])
    assert "ends a turn with '<|finis|>'" in named(found, "an end that is not the template's").what
    assert not alarms(diagnose([converted(tmp_path / "s.gguf", template=template, rename=odd, eos="<|finis|>")]))
    # llama.cpp ends at these by their names, whatever eos says.
    assert not alarms(diagnose([converted(tmp_path / "k.gguf", eos=other)]))


@pytest.mark.skipif(find_llama() is None, reason="llama-cpp-python is not installed")
def test_the_ends_that_runners_know_are_those_of_llama_cpp(tmp_path: Path) -> None:
    from conftest import random_model

    from whet.export.gguf_write import write_gguf

    folder = random_model(tmp_path / "m", "Qwen2", vocab_size=8300)
    described = json.loads((folder / "tokenizer.json").read_text())
    known = {token["content"] for token in described["added_tokens"]}
    at = max([*described["model"]["vocab"].values(), *(token["id"] for token in described["added_tokens"])]) + 1
    others = ["<|finis|>", "<|assistant|>"]
    for number, name in enumerate(sorted((ENDS | set(others)) - known - set(described["model"]["vocab"]))):
        described["added_tokens"].append(described["added_tokens"][0] | {"id": at + number, "content": name, "special": True})
    (folder / "tokenizer.json").write_text(json.dumps(described))
    path = write_gguf(open_base(folder), tmp_path / "m.gguf", "f16").path
    code = (
        "import sys, llama_cpp as l\n"
        "settings = l.llama_model_default_params(); settings.vocab_only = True\n"
        "model = l.llama_model_load_from_file(sys.argv[1].encode(), settings); vocab = l.llama_model_get_vocab(model)\n"
        "for n in range(l.llama_vocab_n_tokens(vocab)):\n"
        "  if l.llama_vocab_is_eog(vocab, n): print('END', l.llama_vocab_get_text(vocab, n).decode())\n"
    )
    done = subprocess.run([str(find_llama()), "-c", code, str(path)], capture_output=True, text=True, check=True)
    ends = {line[4:] for line in done.stdout.splitlines() if line.startswith("END ")}
    # Beside <|return|> and <|call|> it takes <|end|> for the end of a thought, not of a turn.
    assert ends | {"<|end|>"} == ENDS


def test_tokens_of_another_model_are_counted(tmp_path: Path) -> None:
    swapped = named(diagnose([converted(tmp_path / "m.gguf", swap=(300, 301))], "embedded"), "a tokenizer of another model")
    assert swapped.what.startswith("2 of ")
    assert "; 300 is " in swapped.what
    few = named(diagnose([converted(tmp_path / "f.gguf", rows=100)]), "a tokenizer of another model")
    assert "100 rows of embedding" in few.what


Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def llama_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A Llama base and a PEFT-layout adapter of strength 20 for its q and v."""
    from conftest import random_model

    place = tmp_path_factory.mktemp("pair")
    base, folder = random_model(place / "m", "Llama"), place / "adapter"
    folder.mkdir()
    random = np.random.default_rng(0)
    tensors = {}
    for layer in range(2):
        for name, rows in (("q_proj", 64), ("v_proj", 32)):
            start = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{start}.lora_A.weight"] = random.standard_normal((4, 64)).astype(np.float32)
            tensors[f"{start}.lora_B.weight"] = random.standard_normal((rows, 4)).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"peft_type": "LORA", "r": 4, "lora_alpha": 80, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        )
    )
    return base, folder


Matrix = Any
Turn = Callable[[str, Matrix, Matrix], tuple[Matrix, Matrix]]


def right(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """What llama.cpp's converter does: the rows of q and k are reordered, those of B with an adapter."""
    return a, interleave_halves(b, 4) if "attn_q" in name else b


def on_a(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """The order of the rows put on A, whose columns are what enters."""
    return (interleave_halves(a.T.copy(), 4).T.copy(), b) if "attn_q" in name else (a, b)


def not_at_all(name: str, a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    return a, b


def adapter_file(path: Path, folder: Path, alpha: float | None, turn: Turn = right, layers: Sequence[int] = (0, 1), arch: str = "llama",
                 dtype: Any = np.float32) -> Path:  # fmt: skip
    """An adapter's file as llama.cpp's convert_lora_to_gguf.py writes it."""
    lora = read_lora(folder)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_name("a")
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for layer in layers:
        for theirs, name in (("q_proj", f"blk.{layer}.attn_q.weight"), ("v_proj", f"blk.{layer}.attn_v.weight")):
            found = lora.layers[f"model.layers.{layer}.self_attn.{theirs}"]
            a, b = turn(name, found.a.read(), found.b.read())
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a.astype(dtype)))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b.astype(dtype)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("has_base", [True, False])
def test_a_converted_adapter_is_quiet_beside_its_folder(dtype: Any, has_base: bool, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    path = adapter_file(tmp_path / "a.gguf", folder, 80.0, dtype=dtype)
    assert not alarms(diagnose([folder, path], base if has_base else None))
    own = write_gguf_adapter(open_base(base), read_lora(folder), tmp_path / "own.gguf").path
    assert not alarms(diagnose([folder, own], base if has_base else None))


@pytest.mark.parametrize("has_base", [True, False])
def test_an_adapter_at_strength_one_is_told_with_both_strengths(has_base: bool, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    found = diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 4.0)], base if has_base else None)
    finding = named(found, "an adapter at another strength")
    assert finding.severity == "error"
    assert "4 of 4 layers run at strength 1 instead of 20" in finding.what


def test_an_adapter_without_strength_is_an_error_by_itself(llama_pair: Pair, tmp_path: Path) -> None:
    path = adapter_file(tmp_path / "a.gguf", llama_pair[1], None)
    assert named(diagnose([path]), "an adapter without strength").severity == "error"
    assert "strength 1 instead of 20" in named(diagnose([llama_pair[1], path]), "an adapter at another strength").what
    assert not alarms(diagnose([adapter_file(tmp_path / "b.gguf", llama_pair[1], 80.0)]))


@pytest.mark.parametrize("turn", [on_a, not_at_all])
def test_rows_that_are_turned_in_the_wrong_matrix_are_found(turn: Turn, llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    finding = named(
        diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 80.0, turn)], base), "an adapter that was changed on the way"
    )
    assert finding.severity == "error"
    assert "2 of 4 layers" in finding.what
    assert "attn_q" in finding.what


def test_layers_that_a_conversion_left_out_are_counted(llama_pair: Pair, tmp_path: Path) -> None:
    base, folder = llama_pair
    finding = named(
        diagnose([folder, adapter_file(tmp_path / "a.gguf", folder, 80.0, layers=(0,))], base), "layers that were left out"
    )
    assert "it changes 2 layers" in finding.what


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


def test_fields_of_other_kinds_are_no_crash(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_string("general.type", "adapter")
    writer.add_array("adapter.lora.alpha", [1.0, 2.0])
    writer.add_string("tokenizer.ggml.tokens", "x")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert named(diagnose([tmp_path / "m.gguf"]), "an adapter without strength")


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
