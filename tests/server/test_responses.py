"""``POST /v1/responses``: its requests, its events, and the official client over a real socket.

The official client's own accumulator reads the events, which raises where ids or indices do not
fit.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from etui.errors import ContextOverflow, EngineFailed
from etui.events import Answer, TokenLogprob, ToolCall
from etui.server.deltas import Delta, WholeAnswer
from etui.server.errors import ApiError
from etui.server.responses import (
    ResponseEvents,
    ResponseRequest,
    StreamEvent,
    build_items,
    parse_response_request,
)
from etui.turn.record import TurnRecord
from tests.fixtures.turns import TURN
from tests.server.fakes import (
    DEADLINE_SECONDS,
    FakePool,
    Running,
    S,
    connect,
    connect_async,
    fail,
    say,
    serving,
    until_cancelled,
    wait,
)

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
FUNCTION = {"name": "weather", "arguments": '{"city": "Oslo"}'}
CALLS = json.dumps([{"id": "c1", "type": "function", "function": FUNCTION}])
PARTS = (("weather", ""), ("", '{"city": '), ("", '"Oslo"}'))
CALL = say(more=tuple(ToolCall(12 * S, 0, "c1", *part) for part in PARTS), tool_calls=CALLS)
PLAIN = replace(TURN, answer="Hello world", thinking="", votes=(), probes=())
SENT = TypeAdapter(ResponseStreamEvent)
ECHO: dict[str, Any] = {
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "temperature": None,
    "instructions": None, "metadata": {},
}  # fmt: skip


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red.", thinking="The fourth."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


def post(server: Running, **body: Any) -> httpx2.Response:
    return httpx2.post(
        f"{server.url}/v1/responses",
        json={"model": "balanced", "input": "Hello", **body},
        timeout=DEADLINE_SECONDS,
    )


def stream_of(record: TurnRecord, *deltas: Delta) -> list[StreamEvent]:
    response = ResponseEvents(record.turn_id, 1_700_000_000, "balanced", ECHO)
    events = list(response.begin())
    for delta in deltas:
        events += response.take(delta)
    return [*events, *response.end(record)]


def kinds(events: Iterable[StreamEvent]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def read_by_client(events: Iterable[StreamEvent]) -> Response:
    """Return the last response; the client's types and its accumulator take every event."""
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    last = None
    for event in events:
        last = SENT.validate_python(event)
        assert last.type == event["type"]
        state.handle_event(last)
    return last.response  # type: ignore[union-attr, no-any-return]


# whole and streamed, by the official client


def test_a_whole_response(server: Running, pool: FakePool) -> None:
    response = connect(server).responses.create(
        model="balanced", input="Which planet is red?", instructions="Be brief.",
        max_output_tokens=50, metadata={"project": "sky"}, reasoning={"effort": "low"},
    )  # fmt: skip
    assert response.id == f"resp_{pool.turns[0].turn_id}"
    assert (response.status, response.model) == ("completed", "small")
    assert response.output_text == "Mars is red."
    reasoning, message = response.output
    assert (reasoning.type, reasoning.content[0].text) == ("reasoning", "The fourth.")  # type: ignore[union-attr, index]
    assert message.type == "message"
    assert response.instructions == "Be brief."
    assert response.max_output_tokens == 50
    assert response.metadata == {"project": "sky"}
    assert response.store is False  # type: ignore[attr-defined]
    usage: Any = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (20, 8, 28)
    assert usage.input_tokens_details.cached_tokens == 5
    assert usage.output_tokens_details.reasoning_tokens == 3
    assert usage.energy["joules"] == pytest.approx(30.0)
    assert usage.energy["attribution"]["method"] == "exclusive"
    assert response.energy == usage.energy  # type: ignore[attr-defined]
    assert response.route["policy"] == "balanced"  # type: ignore[attr-defined]
    assert response.timings["predicted_n"] == 8  # type: ignore[attr-defined]
    request = pool.turns[0].request
    assert request.client is not None
    assert request.client.endpoint == "/v1/responses"
    assert request.query.system == "Be brief."
    assert request.query.metadata == (("project", "sky"),)
    assert (request.overrides.max_tokens, request.effort) == (50, "low")


def test_unmeasured_joules_are_null() -> None:
    with serving(FakePool(joules_known=False)) as server:
        document = post(server).json()
    assert document["usage"]["energy"]["joules"] is None
    assert document["energy"]["energy_joules"] is None


