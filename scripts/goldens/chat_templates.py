#!/usr/bin/env python3
"""Writes hawser/jinja/chat_golden.h: thirty chat templates with what those of families of models are made of, and
what Jinja2, set up as transformers does, makes of awkward talks (pip install jinja2).

chat_templates.py > hawser/jinja/chat_golden.h
"""
import datetime
import json

import jinja  # the environment, beside this file

T = {}

T["chatml"] = """{% for turn in messages %}{{ '<|im_start|>' ~ turn.role ~ '\\n' ~ turn.content ~ '<|im_end|>\\n' }}{% endfor %}\
{{ '<|im_start|>assistant\\n' if add_generation_prompt }}"""

T["default_system"] = """{% for turn in messages %}
{%- if loop.first and turn['role'] != 'system' -%}
<|im_start|>system
Answer well.<|im_end|>
{% endif -%}
{{ '<|im_start|>' + turn['role'] + '
' + turn['content'] + '<|im_end|>
' }}{% endfor %}"""

T["inst_system_inside"] = """{%- set first = messages[0] -%}
{%- set rest = messages[1:] if first.role == 'system' else messages -%}
{%- set rules = first.content if first.role == 'system' else '' -%}
{%- for turn in rest -%}
  {%- if (loop.index0 is even) != (turn.role == 'user') -%}{{ raise_exception('turns of user and assistant must alternate, found ' ~ turn.role) }}{%- endif -%}
  {%- if turn.role == 'user' -%}
    {{- bos_token ~ '[INST] ' ~ ('<<SYS>>' ~ rules ~ '<</SYS>> ' if loop.first and rules) ~ turn.content.strip() ~ ' [/INST]' -}}
  {%- else -%}{{- ' ' ~ turn.content.strip() ~ ' ' ~ eos_token -}}{%- endif -%}
{%- endfor -%}"""

T["headers"] = """{%- macro head(role) -%}{{ '<|header|>' ~ role ~ '<|/header|>\\n\\n' }}{%- endmacro -%}
{%- for turn in messages -%}
{{- (bos_token if loop.first else '') ~ head(turn.role) ~ (turn.content | trim) ~ '<|eot|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif -%}"""

T["headers_tools"] = """{#- Tools may come under another name, and stand with the user or the system. -#}
{%- set tools = custom_tools if custom_tools is defined else (tools if tools is defined else none) %}
{%- set beside_user = tools_in_user_message | default(true) %}
{%- set day = date_string if date_string is defined else strftime_now('%d %b %Y') %}
{%- set system = messages[0].content | trim if messages[0]['role'] == 'system' else '' %}
{%- set talk = messages[1:] if messages[0]['role'] == 'system' else messages[:] %}
{{- bos_token ~ '[system]\\n' }}
{%- if builtin_tools is defined %}
    {{- 'Built in: ' ~ (builtin_tools | reject('eq', 'code_interpreter') | join(', ')) ~ '\\n' }}
{%- endif %}
{{- 'Day: ' + day + '\\n' + system }}
{%- if tools is not none and not beside_user %}
    {%- for tool in tools %}{{ '\\n' ~ tool | tojson(indent=4) }}{% endfor %}
{%- endif %}
{{- '[end]' }}
{%- for turn in talk %}
    {%- if turn.tool_calls is defined %}
        {%- if turn.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {%- set call = turn.tool_calls[0].function %}
        {%- if call.name in (builtin_tools | default([])) %}
            {{- '[assistant]\\n' ~ call.name ~ '(' }}
            {%- for key, value in call.arguments | items %}
                {{- key ~ '=' ~ value }}{{ ', ' if not loop.last }}
            {%- endfor %}
            {{- ')' }}
        {%- else %}
            {{- '[assistant]\\n{"name": "' + call.name + '", "parameters": ' ~ call.arguments | tojson ~ '}' }}
        {%- endif %}
    {%- elif turn.role in ('tool', 'ipython') %}
        {{- '[tool]\\n' ~ (turn.content if turn.content is string or turn.content is not iterable else turn.content | tojson) }}
    {%- else %}
        {{- '[' ~ turn.role ~ ']\\n' }}
        {%- if loop.first and tools and beside_user %}
            {%- for tool in tools %}{{ tool | tojson(indent=4) ~ '\\n' }}{% endfor %}
        {%- endif %}
        {{- turn.content | trim }}
    {%- endif %}
    {{- '[end]' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}
"""

