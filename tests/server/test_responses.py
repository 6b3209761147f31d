"""``POST /v1/responses`` with the official client over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from etui.backends.base import AnswerRequest
from etui.errors import ContextOverflow, EngineFailed, QueueFull
from etui.events import Answer, Event, TokenLogprob, ToolCall
from tests.server.fakes import (
    DEADLINE_SECONDS,
    FakePool,
    FakeTurn,
    Running,
    S,
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
CALLS = json.dumps(
    [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
        }
    ]
)
CALL = say(
    more=(
        ToolCall(12 * S, 0, "c1", "weather", ""),
        ToolCall(12 * S, 0, "c1", "", '{"city": '),
        ToolCall(12 * S, 0, "c1", "", '"Oslo"}'),
    ),
    tool_calls=CALLS,
)


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red.", thinking="The fourth."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


def connect(server: Running) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_SECONDS, max_retries=0
    )


def connect_async(server: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_SECONDS, max_retries=0
    )


def post(server: Running, **body: Any) -> httpx2.Response:
    return httpx2.post(
        f"{server.url}/v1/responses",
        json={"model": "balanced", "input": "Hello", **body},
        timeout=DEADLINE_SECONDS,
    )


def test_a_whole_response(server: Running, pool: FakePool) -> None:
    response = connect(server).responses.create(
        model="balanced", input="Which planet is red?", instructions="Be brief.",
        max_output_tokens=50, metadata={"project": "sky"},
    )  # fmt: skip
    assert response.id == f"resp_{pool.turns[0].turn_id}"
    assert response.status == "completed"
    assert response.output_text == "Mars is red."
    assert response.model == "small"
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "The fourth."
    assert message.type == "message"
    assert response.instructions == "Be brief."
    assert response.max_output_tokens == 50
    assert response.metadata == {"project": "sky"}
    assert response.store is False  # type: ignore[attr-defined]
    request = pool.turns[0].request
    assert request.client.endpoint == "/v1/responses"
    assert request.query.system == "Be brief."
    assert request.overrides.max_tokens == 50
    assert request.query.metadata == (("project", "sky"),)


def test_the_usage_has_tokens_and_joules(server: Running) -> None:
    response = connect(server).responses.create(model="balanced", input="Which planet is red?")
    usage = response.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (20, 8, 28)
    assert usage.input_tokens_details.cached_tokens == 5
    assert usage.output_tokens_details.reasoning_tokens == 3
    energy = usage.energy  # type: ignore[attr-defined]
    assert energy["joules"] == pytest.approx(30.0)
    assert energy["attribution"]["method"] == "exclusive"
    assert response.energy == energy  # type: ignore[attr-defined]
    assert response.route["policy"] == "balanced"  # type: ignore[attr-defined]
    assert response.timings["predicted_n"] == 8  # type: ignore[attr-defined]


def test_unmeasured_joules_are_null() -> None:
    with serving(FakePool(joules_known=False)) as server:
        document = post(server).json()
    assert document["usage"]["energy"]["joules"] is None
    assert document["energy"]["energy_joules"] is None


def test_a_stream_of_events(server: Running) -> None:
    events = list(
        connect(server).responses.create(model="balanced", input="Which planet?", stream=True)
    )
    assert events[0].type == "response.created"
    assert events[1].type == "response.in_progress"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    thinking = "".join(e.delta for e in events if e.type == "response.reasoning_text.delta")
    assert (text, thinking) == ("Mars is red.", "The fourth.")
    response = events[-1].response
    assert response.output_text == text
    assert response.usage is not None
    assert response.usage.energy["joules"] == pytest.approx(30.0)  # type: ignore[attr-defined]


def test_the_clients_own_accumulator_reads_the_stream(server: Running) -> None:
    with connect(server).responses.stream(model="balanced", input="Which planet?") as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert response.output_text == "Mars is red."
    assert "response.content_part.added" in kinds


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
        second = client.responses.create(
            model="balanced",
            tools=[WEATHER],
            input=[
                {"role": "user", "content": "Oslo?"},
                *[item.model_dump() for item in first.output],  # type: ignore[list-item]
                {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            ],
        )
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
        deltas = [
            event.delta
            for event in stream
            if event.type == "response.function_call_arguments.delta"
        ]
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


def test_log_probabilities() -> None:
    logprob = TokenLogprob(12 * S, (77,), -0.5, (((77,), -0.5),))
    script = say("M", more=(logprob,))
    with serving(FakePool(script)) as server:
        response = connect(server).responses.create(
            model="balanced", input="x", top_logprobs=1, include=["message.output_text.logprobs"]
        )
        assert server.pool.turns[0].request.query.options.top_logprobs == 1
    part = response.output[0].content[0]  # type: ignore[union-attr, index]
    assert part.logprobs[0].logprob == -0.5  # type: ignore[union-attr, index]


def test_the_effort_chooses_the_depth(server: Running, pool: FakePool) -> None:
    connect(server).responses.create(model="balanced", input="x", reasoning={"effort": "low"})
    assert pool.turns[0].request.effort == "low"


def test_a_truncated_answer_is_incomplete() -> None:
    with serving(FakePool(say("Mars", status="truncated"))) as server:
        client = connect(server)
        whole = client.responses.create(model="balanced", input="x")
        events = list(client.responses.create(model="balanced", input="x", stream=True))
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"temperature": 9.0}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "many"}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [WEATHER]},
         "tool_choice.function.name"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"model": 7}, "model"),
    ],
)  # fmt: skip
def test_a_bad_request_names_its_parameter_and_the_next_one_is_answered(
    server: Running, body: dict[str, Any], param: str
) -> None:
    response = post(server, **body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert post(server).status_code == 200


def test_an_unknown_model_is_not_found(server: Running) -> None:
    response = post(server, model="gpt-9")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_a_failure_before_the_first_token_has_its_status_streamed_or_not() -> None:
    pool = FakePool(fail(ContextOverflow(900, 200, 512)))
    with serving(pool) as server:
        for stream in (False, True):
            response = post(server, stream=stream)
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["code"] == "context_length_exceeded"
            assert error["param"] == "input"
            assert "messages" not in error["message"]


def test_a_full_queue_is_too_many_requests(server: Running, pool: FakePool) -> None:
    pool.full = QueueFull("32 requests wait already", retry_seconds=7)
    response = post(server)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "7"


def test_a_failure_in_mid_stream_ends_it_as_failed() -> None:
    read = threading.Event()

    def script(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield Answer(12 * S, "Ma", 1)
        wait(read)
        raise EngineFailed("llama.cpp died")

    with serving(FakePool(script)) as server:
        stream = iter(connect(server).responses.create(model="balanced", input="x", stream=True))
        assert next(stream).type == "response.created"
        read.set()
        last = list(stream)[-1]
    assert last.type == "response.failed"
    response = last.response
    assert response.status == "failed"
    assert response.error is not None
    assert "llama.cpp" not in response.error.message
    assert response.output_text == "Ma"


def test_a_client_that_leaves_ends_its_answer() -> None:
    pool = FakePool(until_cancelled(Answer(12 * S, "Mars", 1)))
    with serving(pool) as server:
        stream = connect(server).responses.create(model="balanced", input="x", stream=True)
        assert next(iter(stream)).type == "response.created"
        stream.close()
        wait(pool.turns[0].over)
        assert pool.turns[0].cancelled.is_set()


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
    response = httpx2.post(
        f"{server.url}/v1/responses",
        json=CODEX,
        headers={"Accept": "text/event-stream", "Authorization": "Bearer none"},
        timeout=DEADLINE_SECONDS,
    )
    assert response.status_code == 200
    events = [
        json.loads(line.removeprefix("data: "))
        for line in response.text.splitlines()
        if line.startswith("data: ")
    ]
    items = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["type"] for item in items] == ["reasoning", "message"]
    assert items[1]["content"][0]["text"] == "Mars is red."
    last = events[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["id"].startswith("resp_")
    assert last["response"]["usage"]["total_tokens"] == 28
    query = pool.turns[0].request.query
    assert query.text == "List the files."
    assert query.system == "You are a coding agent.\n\n<permissions>read-only</permissions>"
    assert query.last is not None
    assert query.last.tool_call_id == "call_1"
    assert pool.turns[0].request.effort == "medium"