def test_the_clients_own_accumulator_reads_the_stream(server: Running) -> None:
    with connect(server).responses.stream(model="balanced", input="Which planet?") as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert response.output_text == "Mars is red."
    assert [event.sequence_number for event in events] == list(range(len(events)))
    thinking = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert thinking == ["The fourth."]
    assert response.usage is not None
    assert response.usage.energy["joules"] == pytest.approx(30.0)  # type: ignore[attr-defined]


async def test_the_asynchronous_client(server: Running) -> None:
    client = connect_async(server)
    whole = await client.responses.create(model="balanced", input="Which planet?")
    assert whole.output_text == "Mars is red."
    async with client.responses.stream(model="balanced", input="Which planet?") as stream:
        async for _event in stream:
            pass
        response = await stream.get_final_response()
    assert response.output_text == "Mars is red."


def test_the_frames_have_names_and_the_joules_come_before_the_last(server: Running) -> None:
    response = post(server, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-etui-arm"] == "quick"
    frames = [frame for frame in response.text.split("\n\n") if frame]
    assert frames[0].startswith("event: response.created\ndata: {")
    assert frames[-2].startswith(": energy {")
    assert json.loads(frames[-2].removeprefix(": energy "))["joules"] == pytest.approx(30.0)
    assert frames[-1].startswith("event: response.completed\ndata: {")
    for frame in frames[:-2]:
        name, _, data = frame.partition("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


def test_tools_are_called_and_their_results_answered() -> None:
    with serving(FakePool(CALL, say("It rains."))) as server:
        client = connect(server)
        first = client.responses.create(model="balanced", input="Oslo?", tools=[WEATHER])
        [call] = first.output
        assert call.type == "function_call"
        assert (call.name, call.call_id, call.arguments) == ("weather", "c1", '{"city": "Oslo"}')
        items: Any = [
            {"role": "user", "content": "Oslo?"},
            *[item.model_dump() for item in first.output],
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ]
        second = client.responses.create(model="balanced", tools=[WEATHER], input=items)
        assert second.output_text == "It rains."
        query = server.pool.turns[1].request.query
    assert query.text == "Oslo?"
    assert query.last is not None
    assert (query.last.role, query.last.content) == ("tool", "rain")
    assert json.loads(query.options.tools)[0]["function"]["name"] == "weather"
    assert json.loads(query.history[-1].tool_calls)[0]["id"] == "c1"


def test_the_arguments_of_a_call_are_streamed() -> None:
    with (
        serving(FakePool(CALL)) as server,
        connect(server).responses.stream(
            model="balanced", input="Oslo?", tools=[WEATHER], tool_choice="required"
        ) as stream,
    ):
        kind = "response.function_call_arguments.delta"
        deltas = [event.delta for event in stream if event.type == kind]
        response = stream.get_final_response()
        assert server.pool.turns[0].request.query.options.tool_choice == "required"
    assert deltas == ['{"city": ', '"Oslo"}']
    assert response.output[0].type == "function_call"


def test_a_json_schema_is_parsed_by_the_client() -> None:
    class Planet(BaseModel):
        name: str

    with serving(FakePool(say('{"name":', ' "Mars"}'))) as server:
        response = connect(server).responses.parse(
            model="balanced", input="Which planet?", text_format=Planet
        )
        options = server.pool.turns[0].request.query.options
    assert response.output_parsed == Planet(name="Mars")
    assert json.loads(options.json_schema)["properties"]["name"]["type"] == "string"


def test_log_probabilities_are_in_the_deltas_and_in_the_end() -> None:
    logprob = TokenLogprob(12 * S, (77,), -0.5, (((77,), -0.5), ((0xE2,), -2.0)))
    with serving(FakePool(say("M", more=(logprob,)))) as server:
        asked: Any = {"top_logprobs": 1, "include": ["message.output_text.logprobs"]}
        client = connect(server)
        whole: Any = client.responses.create(model="balanced", input="x", **asked)
        events = list(client.responses.create(model="balanced", input="x", stream=True, **asked))
        assert server.pool.turns[0].request.query.options.top_logprobs == 1
    deltas: Any = [e for e in events if e.type == "response.output_text.delta"]
    assert [part.token for delta in deltas for part in delta.logprobs] == ["M"]
    for response in (whole, events[-1].response):
        (found,) = response.output[0].content[0].logprobs
        assert found.logprob == -0.5
        assert found.top_logprobs[1].token == "\N{REPLACEMENT CHARACTER}"


# its events


def test_an_answer_is_one_message_in_the_order_of_the_protocol() -> None:
    events = stream_of(PLAIN, Delta(content="Hello"), Delta(content=" world"))
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    response = read_by_client(events)
    assert response.output_text == "Hello world"
    assert (response.id, response.model) == (f"resp_{TURN.turn_id}", TURN.model)
    # What was streamed stays, where the record left out a loop.
    looped = stream_of(replace(PLAIN, answer="la"), *(Delta(content=t) for t in ("la", " la")))
    assert read_by_client(looped).output_text == "la la"


@pytest.mark.parametrize(
    ("turn_status", "kind", "item"),
    [
        ("complete", "completed", "completed"),
        ("truncated", "incomplete", "incomplete"),
        ("budget", "incomplete", "incomplete"),
        ("stopped", "failed", "incomplete"),
        ("error", "failed", "incomplete"),
    ],
)
def test_the_last_event_says_how_it_ended(turn_status: str, kind: str, item: str) -> None:
    events = stream_of(replace(PLAIN, status=turn_status), Delta(content="Hello world"))
    assert kinds(events)[-1] == kind
    response = read_by_client(events)
    assert response.status == kind
    assert response.output[0].status == item  # type: ignore[union-attr]
    assert (response.error is not None) == (kind == "failed")
    assert (response.incomplete_details is not None) == (kind == "incomplete")
    if kind == "incomplete":
        assert response.incomplete_details.reason == "max_output_tokens"  # type: ignore[union-attr]
        empty = read_by_client(stream_of(replace(PLAIN, answer="", status=turn_status)))
        assert (empty.output_text, len(empty.output)) == ("", 1)  # an empty message


def test_the_item_is_closed_before_the_meter_has_settled() -> None:
    response = ResponseEvents("t1", 0, "balanced", ECHO)
    parts = [Delta(content="Hi"), Delta(finish="stop")]
    events = [*response.begin(), *(event for part in parts for event in response.take(part))]
    assert kinds(events)[-1] == "output_item.done"
    assert events[-1]["item"]["status"] == "completed"
    assert kinds(response.end(PLAIN)) == ["completed"]


pieces = st.builds(Delta, content=st.text(max_size=3), thinking=st.text(max_size=3))
calls = st.lists(st.lists(st.text("{}a:1", max_size=3), min_size=1, max_size=3), max_size=3)


@given(decoded=st.lists(pieces, max_size=8), called=calls)
def test_any_order_of_events_is_a_valid_stream(
    decoded: list[Delta], called: list[list[str]]
) -> None:
    parts = [
        Delta(tool=ToolCall(0, index, f"c{index}", "f" if first == 0 else "", text))
        for index, arguments in enumerate(called)
        for first, text in enumerate(arguments)
    ]
    tool_calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": "".join(a)}}
        for i, a in enumerate(called)
    ]
    record = replace(
        PLAIN,
        answer="".join(delta.content for delta in decoded),
        thinking="".join(delta.thinking for delta in decoded),
        tool_calls=json.dumps(tool_calls) if tool_calls else "",
    )
    events = stream_of(record, *decoded, *parts)
    response = read_by_client(events)
    assert response.output_text == record.answer
    thoughts: Any = [item for item in response.output if item.type == "reasoning"]
    texts = [part.text for item in thoughts for part in item.content or ()]
    assert "".join(texts) == record.thinking
    found = [item for item in response.output if item.type == "function_call"]
    assert [item.arguments for item in found] == ["".join(a) for a in called]
    assert [(item.call_id, item.name) for item in found] == [
        (f"c{i}", "f") for i in range(len(called))
    ]
    opened = [e["item"]["id"] for e in events if e["type"] == "response.output_item.added"]
    closed = [e["item"]["id"] for e in events if e["type"] == "response.output_item.done"]
    assert opened == closed == [item.id for item in response.output]
    assert len(set(opened)) == len(opened)


def test_the_items_of_a_whole_response_are_those_of_its_record() -> None:
    items = build_items("t1", WholeAnswer(0, "", "t", CALLS, (), "tool_calls"))
    documents = [item.document("completed") for item in items]
    assert [document["type"] for document in documents] == ["reasoning", "function_call"]


# failures


def test_a_failure_before_the_first_token_has_its_status_streamed_or_not() -> None:
    with serving(FakePool(fail(ContextOverflow(900, 200, 512)))) as server:
        for stream in (False, True):
            response = post(server, stream=stream)
            assert response.status_code == 400
            error = response.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
            assert "messages" not in error["message"]


def test_a_failure_in_mid_stream_ends_it_as_failed() -> None:
    read = threading.Event()

    def script(request: Any, turn: Any) -> Iterator[Any]:
        yield Answer(12 * S, "Ma", 1)
        wait(read)
        raise EngineFailed("llama.cpp died")

    with serving(FakePool(script)) as server:
        stream = iter(connect(server).responses.create(model="balanced", input="x", stream=True))
        assert next(stream).type == "response.created"
        read.set()
        *_, done, last = stream
    assert (done.type, last.type) == ("response.output_item.done", "response.failed")
    response = last.response
    assert response.status == "failed"
    assert response.error is not None
    assert "llama.cpp" not in response.error.message
    assert (response.output_text, response.usage) == ("Ma", None)


def test_a_client_that_leaves_ends_its_answer() -> None:
    pool = FakePool(until_cancelled(Answer(12 * S, "Mars", 1)))
    with serving(pool) as server:
        stream = connect(server).responses.create(model="balanced", input="x", stream=True)
        assert next(iter(stream)).type == "response.created"
        stream.close()
        wait(pool.turns[0].over)
        assert pool.turns[0].cancelled.is_set()


# requests


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": 9.0}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": -2}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]},
         "tool_choice.function.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"model": 7}, "model"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)  # fmt: skip
