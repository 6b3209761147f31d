"""``POST /v1/messages``: Anthropic's official client over a socket, and Claude Code's shape."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.backends.base import AnswerRequest
from etui.errors import (
    BudgetSpent,
    ContextOverflow,
    EngineFailed,
    EtuiError,
    InvalidRequest,
    QueueFull,
)
from etui.events import Answer, Event, Prefilled, Prefilling, ToolCall
from etui.server.errors import ApiError
from etui.server.messages import parse_messages_request
from tests.server.fakes import (
    DEADLINE_SECONDS,
    FakePool,
    FakeTurn,
    Running,
    S,
    fail,
    finished,
    say,
    serving,
    wait,
)

QUESTION: Any = [{"role": "user", "content": "Which planet is red?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PARTS = ((0, "c1", "weather", ""), (0, "c1", "", '{"city": '), (0, "c1", "", '"Oslo"}'),
         (1, "c2", "weather", ""), (1, "c2", "", '{"city": "Rome"}'))  # fmt: skip
CALLS = json.dumps(
    [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": text}}
        for n, text in ((1, '{"city": "Oslo"}'), (2, '{"city": "Rome"}'))
    ]
)
CALL = say("Let me look.", more=tuple(ToolCall(12 * S, *part) for part in PARTS), tool_calls=CALLS)
THINKS: Any = {"type": "enabled", "budget_tokens": 1024}
KEYS = {"laptop": "k" * 24}


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red.", thinking="The fourth."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


def connect(server: Running, **options: Any) -> anthropic.Anthropic:
    usual: dict[str, Any] = {"api_key": "none", "timeout": DEADLINE_SECONDS, "max_retries": 0}
    return anthropic.Anthropic(base_url=server.url, **usual | options)


def create(server: Running, **changes: Any) -> Any:
    usual: dict[str, Any] = {"model": "balanced", "max_tokens": 2000, "messages": QUESTION}
    return connect(server).messages.create(**usual | changes)


def post(server: Running, path: str = "/v1/messages?beta=true", **body: Any) -> httpx2.Response:
    usual = {"model": "balanced", "max_tokens": 2000, "messages": QUESTION}
    return httpx2.post(server.url + path, json=usual | body, timeout=DEADLINE_SECONDS)


# answers, by the official client


def test_a_whole_message(server: Running, pool: FakePool) -> None:
    message = create(
        server, system="Be brief.", stop_sequences=["END"], metadata={"user_id": "me"},
        # The newest client has no names for these.
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 5},
    )  # fmt: skip
    assert message.id == f"msg_{pool.turns[0].turn_id}"
    assert (message.type, message.role, message.model) == ("message", "assistant", "small")
    [block] = message.content  # thinking that was not asked for is not the first block
    assert (block.type, block.text) == ("text", "Mars is red.")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (15, 5, 8)
    assert usage.energy["joules"] == message.energy["joules"] == pytest.approx(30.0)
    assert message.route["policy"] == "balanced"
    request = pool.turns[0].request
    assert request.query.system == "Be brief."
    assert request.query.metadata == (("user_id", "me"),)
    assert request.query.options.stop == ("END",)
    assert request.overrides.max_tokens == 2000
    assert (request.overrides.temperature, request.overrides.top_p) == (0.5, 0.9)
    assert request.overrides.top_k == 5
    assert request.client is not None
    assert request.client.endpoint == "/v1/messages"


def test_headers_have_the_joules_the_route_and_the_request(server: Running) -> None:
    response = connect(server).messages.with_raw_response.create(
        model="balanced", max_tokens=9, messages=QUESTION
    )
    assert response.headers["x-energy-joules"] == "30"
    assert response.headers["x-etui-arm"] == "quick"
    assert response.parse()._request_id == response.headers["x-request-id"]


def test_a_stream_has_the_events_of_the_protocol(server: Running) -> None:
    with connect(server).messages.stream(
        model="balanced", max_tokens=2000, messages=QUESTION, thinking=THINKS
    ) as stream:
        events: list[Any] = [event for event in stream if event.type not in ("text", "thinking")]
        message: Any = stream.get_final_message()
    kinds = [event.type for event in events]
    block = ["content_block_start", "content_block_delta"]
    assert kinds[0] == "message_start"
    assert [kind for kind in kinds[1:] if kind != "signature"] == [
        *(*block, "content_block_delta", "content_block_stop"),  # with its signature
        *(*block, "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    thought, text = message.content
    assert (thought.type, thought.thinking) == ("thinking", "The fourth.")
    assert thought.signature
    assert (text.type, text.text) == ("text", "Mars is red.")
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 8
    start = events[0].message.usage
    assert (start.input_tokens, start.cache_read_input_tokens) == (15, 5)
    ended = events[-2]
    assert ended.usage.energy["joules"] == ended.energy["joules"] == pytest.approx(30.0)


async def test_the_async_client_streams(server: Running) -> None:
    client = anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0)
    async with client.messages.stream(
        model="balanced", max_tokens=2000, messages=QUESTION
    ) as stream:
        text = "".join([part async for part in stream.text_stream])
    assert text == "Mars is red."
    await client.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_several_tools_are_called_and_their_results_answered(streamed: bool) -> None:
    pool = FakePool(CALL, say("Cold and warm."))
    asked: Any = {"model": "balanced", "max_tokens": 99, "tools": [WEATHER]}
    with serving(pool) as server:
        messages = connect(server).messages
        if streamed:
            with messages.stream(**asked, messages=QUESTION) as stream:
                answer: Any = stream.get_final_message()
        else:
            answer = messages.create(**asked, messages=QUESTION)
        text, oslo, rome = answer.content
        assert text.text == "Let me look."
        assert [(each.type, each.name, each.input) for each in (oslo, rome)] == [
            ("tool_use", "weather", {"city": "Oslo"}),
            ("tool_use", "weather", {"city": "Rome"}),
        ]
        assert answer.stop_reason == "tool_use"
        results: Any = [
            {"type": "tool_result", "tool_use_id": oslo.id, "content": "Snow"},
            {
                "type": "tool_result", "tool_use_id": rome.id, "is_error": True,
                "content": [{"type": "text", "text": "no station"}],
            },
            {"type": "text", "text": "Compare them."},
        ]  # fmt: skip
        history: Any = [
            *QUESTION,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": results},
        ]
        messages.create(**asked, messages=history, tool_choice={"type": "any"})
    query = pool.turns[1].request.query
    assert [(m.role, m.content, m.tool_call_id) for m in query.messages()] == [
        ("user", "Which planet is red?", ""),
        ("assistant", "Let me look.", ""),
        ("tool", "Snow", "c1"),
        ("tool", "Error: no station", "c2"),
        ("user", "Compare them.", ""),
    ]
    calls = json.loads(query.history[1].tool_calls)
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == ["Oslo", "Rome"]
    assert query.options.tool_choice == "required"


def test_arguments_that_break_off_are_an_object() -> None:
    function = {"name": "weather", "arguments": '{"city": "Os'}
    calls = json.dumps([{"id": "c1", "type": "function", "function": function}])
    with serving(FakePool(say(status="truncated", tool_calls=calls))) as server:
        message = create(server, tools=[WEATHER])
    [call] = message.content
    assert call.input == {"arguments": '{"city": "Os'}
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("given", "choice", "parallel"),
    [
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
        ({"type": "any"}, "required", True),
        ({"type": "none"}, "none", True),
        ({"type": "tool", "name": "weather"}, "function:weather", True),
    ],
)
def test_the_choice_of_tools(
    server: Running, pool: FakePool, given: Any, choice: str, parallel: bool
) -> None:
    create(server, tools=[{**WEATHER, "strict": True}], tool_choice=given)
    options = pool.turns[0].request.query.options
    assert options.strict_tools
    assert (options.tool_choice, options.parallel_tool_calls) == (choice, parallel)


def test_thinking_has_a_budget_and_comes_back(server: Running, pool: FakePool) -> None:
    first = create(server, thinking=THINKS)
    history = [*QUESTION, {"role": "assistant", "content": first.content}, *QUESTION]
    create(server, thinking={"type": "adaptive"}, messages=history, output_config={"effort": "low"})
    create(server, thinking={"type": "disabled"})
    budget, adaptive, off = (turn.request for turn in pool.turns)
    assert (budget.overrides.reasoning, budget.overrides.think_tokens) == ("cot", 1024)
    assert budget.overrides.max_tokens == 2000 - 1024
    assert (adaptive.effort, adaptive.overrides.think_tokens) == ("low", None)
    assert adaptive.query.history[1].content == "Mars is red."
    assert off.effort == "none"


@pytest.mark.parametrize(
    ("end", "reason", "stop"),
    [
        ({"status": "truncated"}, "max_tokens", None),
        ({"status": "budget"}, "max_tokens", None),
        ({"stop": "END"}, "stop_sequence", "END"),
        ({}, "end_turn", None),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_stop_reasons(end: Any, reason: str, stop: str | None, streamed: bool) -> None:
    with (
        serving(FakePool(say("Mars", **end))) as server,
        connect(server).messages.stream(
            model="balanced", max_tokens=9, messages=QUESTION, stop_sequences=["END"]
        ) as stream,
    ):
        message = stream.get_final_message() if streamed else create(server)
    assert (message.stop_reason, message.stop_sequence) == (reason, stop)


def test_a_long_prompt_pings_before_the_first_event() -> None:
    proceed = threading.Event()

    def reads(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        while not proceed.wait(0.002):
            yield Prefilling(10 * S, 512, 2048)
        yield Prefilled(10 * S, 11 * S, 20, 5, 15)
        yield Answer(12 * S, "Mars", 1)
        yield finished("Mars")

    body = {"model": "small", "max_tokens": 9, "messages": QUESTION, "stream": True}
    with (
        serving(FakePool(reads), keep_alive_seconds=0.02) as server,
        httpx2.stream(
            "POST", f"{server.url}/v1/messages", json=body, timeout=DEADLINE_SECONDS
        ) as response,
    ):
        lines = response.iter_lines()
        begun = [next(line for line in lines if line) for _ in range(3)]
        proceed.set()
        rest = [line for line in lines if line.startswith("event: ")]
    assert begun[0].startswith(": keep-alive")
    assert begun[1:] == ["event: ping", 'data: {"type":"ping"}']
    assert next(line for line in rest if line != "event: ping") == "event: message_start"


# errors, in Anthropic's form


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "status", "name"),
    [
        (QueueFull("full"), anthropic.APIStatusError, 529, "overloaded_error"),
        (BudgetSpent("spent"), anthropic.RateLimitError, 429, "rate_limit_error"),
        (EngineFailed("died"), anthropic.InternalServerError, 500, "api_error"),
        (
            ContextOverflow(900, 512, 16), anthropic.BadRequestError, 400, "invalid_request_error",
        ),
        (
            InvalidRequest("the template has no tools", "", "tools"),
            anthropic.BadRequestError, 400, "invalid_request_error",
        ),
    ],
)  # fmt: skip
def test_an_error_before_the_first_byte(
    error: EtuiError, kind: type[anthropic.APIStatusError], status: int, name: str, stream: bool
) -> None:
    with serving(FakePool(fail(error))) as server, pytest.raises(kind) as caught:
        create(server, stream=stream)
    assert caught.value.status_code == status
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", name)
    assert body["request_id"].startswith("req_")
    if isinstance(error, ContextOverflow):  # by these words Claude Code shortens the conversation
        assert "prompt is too long: 916 tokens > 512 maximum" in body["error"]["message"]


def test_an_error_after_the_first_byte_is_an_event() -> None:
    read = threading.Event()

    def breaks(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield Prefilled(10 * S, 11 * S, 20, 5, 15)
        yield Answer(12 * S, "Ma", 1)
        wait(read)
        raise EngineFailed("died")

    with serving(FakePool(breaks)) as server:
        stream = create(server, stream=True)
        next(stream)
        read.set()
        with pytest.raises(anthropic.APIError, match="the engine failed"):
            list(stream)


def test_keys_models_and_sizes() -> None:
    with serving(FakePool(), keys=KEYS, body_limit_bytes=4096) as server:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            create(server)
        assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index, call-overload]
        client = connect(server, api_key=KEYS["laptop"])
        asked: Any = {"max_tokens": 9, "messages": QUESTION}
        assert client.messages.create(model="small", **asked).content
        bearer = connect(server, api_key=None, auth_token=KEYS["laptop"])
        assert bearer.messages.create(model="small", **asked).content
        with pytest.raises(anthropic.NotFoundError) as unknown:
            client.messages.create(model="smal", **asked)
        assert unknown.value.body["error"]["type"] == "not_found_error"  # type: ignore[index, call-overload]
        with pytest.raises(anthropic.RequestTooLargeError) as large:
            client.messages.create(model="small", **{**asked, "system": "x" * 5000})
        assert large.value.body["error"]["type"] == "request_too_large"  # type: ignore[index, call-overload]


BLOCK: Any = {"type": "text", "text": "a"}
USE: Any = {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}
RESULT: Any = {"type": "tool_result", "tool_use_id": "c1"}


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [*QUESTION, {"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": [5]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (user(5), "messages[1].content[0]"),
        (user({"type": "text"}), "messages[1].content[0].text"),
        (user({"type": "image", "source": {}}), "messages[1].content[0]"),
        (user({"type": "document", "source": {"type": "url"}}), "messages[1].content[0]"),
        (user({"type": "document", "source": {"type": "text"}}), "messages[1].content[0].text"),
        (user(USE), "messages[1].content"),
        (user(RESULT), "messages[1]"),
        (user({**RESULT, "content": [{"type": "audio"}]}), "messages[1].content[0].content[0]"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 5}, "temperature"),
        ({"stop_sequences": ["a" * 300]}, "stop_sequences[0]"),
        ({"stop_sequences": ["a"] * 33}, "stop_sequences"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "web_search_20250305"}, {"name": "a b"}]}, "tools[1].name"),
        ({"tools": [{**WEATHER, "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "one"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tools": [{"name": [], "defer_loading": True}, {"name": []}]}, "tools[1].name"),
        ({"thinking": {"type": "on"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "max_tokens"),
        ({"output_config": {"effort": "extreme"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ],
)
def test_bad_requests_name_the_field(server: Running, changes: Any, param: str) -> None:
    response = post(server, **changes)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert post(server, "/v1/messages/count_tokens", **changes).status_code == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "text", "role", "content", "name", "source", "input", "data"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = ("messages", "system", "tools", "tool_choice", "thinking", "metadata", "output_config")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_body_is_mapped_or_refused(body: dict[str, Any]) -> None:
    for document in (body, {**body, "messages": QUESTION}):
        with suppress(ApiError):
            asked = parse_messages_request(document)
            assert len(asked.chat["messages"]) == len(asked.origins)


def test_many_texts_in_the_middle_are_joined_once() -> None:
    more = [{"role": "system", "content": "b"}] * 20_000
    began = time.process_time()
    asked = parse_messages_request({"messages": [{"role": "user", "content": "a" * 2**21}, *more]})
    assert time.process_time() - began < 10  # copied for each text, it took half a minute
    assert asked.chat["messages"][0]["content"].endswith("a\nb" + "\nb" * 19_999)


# Claude Code


def claude_code() -> dict[str, Any]:
    """A request in the shape of Claude Code's: its lengths and its fields, none of its texts."""
    cached = {"cache_control": {"type": "ephemeral"}}
    tools = [
        {
            "name": name,
            "description": f"{name}: " + "what it does, and when to use it. " * 80,
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "An absolute path."},
                    "limit": {"type": "number", "exclusiveMinimum": 0},
                    "edits": {"type": "array", "items": {"$ref": "#/$defs/edit"}, "minItems": 1},
                },
                "$defs": {"edit": {"type": "object", "additionalProperties": False}},
                "required": ["path"],
                "additionalProperties": False,
            },
        }
        for name in ("Read", "Edit", "Bash", *(f"mcp__server-{n}__" + "x" * 60 for n in range(30)))
    ]
    call = {**USE, "id": "toolu_01", "name": "Read", "input": {"path": "/a"}}
    return {
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 32_000,
        "stream": True,
        "metadata": {"user_id": "user_" + "0" * 64 + "_account__session_" + "1" * 36},
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0a1b2;"},
            {"type": "text", "text": "You are an agent.", **cached},
            {"type": "text", "text": "Rules of the agent. " * 1500, **cached},
        ],
        "tools": [*tools, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "betas": ["interleaved-thinking-2025-05-14"],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>Today is Monday.</system-reminder>"},
                    {"type": "text", "text": "What is in /a?", **cached},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I read it.", "signature": "abc"},
                    {"type": "text", "text": "I look."},
                    call,
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result", "tool_use_id": "toolu_01", **cached,
                        "content": [{"type": "text", "text": "1: x = 1"}],
                    }
                ],
            },
        ],
    }  # fmt: skip


