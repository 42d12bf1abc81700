#!/usr/bin/env python3
"""Writes hawser/jinja/template_golden.h: what Jinja2, set up as transformers does, makes of templates (pip install jinja2).

jinja.py > hawser/jinja/template_golden.h
"""
import json

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML = """{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
INST = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}\
{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
HEADERS = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- set user_supplied = namespace(n=0) %}
{%- for message in messages if message.role != 'system' %}
    {%- set user_supplied.n = user_supplied.n + 1 %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
    {%- if message.content is string %}{{ message.content | trim }}{% else %}
        {%- for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
    {%- endif %}{{ '<|eot_id|>' }}
{%- endfor %}
{{ user_supplied.n }} of {{ messages | length }}, {{ date_string }}"""
TOOLS = """{%- macro describe(tool, indent=2) -%}
{{ ' ' * indent }}{{ tool.name | upper }}: {{ tool | tojson }}
{%- endmacro -%}
{%- if tools %}
{{ 'Tools:' }}
{%- for tool in tools %}
{{ describe(tool) }}
{%- endfor %}
{%- endif %}
{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for call in m.tool_calls %}
<tool_call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson(indent=2) }}</tool_call>
{% endfor %}{% elif m.role in ['user', 'tool'] %}{{ m.role ~ ': ' ~ m.content ~ '\\n' }}{% else %}{{ m.content }}
{% endif %}{% endfor %}"""
THINK = """{%- for message in messages[::-1] %}{% set index = (messages | length - 1) - loop.index0 %}{{ index }}{{ message.role[0] }}{% endfor %}
{% for m in messages %}{% set content = m.content if m.content is string else '' %}{% if '</think>' in content %}\
{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}[{{ content }}]{% if not loop.last %}{{ '|' }}{% endif %}{% endfor %}"""
LINES = """{# a comment #}
{% for i in range(3) %}
  line {{ i }}
  {% if i == 1 %}
    one
  {% else %}
    other
  {% endif %}
{% endfor %}
  {%+ if true %}kept{% endif %}

 end   {{- ' x ' -}}   
 after {% raw %}{{ not read }}{% endraw %}
"""
ROLES = "{% for m in messages %}{{ m['role'].capitalize() }}> {{ m['content'] if m['content'] is string else m['content'][0]['text'] }}\n{% endfor %}"
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

CHAT = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\n<|im_end|> {{ x }} "},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello, \u4e16\u754c \U0001f600!"},
        {"role": "user", "content": "  "}]
TALK = [{"role": "user", "content": "What's 'new'?"}, {"role": "assistant", "content": "Not \"much\"."}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}]
CALLS = [{"role": "user", "content": "go"},
         {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True, "\u00e9"]}}}]},
         {"role": "tool", "content": "{\"x\": 2}"}]
TOOL = [{"name": "f", "description": "d <&> \u00e9", "parameters": {"type": "object", "properties": {}}}]
BASE = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}

CASES = []
for template in (CHATML, INST, HEADERS, TOOLS, THINK, ROLES, ZEPHYR, GEMMA):
    for messages in (CHAT, TALK, PARTS, CALLS, CHAT[1:]):
        for extra in ({}, {"tools": TOOL, "add_generation_prompt": False}):
            CASES.append((template, {**BASE, "messages": messages, **extra}))