def test_a_bad_request_names_its_parameter_and_the_next_one_is_answered(
    server: Running, body: dict[str, Any], param: str
) -> None:
    response = post(server, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert post(server).status_code == 200


CODEX: dict[str, Any] = {
    "model": "balanced",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [
            {"type": "input_text", "text": "<permissions>read-only</permissions>"}]},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "<environment_context/>"}]},
        {"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "List the files."}]},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "function_call", "name": "weather", "arguments": "{}", "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
    ],
    "tools": [{**WEATHER, "strict": False}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "client_metadata": {"x-codex-installation-id": "1"},
    "text": {"verbosity": "medium"},
}  # fmt: skip
"""A request as Codex sends it, with its web search off."""


def test_the_requests_of_codex_are_answered(server: Running, pool: FakePool) -> None:
    response = post(server, **CODEX)
    assert response.status_code == 200
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    items = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[1]["content"][0]["text"] == "Mars is red."
    last = events[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["usage"]["total_tokens"] == 28
    query = pool.turns[0].request.query
    assert query.text == "List the files."
    assert query.system == "You are a coding agent.\n\n<permissions>read-only</permissions>"
    assert query.last is not None
    assert query.last.tool_call_id == "call_1"
    assert pool.turns[0].request.effort == "medium"


def parse(**body: Any) -> ResponseRequest:
    return parse_response_request({"model": "balanced", "input": "Hello", **body})


def test_items_become_messages_and_an_assistants_items_one_message() -> None:
    request = parse(
        instructions="Be brief.",
        input=[
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
    second = {"name": "weather", "arguments": "{}"}
    assert request.chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": FUNCTION},
                {"id": "c2", "type": "function", "function": second},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
    ]
    renamed = ("messages[0].content", "messages[1].content", "messages[2]", "messages[4].content")
    assert list(map(request.rename, renamed)) == [
        "instructions",
        "input[0]",
        "input[2]",
        "input[6]",
    ]


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
    form = {"name": "a", "schema": schema, "strict": True}
    assert request.chat == {
        "model": "balanced",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_completion_tokens": 64,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": form},
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
        ("logprobs", "top_logprobs"),
        ("top_logprobs", "top_logprobs"),
        ("model", "model"),
    ],
)
def test_errors_name_the_parameter_of_this_api(chat: str, here: str) -> None:
    assert parse().rename(chat) == here


