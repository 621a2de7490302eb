"""The sandbox of chat templates: hostile ones end in one line, soon and small; honest ones write what plain Jinja writes."""

import resource
import time
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.errors import InputError
from whet.records import Message
from whet.text.chat import render_with
from whet.text.sandbox import Sandbox, TooLargeError

ASKED = [Message("system", "Be brief."), Message("user", "宣德九年？"), Message("assistant", "蹇義"), Message("user", "其後？")]
HOSTILE = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}",
    "{{ 'a' * 10**9 }}", "{{ [0] * 999999999 }}", "{{ 9 ** 9 ** 9 }}", "{{ 10 ** 99999999 }}",
    "{{ 'a'.ljust(999999999) }}", "{{ 'a' | center(999999999) }}", "{{ 'a\nb' | indent(999999999) }}", "{{ [1] | tojson(indent=999999999) }}",
    "{{ '%999999999d' | format(1) }}", "{{ '%999999999d' % 1 }}", "{{ '%*d' % (999999999, 1) }}", "{{ '{:999999999}'.format(1) }}",
    "{{ '{:{}}'.format(1, 999999999) }}", "{{ lipsum(n=99999, max=99999) }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    pytest.param("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", marks=pytest.mark.integration),
    pytest.param("{% for i in range(99999) %}{% set x = range(99999) | list | sort | unique | list %}{% endfor %}", marks=pytest.mark.integration),
    "{{ ''.__class__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ self.__init__.__globals__ }}", "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'user'}) }}", "{{ ('' | attr('__class__')).__mro__ }}", "{{ [] | map(attribute='__class__') | list }}{{ raise_exception('x') }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ '{0.__class__}'.format(1) }}{{ raise_exception('x') }}",
    # What Python's own compiler refuses.
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{{ " + "not " * 5000 + "1 }}", "{{ " + "9" * 5000 + " }}",
    "{% for i in messages %}" * 60 + "x" + "{% endfor %}" * 60, "{% if messages %}" * 150 + "x" + "{% endif %}" * 150,
]  # fmt: skip


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_ends_in_one_line_soon_and_small(template: str) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(InputError) as caught:
        render_with(template, ASKED, {}, "strange/model")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith("strange/model: its chat template")
    assert time.process_time() - began < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


HONEST = [
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}",
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{{ m.role ~ ': ' ~ m.content }}{{ loop.previtem.role if loop.previtem }}{% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.first }}{{ m.content | upper | replace('其', '後') }}{% else %}none{% endfor %}",
    "{% set ns = namespace(n=0, t='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.t = ns.t ~ m.role %}{% endfor %}{{ ns.n * 2 }}{{ ns.t }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{% macro turn(m, end='') %}{{ m.role }}={{ m.content }}{{ end }}{% endmacro %}{% for m in messages %}{{ turn(m, end='|') }}{% endfor %}",
    "{{ '%s and %d' % ('a', 3) }}{{ '{} {:>4}'.format('b', 2) }}{{ '%05.1f' | format(2.5) }}{{ 7 % 3 }}{{ 2 ** 10 }}{{ 'ab' * 3 }}",
    "{% for key, value in {'b': 1, 'a': [1, {'c': 2}]}.items() %}{{ key }}{{ value | tojson }}{% endfor %}{{ messages[1:] | length }}{{ messages[::-1][0].role }}",
    "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{{ m.content.split('年')[0] }}{% endfor %}",
    "{{ ['x', 'y'] | join('-') }}{{ [{'n': 1}, {'n': 2}] | join('+', attribute='n') }}{{ 'a b' | title | indent(2) }}{{ 'q' | default('z') }}{{ undefined_thing | default('z') }}",
]  # fmt: skip


@pytest.mark.parametrize("template", HONEST)
def test_an_honest_template_writes_what_plain_jinja_writes(template: str) -> None:
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False)
    plain.filters["tojson"] = Sandbox().filters["tojson"]
    messages = [{"role": message.role, "content": message.content} for message in ASKED]
    wanted = plain.from_string(template).render(messages=messages)
    assert render_with(template, ASKED, {}, "m") == wanted


@given(st.lists(st.sampled_from(["{{ x ~ x }}", "{% set x = x ~ 'b' %}", "{% for i in range(n) %}", "{% endfor %}", "{{ x | upper }}", "{% set x = x * n %}",
                                 "{% set n = n * n %}", "{% if n > 3 %}", "{% endif %}", "{{ n }}", "{{ x[n] }}", "{{ [x, n] | join(x) }}"]), max_size=12))  # fmt: skip
def test_any_template_renders_or_is_refused(parts: list[str]) -> None:
    sandbox = Sandbox()
    sandbox.begin()
    try:
        text = sandbox.from_string("".join(["{% set x = 'a' %}{% set n = 3 %}", *parts])).render()
    except (jinja2.TemplateError, IndexError, RecursionError):
        return
    assert len(text) < 10**7


def test_steps_are_counted_for_each_rendering_anew() -> None:
    sandbox = Sandbox()
    template = sandbox.from_string("{% for i in range(90000) %}{% endfor %}")
    for _ in range(30):
        sandbox.begin()
        template.render()
    with pytest.raises(TooLargeError):
        for _ in range(30):
            template.render()


def test_templates_of_model_folders_are_never_opened_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    template: Any = "{% include '" + str(tmp_path / "secret") + "' %}"
    with pytest.raises(InputError, match="chat template"):
        render_with(template, ASKED, {}, "m")


def test_the_block_that_marks_what_is_learnt_writes_what_stands_in_it() -> None:
    """transformers reads {% generation %} as a mark for trainers; its templates must render the same without it."""
    plain = "{% for message in messages %}{{ message.role }}:{% if message.role == 'assistant' %}{{ message.content }}!{% endif %};{% endfor %}"
    marked = plain.replace("{{ message.content }}!", "{% generation %}{{ message.content }}!{% endgeneration %}")
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    one, other = (Sandbox().from_string(text).render(messages=asked) for text in (plain, marked))
    assert one == other == "user:;assistant:b!;"
    with pytest.raises(jinja2.TemplateSyntaxError):
        Sandbox().from_string("{% generation %}{{ x }}")
