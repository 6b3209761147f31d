"""Chat templates: what models ship, what they refuse, and templates that mean harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.engine.chat_prompt import PLAIN_STOP, ChatTemplate
from etui.engine.template_process import TemplateProcess
from etui.errors import ModelUnavailable

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SWITCHED = (
    "{%- for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor -%}"
    "assistant:"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] | trim }}"
    "{% endfor %}"
)
DOUBLING = (
    "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}"
)
NESTED = "{% set c = [[[[['a'*99]*99]*99]*99]*99]*99 %}"
"""A list of 150 bytes of source, whose text has ten billion characters."""

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
]


Render = Callable[..., str]


@pytest.fixture(scope="module")
def render() -> Iterator[Render]:
    process = TemplateProcess()

    def render(source: str | None, *messages: Message, **variables: object) -> str:
        template = ChatTemplate(process, "m", source, "<s>", "</s>")
        chat = [{"role": each.role, "content": each.content} for each in messages]
        return template.render(chat or CHAT, variables)

    yield render
    process.close()


def test_chatml(render):
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_thinking_switch_reaches_the_template(render):
    assert render(SWITCHED).endswith("assistant:")
    assert render(SWITCHED, enable_thinking=False).endswith("assistant:<think></think>")


def test_a_refused_system_prompt_goes_into_the_first_question(render):
    assert render(NO_SYSTEM) == "<s>[user]Be brief.\n\nHi"


def test_what_a_template_refuses_is_told_in_its_words(render):
    source = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelUnavailable, match="of m rejects these messages: roles must alternate"):
        render(source)


def test_a_model_without_a_template_gets_the_plain_one(render):
    roles = zip(("system", "user", "assistant"), ("Be brief.", "Hi", "Hello."), strict=True)
    chat = [Message(role, text) for role, text in roles] + [Message("user", "Who?")]
    text = render(None, *chat)
    assert text == "Be brief.\n\nUser: Hi\nAssistant: Hello.\n\nUser: Who?\nAssistant:"
    assert PLAIN_STOP[0] in text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_message_is_never_read_as_a_template(render, texts):
    messages = [Message("user", text) for text in texts]
    text = render("{% for m in messages %}({{ m.content }}){% endfor %}", *messages)
    assert text == "".join(f"({text})" for text in texts)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ {'a': 'ä<b>'} | tojson }}", '{"a": "ä<b>"}'),
        ("{{ [1, 2] | tojson(indent=1) }}", "[\n 1,\n 2\n]"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
        ("{% if tools is not none %}tools{% endif %}{{ strftime_now('%%') }}", "%"),
        ("{{ messages[::-1][0].content.split('H')[-1].strip() }}", "i"),
        ("{{ '</think>' in 'a</think>' and 'a,b'.split(',') | join('+') }}", "a+b"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('y') }}", "<y>"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
    ],
)
def test_what_chat_templates_use_works(render, source, expected):
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "ran for",
        ),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "fails with RecursionError"),
        ("{% for i in range(10**9) %}{% endfor %}", "fails with OverflowError"),
        ("{{ 'a' * 10**10 }}", "fails with SecurityError"),
        ("{{ 10 ** 10 ** 10 }}", "fails with SecurityError"),
        ("{{ '%9999999999d' % 1 }}", "fails with SecurityError"),
        ("{{ '{:9999999999}'.format(1) }}", "fails with SecurityError"),
        ("{{ 'a'.center(10**10) }}", "fails with SecurityError"),
        ("{{ ('a' * 9999).replace('a', 'b' * 9999) }}", "was stopped"),
        ("{{ ('a' * 9999) | replace('a', 'b' * 9999) }}", "was stopped"),
        (
            "{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}",
            "wrote more than 8000000 characters",
        ),
        (DOUBLING, "was stopped: it "),  # by whichever limit this machine reaches first
        ("{{ ''.__class__.__mro__ }}", "fails with SecurityError"),
        ("{{ messages.append(1) }}", "fails with SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "fails with SecurityError"),
        ("{% if %}", "fails with TemplateSyntaxError"),
        ("{{ messages[99].content }}", "fails with UndefinedError"),
        ("{{ 1 / 0 }}", "fails with ZeroDivisionError"),
        ("{% include '/etc/passwd' %}", "fails with TypeError"),
        ("x" * 1_000_001, "was stopped: it has 1000001 characters"),
    ],
)
def test_templates_that_raise_loop_or_reach_out_are_refused(render, source, says):
    with pytest.raises(ModelUnavailable) as caught:
        render(source)
    assert caught.value.what.startswith("the chat template of m ")
    assert says in caught.value.what
    assert "\n" not in caught.value.what


@pytest.fixture(scope="module")
def strict() -> Iterator[TemplateProcess]:
    """A process with small limits, so that reaching them takes little time."""
    process = TemplateProcess(seconds=0.5, memory_bytes=128_000_000)
    yield process
    process.close()


@pytest.mark.parametrize(
    "source",
    [
        NESTED + "{{ c | string }}",
        NESTED + "{{ c }}",
        NESTED + "{{ c | tojson }}",
        NESTED + "{{ c | join }}",
        NESTED + "{{ c ~ c }}",
        NESTED + "{% set d = [[[[['a'*99]*99]*99]*99]*99]*99 %}{{ c == d }}",
        NESTED + "{{ 'b' in c | string }}",
        "{% set c = [[[[[0]*999]*999]*999]*999]*999 %}{{ [1] in c }}{{ c | sort }}{{ c | string }}",
        "{% set c = [[['a'*99]*999]*999]*99 %}{{ (c | sum(start=[])) | string }}",
        "{% set x = 'a' * 7999999 %}{{ " + " ~ ".join("x" * 99) + " }}",
        "{% for i in range(99999) %}{{ range(99999) | list | sort | unique | list | length }}"
        "{% endfor %}",
        "".join(f"{{%macro m{i}(a)%}}{{{{a}}}}{{%endmacro%}}" for i in range(25_000)),
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{{ " + "not " * 200_000 + "1 }}",
    ],
)
def test_no_template_outgrows_its_process(strict, source):
    with pytest.raises(ModelUnavailable, match=r"the chat template of m (was stopped: it|fails)"):
        ChatTemplate(strict, "m", source).render(CHAT, {})
    # The next template finds a process again.
    assert ChatTemplate(strict, "m", CHATML).render(CHAT, {}).endswith("assistant\n")


def test_memory_is_limited_whatever_time_a_template_has():
    process = TemplateProcess(seconds=3600, memory_bytes=64_000_000)
    try:
        with pytest.raises(ModelUnavailable, match="stopped: it took more than 64 MB of memory"):
            ChatTemplate(process, "m", DOUBLING).render(CHAT, {})
    finally:
        process.close()


def test_memory_that_is_given_back_is_not_counted():
    process = TemplateProcess(seconds=3600, memory_bytes=64_000_000)
    # Eight megabytes a hundred times, one after another.
    source = "{% for i in range(100) %}{% set x = 'abcdefgh' * 1000000 %}{% endfor %}done"
    try:
        assert ChatTemplate(process, "m", source).render(CHAT, {}) == "done"
    finally:
        process.close()