def test_a_tools_switches_that_are_off_are_left_out() -> None:
    tool = {**WEATHER, "defer_loading": False, "async": False, "output_schema": None}
    [sent] = parse(tools=[tool]).chat["tools"]
    assert set(sent["function"]) == {"name", "description", "parameters", "strict"}


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ({"store": False, "background": False, "previous_response_id": None}, {}),
        ({"conversation": None, "user": "me", "service_tier": "auto", "prompt_cache_key": "k"}, {}),
        ({"safety_identifier": "s", "truncation": "disabled", "max_tool_calls": 3}, {}),
        ({"client_metadata": {"a": "b"}, "stream_options": {"include_obfuscation": False}}, {}),
        ({"instructions": None, "tools": None, "reasoning": None, "text": None}, {}),
        ({"include": None, "tool_choice": None, "text": {"format": {"type": "text"}}}, {}),
        ({"reasoning": {"summary": "auto"}}, {}),
        ({"text": {"format": {"type": "json_object"}, "verbosity": "medium"}},
         {"response_format": {"type": "json_object"}}),
        ({"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]},
         {"logprobs": True}),
    ],
)  # fmt: skip
def test_what_asks_for_nothing_is_accepted(body: dict[str, Any], more: dict[str, Any]) -> None:
    assert parse(**body).chat == parse().chat | more


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