def test_a_request_of_claude_code(pool: FakePool) -> None:
    from tests.server.fakes import parse_model

    def parse(text: str) -> Any:
        return parse_model("balanced" if text.startswith("claude-") else text)

    headers = {
        "anthropic-version": "2023-06-01", "x-app": "cli", "authorization": "Bearer none",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "user-agent": "claude-cli/2.1.0 (external, cli)",
    }  # fmt: skip
    with (
        serving(pool, parse=parse) as server,
        httpx2.Client(base_url=server.url, headers=headers, timeout=DEADLINE_SECONDS) as client,
    ):
        assert client.head("/").status_code == 200
        response = client.post("/v1/messages?beta=true", json=claude_code())
    assert response.status_code == 200, response.text
    assert "event: message_stop" in response.text
    assert set(response.headers["x-etui-ignored"].split(", ")) == {
        "context_management", "betas", "system: x-anthropic-billing-header", "cache_control",
        "tools: web_search_20250305",
    }  # fmt: skip
    request = pool.turns[0].request
    assert request.settings["ignored"] == response.headers["x-etui-ignored"]
    query = request.query
    assert query.history[1].thinking == "I read it."  # until the next question, as templates want
    assert query.system is not None
    assert query.system.startswith("You are an agent.\n\nRules")  # every request begins alike
    assert len(json.loads(query.options.tools)) == 33
    assert request.effort == "high"
    assert query.text.endswith("</system-reminder>\nWhat is in /a?")
    assert [message.role for message in query.messages()] == [
        "system", "user", "assistant", "tool",
    ]  # fmt: skip


