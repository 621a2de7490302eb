"""Tools in Go templates: Go offers, calls and answers them in the ids of the model's own template, or it is said that it can't."""

from pathlib import Path
from typing import Any

import pytest

from export.test_go_template import LOOP, chat_with
from whet.errors import InputError
from whet.export.go_render import find_go, render_talks
from whet.export.go_template import CONVERSATIONS, check, derive
from whet.export.go_tools import TALKS, TOOLS, check_with_tools, derive_with_tools, takes_tools, turn
from whet.pipeline.ollama_step import _template

needs_go = pytest.mark.skipif(find_go() is None, reason="the command go is not found")
pytestmark = pytest.mark.end_to_end
END, PROMPT = "{%- endfor -%}", "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
CALLS = (
    "{%- for call in message.tool_calls -%}{%- set call = call.function -%}"
    "{{- '\\n<tool_call>\\n{\"name\": \"' + call.name + '\", \"arguments\": ' + call.arguments | tojson + '}\\n</tool_call>' -}}{%- endfor -%}"
)
# As Qwen2.5 and Hermes write tools: ours in form, theirs in what they write.
HERMES = (
    "{%- set system = messages[0].content if messages[0].role == 'system' else 'You are a helpful assistant.' -%}"
    "{{- '<|im_start|>system\\n' + system -}}"
    "{%- if tools -%}{{- '\\n\\n# Tools\\n\\nYou may call functions. Their signatures stand within <tools></tools>:\\n<tools>' -}}"
    "{%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}"
    "{{- '\\n</tools>\\n\\nFor each call write {\"name\": <name>, \"arguments\": <arguments>} within <tool_call></tool_call>.' -}}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}" + LOOP
    + "{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- elif message.role == 'assistant' -%}{{- '<|im_start|>assistant' -}}{%- if message.content -%}{{- '\\n' + message.content -}}{%- endif -%}"
    + CALLS + "{{- '<|im_end|>\\n' -}}"
    "{%- elif message.role == 'tool' -%}{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endif -%}" + END + PROMPT
)  # fmt: skip
# As Llama 3.1 writes them: four spaces a level, before the first question; one call a turn; results as JSON.
LLAMA = (
    "{{- bos_token -}}{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content | trim -%}{%- set messages = messages[1:] -%}"
    "{%- else -%}{%- set system = '' -%}{%- endif -%}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' -}}{%- if tools -%}{{- 'Environment: ipython\\n' -}}{%- endif -%}"
    "{{- 'Cutting Knowledge Date: December 2023\\n\\n' + system + '<|eot_id|>' -}}"
    "{%- if tools -%}{%- set first = messages[0].content | trim -%}{%- set messages = messages[1:] -%}"
    "{{- '<|start_header_id|>user<|end_header_id|>\\n\\nAnswer with a JSON for a function call where one is needed.\\n\\n' -}}"
    "{%- for tool in tools -%}{{- tool | tojson(indent=4) + '\\n\\n' -}}{%- endfor -%}{{- first + '<|eot_id|>' -}}{%- endif -%}" + LOOP
    + "{%- if not (message.role == 'tool' or 'tool_calls' in message) -%}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' -}}"
    "{%- elif 'tool_calls' in message -%}{%- if message.tool_calls | length != 1 -%}{{- raise_exception('one call at a time') -}}{%- endif -%}"
    "{%- set call = message.tool_calls[0].function -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}"
    "{{- '{\"name\": \"' + call.name + '\", \"parameters\": ' + call.arguments | tojson + '}<|eot_id|>' -}}"
    "{%- else -%}{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' -}}{%- if message.content is iterable -%}{{- message.content | tojson -}}"
    "{%- endif -%}{{- '<|eot_id|>' -}}{%- endif -%}" + END
    + "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"
)  # fmt: skip
# The function alone in a list, as some write it; calls without words beside them.
BARE = (
    LOOP + "{%- if loop.first and tools -%}{{- '<|im_start|>tools\\n[' -}}{%- for tool in tools -%}{{- tool.function | tojson -}}"
    "{{- ', ' if not loop.last -}}{%- endfor -%}{{- ']<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}{%- if message.tool_calls -%}" + CALLS + "{%- else -%}{{- message.content -}}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}" + END + PROMPT
)  # fmt: skip
KNOWN = {"Hermes": (HERMES, 8), "Llama 3.1": (LLAMA, 7), "bare functions": (BARE, 8)}


@needs_go
@pytest.mark.parametrize("name", KNOWN)
def test_go_writes_tools_in_the_ids_of_jinja(name: str, tmp_path: Path) -> None:
    text, num_asked = KNOWN[name]
    chat = chat_with(tmp_path / "m", text)
    adds_bos = name == "Llama 3.1"
    assert takes_tools(chat)
    template = derive_with_tools(chat, adds_bos=adds_bos)
    assert f"same ids on {num_asked} of {len(TALKS)}" in check_with_tools(chat, template, adds_bos=adds_bos)[0]
    # Without tools it is what it was.
    assert f"on {len(CONVERSATIONS)} conversations" in check(chat, template, adds_bos=adds_bos)[0]
    assert ".Tools" in template.text


