"""Go templates for Ollama are derived from the model's own, and Go renders them to the same ids."""

from pathlib import Path
from typing import Any

import pytest
from conftest import copy_base
from tokenizers import AddedToken, Tokenizer

from whet.errors import InputError
from whet.export.go_render import find_go, render_go
from whet.export.go_template import CONVERSATIONS, GoTemplate, check, derive
from whet.records import Message
from whet.text.chat import Chat

needs_go = pytest.mark.skipif(find_go() is None, reason="the command go is not found")
LOOP = "{%- for message in messages -%}"
FIRST = "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set messages = messages[1:] -%}{%- endif -%}"
# Templates as published models write them, by family: ours in form, theirs in what they write.
TEMPLATES: dict[str, str] = {
    "ChatML with a default system text": "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    + LOOP
    + "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
    "ChatML with an empty thought": LOOP
    + "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}",
    "Llama 3": "{{- bos_token -}}" + LOOP
    + "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}",
    "Mistral": "{{- bos_token -}}" + FIRST + LOOP
    + "{%- if message['role'] == 'user' -%}{%- if system is defined and loop.last -%}{{- '[INST] ' + system + '\\n\\n' + message['content'] + '[/INST]' -}}"
    + "{%- else -%}{{- '[INST] ' + message['content'] + '[/INST]' -}}{%- endif -%}{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}",
    "Llama 2": FIRST + LOOP
    + "{%- if loop.first and system -%}{%- set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] -%}{%- else -%}{%- set text = message['content'] -%}{%- endif -%}"
    + "{%- if message['role'] == 'user' -%}{{- bos_token + '[INST] ' + text | trim + ' [/INST]' -}}{%- else -%}{{- ' ' + text | trim + ' ' + eos_token -}}{%- endif -%}{%- endfor -%}",
    "Gemma": "{{- bos_token -}}" + FIRST + LOOP
    + "{%- if message['role'] == 'assistant' -%}{%- set role = 'model' -%}{%- else -%}{%- set role = message['role'] -%}{%- endif -%}"
    + "{{- '<start_of_turn>' + role + '\\n' + (system + '\\n\\n' if loop.first and system else '') + message['content'] | trim + '<end_of_turn>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}",
    "Phi": LOOP + "{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}",
    "Zephyr": LOOP + "{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}",
    "no system text": "{{- bos_token -}}" + LOOP
    + "{%- if message['role'] == 'system' -%}{{- raise_exception('no system') -}}{%- endif -%}{{- '<start_of_turn>' + message['role'] + '{{x}}\\n' + message['content'] + '<end_of_turn>\\n' -}}{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{- '<start_of_turn>assistant{{x}}\\n' -}}{%- endif -%}",
}  # fmt: skip
MARKS = ("<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|end|>")


pytestmark = pytest.mark.end_to_end  # each export is loaded by the library that it is for


def chat_with(folder: Path, template: str, bos: str = "<s>", eos: str = "</s>") -> Chat:
    """The embedded base's tokenizer with the marks of other families, and a template."""
    copy_base(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(f'{{"bos_token": "{bos}", "eos_token": "{eos}"}}')
    (folder / "chat_template.jinja").write_text(template)
    return Chat(folder)


@needs_go
@pytest.mark.parametrize("name", TEMPLATES)
def test_go_gives_the_ids_of_jinja(name: str, tmp_path: Path) -> None:
    chat = chat_with(tmp_path / "m", TEMPLATES[name])
    adds_bos = chat.prompt_ids([Message("user", "a")])[0] == chat.tokenizer.id_of("<s>") and name != "Llama 2"
    template = derive(chat, adds_bos=adds_bos)
    said = check(chat, template, adds_bos=adds_bos)
    assert "same ids" in said[0]
    assert template.takes_system is (name != "no system text")
    assert ("<s>" in template.text) is (name == "Llama 2")
    assert template.family.split()[0] in (name.split()[0], "Mistral", "Phi", "Gemma")
    assert any("white space" in words for words in said) is ("trim" in TEMPLATES[name])


@needs_go
def test_a_wrong_template_is_found_with_its_place(chat: Chat) -> None:
    right = derive(chat, adds_bos=False)
    wrong = GoTemplate(right.text.replace("<|im_end|>\n<|im_start|>assistant", "<|im_end|><|im_start|>assistant", 1), True, "x")
    with pytest.raises(InputError, match=r"other ids than the model's own from token \d+ on"):
        check(chat, wrong, adds_bos=False)
    with pytest.raises(InputError, match="Go does not render it"):
        check(chat, GoTemplate("{{ if }}", True, "x"), adds_bos=False)


@needs_go
def test_go_renders_texts_as_they_are() -> None:
    """Nothing is escaped on the way, whatever Go, HTML or JSON would do to it."""
    texts = [turns[-1].content for turns in CONVERSATIONS]
    assert render_go("{{ range .Messages }}{{ .Content }}{{ end }}", [[Message("user", text)] for text in texts]) == texts


REFUSED: dict[str, str] = {
    "turns that are counted": LOOP + "{{- '<|im_start|>' + loop.index | string + message['content'] + '<|im_end|>' -}}{%- endfor -%}",
    "a text left out": "{%- for message in messages[-2:] -%}{{- '<|im_start|>' + message['content'] + '<|im_end|>' -}}{%- endfor -%}",
    "a system text at the end": FIRST + LOOP
    + "{{- '<|im_start|>' + message['role'] + message['content'] + '<|im_end|>' -}}{%- endfor -%}{%- if system -%}{{- system -}}{%- endif -%}",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_unknown_way_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--template FILE"):
        derive(chat_with(tmp_path / "m", REFUSED[name]), adds_bos=False)


def test_without_go_nothing_is_claimed(monkeypatch: Any, chat: Chat) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_go() is None
    from whet.pipeline.ollama_step import _template

    template, said = _template(chat, None, False, ())
    assert template.text == derive(chat, adds_bos=False).text
    assert "was not rendered" in said[0]
