"""Small chat templates of the shapes that models of today have; none is the template of a model."""

from __future__ import annotations

QWEN3 = """\
{%- if tools %}{{ '<|im_start|>system\\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}
{{- 'Call as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content.split('</think>')[-1] }}
{%- for c in m.tool_calls %}
{{- '<tool_call>{"name": "' + c.function.name + '", "arguments": ' }}
{{- c.function.arguments | tojson }}}</tool_call>{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}{% endif %}"""

QWEN3_CODER = """\
{%- if tools %}{% for t in tools %}{{ t.function.name }}{% endfor %}
{{- '<tool_call>\\n<function=f>\\n<parameter=p>\\nv\\n</parameter>\\n</function>\\n</tool_call>' }}
{%- endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{%- for c in m.tool_calls %}{{ '<tool_call>\\n<function=' + c.function.name + '>\\n' }}
{%- for key, value in c.function.arguments | items %}
{{- '<parameter=' + key + '>\\n' + (value if value is string else value | tojson) }}
{{- '\\n</parameter>\\n' }}{% endfor %}{{ '</function>\\n</tool_call>' }}{% endfor %}
{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

ALWAYS_THINKS = """\
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""

DEEPSEEK = """\
{%- if thinking is not defined %}{% set thinking = false %}{% endif %}
{%- for t in tools or [] %}{{ t | tojson }}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
{%- else %}{{ '<｜Assistant｜></think>' + m.content }}{% for c in m.tool_calls %}
{{- '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + c.function.name + '<｜tool▁sep｜>' }}
{{- c.function.arguments | tojson }}{{ '<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}{% endfor %}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{{ '<think>' if thinking else '</think>' }}
{%- endif %}"""

DEEPSEEK_R1 = """\
{%- for t in tools or [] %}{{ t | tojson }}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] }}{% for c in m.tool_calls %}
{{- '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + c.function.name }}
{{- '\\n```json\\n' }}{{ c.function.arguments | tojson }}{{ '\\n```<｜tool▁call▁end｜>' }}
{%- endfor %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"""

HARMONY = """\
{{- '<|start|>system<|message|>Effort: ' + (reasoning_effort or 'medium') }}
{{- ' Channels: analysis, commentary, final.<|end|>' }}
{%- if tools %}{{ '<|start|>developer<|message|>namespace functions {' }}
{%- for t in tools %}{{ t.function.name + ' ' }}{% endfor %}{{ '}<|end|>' }}{% endif %}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- if m.content and m.thinking %}{{ raise_exception('content or thinking') }}{% endif %}
{%- if m.thinking %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name }}
{{- '<|channel|>commentary json<|message|>' }}
{{- m.tool_calls[0].function.arguments | tojson }}{{ '<|call|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}
{%- elif m.role == 'tool' %}
{{- '<|start|>functions to=assistant<|channel|>commentary<|message|>' + m.content + '<|end|>' }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""

GEMMA = """\
{%- if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}
{%- for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}
{{- '\\n' + m.content + '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

GEMMA4 = """\
{%- if enable_thinking %}{{ '<|turn>system\\n<|think|><turn|>\\n' }}{% endif %}
{%- for t in tools or [] %}{{ '<|tool>' + t.function.name + '<tool|>' }}{% endfor %}
{%- for m in messages %}{{ '<|turn>' + m.role + '\\n' + m.content.split('<channel|>')[-1] }}
{%- for c in m.tool_calls %}{{ '<|tool_call>call:' + c.function.name + '{' }}
{%- for key, value in c.function.arguments | items %}
{{- key + ':' }}{{ '<|"|>' + value + '<|"|>' if value is string else value | tojson }}
{%- endfor %}{{ '}<tool_call|>' }}{% endfor %}{{ '<turn|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|turn>model\\n' }}
{%- if not enable_thinking %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"""

FUNCTION_GEMMA = """\
{%- for t in tools or [] %}{{ '<start_function_declaration>' + t.function.name }}{% endfor %}
{%- for m in messages %}{{ '<start_of_turn>' + m.role + '\\n' + m.content }}
{%- for c in m.tool_calls %}{{ '<start_function_call>call:' + c.function.name + '{' }}
{%- for key, value in c.function.arguments | items %}
{{- key + ':<escape>' + value | string + '<escape>' }}{% endfor %}{{ '}<end_function_call>' }}
{%- endfor %}{{ '<end_of_turn>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

LFM2 = """\
{%- if tools %}{{ 'Tools: <|tool_list_start|>[' }}{% for t in tools %}{{ t | tojson }}{% endfor %}
{{- ']<|tool_list_end|>' }}{% endif %}
{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

GRANITE = """\
{%- if tools %}{{ '<|role|>tools<|end_of_role|>With <|tool_call|> and a list: ' }}
{{- tools | tojson }}{% endif %}
{%- if thinking %}{{ 'Thoughts in <think></think>, the answer in <response></response>.' }}
{%- endif %}
{%- for m in messages %}{{ '<|role|>' + m.role + '<|end_of_role|>' + m.content + '<|end|>\\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|role|>assistant<|end_of_role|>' }}{% endif %}"""

MAGISTRAL = """\
{{- '[SYSTEM]Do your thinking process as [THINK]draft[/THINK] and answer.[/SYSTEM]' }}
{%- if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}
{%- elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}
{%- else %}{{ m.content }}{% for c in m.tool_calls %}
{{- '[TOOL_CALLS]' + c.function.name + '[ARGS]' + c.function.arguments | tojson }}{% endfor %}
{{- '</s>' }}{% endif %}{% endfor %}"""

APRIEL = """\
{{- '<|system|>\\nGive the solution as [BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE].' }}
{%- if tools %}{{ 'A list of objects within <tool_call></tool_call> XML tags:\\n<tool_calls>[' }}
{{- '{"name": <function-name-1>, "arguments": <args-dict-1>},...]</tool_calls>' }}
{{- tools | tojson }}{% endif %}{{ '\\n<|end|>\\n' }}
{%- for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content }}
{%- if m.tool_calls %}{{ '\\n<tool_calls>[' }}{% for c in m.tool_calls %}
{{- '{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson + '}' }}
{%- endfor %}{{ ']</tool_calls>' }}{% endif %}{{ '\\n<|end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

UNKNOWN = """\
{%- for t in tools or [] %}{{ t | tojson }}{% endfor %}
{%- for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}
{%- for c in m.tool_calls %}{{ '<call to="' + c.function.name + '"/>' }}{% endfor %}{% endfor %}
{%- if enable_thinking %}{{ '<ponder>' }}{% endif %}"""

TEMPLATES = {
    "qwen3": QWEN3,
    "qwen3-coder": QWEN3_CODER,
    "always thinks": ALWAYS_THINKS,
    "deepseek": DEEPSEEK,
    "deepseek-r1": DEEPSEEK_R1,
    "harmony": HARMONY,
    "gemma": GEMMA,
    "gemma4": GEMMA4,
    "functiongemma": FUNCTION_GEMMA,
    "lfm2": LFM2,
    "granite": GRANITE,
    "magistral": MAGISTRAL,
    "apriel": APRIEL,
    "unknown": UNKNOWN,
}