CALL_ITEM = {"type": "function_call", "name": "a", "arguments": "{}"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": ["text"]}}}, "text.format"),
        ({"text": "json"}, "text"),
        ({"reasoning": "low"}, "reasoning"),
        ({"tools": ["weather"]}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"tool_choice": 1}, "tool_choice"),
        ({"include": "x"}, "include"),
        ({"instructions": ["a"]}, "instructions"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": ["Hello"]}, "input[0]"),
        (item(role="tool", content="x"), "input[0].role"),
        (item(role=["user"], content="x"), "input[0].role"),
        (item(role="user"), "input[0].content"),
        (item(role="user", content=1), "input[0].content"),
        (item(role="user", content=[{"type": "input_file", "image_url": "http://x"}]),
         "input[0].content[0]"),
        (item(role="user", content=[{"type": "input_text"}]), "input[0].content[0].text"),
        (item(role="user", content=[["x"]]), "input[0].content[0]"),
        (item(type="item_reference", id="msg_1"), "input[0]"),
        (item(**CALL_ITEM), "input[0].call_id"),
        (item(**CALL_ITEM | {"call_id": "c", "arguments": {}}), "input[0].arguments"),
        (item(type="function_call_output", call_id="c"), "input[0].output"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**body)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"store": True, "background": True, "truncation": "auto"},
         {"store", "background"}),
        ({"frequency": 1, "moderation": {"model": "m"}, "context_management": []},
         {"frequency", "moderation", "context_management"}),
        ({"text": {"verbosity": "low"}, "reasoning": {"mode": "pro"}},
         {"text.verbosity", "reasoning.mode"}),
        ({"tools": [WEATHER, {"type": "web_search"}, {"type": "namespace", "name": "files"},
                    {"type": "custom", "name": "apply_patch"}, {"type": "local_shell"}]},
         {"tools[1]:web_search", "tools[2]:namespace:files", "tools[3]:custom:apply_patch",
          "tools[4]:local_shell"}),
        ({"include": ["file_search_call.results"]}, {"include:file_search_call.results"}),
        ({"input": [{"type": "local_shell_call", "call_id": "c", "action": {}},
                    {"type": "function_call_output", "call_id": "c", "output": "x"},
                    {"role": "user", "content": "Go on"}]},
         {"input[0]:local_shell_call", "input[1]:function_call_output"}),
    ],
)  # fmt: skip
def test_what_cannot_run_here_is_left_out_and_named(body: dict[str, Any], names: set[str]) -> None:
    request = parse(**body)
    assert set(request.ignored) == names
    assert len(request.chat.get("tools", ())) == ("tools" in body)


def test_only_the_tools_that_a_choice_allows_are_offered() -> None:
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required",
              "tools": [{"type": "function", "name": "other"}]}  # fmt: skip
    chat = parse(tools=[WEATHER, other], tool_choice=choice).chat
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["other"]
    assert chat["tool_choice"] == "required"


KEYS = ("type", "role", "content", "text", "format", "effort", "name", "call_id", "output")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
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
    try:
        request = parse_response_request(body)
    except ApiError as error:
        refusal = (error.status, bool(error.param))
    else:
        refusal = (400, len(request.origins) == len(request.chat["messages"]))
    assert refusal == (400, True)