CASES.append((LINES, {}))
EXPRESSIONS = [
    "1 + 2 * 3 - 4 // 3 % 2 ** 3", "7 / 2", "-7 // 2", "-7 % 3", "2 ** -1", "1.0 * 3", "1e20", "0.1 + 0.2", "10 / 5", "1_000",
    "-3 | abs", "(-3) | abs", "not x", "x is defined", "x is not defined", "none", "true", "[1, 'a', none, 1.5, [2]]", "(1,)",
    "{'a': 1, \"b\": 'c\\'d'}", "'it\\'s'", "'a' 'b'", "'a' ~ 1 ~ none ~ true", "'abc'[1]", "'abc'[-1]", "'abc'[1:]", "'abcdef'[::2]",
    "'abc'[::-1]", "[1,2,3,4][1:-1]", "[1,2,3][-2:]", "'\u00e9\u4e16x'[1]", "'\u00e9\u4e16x' | length", "1 if 0 else 2", "'x' if false",
    "1 < 2 < 3", "1 < 2 > 2", "1 == 1.0", "'a' < 'b'", "3 in [1, 2]", "'b' in 'abc'", "'k' in {'k': 1}", "1 not in [1]", "true and 0", "'' or 'y'",
    "'a,b,c'.split(',')", "' a  b '.split()", "'a,b,c'.split(',', 1)", "'a,b,c'.rsplit(',', 1)", "'xxaxx'.strip('x')", "'  a'.lstrip()",
    "'a  '.rstrip() ~ '|'", "'hello world'.title()", "'hELLO'.capitalize()", "'abcabc'.replace('b', 'X', 1)", "'abc'.find('c')", "'abc'.find('z')",
    "'abc'.startswith('ab')", "'abc'.startswith(('x', 'a'))", "'abc'.endswith('bc')", "'-'.join(['a', 'b'])", "'a\\nb\\n'.splitlines()", "'aXb'.upper()",
    "{'a': 1}.get('a')", "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1, 'b': 2}.items() | list", "{'b': 1, 'a': 2} | dictsort", "{'a': 1}.keys() | list",
    "{'a': 1}.values() | list", "[3, 1, 2] | sort", "['b', 'A', 'c'] | sort", "[3, 1, 2] | sort(reverse=true)", "[1, 1, 2] | unique | list",
    "[1, 2, 3] | reverse | list", "'abc' | reverse", "[1, 2] | first", "[1, 2] | last", "[] | first", "[1, 2] | join('-')", "[1, 2] | join", "'x' | default('y')",
    "z | default('y')", "'' | default('y', true)", "'5' | int", "'x' | int", "'5.7' | int", "'x' | int(7)", "5.7 | int", "'1.5' | float", "5 | float", "2.567 | round(2)",
    "2.5 | round", "2.4 | round | int", "[1, 2, 3, 4] | select('odd') | list", "[1, 2, 3] | reject('equalto', 2) | list", "[0, 1, ''] | select | list",
    "[{'a': 1}, {'a': 2}, {'b': 3}] | selectattr('a', 'defined') | map(attribute='a') | list", "[{'a': 1}, {'a': 2}] | rejectattr('a', 'equalto', 1) | list",
    "['a', 'b'] | map('upper') | join", "[{'a': 'x'}] | map(attribute='a') | first", "'a\\nb' | indent", "'a\\n\\nb' | indent(2, true)", "'<a>' | escape", "'a b' | title",
    "'Ab' | lower", "' a ' | trim ~ '|'", "['x'] | string", "'abc' | list", "{'a': [1, {'b': none}]} | tojson", "'\u00e9\\n\\\"' | tojson", "[1, 2] | tojson(indent=2)",
    "{'b': 1, 'a': 2} | tojson(sort_keys=true)", "[] | tojson(indent=4)", "{} | tojson", "1.0 | tojson", "range(5) | list", "range(1, 10, 3) | list", "range(3, 0, -1) | list",
    "dict(a=1)", "namespace(a=1).a", "1 is number", "1 is integer", "1.5 is float", "'a' is string", "[] is sequence", "{} is mapping", "'a' is iterable", "true is boolean",
    "none is none", "1 is odd", "4 is divisibleby 2", "2 is in [1, 2]", "'a' is eq 'a'", "true is true", "1 is true", "'x' is not none and 1 is defined", "'ab' * 3", "[1] + [2]",
    "[1, 2, 3] | max", "[1, 2, 3] | sum", "m.a.b", "m['a']['c']", "m.a.zzz is defined", "not m.items is defined", "['b', 'a'][0] | upper", "'%' ~ '}}'", "{'}}': 1}['}}']",
    "'a' if m else 'b' if x else 'c'", "(1, 2)[1]", "'\\u00e9\\x41\\t|'", "[1,2,3] | batch(2) | list", "'abc'.isdigit()", "'123'.isdigit()", "-(2)", "+3", "2 * -3", "m | length", "m.a | items | list"]
for expression in EXPRESSIONS:
    CASES.append(("{{ " + expression + " }}", {"m": {"a": {"b": 5, "c": "d"}, "items": 3}}))
CASES += [(t, {"items": [1, 2, 3], "d": {"x": 1, "y": 2}}) for t in (
    "{% for i in items %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'ab' %}{{ c }}.{% endfor %}",
    "{% for i in items if i != 2 %}{{ loop.index }}:{{ i }} {% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}",
    "{% for i in items %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in items %}{% set x = i %}{% endfor %}{{ x }}", "{% set ns = namespace(x=0) %}{% for i in items %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% if false %}a{% elif 1 %}b{% else %}c{% endif %}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set t %}x{{ 1 }}y{% endset %}{{ t | upper }}",
    "{% macro f(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=3) }} {{ f(1, 5, 6) }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% for i in items %}{% for j in items %}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% if items %}{% set y = 5 %}{% endif %}{{ y }}", "a{% generation %}b{{ 1 }}{% endgeneration %}c", "{{ undefined_thing }}|{{ undefined_thing is undefined }}",
    "{% for i in undefined_thing %}x{% endfor %}|", "{{- 'a' }}  \n  {{ 'b' -}}  c", "x\n{% if true %}\ny\n{% endif %}\nz\n", "{{ loop.cycle }}" if False else "{% for i in items %}{{ loop.cycle('a','b') }}{% endfor %}")]
ERRORS = ["{{ x.y }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{% for %}", "{% if %}x{% endif %}", "{{ ", "{% if 1 %}", "{{ 'a }}", "{% endif %}", "{{ f() }}", "{{ [1] < 'a' }}", "{{ 1 | nosuch }}",
          "{{ 1 is nosuch }}", "{{ ** }}", "{{ raise_exception('no') }}", "{% set x.y = 1 %}", "{{ 5() }}", "{% include 'x' %}", "{{ a b }}", "{{ 1 + }}", "{{ -none }}"]


def raise_exception(message):
    raise ValueError(message)


class Generation:  # what transformers' extension does with the text of the block: nothing
    pass


def environment():
    from jinja2 import nodes
    from jinja2.ext import Extension

    class GenerationBlock(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols])
    env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    env.globals["raise_exception"] = raise_exception
    return env


def render(template, context):
    return environment().from_string(template).render(**context)


def main():
    rows = []
    for template, context in CASES:
        try:
            rows.append({"template": template, "context": context, "text": render(template, context)})
        except Exception:
            rows.append({"template": template, "context": context, "error": True})
    for template in ERRORS:
        try:
            raise SystemExit(f"{template} gives {render(template, {})}")
        except Exception:
            rows.append({"template": template, "context": {}, "error": True})
    print("// Written by scripts/goldens/jinja.py: templates, what they are given, and what Jinja2 makes of them.")
    print("#pragma once\n\nnamespace hawser::jinja {\n\n// clang-format off\ninline constexpr const char* kTemplateGoldens[] = {")
    for row in rows:
        print(f'R"JSON({json.dumps(row)})JSON",')
    print("};\n// clang-format on\n\n}  // namespace hawser::jinja")


if __name__ == "__main__":
    main()