@needs_go
def test_what_go_writes_of_a_nested_schema_is_whole(tmp_path: Path) -> None:
    """It comes out with other spaces, which the certificate says; nothing is left out."""
    template = derive_with_tools(chat_with(tmp_path / "m", HERMES), adds_bos=False)
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {
        "type": "object", "properties": {"rows": {"type": "array", "items": {"type": "string"}, "description": "x"}}, "required": ["rows"]}}}]  # fmt: skip
    [text] = render_talks(template.text, [{"messages": [turn("user", "a")], "tools": tools}])
    assert '"rows": {"type": "array", "description": "x", "items": {"type":"string"}}' in text


@needs_go
def test_a_wrong_template_of_tools_is_found(tmp_path: Path) -> None:
    from dataclasses import replace

    chat = chat_with(tmp_path / "m", HERMES)
    right = derive_with_tools(chat, adds_bos=False)
    for old, new in (('"arguments": ', '"arguments":'), ("</tools>", "</tool>"), ("<tool_response>", "<response>")):
        assert old in right.text
        with pytest.raises(InputError, match="in a conversation with tools of"):
            check_with_tools(chat, replace(right, text=right.text.replace(old, new)), adds_bos=False)


# Tools that the Go template can't say: before the last question, as Python prints them, by names alone.
UNSAID = {
    "before the last question": LOOP + "{%- if loop.last and tools -%}{{- '[AVAILABLE_TOOLS]' + tools | tojson -}}{%- endif -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}" + END + PROMPT,
    "as Python prints them": "{%- if tools -%}{{- '<|im_start|>tools\\n' + tools | string + '<|im_end|>\\n' -}}{%- endif -%}" + LOOP
    + "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}" + END + PROMPT,
    "without calls": "{%- if tools -%}{%- for tool in tools -%}{{- '<|im_start|>tool\\n' + tool | tojson + '<|im_end|>\\n' -}}{%- endfor -%}{%- endif -%}" + LOOP
    + "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}" + END + PROMPT,
}  # fmt: skip


@needs_go
@pytest.mark.parametrize("name", UNSAID)
def test_tools_that_can_not_be_said_are_a_finding_of_the_certificate(name: str, tmp_path: Path) -> None:
    chat = chat_with(tmp_path / "m", UNSAID[name])
    assert takes_tools(chat)
    template, said = _template(chat, None, False, ())
    assert template.text == derive(chat, adds_bos=False).text
    assert any(words.startswith("TOOLS ARE LEFT OUT: ") and "Ollama refuses requests with tools" in words for words in said)


@needs_go
def test_the_export_takes_tools_where_they_are_proved(tmp_path: Path) -> None:
    template, said = _template(chat_with(tmp_path / "m", HERMES), None, False, ())
    assert ".Tools" in template.text
    assert any("same ids on 8 of 8 conversations with 3 tools" in words for words in said)
    plain, words = _template(chat_with(tmp_path / "p", LOOP + "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}" + END + PROMPT),
                             None, False, ())  # fmt: skip
    assert ".Tools" not in plain.text
    assert not any("TOOLS" in one for one in words)


def published(name: str) -> str:
    """A template of a published model, as TRL carries it."""
    trl = pytest.importorskip("trl", reason="needs whet's extra bench")
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@needs_go
@pytest.mark.parametrize(
    ("name", "adds_bos", "num_asked"),
    [("qwen2_5", False, 8), ("qwen3", False, 8), ("qwen3_instruct_2507", False, 8), ("llama3_1", True, 7)],
)
def test_the_templates_of_published_models_keep_their_tools(name: str, adds_bos: bool, num_asked: int, tmp_path: Path) -> None:
    chat = chat_with(tmp_path / "m", published(name))
    template, said = _template(chat, None, adds_bos, ())
    assert ".Tools" in template.text
    assert any(f"same ids on {num_asked} of 8 conversations with 3 tools" in words for words in said), said


@needs_go
@pytest.mark.parametrize("name", ["qwen3_6", "lfm2"])
def test_published_templates_whose_calls_are_no_json_keep_none(name: str, tmp_path: Path) -> None:
    template, said = _template(chat_with(tmp_path / "m", published(name)), None, False, ())
    assert ".Tools" not in template.text
    assert any("TOOLS ARE LEFT OUT" in words and "otherwise than as JSON" in words for words in said)


def test_a_template_that_knows_no_tools_takes_none(chat: Any) -> None:
    assert not takes_tools(chat)
    assert len(TOOLS) == 3
