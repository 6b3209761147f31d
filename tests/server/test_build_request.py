"""Which turn a request becomes, with the policies and models of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from etui.config.config import Config
from etui.runtime.runtime import open_process_runtime
from etui.server.build_request import (
    build_chat_turn,
    build_completion_turn,
    parse_chat,
    parse_completion,
    parse_model,
)
from etui.server.context import ServerContext, ServerSettings
from etui.server.errors import ApiError
from etui.turn.record import ClientRecord
from tests.server.fakes import FakePool

QUESTION = {"role": "user", "content": "2+2?"}


@pytest.fixture
def context(config: Config) -> Iterator[ServerContext]:
    """A server with the real look-up of names; nothing of it is opened."""
    with open_process_runtime(config) as runtime:
        yield ServerContext(FakePool(), runtime, ServerSettings())


def build(context: ServerContext, messages: list[dict[str, Any]] | None = None, **fields: Any):
    body = parse_chat({"model": "etui", "messages": messages or [QUESTION], **fields})
    return build_chat_turn(body, context, ClientRecord("/x", "laptop", "r"))


def test_names_of_policies_arms_and_models(context: ServerContext) -> None:
    assert parse_model("balanced", context).policy == "balanced"
    arm = parse_model("balanced/quick", context)
    assert (arm.policy, arm.arm) == ("balanced", "quick")
    assert parse_model("smollm2-135m", context).model == "smollm2-135m"


@pytest.mark.parametrize(
    "name",
    [
        "../balanced",
        "balanced.yaml",
        "/etc/passwd",
        "policies/balanced",
        "balanced/../quick",
        "balanced/quick/quick",
        "balanced\x00",
        "balanced/",
        "/",
        "~",
        ".",
        "smollm2-135m.gguf",
        "x" * 256,
    ],
)
def test_a_name_is_looked_up_and_is_never_a_path(context: ServerContext, name: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse_model(name, context)
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")
    assert str(context.runtime.config.home) not in raised.value.message


def test_the_nearest_names_are_in_the_error(context: ServerContext) -> None:
    with pytest.raises(ApiError, match="smollm2-135m"):
        parse_model("smollm2-135", context)


def test_the_default_is_what_the_server_was_started_with(config: Config) -> None:
    with open_process_runtime(config) as runtime:
        context = ServerContext(FakePool(), runtime, ServerSettings(model="smollm2-135m"))
        for name in ("", "default", "etui"):
            assert parse_model(name, context).model == "smollm2-135m"


def test_the_key_owns_the_prompt(context: ServerContext) -> None:
    turn = build(context)
    assert (turn.key, turn.query.owner) == ("laptop", "laptop")


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"reasoning_effort": "low"}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "medium"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "max"},
            "max",
        ),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_thinking_is_an_effort(context: ServerContext, fields: dict, effort: str | None) -> None:
    assert build(context, **fields).effort == effort


def test_a_huge_limit_is_cut(context: ServerContext) -> None:
    assert build(context, max_tokens=2**31 - 1).overrides.max_tokens == 2**20


def test_messages_of_the_system_are_gathered_at_the_begin(context: ServerContext) -> None:
    messages = [
        {"role": "system", "content": "a"},
        QUESTION,
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
    ]
    query = build(context, messages).query
    assert query.system == "a\n\nb"
    assert query.text == "2+2?"
    assert query.last is None


def test_the_begin_of_an_answer_is_the_last_message(context: ServerContext) -> None:
    query = build(context, [QUESTION, {"role": "assistant", "content": "It is"}]).query
    assert query.text == "2+2?"
    assert query.last is not None
    assert (query.last.role, query.last.content) == ("assistant", "It is")
    assert [message.role for message in query.messages()] == ["user", "assistant"]


def test_what_clients_send_back_or_always_send_is_accepted(context: ServerContext) -> None:
    answer = {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "reasoning_content": "two and two",
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
    }
    turn = build(
        context,
        [{**QUESTION, "name": "me"}, answer, QUESTION],
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        modalities=["text"],
        n=1,
        store=False,
        user="u",
        service_tier="auto",
        stop=None,
        tools=None,
        seed=None,
        prediction={"type": "content", "content": "x"},
        response_format={"type": "text"},
        stream=False,
        top_k=None,
    )
    assert [message.content for message in turn.query.history] == ["2+2?", "4"]


def test_a_completion_answers_directly_with_the_prompt_as_it_is(context: ServerContext) -> None:
    body = parse_completion({"prompt": ["The red"], "n": 2, "best_of": 2, "echo": False})
    turn = build_completion_turn(body, context, ClientRecord("/x"))
    assert turn.query.text == "The red"
    assert turn.query.options.raw
    assert turn.query.options.count == 2
    assert turn.overrides.reasoning == "direct"


def test_any_json_object_is_a_format_too(context: ServerContext) -> None:
    turn = build(context, response_format={"type": "json_object"})
    assert turn.query.options.json_schema == '{"type":"object"}'


def test_a_format_and_tools_exclude_each_other(context: ServerContext) -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    form = {"type": "json_object"}
    with pytest.raises(ApiError) as raised:
        build(context, tools=tools, response_format=form)
    assert raised.value.param == "response_format"
    turn = build(context, tools=tools, response_format=form, tool_choice="none")
    assert turn.query.options.tool_choice == "none"
