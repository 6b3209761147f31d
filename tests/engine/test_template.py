"""Chat templates: what models ship, what they refuse, and templates that mean harm."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.chat import Message
from etui.engine import template_sandbox as sandbox
from etui.engine.template import PLAIN_STOP, ChatTemplate
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
CHAT = (Message("system", "Be brief."), Message("user", "Hi"))


def render(source: str | None, *messages: Message, **variables: object) -> str:
    return ChatTemplate("m", source, "<s>", "</s>").render(messages or CHAT, variables)


def test_chatml() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_thinking_switch_reaches_the_template() -> None:
    assert render(SWITCHED).endswith("assistant:")
    assert render(SWITCHED, enable_thinking=False).endswith("assistant:<think></think>")


def test_a_refused_system_prompt_goes_into_the_first_question() -> None:
    assert render(NO_SYSTEM) == "<s>[user]Be brief.\n\nHi"


def test_what_a_template_refuses_is_told_in_its_words() -> None:
    source = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ModelUnavailable, match="of m rejects these messages: roles must alternate"):
        render(source)


def test_a_model_without_a_template_gets_the_plain_one() -> None:
    chat = (*CHAT, Message("assistant", "Hello."), Message("user", "Who?"))
    text = render(None, *chat)
    assert text == "Be brief.\n\nUser: Hi\nAssistant: Hello.\n\nUser: Who?\nAssistant:"
    assert PLAIN_STOP[0] in text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_a_message_is_never_read_as_a_template(texts: list[str]) -> None:
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
def test_what_chat_templates_use_works(source: str, expected: str) -> None:
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
def test_templates_that_raise_loop_or_reach_out_are_refused(source: str, says: str) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        render(source)
    assert caught.value.what.startswith("the chat template of m ")
    assert says in caught.value.what
    assert "\n" not in caught.value.what


def test_a_template_that_takes_too_much_memory_is_stopped_whatever_time_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 64_000_000
    monkeypatch.setattr(sandbox, "GROWTH_BYTES", limit)
    grow = sandbox.compile_template(DOUBLING.replace("99", "30"))  # a gigabyte, were it let
    before = psutil.Process().memory_info().rss
    with (
        pytest.raises(sandbox.TemplateLimit, match="it took more than 64 MB of memory"),
        sandbox.limited(seconds=3600),
    ):
        list(grow({}))
    # Between two looks a text at most doubles, and the one it came from is there beside it.
    assert psutil.Process().memory_info().rss < before + 4 * limit


def test_memory_that_is_given_back_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "GROWTH_BYTES", 64_000_000)
    # Eight megabytes a hundred times, one after another.
    source = "{% for i in range(100) %}{% set x = 'abcdefgh' * 1000000 %}{% endfor %}done"
    with sandbox.limited(seconds=3600):
        assert "".join(sandbox.compile_template(source)({})) == "done"
