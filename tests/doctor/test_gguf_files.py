"""Traps planted in models' GGUF files as llama.cpp's converter writes them; healthy ones are quiet."""

import json
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from converted_gguf import TEMPLATE, TOKENIZER, converted
from found import alarms, named
from hypothesis import given
from hypothesis import strategies as st

from whet.doctor.gguf_files import ENDS
from whet.doctor.look import diagnose
from whet.export.llama_cpp import find_llama
from whet.models.base_model import open_base

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


@pytest.mark.integration
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


KEYS = ("general.type", "general.architecture", "tokenizer.chat_template", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token", "adapter.lora.alpha")  # fmt: skip
TEXTS = st.sampled_from(["adapter", "model", "llama", "<|im_end|>", TEMPLATE, "{{", ""])
FIELDS = st.dictionaries(
    st.sampled_from(KEYS),
    TEXTS | st.integers(-5, 2**31) | st.floats(width=32) | st.booleans() | st.lists(TEXTS, min_size=1, max_size=4)
    | st.lists(st.integers(-3, 9), min_size=1, max_size=4),
)  # fmt: skip
TENSORS = st.dictionaries(
    st.sampled_from(["token_embd.weight", "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b", "x"]),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    min_size=1,
)


@given(fields=FIELDS, shapes=TENSORS)
def test_any_fields_give_findings_and_no_crash(
    fields: dict[str, Any], shapes: dict[str, list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("any")
    writer = gguf.GGUFWriter(place / "m.gguf", str(fields.pop("general.architecture", "llama")))
    for key, value in fields.items():
        kinds = {
            bool: writer.add_bool,
            int: writer.add_int64,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        kinds[type(value)](key, value)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (place / "Modelfile").write_text("FROM ./m.gguf\nADAPTER ./m.gguf\n")
    diagnose([place], "embedded")