T["xml_tools"] = """{%- macro open(role) %}{{ '<|im_start|>' ~ role }}{% endmacro %}
{%- set own = messages[0].role == 'system' %}
{%- if tools or own %}
    {{- open('system') ~ '\\n' ~ (messages[0].content if own else 'Be of use.') }}
    {%- if tools %}
        {{- '\\n<tools>' }}{% for tool in tools %}{{ '\\n' ~ (tool | tojson) }}{% endfor %}{{ '\\n</tools>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for turn in messages %}
    {%- set before = messages[loop.index0 - 1].role if not loop.first else '' %}
    {%- set after = messages[loop.index0 + 1].role if not loop.last else '' %}
    {%- if turn.role == 'tool' %}
        {%- if before != 'tool' %}{{ open('user') }}{% endif %}
        {{- '\\n<answer>\\n' ~ turn.content ~ '\\n</answer>' }}
        {%- if after != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}
    {%- elif turn.role == 'assistant' and turn.tool_calls %}
        {{- open('assistant') }}
        {%- if turn.content %}{{ '\\n' + turn.content }}{% endif %}
        {%- for call in turn.tool_calls %}
            {%- if call.function is defined %}{% set call = call.function %}{% endif %}
            {{- '\\n<call>' }}{{ {'name': call.name, 'arguments': call.arguments} | tojson }}{{ '</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif turn.role != 'system' or not loop.first %}
        {{- open(turn.role) + '\\n' + turn.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ open('assistant') }}{% endif %}
"""

T["thinking"] = """{%- set state = namespace(question=-1) %}
{%- for turn in messages[::-1] %}
    {%- set at = messages | length - 1 - loop.index0 %}
    {%- if state.question < 0 and turn.role == 'user' and turn.content is string and not (turn.content.startswith('<tool_response>') and turn.content.endswith('</tool_response>')) %}
        {%- set state.question = at %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- set said = turn.content if turn.content is string else '' %}
    {%- if turn.role == 'assistant' %}
        {%- set thought = turn.reasoning_content if turn.reasoning_content is string else '' %}
        {%- if not thought and '</think>' in said %}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|a|>' }}
        {%- if loop.index0 > state.question and (thought or loop.last) %}{{ '<think>' + thought.strip('\\n') + '</think>' }}{% endif %}
        {{- said }}
        {%- for call in turn.tool_calls or [] %}
            {{- '<call>' ~ call.function.name ~ ' ' ~ (call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) }}
        {%- endfor %}
    {%- else %}
        {{- '<|' ~ turn.role[:1] ~ '|>' ~ said }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|a|>' }}{% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}
{%- endif %}"""

T["inst_strict"] = """{{ bos_token }}{% for turn in messages %}{% if turn.role not in ['user', 'assistant'] or (turn.role == 'user') != (loop.index % 2 == 1) %}\
{{ raise_exception('a user and an assistant take turns') }}{% endif %}{{ '[INST] %s [/INST]' | replace('%s', turn.content) if turn.role == 'user' else turn.content + eos_token }}{% endfor %}"""

