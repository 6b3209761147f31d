"""The body of ``POST /v1/responses`` as one of a chat completion, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.server.errors import ApiError
from etui.server.responses_request import ResponseRequest, parse_response_request

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}


def parse(**body: Any) -> ResponseRequest:
    return parse_response_request({"model": "balanced", "input": "Hello", **body})


def refused(**body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(**body)
    assert caught.value.status == 400
    return caught.value


def test_a_text_is_a_question_and_instructions_are_the_system_message() -> None:
    request = parse(instructions="Be brief.")
    assert request.chat == {
        "model": "balanced",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ],
    }


def test_items_become_messages_and_an_assistants_items_one_message() -> None:
    request = parse(
        input=[
            {"role": "developer", "content": "Use tools."},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Weather in "},
                {"type": "input_text", "text": "Oslo?"},
            ]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [
                {"type": "reasoning_text", "text": "I need the tool."}]},
            {"type": "message", "role": "assistant", "status": "completed", "id": "msg_1",
             "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "weather",
             "arguments": "{\"city\": \"Oslo\"}", "id": "fc_1", "status": "completed"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2",
             "output": [{"type": "input_text", "text": "sun"}]},
        ]
    )  # fmt: skip
    assert request.chat["messages"] == [
        {"role": "developer", "content": "Use tools."},
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                },
                {
                    "id": "c2",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "{}"},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    ]
    assert request.rename("messages[0].content") == "input[0]"
    assert request.rename("messages[2]") == "input[3]"
    assert request.rename("messages[4].content") == "input[7]"


def test_the_rest_has_another_name_in_chat_completions() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    request = parse(
        max_output_tokens=64,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}},
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        metadata={"project": "etui"},
        top_logprobs=3,
        stream=True,
    )
    function = {key: value for key, value in WEATHER.items() if key != "type"}
    assert {k: v for k, v in request.chat.items() if k not in ("messages", "model")} == {
        "max_completion_tokens": 64,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": schema, "strict": True},
        },
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "metadata": {"project": "etui"},
        "logprobs": True,
        "top_logprobs": 3,
        "stream": True,
    }
    assert request.echo["tools"] == [WEATHER]
    assert request.echo["text"]["format"]["name"] == "a"


@pytest.mark.parametrize(
    ("chat", "here"),
    [
        ("max_completion_tokens", "max_output_tokens"),
        ("reasoning_effort", "reasoning.effort"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format", "text.format"),
        ("tools[1].function.name", "tools[1].name"),
        ("tool_choice", "tool_choice"),
        ("messages", "input"),
        ("messages[7].content", "input"),
        ("model", "model"),
    ],
)
def test_errors_name_the_parameter_of_this_api(chat: str, here: str) -> None:
    assert parse().rename(chat) == here


def test_a_tools_switches_that_are_off_are_left_out() -> None:
    tool = {**WEATHER, "defer_loading": False, "async": False, "output_schema": None}
    [sent] = parse(tools=[tool]).chat["tools"]
    assert set(sent["function"]) == {"name", "description", "parameters", "strict"}
    [sent] = parse(tools=[{**WEATHER, "defer_loading": True}]).chat["tools"]
    assert sent["function"]["defer_loading"] is True  # which chat completions refuse


def test_a_json_object_needs_no_schema() -> None:
    request = parse(text={"format": {"type": "json_object"}, "verbosity": "medium"})
    assert request.chat["response_format"] == {"type": "json_object"}
    assert "response_format" not in parse(text={"format": {"type": "text"}}).chat


def test_logprobs_can_be_included_without_alternatives() -> None:
    request = parse(include=["message.output_text.logprobs", "reasoning.encrypted_content"])
    assert request.chat["logprobs"] is True
    assert "top_logprobs" not in request.chat


@pytest.mark.parametrize(
    "body",
    [
        {"store": False, "background": False, "previous_response_id": None, "conversation": None},
        {"user": "me", "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s"},
        {"truncation": "disabled", "max_tool_calls": 3, "client_metadata": {"a": "b"}},
        {"stream_options": {"include_obfuscation": False}, "instructions": None, "tools": None},
        {"reasoning": None, "text": None, "include": None, "tool_choice": None},
        {"reasoning": {"context": "auto", "mode": "standard", "summary": "auto"}},
    ],
)
def test_what_asks_for_nothing_is_accepted(body: dict[str, Any]) -> None:
    assert set(parse(**body).chat) == {"model", "messages"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"context_management": []}, "context_management"),
        ({"truncation": "auto"}, "truncation"),
        ({"frequency": 1}, "frequency"),
        ({"n": 2}, "n"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"style": "x"}}, "text.style"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": ["text"]}}}, "text.format"),
        ({"text": "json"}, "text"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1]"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0]"),
        ({"tools": ["weather"]}, "tools[0]"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"include": [["x"]]}, "include[0]"),
        ({"include": "x"}, "include"),
        ({"instructions": ["a"]}, "instructions"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": ["Hello"]}, "input[0]"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
         "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [["x"]]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]"),
        ({"input": [{"type": {"a": 1}}]}, "input[0]"),
        ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]},
         "input[0].call_id"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "a", "arguments": {}}]},
         "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    error = refused(**body)
    assert error.param == param
    assert error.message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("type", "role", "content", "text", "format", "effort", "name", "call_id", "output")
            ),
            inner
            | st.sampled_from(("message", "function_call", "function", "json_schema", "user")),
            max_size=4,
        )
    ),
    max_leaves=12,
)
names = st.sampled_from(
    ("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata",
     "store", "stream", "conversation", "truncation", "max_output_tokens", "top_logprobs")
)  # fmt: skip


@given(st.dictionaries(names, values, max_size=5))
def test_any_json_is_mapped_or_refused(body: dict[str, Any]) -> None:
    error = None
    try:
        request = parse_response_request(body)
    except ApiError as refusal:
        error = refusal
    if error is not None:
        assert error.status == 400
        assert error.param
        return
    assert request.chat["messages"] or body["input"]
    assert len(request.origins) == len(request.chat["messages"])
