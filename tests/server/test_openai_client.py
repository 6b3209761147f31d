"""The official client against a real server: chat completions and completions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest

from etui.backends.base import AnswerRequest
from etui.errors import BudgetSpent, ContextOverflow, EngineFailed, ModelUnavailable, QueueFull
from etui.events import Answer, Event, Prefilled, TokenLogprob, ToolCall, Vote
from tests.server.fakes import (
    DEADLINE_SECONDS,
    DECISION,
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

QUESTION = [{"role": "user", "content": "Which planet is red?"}]
PREFILLED = Prefilled(10 * S, 11 * S, 20, 5, 15)


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red.", thinking="The fourth."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


def connect(server: Running, **options) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        timeout=DEADLINE_SECONDS,
        max_retries=options.pop("max_retries", 0),
        **options,
    )


def connect_async(server: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_SECONDS, max_retries=0
    )


def check_energy(energy: dict) -> None:
    assert energy["joules"] == energy["energy_joules"] == pytest.approx(30.0)
    assert energy["uncertainty"] is not None
    assert energy["phases"]["prefill"] == pytest.approx(10.0)
    assert energy["phases"]["decode"] == pytest.approx(20.0)
    assert energy["energy_kwh"] == pytest.approx(30.0 / 3.6e6)
    assert energy["avg_power_watts"] == pytest.approx(10.0)
    assert energy["duration_seconds"] == pytest.approx(3.0)
    assert energy["attribution"]["method"] == energy["attribution_method"] == "exclusive"


def test_a_whole_answer(server: Running, pool: FakePool) -> None:
    answer = connect(server).chat.completions.create(model="balanced", messages=QUESTION)

    assert answer.id == f"chatcmpl-{pool.turns[0].turn_id}"
    assert answer.object == "chat.completion"
    assert answer.model == "small"
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == "Mars is red."
    assert choice.message.reasoning_content == "The fourth."
    assert choice.finish_reason == "stop"
    assert answer.usage.prompt_tokens == 20
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == 28
    assert answer.usage.prompt_tokens_details.cached_tokens == 5
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    check_energy(answer.usage.energy)
    assert answer.energy == answer.usage.energy
    assert answer.route["policy"] == "balanced"
    assert answer.route["why"] == DECISION.why
    assert answer.route["status"] == "complete"
    assert answer.route["seconds"] == {"queue": 0.25, "load": 0.0, "prefill": 1.0, "decode": 2.0}
    assert answer.timings["prompt_n"] == 15
    assert answer.timings["cache_n"] == 5
    assert answer.timings["predicted_n"] == 8
    assert answer.timings["predicted_per_second"] == pytest.approx(4.0)


def test_a_streamed_answer_with_its_usage(server: Running, pool: FakePool) -> None:
    chunks = list(
        connect(server).chat.completions.create(
            model="balanced",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    *deltas, usage = chunks
    assert all(chunk.model == "small" for chunk in chunks)
    assert all(chunk.id == f"chatcmpl-{pool.turns[0].turn_id}" for chunk in chunks)
    assert deltas[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in deltas) == "Mars is red."
    thinking = [getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in deltas]
    assert "".join(thinking) == "The fourth."
    assert [chunk.choices[0].finish_reason for chunk in deltas].count("stop") == 1
    assert deltas[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in deltas)
    assert usage.choices == []
    assert usage.usage.completion_tokens == 8
    check_energy(usage.usage.energy)
    assert usage.route["arm"] == "quick"


def test_without_being_asked_no_chunk_has_usage_and_each_has_a_choice(server: Running) -> None:
    stream = connect(server).chat.completions.create(
        model="balanced", messages=QUESTION, stream=True
    )
    for chunk in stream:
        assert len(chunk.choices) == 1
        assert chunk.usage is None


async def test_the_async_client_whole_and_streamed(server: Running) -> None:
    async with connect_async(server) as client:
        answer = await client.chat.completions.create(model="balanced", messages=QUESTION)
        assert answer.choices[0].message.content == "Mars is red."
        check_energy(answer.usage.energy)
        stream = await client.chat.completions.create(
            model="balanced", messages=QUESTION, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "Mars is red."


def test_headers_name_the_route_before_the_body(server: Running) -> None:
    raw = connect(server).chat.completions.with_raw_response.create(
        model="balanced", messages=QUESTION
    )
    assert raw.headers["x-etui-route"] == "rest"
    assert raw.headers["x-etui-arm"] == "quick"
    assert float(raw.headers["x-energy-predicted-joules"]) == 21.0
    assert float(raw.headers["x-energy-joules"]) == pytest.approx(30.0)
    assert raw.headers["x-energy-method"] == "counter"
    assert raw.headers["x-request-id"].startswith("req_")
    assert "server" not in raw.headers

    with connect(server).chat.completions.with_streaming_response.create(
        model="balanced", messages=QUESTION, stream=True
    ) as streamed:
        assert streamed.headers["x-etui-route"] == "rest"
        assert streamed.headers["x-accel-buffering"] == "no"
        assert "x-energy-joules" not in streamed.headers


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_whole_answer_has_the_spaces_of_the_streamed_one(logprobs: int | None) -> None:
    """A continuation begins with the space that separates it from its prompt."""

    def answer(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        for word in (" Paris", ".\n"):
            yield Answer(12 * S, word, 1)
            yield TokenLogprob(12 * S, tuple(word.encode()), -1.0)
        yield finished("Paris.")

    with serving(FakePool(answer)) as server:
        client = connect(server)
        text = client.completions.create(model="small", prompt="It is", logprobs=logprobs)
        chat = client.chat.completions.create(
            model="small",
            messages=[*QUESTION, {"role": "assistant", "content": "It is"}],
            logprobs=logprobs is not None,
        )
        response = client.responses.create(model="small", input="It is")
    assert text.choices[0].text == " Paris.\n"
    if logprobs is not None:
        assert text.choices[0].logprobs.text_offset == [0, 6]
    assert chat.choices[0].message.content == " Paris.\n"
    assert response.output_text == " Paris.\n"


def test_options_that_ask_for_nothing_are_accepted(server: Running) -> None:
    """Wrappers of the client send them whether or not they stream."""
    answer = connect(server).chat.completions.create(
        model="small",
        messages=QUESTION,
        logprobs=False,
        top_logprobs=0,
        stream_options={"include_usage": True},
    )
    assert answer.choices[0].message.content == "Mars is red."


def test_a_completion_whole_and_streamed(server: Running, pool: FakePool) -> None:
    client = connect(server)
    answer = client.completions.create(model="small", prompt="The red planet is")
    assert answer.choices[0].text == "Mars is red."
    assert answer.object == "text_completion"
    check_energy(answer.usage.energy)
    chunks = list(client.completions.create(model="small", prompt=[1, 2, 3], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Mars is red."
    assert chunks[-1].choices[0].finish_reason == "stop"
    first, second = (turn.request.query for turn in pool.turns)
    assert first.options.raw
    assert first.text == "The red planet is"
    assert second.options.prompt_tokens == (1, 2, 3)


def test_a_completion_keeps_the_blanks_of_a_continued_text() -> None:
    pool = FakePool(say(" Ma", "rs.\n", answer="Mars."))
    with serving(pool) as server:
        client = connect(server)
        whole = client.completions.create(model="small", prompt="It is")
        stream = client.completions.create(model="small", prompt="It is", stream=True)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    assert whole.choices[0].text == streamed == " Mars.\n"


def test_text_that_was_held_back_behind_blanks_is_sent() -> None:
    def held(request, turn):
        yield PREFILLED
        yield Answer(12 * S, "\n\nMa", 1)
        yield finished("Mars.")

    with serving(FakePool(held)) as server:
        stream = connect(server).chat.completions.create(
            model="small", messages=QUESTION, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "\n\nMars."


def test_what_is_not_measured_is_null() -> None:
    with serving(FakePool(joules_known=False)) as server:
        answer = connect(server).chat.completions.with_raw_response.create(
            model="balanced", messages=QUESTION
        )
    energy = answer.parse().usage.energy
    for name in ("joules", "energy_joules", "energy_kwh", "avg_power_watts", "net_joules"):
        assert energy[name] is None
    assert "x-energy-joules" not in answer.headers
    assert energy["duration_seconds"] == pytest.approx(3.0)


def test_a_length_limit_is_the_finish_reason_and_the_status_is_in_the_route() -> None:
    with serving(FakePool(say("Mars", status="budget"))) as server:
        answer = connect(server).chat.completions.create(model="small", messages=QUESTION)
    assert answer.choices[0].finish_reason == "length"
    assert answer.route["status"] == "budget"


FUNCTION = r"""{"name":"look","arguments":"{\"at\":\"Mars\"}"}"""
CALLS = f'[{{"id":"call_1","type":"function","function":{FUNCTION}}}]'


def test_tool_calls_are_streamed_as_they_are_decoded() -> None:
    parts = (
        ToolCall(12 * S, 0, "call_1", "look", ""),
        ToolCall(12 * S, 0, "call_1", "", '{"at":'),
        ToolCall(12 * S, 0, "call_1", "", '"Mars"}'),
    )
    script = say(more=parts, tool_calls=CALLS)
    with serving(FakePool(script)) as server:
        client = connect(server)
        with client.chat.completions.stream(model="small", messages=QUESTION) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
    [choice] = final.choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert call.id == "call_1"
    assert call.function.name == "look"
    assert call.function.arguments == '{"at":"Mars"}'


def test_several_answers_are_choices() -> None:
    votes = tuple(
        Vote(12 * S, index, answer, "", 2, 1.0, status=status)
        for index, (answer, status) in enumerate((("Mars.", "answered"), ("Ma", "truncated")))
    )
    pool = FakePool(say(more=votes))
    with serving(pool) as server:
        client = connect(server)
        whole = client.chat.completions.create(model="small", messages=QUESTION, n=2)
        streamed = list(
            client.chat.completions.create(model="small", messages=QUESTION, n=2, stream=True)
        )
    assert [(c.index, c.message.content, c.finish_reason) for c in whole.choices] == [
        (0, "Mars.", "stop"),
        (1, "Ma", "length"),
    ]
    assert pool.turns[0].request.query.options.count == 2
    texts = {0: "", 1: ""}
    ends = {}
    for chunk in streamed:
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == {0: "Mars.", 1: "Ma"}
    assert ends == {0: "stop", 1: "length"}


def test_each_of_several_answers_has_its_logprobs_and_calls() -> None:
    tokens = [TokenLogprob(12 * S, tuple(word.encode()), -0.5) for word in ("Mars", "Venus")]
    votes = [
        Vote(12 * S, 1, "Venus", "", 1, 1.0),
        Vote(12 * S, 0, "Mars", "", 1, 1.0, tool_calls=CALLS),
    ]
    script = say(more=(tokens[1], votes[0], tokens[0], votes[1]), answer="Mars")
    asked = {"model": "small", "messages": QUESTION, "n": 2, "logprobs": True, "top_logprobs": 0}
    with serving(FakePool(script)) as server:
        client = connect(server)
        whole = client.chat.completions.create(**asked)
        streamed = list(client.chat.completions.create(**asked, stream=True))
    for choice, word in zip(whole.choices, ("Mars", "Venus"), strict=True):
        assert choice.message.content == word
        assert [token.token for token in choice.logprobs.content] == [word]
    assert [choice.finish_reason for choice in whole.choices] == ["tool_calls", "stop"]
    assert whole.choices[0].message.tool_calls[0].function.name == "look"
    parts = [chunk.choices[0] for chunk in streamed]
    shown = [(c.index, c.logprobs.content[0].token) for c in parts if c.logprobs]
    assert shown == [(1, "Venus"), (0, "Mars")]
    assert [c.index for c in parts if c.delta.tool_calls] == [0]
    assert [(c.index, c.finish_reason) for c in parts if c.finish_reason] == [
        (1, "stop"),
        (0, "tool_calls"),
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ContextOverflow(900, 512, 16), openai.BadRequestError, "context_length_exceeded"),
        (EngineFailed("died: /home/me/x.gguf"), openai.InternalServerError, "engine_failed"),
        (
            ModelUnavailable("small: no file /home/me/small.gguf"),
            openai.InternalServerError,
            "model_unavailable",
        ),
        (BudgetSpent("the budget is spent"), openai.RateLimitError, "energy_budget_exceeded"),
    ],
)
def test_an_error_before_the_first_token_has_its_status(error, kind, code, stream) -> None:
    pool = FakePool(fail(error, PREFILLED))
    with serving(pool) as server:
        client = connect(server, max_retries=2)
        with pytest.raises(kind) as raised:
            client.chat.completions.create(model="small", messages=QUESTION, stream=stream)
    assert raised.value.code == code
    assert "/home/me" not in raised.value.message
    assert len(pool.turns) == 1, "a retry would spend again"


def test_an_error_after_the_first_byte_ends_the_stream() -> None:
    read = threading.Event()

    def breaks(request, turn):
        yield PREFILLED
        yield Answer(12 * S, "Ma", 1)
        wait(read)
        raise EngineFailed("died")

    with serving(FakePool(breaks)) as server:
        stream = connect(server).chat.completions.create(
            model="small", messages=QUESTION, stream=True
        )
        next(stream)
        read.set()
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)


def test_a_full_queue_says_when_to_try_again(server: Running, pool: FakePool) -> None:
    pool.full = QueueFull("32 requests wait", retry_seconds=7.2)
    with pytest.raises(openai.RateLimitError) as raised:
        connect(server).chat.completions.create(model="small", messages=QUESTION)
    assert raised.value.response.headers["retry-after"] == "8"
    assert raised.value.code == "queue_full"


def test_an_unknown_model_is_not_found_with_the_nearest_names(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="did you mean 'small'") as raised:
        connect(server).chat.completions.create(model="smal", messages=QUESTION)
    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"


def test_a_key_is_needed_where_there_are_keys(pool: FakePool) -> None:
    keys = {"laptop": "a-key-of-the-laptop", "editor": "a-key-of-the-editor"}
    with serving(pool, keys=keys) as server:
        with pytest.raises(openai.AuthenticationError) as raised:
            connect(server).chat.completions.create(model="small", messages=QUESTION)
        assert raised.value.code == "invalid_api_key"
        client = connect(server).with_options(api_key="a-key-of-the-editor")
        client.chat.completions.create(model="small", messages=QUESTION)
    [turn] = pool.turns
    assert turn.request.key == turn.request.query.owner == "editor"


def test_the_turn_is_what_the_request_asks_for(server: Running, pool: FakePool) -> None:
    connect(server).chat.completions.create(
        model="balanced/think",
        messages=[
            {"role": "developer", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "+2?"}],
            },
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "And 3+3?"},
        ],
        temperature=0.5,
        top_p=0.9,
        seed=-1,
        max_tokens=5,
        max_completion_tokens=7,
        stop=["\n"],
        reasoning_effort="high",
        metadata={"team": "a"},
        frequency_penalty=0,
        user="me",
        logprobs=True,
        top_logprobs=3,
        extra_body={"chat_template_kwargs": {"enable_thinking": True}},
    )
    request = pool.turns[0].request
    query, overrides = request.query, request.overrides
    assert (query.system, query.text) == ("Be short.", "And 3+3?")
    assert [(m.role, m.content) for m in query.history] == [("user", "2+2?"), ("assistant", "4")]
    assert query.last is None
    assert query.options.stop == ("\n",)
    assert query.options.top_logprobs == 3
    assert (overrides.policy, overrides.arm) == ("balanced", "think")
    assert (overrides.temperature, overrides.top_p, overrides.seed) == (0.5, 0.9, 2**31 - 1)
    assert overrides.max_tokens == 7
    assert request.effort == "high"
    assert query.metadata == (("team", "a"),)
    assert request.client.endpoint == "/v1/chat/completions"
    assert request.client.request_id.startswith("req_")


def test_tools_and_their_results_reach_the_model(server: Running, pool: FakePool) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "look", "arguments": "{}"},
    }
    connect(server).chat.completions.create(
        model="small",
        messages=[
            *QUESTION,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "red"},
        ],
        tools=[
            {
                "type": "function",
                "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
            }
        ],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
    )
    query = pool.turns[0].request.query
    assert query.text == "Which planet is red?"
    assert query.last is not None
    assert (query.last.role, query.last.content, query.last.tool_call_id) == (
        "tool",
        "red",
        "call_1",
    )
    assert [message.role for message in query.messages()] == ["user", "assistant", "tool"]
    assert '"name":"look"' in query.history[1].tool_calls
    assert query.options.tool_choice == "function:look"
    assert not query.options.parallel_tool_calls
    assert '"parameters":{"type":"object","properties":{}}' in query.options.tools


def test_a_json_schema_becomes_the_form_of_the_answer(server: Running, pool: FakePool) -> None:
    schema = {"type": "object", "properties": {"planet": {"type": "string"}}}
    connect(server).chat.completions.create(
        model="small",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}},
    )
    assert pool.turns[0].request.query.options.json_schema == (
        '{"type":"object","properties":{"planet":{"type":"string"}}}'
    )


def test_no_model_is_the_default_one(pool: FakePool) -> None:
    with serving(pool, policy="frugal") as server:
        connect(server).chat.completions.create(model="default", messages=QUESTION)
    assert pool.turns[0].request.overrides.policy == "frugal"


def test_finished_text_that_was_held_back_is_sent_before_the_end() -> None:
    def held(request, turn):
        yield PREFILLED
        yield Answer(12 * S, "Mars", 1)
        yield replace(finished("Mars."))

    with serving(FakePool(held)) as server:
        stream = connect(server).chat.completions.create(
            model="small", messages=QUESTION, stream=True
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream) == "Mars."