def test_what_comes_in_the_middle_does_not_change_the_beginning() -> None:
    """Reminders stay where they are, tools are offered once they are found, pictures are named."""
    search = {**USE, "name": "search"}
    found = [{"type": "tool_reference", "tool_name": "deep"}, {"type": "image", "source": {}}]
    asked = parse_messages_request(
        {
            "system": "Be brief.",
            "messages": [
                *QUESTION,
                {"role": "system", "content": "It is Monday."},
                {"role": "assistant", "content": [search]},
                {"role": "user", "content": [{**RESULT, "content": found}]},
                {"role": "system", "content": [BLOCK]},
                {"role": "assistant", "content": "Done."},
                {"role": "system", "content": "Go on."},
            ],
            "tools": [
                {"name": "search", "input_schema": {}},
                {"name": "deep", "input_schema": {}, "defer_loading": True},
                {"name": "lost", "input_schema": {}, "defer_loading": True},
            ],
        }
    )
    assert [(m["role"], m["content"]) for m in asked.chat["messages"]] == [
        ("system", "Be brief."),
        ("user", "Which planet is red?\nIt is Monday."),
        ("assistant", ""),
        ("tool", "The tool deep can be called now.\n(a picture, which this model cannot see)\na"),
        ("assistant", "Done."),
        ("user", "Go on."),
    ]
    assert [tool["function"]["name"] for tool in asked.chat["tools"]] == ["search", "deep"]
    assert asked.tool_places == [0, 1]
    assert asked.ignored == ["image"]
    assert asked.rename("messages[4].content") == "messages[5]"


def test_a_request_counts_its_tokens(runtime_of_tiny_model: Any) -> None:
    runtime, pool = runtime_of_tiny_model
    with serving(pool, runtime=runtime) as server:
        client = connect(server)
        asked: Any = {"model": "small", "messages": [{"role": "user", "content": "Say A."}]}
        plain = client.messages.count_tokens(**asked).input_tokens
        longer = client.messages.count_tokens(**asked, system="Be brief.").input_tokens
        many = client.messages.count_tokens(**asked, tools=[WEATHER]).input_tokens
    assert plain < longer < many  # the tools of this model are estimated: it has no place for them
    assert pool.turns == []


@pytest.fixture
def runtime_of_tiny_model(config: Any) -> Any:
    from etui.arm import Arm
    from etui.runtime.runtime import Runtime
    from tests.contract.tiny_model import write_tiny_model
    from tests.server.fakes import DECISION

    config.models_dir.mkdir(parents=True, exist_ok=True)
    write_tiny_model(config.models_dir / "smollm2-135m.gguf")
    runtime: Any = Runtime(config, lambda config: pytest.fail("a backend was opened"))
    decision = replace(DECISION, arm=Arm("quick", "smollm2-135m"))
    return runtime, FakePool(decision=decision)