T["inst_tools"] = """{%- set talk = messages | rejectattr('role', 'eq', 'system') | list %}
{%- set asked = talk | selectattr('role', 'equalto', 'user') | list %}
{%- set count = namespace() %}
{%- set count.turns = 0 %}
{%- for turn in talk if turn.role != 'tool' and not turn.tool_calls %}
    {%- if (turn.role == 'user') != (count.turns % 2 == 0) %}{{ raise_exception('out of turn') }}{% endif %}
    {%- set count.turns = count.turns + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for turn in talk %}
    {%- if turn.role == 'user' %}
        {%- if tools is defined and tools is not none and turn == asked[-1] %}
            {{- '[TOOLS] [' }}
            {%- for tool in tools %}
                {{- '{' }}
                {%- for key, value in tool.function.items() if key != 'return' %}
                    {{- '"' + key + '": ' + ('"' + value + '"' if value is string else value | tojson) }}{{ ', ' if not loop.last else '}' }}
                {%- endfor %}
                {{- ', ' if not loop.last else ']' }}
            {%- endfor %}
        {%- endif %}
        {{- '[INST] ' + (messages[0].content + '\\n\\n' if loop.last and messages[0].role == 'system' else '') + turn.content + '[/INST]' }}
    {%- elif turn.tool_calls is defined and turn.tool_calls is not none %}
        {%- for call in turn.tool_calls %}
            {%- set text = call.function | tojson %}
            {{- text[:-1] + ', "id": "' + (call.id if call.id is defined and call.id | length == 9 else 'none') + '"}' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif turn.role == 'tool' %}
        {{- '[RESULT] ' + turn.content | string + ' ' + turn.tool_call_id | default('?') }}
    {%- else %}
        {{- ' ' + turn.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

T["blocks"] = """{{ bos_token }}
{%- set day = strftime_now("%Y-%m-%d") -%}
{%- set system = namespace(text='Today is ' ~ day) -%}
{%- for turn in messages -%}
    {%- if turn['role'] == 'system' and loop.first -%}
        {%- set system.text = turn['content'] if turn['content'] is string else turn['content'] | map(attribute='text') | join(' ') -%}
    {%- elif turn['content'] is string -%}
        {{ '[' ~ turn['role'][0] | upper ~ ']' ~ turn['content'] }}
    {%- else -%}
        {%- for block in turn['content'] -%}
            {%- if block.type == 'text' -%}{{ block.text }}
            {%- elif block.type in ['image', 'image_url'] -%}{{ '[IMG]' }}
            {%- else -%}{{ raise_exception('no block of type ' ~ block.type) }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{{ '[S]' ~ system.text }}"""

T["model_role"] = """{{ bos_token }}{% for turn in messages %}{% set role = {'assistant': 'model'}.get(turn.role, turn.role) %}\
{% if role == 'system' %}{{ raise_exception('no system here') }}{% endif %}{{ '<turn>' + role + '\\n' + turn.content | trim + '<end>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"""

T["prefix_and_images"] = """{{ bos_token }}
{%- set lead = '' -%}
{%- if messages[0].role == 'system' -%}
    {%- set lead -%}
        {{ messages[0].content if messages[0].content is string else messages[0].content[0]['text'] }}

{% endset -%}
{%- endif -%}
{%- for turn in messages if turn.role != 'system' -%}
    {{ '<turn>' ~ ('model' if turn.role == 'assistant' else turn.role) ~ '
' ~ (lead if loop.first) }}
    {%- if turn.content is string -%}
        {{ turn.content | trim }}
    {%- elif turn.content is iterable -%}
        {%- for item in turn.content -%}{{ item.text | trim if item.type == 'text' else '<image>' }}{%- endfor -%}
    {%- endif -%}
    {{ '<end>
' }}
{%- endfor -%}"""

T["bars"] = """{% for turn in messages %}{% if turn.role in 'system user assistant'.split() %}{{ '<|' ~ turn.role ~ '|>
' + turn.content + '<|end|>
' }}{% endif %}{% endfor %}{{ '<|assistant|>
' if add_generation_prompt else eos_token }}"""

T["mixed_blanks"] = """{% for turn in messages %}
  {% if turn.content and turn.role == 'system' -%}
    {{ '<|system|>' ~ turn.content }}
  {%- elif loop.first %}
    {{ turn.role }}
  {% else -%}
    {{- '|' ~ turn.content ~ '|' -}}
  {%- endif %}

{% endfor %}
{{ add_generation_prompt }}"""

T["system_with_tools"] = """{% for turn in messages %}{% if turn.role == 'system' and 'tools' in turn and turn['tools'] is not none %}{{ turn.tools }}\
{% else %}{{ '<|' + turn.role + '|>' + (turn.content | string) + '<|end|>' }}{% endif %}{% endfor %}"""

T["lines"] = """{% for turn in messages %}
{% if turn['role'] == 'user' %}
{{ '<|user|>\\n' ~ turn['content'] ~ eos_token }}
{% elif turn['role'] != 'tool' %}
{{ '<|' ~ turn['role'] ~ '|>\\n' ~ turn['content'] }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}"""

T["modes"] = """{#- Whether to think: as asked, and as the system text says. -#}
{%- set mode = '/think' if enable_thinking | default(true) else '/no_think' -%}
{%- set system = messages[0].content if messages[0].role == 'system' and messages[0].content is string else '' -%}
{%- for word in ['/no_think', '/think'] -%}
  {%- if word in system -%}{%- set found = word -%}{%- endif -%}
{%- endfor -%}
{%- set rules = system.replace('/no_think', '').replace('/think', '').rstrip() -%}
{{- '<|im_start|>system\\n' ~ strftime_now('%d %B %Y') ~ ' ' ~ mode ~ '\\n' -}}
{{- rules ~ '\\n\\n' if rules else 'Nothing said.\\n\\n' -}}
{%- if xml_tools or tools -%}
  {%- set all = namespace(text='<tools>\\n') -%}
  {%- for tool in (xml_tools or tools)[:] -%}{%- set all.text = all.text ~ (tool | string) ~ '\\n' -%}{%- endfor -%}
  {{- all.text + '</tools>' -}}
{%- endif -%}
{%- for turn in messages -%}
  {%- set said = turn.content if turn.content is string else '' -%}
  {%- if turn.role == 'assistant' -%}
    {% generation %}
    {%- if mode == '/think' -%}{{ 'A: ' + said.lstrip('\\n') }}{%- else -%}{{ 'a: ' + said.lstrip('\\n') }}{%- endif -%}
    {% endgeneration %}
  {%- elif turn.role != 'system' -%}
    {{ turn.role | capitalize + ': ' + said + '\\n' }}
  {%- endif -%}
{%- endfor -%}"""

T["not_last"] = """{{ bos_token }}{% for turn in messages %}{{ '<|' + turn.role + '|>
' + (turn.content ~ (eos_token if turn.role == 'assistant' else '')) }}{% if not loop.last %}{{ '
' }}{% elif add_generation_prompt %}{{ '
<|assistant|>
' }}{% endif %}{% endfor %}"""

T["plain_names"] = """{% for turn in messages %}{{ '' if loop.first else '\\n\\n' }}{% if turn.role == 'user' %}{{ 'User: ' ~ turn.content.strip().replace('\\r\\n', '\\n').replace('\\n\\n', '\\n') }}\
{% elif turn.role == 'assistant' %}{{ 'Assistant: ' ~ turn.content }}{% else %}{{ turn.content }}{% endif %}{% endfor %}"""

T["list_of_tools"] = """{%- if tools %}
{{- '<|system|>\\n' ~ tools | tojson(indent=2) ~ '\\n' }}
{%- for turn in messages %}
{%- if turn.role is in ['user', 'tool'] %}
{{- turn.role ~ '\\n' ~ turn.content ~ '\\n' }}
{%- elif turn.tool_calls %}
{%- for call in turn.tool_calls %}{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}{{ ',' if not loop.last }}{% endfor %}
{%- endif %}
{%- endfor %}
{%- else %}
{%- for turn in messages %}{{ turn.role ~ ':' ~ turn.content ~ ('' if loop.last else '\\n') }}{% endfor %}
{%- endif %}"""

T["no_flag"] = """{% if add_generation_prompt is not defined %}{% set add_generation_prompt = false %}{% endif %}{{ bos_token }}\
{% for turn in messages %}{{ {'user': 'User: ', 'assistant': 'Assistant: '}[turn.role] if turn.role in ('user', 'assistant') }}{{ turn.content + (eos_token if turn.role == 'assistant' else '\\n\\n') }}\
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""

T["state"] = """{%- set s = namespace(first=true, tool=false, system='', named=[]) -%}
{%- for turn in messages if turn.role == 'system' -%}{%- set s.system = s.system ~ ('' if loop.first else '\\n\\n') ~ turn.content -%}{%- endfor -%}
{{ bos_token ~ s.system }}
{%- for turn in messages -%}
  {%- if turn.role == 'user' -%}{%- set s.tool = false -%}{{ '<｜user｜>' ~ turn.content }}
  {%- elif turn.role == 'assistant' and 'tool_calls' in turn -%}
    {%- for call in turn['tool_calls'] -%}
      {{ '<｜assistant｜>' ~ (turn.content or '') if s.first else '\\n' }}{{ call['function']['name'] ~ '\\n```json\\n' ~ (call['function']['arguments'] | tojson) ~ '\\n```' }}
      {%- set s.first = false -%}
    {%- endfor -%}{{ '<｜calls▁end｜>' }}
  {%- elif turn.role == 'assistant' -%}
    {{ ('<｜outputs▁end｜>' if s.tool else '<｜assistant｜>') ~ (turn.content.split('</think>')[-1] if '</think>' in turn.content else turn.content) }}
    {%- set s.tool = false -%}
  {%- elif turn.role == 'tool' -%}{{ '<｜output｜>' ~ turn.content }}{%- set s.tool = true -%}
  {%- endif -%}
{%- endfor -%}
{% if add_generation_prompt and not s.tool %}{{ '<｜assistant｜><think>\\n' }}{% endif %}"""

T["python_types"] = """{%- macro kind(spec) -%}
{%- set names = {'string': 'str', 'number': 'float', 'integer': 'int', 'boolean': 'bool'} -%}
{%- if spec.type is not defined -%}object
{%- elif spec.type is string and names[spec.type] is defined -%}{{ names[spec.type] }}
{%- elif spec.type == 'array' -%}list[{{ kind(spec['items']) }}]
{%- elif spec.type == 'object' -%}dict[str, {{ kind(spec.additionalProperties or {}) }}]
{%- elif spec.type is iterable -%}
  {%- for one in spec.type -%}{{ kind({'type': one}) }}{{ ' | ' if not loop.last }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for turn in messages %}
{{ turn.role | upper ~ ': ' ~ (turn.content | default('', true) | string | trim) }}
{%- endfor %}
{% for tool in tools or [] %}
def {{ tool.function.name }}(
{%- for name, spec in (tool.function.parameters.properties | default({})).items() -%}
{{ name }}: {{ kind(spec) }}{{ ' = None' if name not in (tool.function.parameters.required or []) }}{{ ', ' if not loop.last }}
{%- endfor %}):
    # {{ tool.function.description | default('') | indent(4) }}
{% endfor %}
{%- for paper in documents or [] %}
{{ loop.index0 }}:{% for key, value in paper.items() %} {{ key }}={{ value if value is string else value | tojson }}{% endfor %}
{% endfor %}"""

T["parts_of_day"] = """{%- set day = strftime_now('%B %d, %Y') %}
{%- set has = {'tools': tools is defined and tools, 'documents': documents is defined and documents} %}
{%- set system = 'On ' + day + (' with tools' if has.tools) + (' and papers' if has['documents']) %}
{{- '<role>system</role>' ~ (messages[0].content if messages[0].role == 'system' else system) ~ '\\n' }}
{%- if has.tools %}{{ tools | tojson(indent=4) }}{% endif %}
{%- for paper in documents or [] %}{{ 'Paper ' + loop.index | string + '\\n' + paper['text'] }}{{ '\\n\\n' if not loop.last }}{% endfor %}
{%- for turn in messages[(1 if messages[0].role == 'system' else 0):] %}
    {{- '<role>' ~ turn.role ~ '</role>' ~ turn.content ~ '\\n' }}
    {%- if loop.last and add_generation_prompt %}{{ '<role>assistant ' ~ (controls | tojson() if controls) ~ '</role>' }}{% endif %}
{%- endfor %}"""

T["selected"] = """{%- set system = messages | selectattr('role', 'eq', 'system') | map(attribute='content') | list -%}
{{ (system | first | default('Two people talk.')) ~ ' ' -}}
{%- for turn in messages | rejectattr('role', 'eq', 'system') -%}
{%- if turn.role == 'user' -%}USER: {{ turn.content }} {% elif turn.role == 'assistant' -%}BOT: {{ turn.content ~ eos_token }}{%- endif -%}
{%- endfor -%}{{ 'BOT:' if add_generation_prompt -}}"""

T["titles"] = """{%- set names = {'user': '### Asked', 'assistant': '### Answered', 'tool': '### Found'} %}
{%- for m in messages %}
{{ names.get(m.role, '### ' ~ m.role.title()) }}:
{{ m['content'] }}
{% endfor %}
{%- if add_generation_prompt %}
{{ names['assistant'] }}:
{% endif %}"""

T["title_role"] = """{{ bos_token }}{% for turn in messages %}{{ 'The ' + turn['role'].title() + ': ' + turn['content'] + '<end>' }}{% endfor %}"""

T["reserved"] = """{{ messages[0].content if messages[0].role == 'system' }}{% for turn in messages %}{% if turn.role == 'user' %}{{ '<r106>' ~ turn.content }}\
{% elif turn.role == 'assistant' %}{{ '<r107>' ~ turn.content ~ (eos_token if not loop.last else '') }}{% endif %}{% endfor %}\
{% if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '<r107>' }}{% endif %}"""

T["neighbours"] = """{%- macro pairs(call) -%}
{%- for k, v in call.arguments|dictsort -%}{{ k }}={{ v|tojson if v is not string else '"' ~ v|replace('"', '\\\\"') ~ '"' }}{{ ", " if not loop.last else "" }}{%- endfor -%}
{%- endmacro -%}
{{- {"b": {"title": "B"}, "a": ["x"]} | tojson(sort_keys=true) }}
{%- for turn in messages|default([]) if turn.role is defined %}
    {%- if turn.role == 'tool' %}
        {{- '(' if loop.previtem and loop.previtem.role != 'tool' }}{{ turn.content }}
        {{- ')' if loop.last or loop.nextitem.role != 'tool' }}
    {%- elif turn.tool_calls is defined %}
        {%- for call in turn.tool_calls %}{{ '\\n' ~ call.function.name ~ '(' ~ pairs(call.function) ~ ')' }}{% endfor %}
    {%- else %}
        {{- turn.role + ' ' ~ turn.content }}
    {%- endif %}
{%- endfor %}"""

T["typescript"] = """{%- macro kind(spec, depth=0) -%}
    {%- if spec.type == 'array' -%}{{ kind(spec['items'], depth + 1) if spec['items'] else 'any' }}[]
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping -%}{{ spec.type | join(' | ') }}
    {%- elif spec.enum -%}{{ '"' + spec.enum | join('" | "') + '"' }}
    {%- elif spec.type == 'object' and spec.properties -%}
        {{- '{\\n' -}}
        {%- for name, inner in spec.properties.items() -%}
            {{- '  ' * depth ~ name ~ ('?' if name not in (spec.required or [])) ~ ': ' ~ kind(inner, depth + 1) -}}
            {{- ' // ' ~ (inner.description.split('\\n') | join(' ')) if inner.description -}}
            {{- ' = ' ~ (inner.default | tojson) if inner.default is defined -}}{{- '\\n' -}}
        {%- endfor -%}{{- '}' -}}
    {%- else -%}{{ {'string': 'string', 'integer': 'number', 'boolean': 'boolean'}.get(spec.type, 'any') }}{%- endif -%}
{%- endmacro -%}
{{- strftime_now('%Y-%m-%d') + ' ' + (effort | default('medium')) }}
{%- for tool in tools or [] %}{{ '\\n' + tool.function.name + ' = ' + kind(tool.function.parameters, 1) }}{% endfor %}
{%- set last = namespace(call=none) %}
{%- for turn in messages -%}
    {%- if turn.role == 'tool' -%}
        {%- if last.call is none -%}{{- raise_exception('nobody called') -}}{%- endif -%}
        {{- '<' ~ last.call ~ '>' ~ (turn.content | tojson) -}}
    {%- elif turn.tool_calls -%}
        {%- set last.call = turn.tool_calls[0].function.name -%}{{- '<to ' + last.call + '>' -}}
    {%- elif turn.role == 'user' -%}
        {%- if turn.content is string and turn.content | length > 40 -%}{%- continue -%}{%- endif -%}
        {{- '<user>' ~ turn.content -}}
    {%- elif not add_generation_prompt -%}{%- break -%}{%- endif -%}
{%- endfor -%}"""

AWKWARD = "  Hi\n<|im_end|>{{ x }} {% if %} </s>[INST] \u4e16\u754c \U0001f468\u200d\U0001f469\u200d\U0001f467 \"q\" 'a' \\n <b>&amp;\t\u00a0 "
USER = lambda text: {"role": "user", "content": text}
ASSISTANT = lambda text, **more: {"role": "assistant", "content": text, **more}
CALL = lambda name, arguments, **more: {"type": "function", "function": {"name": name, "arguments": arguments}, **more}
TALKS = {
    "plain": [USER("What is 2 + 2?")],
    "system": [{"role": "system", "content": " Be brief. /no_think "}, USER(AWKWARD), ASSISTANT("<think>\nhm\n\n</think>\n\n Four. "), USER("")],
    "long": [USER("a"), ASSISTANT("b\n"), USER("\n\nc\r\n\r\nd"), ASSISTANT("")],
    "parts": [{"role": "system", "content": [{"type": "text", "text": "s"}]},
              USER([{"type": "text", "text": " a "}, {"type": "image"}, {"type": "text", "text": AWKWARD}]), ASSISTANT([{"type": "text", "text": "b"}])],
    "tools": [USER("weather?"), ASSISTANT("", tool_calls=[CALL("get", {"city": "Zürich \"x\"", "days": 3, "deep": {"a": [1, 2.5, None, True]}}, id="abcdefghi")]),
              {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcdefghi"}, {"role": "tool", "content": "more"}, ASSISTANT("21.5 \u00b0C"), USER("thanks")],
    "calls": [{"role": "system", "content": "S"}, USER("q"), ASSISTANT("Look:", tool_calls=[CALL("f", {}), CALL("g", {"x": -1})]), {"role": "tool", "content": ""}],
    "thought": [USER("q"), ASSISTANT("r", reasoning_content="\nwhy\n"), USER("<tool_response>x</tool_response>"), ASSISTANT("end")],
    "wrong": [ASSISTANT("I begin"), USER("?"), USER("??")],
}
TOOLS = [{"type": "function", "function": {"name": "get", "description": "Weather <of> a city\nand \u00fcberall & more", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "its\nname"}, "days": {"type": ["integer", "null"], "default": 1},
                                     "kind": {"type": "string", "enum": ["now", "later"]}, "list": {"type": "array", "items": {"type": "number"}},
                                     "more": {"type": "object", "properties": {"flag": {"type": "boolean"}}}}, "required": ["city"]}}}]
MORE = {
    "": {"add_generation_prompt": True},
    "asked": {"add_generation_prompt": False, "enable_thinking": False, "controls": {"length": "short"}, "custom": 1},
    "tools": {"add_generation_prompt": True, "tools": TOOLS, "documents": [{"title": "T", "text": "one & two"}, {"title": "U", "n": 3, "text": "\u00e9"}]},
    "apart": {"add_generation_prompt": True, "tools": TOOLS, "tools_in_user_message": False, "builtin_tools": ["code_interpreter", "get", "search"], "date_string": "1 Jan 2025"},
}


def fnv(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def main():
    environment = jinja.environment()
    environment.globals["strftime_now"] = lambda form: datetime.datetime(2025, 3, 7, 12, 0).strftime(form)
    quoted = lambda value: json.dumps(value, ensure_ascii=True)
    print("// Written by scripts/goldens/chat_templates.py: chat templates, talks, and what Jinja2 makes of each pair.")
    print("#pragma once\n\n#include <cstdint>\n\nnamespace hawser::jinja {\n\n// clang-format off")
    print("struct ChatGolden {\n  const char* name;\n  const char* source;  // a JSON text\n  uint64_t texts[32];  // FNV-1a of the text for each "
          "context; 0: an error\n};\n")
    contexts = [(f"{talk}/{name}", {"bos_token": "<s>", "eos_token": "</s>", "messages": messages, **more})
                for talk, messages in TALKS.items() for name, more in MORE.items()]
    print("inline constexpr const char* kChatContexts[] = {")
    for name, context in contexts:
        print(f'R"JSON({quoted([name, context])})JSON",')
    print("};\n\ninline constexpr ChatGolden kChatGoldens[] = {")
    for name, source in T.items():
        template, texts = environment.from_string(source), []
        for _, context in contexts:
            try:
                texts.append(fnv(template.render(**context)) or 1)
            except Exception:  # of many types
                texts.append(0)
        assert sum(1 for t in texts if t) > 4, name
        print(f'{{"{name}", R"JSON({quoted(source)})JSON",\n {{{", ".join(f"{t:#x}u" for t in texts)}}}}},')
    print("};\n// clang-format on\n\n}  // namespace hawser::jinja")


if __name__ == "__main__":
    assert len(T) >= 30, len(T)
    main()
