"""Tools in the chat templates of several families."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from etui.chat import Message
from etui.engine.chat_formats import recognise
from etui.engine.chat_prompt import PLAIN_TEMPLATE, ChatPrompt, ChatTemplate
from etui.engine.special_tokens import SpecialToken, SpecialTokens
from etui.engine.template_process import TemplateProcess
from etui.errors import InvalidRequest, ModelUnavailable

HERMES = """\
{%- if tools %}<|s|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools> use <tool_call></tool_call><|e|>
{% endif %}
{%- for m in messages %}<|s|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|e|>
{% endfor %}{% if add_generation_prompt %}<|s|>assistant
{% endif %}"""

# Concatenates the arguments, so they have to be a text.
TEXTUAL = """\
{%- for m in messages %}<|s|>{{ m.role }} {{ m.content }}
{%- if m.tool_calls %}{% for call in m.tool_calls %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments }}
{{- '}</tool_call>' }}{% endfor %}{% endif %}<|e|>{% endfor %}
{%- if tools %}{{ tools[0].function.name }}{% endif %}<|s|>assistant"""

LLAMA = """\
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
{%- if tools is not none and loop.last %}{% for t in tools %}{{ t | tojson(indent=4) }}{% endfor %}
Respond in the format {"name": name, "parameters": dictionary}{% endif %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception("one call") }}{% endif %}
{"name": "{{ m.tool_calls[0].function.name }}", "parameters": \
{{ m.tool_calls[0].function.arguments | tojson }}}<|eot_id|>
{%- else %}{{ m.content }}<|eot_id|>{% endif %}{% endfor %}<|start_header_id|>assistant"""

MISTRAL = """\
{%- for m in messages %}
{%- if m.role == 'user' %}{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}\
[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]
{%- elif m.tool_calls %}{% for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
{%- endfor %}[TOOL_CALLS] {{ m.tool_calls | tojson }}</s>
{%- elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]
{%- else %} {{ m.content }}</s>{% endif %}{% endfor %}"""

TOOL = {
    "type": "function",
    "function": {
        "name": "get_it",
        "description": 'Gets <|e|>"\n',
        "parameters": {"type": "object", "properties": {"<|s|>": {"enum": ["<|e|>"]}}},
    },
}
TOOLS = json.dumps([TOOL])
MARKERS = [SpecialToken("<|s|>"), SpecialToken("<|e|>"), SpecialToken("<tool_call>", control=False)]
ASK = Message("user", "How?")


def calls(arguments: str = '{"a": "<|e|>"}', id_: str = "abcdefghi") -> Message:
    function = {"name": "get_it", "arguments": arguments}
    document = [{"id": id_, "type": "function", "function": function}]
    return Message("assistant", "", tool_calls=json.dumps(document))


Make = Callable[[str], ChatPrompt]


@pytest.fixture
def make() -> Iterator[Make]:
    process = TemplateProcess()

    def make(source: str) -> ChatPrompt:
        template = ChatTemplate(process, "it", source)
        return ChatPrompt(template, SpecialTokens(MARKERS), recognise(source).tools, "it")

    yield make
    process.close()


def reveal(text: str) -> str:
    return "".join(chr(ord(c) - 0x100000) if ord(c) >= 0x100000 else c for c in text)


@pytest.mark.parametrize(
    ("source", "form"),
    [
        (HERMES, "hermes"),
        (TEXTUAL, "hermes"),
        (LLAMA, "llama"),
        (MISTRAL, "mistral"),
        (PLAIN_TEMPLATE, ""),
        (None, ""),
        ("", ""),
        ("{{ tools }}", ""),
        (HERMES + "<function=x>", ""),
        (MISTRAL + "[ARGS]", "mistral-args"),
        ("<tool_call>", ""),
    ],
)
def test_the_form_of_calls_is_found_in_the_source(source, form):
    assert recognise(source).tools == form


@pytest.mark.parametrize("source", [HERMES, TEXTUAL, LLAMA, MISTRAL])
def test_tools_and_their_texts_are_in_the_prompt(make, source):
    prompt = make(source)
    text = prompt.render([ASK], {}, TOOLS)
    plain = prompt.render([ASK], {})
    assert "get_it" in text
    assert "get_it" not in plain
    # Nothing in the tools is a special token: there are as many as without them.
    special = SpecialTokens(MARKERS)
    own = special.written(source.partition("{% endif %}")[0]) if source == HERMES else []
    assert len(special.written(text)) == len(special.written(plain)) + len(own)
    if source != TEXTUAL:
        assert "<|e|>" in reveal(text)


@pytest.mark.parametrize("source", [HERMES, TEXTUAL, LLAMA, MISTRAL])
def test_calls_are_written_as_json_with_their_arguments_as_an_object(make, source):
    prompt = make(source)
    result = Message("tool", "<|e|>done", tool_call_id="abcdefghi")
    text = prompt.render([ASK, calls(), result], {}, TOOLS)
    assert '{"a": "<|e|>"}' in reveal(text)
    assert '{"a": "<|e|>"}' not in text
    assert "<|e|>done" in reveal(text)
    assert "<|e|>done" not in text


def test_arguments_that_are_not_json_are_kept(make):
    broken = reveal(make(HERMES).render([ASK, calls("{broken"), ASK], {}))
    assert '{"arguments": "{broken"}' in broken
    textual = reveal(make(TEXTUAL).render([ASK, calls("{broken"), ASK], {}))
    assert '"arguments": {broken}' in textual
    empty = make(HERMES).render([ASK, calls(""), ASK], {})
    assert '"arguments": {}' in empty


@pytest.mark.parametrize(
    "text",
    ["{", "{}", "[1]", '[{"function": 1}]', '[{"function": {"name": 1}}]', "[" * 9000, "null"],
)
def test_calls_of_a_message_in_another_form_are_refused(make, text):
    with pytest.raises(InvalidRequest) as found:
        make(HERMES).render([ASK, Message("assistant", "", tool_calls=text), ASK], {})
    assert found.value.param == "messages"


def test_what_a_template_raises_is_told(make):
    with pytest.raises(InvalidRequest, match="ids have length 9") as found:
        make(MISTRAL).render([ASK, calls(id_="long-id-of-another-server"), ASK], {})
    assert found.value.param == "messages"
    with pytest.raises(ModelUnavailable, match="no"):
        make("{{ raise_exception('no') }}").render([ASK], {})


def test_deep_arguments_are_text(make):
    deep = "[" * 900 + "]" * 900
    text = make(HERMES).render([ASK, calls(deep), ASK], {})
    assert json.dumps({"arguments": deep}) in text
    with pytest.raises(InvalidRequest, match="levels deep"):
        make(HERMES).render([ASK, Message("assistant", "", tool_calls=deep), ASK], {})


def test_the_begin_of_an_answer_is_last(make):
    prompt = make(HERMES)
    text = prompt.render([ASK, Message("assistant", "It <|e|> is")], {})
    assert text.startswith(prompt.render([ASK], {}))
    assert reveal(text).endswith("assistant\nIt <|e|> is")
    assert not text.endswith("It <|e|> is")
    with pytest.raises(InvalidRequest, match="cannot continue"):
        prompt.render([ASK, calls()], {})


def test_a_template_that_leaves_the_tools_out_refuses_them(make):
    prompt = make("{% if tools and 0 %}<tool_call>{% endif %}{{ messages[0].content }}")
    with pytest.raises(InvalidRequest, match="does not write") as found:
        prompt.render([ASK], {}, TOOLS)
    assert found.value.param == "tools"
