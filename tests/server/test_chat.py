"""Chat completions and completions: the official client against a real server, and their parts."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import openai
import pytest

from etui.arm import Arm
from etui.backends.base import AnswerRequest
from etui.config.config import Config
from etui.errors import (
    BudgetSpent,
    ContextOverflow,
    EngineFailed,
    EtuiError,
    InvalidRequest,
    ModelUnavailable,
    QueueFull,
    RemoteFailed,
    UsageError,
)
from etui.events import Answer, Event, Prefilled, TokenLogprob, ToolCall, Vote
from etui.routing.decision import Decision
from etui.runtime.runtime import open_process_runtime
from etui.runtime.turn_request import TurnRequest
from etui.server.build_request import (
    build_chat_turn,
    parse,
    parse_model,
)
from etui.server.chat_request import ChatBody
from etui.server.context import ServerContext, ServerSettings
from etui.server.deltas import finish_reason
from etui.server.documents import (
    completion_logprobs,
    encode,
    energy_document_of,
    headers_of,
    ignored_headers,
    logprob_document,
    route_document,
    timings_document,
    usage_document,
)
from etui.server.errors import ApiError, to_api_error
from etui.turn.record import ClientRecord, HopRecord, Seconds, Tokens
from tests.server.fakes import (
    DECISION,
    FakePool,
    FakeTurn,
    Running,
    S,
    connect,
    connect_async,
    fail,
    finished,
    say,
    serving,
    wait,
)

QUESTION: Any = [{"role": "user", "content": "Which planet is red?"}]
PREFILLED = Prefilled(10 * S, 11 * S, 20, 5, 15)


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red.", thinking="The fourth."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


def chat(server: Running, **options: Any) -> Any:
    usual = {"model": "small", "messages": QUESTION}
    return connect(server).chat.completions.create(**usual | options)


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def check_energy(energy: dict[str, Any]) -> None:
    assert energy["joules"] == energy["energy_joules"] == pytest.approx(30.0)
    assert energy["uncertainty"] is not None
    assert energy["phases"]["prefill"] == pytest.approx(10.0)
    assert energy["phases"]["decode"] == pytest.approx(20.0)
    assert energy["energy_kwh"] == pytest.approx(30.0 / 3.6e6)
    assert energy["avg_power_watts"] == pytest.approx(10.0)
    assert energy["duration_seconds"] == pytest.approx(3.0)
    assert energy["attribution"]["method"] == energy["attribution_method"] == "exclusive"


# answers, by the official client


def test_a_whole_answer(server: Running, pool: FakePool) -> None:
    # Wrappers of the client send options that ask for nothing, whether or not they stream.
    nothing = {"logprobs": False, "top_logprobs": 0, "stream_options": {"include_usage": True}}
    answer = chat(server, model="balanced", **nothing)
    assert answer.id == f"chatcmpl-{pool.turns[0].turn_id}"
    assert (answer.object, answer.model) == ("chat.completion", "small")
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Mars is red.")
    assert choice.message.reasoning_content == "The fourth."
    assert choice.finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 8, 28)
    assert usage.prompt_tokens_details.cached_tokens == 5
    assert usage.completion_tokens_details.reasoning_tokens == 3
    check_energy(usage.energy)
    assert answer.energy == usage.energy
    assert (answer.route["policy"], answer.route["why"]) == ("balanced", DECISION.why)
    assert answer.route["status"] == "complete"
    assert answer.route["seconds"] == {"queue": 0.25, "load": 0.0, "prefill": 1.0, "decode": 2.0}
    assert (answer.timings["prompt_n"], answer.timings["cache_n"]) == (15, 5)
    assert answer.timings["predicted_n"] == 8
    assert answer.timings["predicted_per_second"] == pytest.approx(3.5)


def test_a_streamed_answer_has_its_usage_if_it_is_asked_for(
    server: Running, pool: FakePool
) -> None:
    *deltas, usage = chat(
        server, model="balanced", stream=True, stream_options={"include_usage": True}
    )
    assert {chunk.model for chunk in (*deltas, usage)} == {"small"}
    assert {chunk.id for chunk in (*deltas, usage)} == {f"chatcmpl-{pool.turns[0].turn_id}"}
    assert deltas[0].choices[0].delta.role == "assistant"
    assert text_of(deltas) == "Mars is red."
    thinking = [getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in deltas]
    assert "".join(thinking) == "The fourth."
    assert [chunk.choices[0].finish_reason for chunk in deltas].count("stop") == 1
    assert deltas[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in deltas)
    assert usage.choices == []
    assert usage.usage.completion_tokens == 8
    check_energy(usage.usage.energy)
    assert usage.route["arm"] == "quick"
    for chunk in chat(server, stream=True):
        assert (len(chunk.choices), chunk.usage) == (1, None)


async def test_the_async_client_whole_and_streamed(server: Running) -> None:
    async with connect_async(server) as client:
        create = client.chat.completions.create
        answer: Any = await create(model="balanced", messages=QUESTION)
        assert answer.choices[0].message.content == "Mars is red."
        check_energy(answer.usage.energy)
        stream = await create(model="balanced", messages=QUESTION, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "Mars is red."


def test_headers_name_the_route_before_the_body(server: Running) -> None:
    completions = connect(server).chat.completions
    headers = completions.with_raw_response.create(model="balanced", messages=QUESTION).headers
    assert (headers["x-etui-route"], headers["x-etui-arm"]) == ("rest", "quick")
    assert float(headers["x-energy-predicted-joules"]) == 21.0
    assert float(headers["x-energy-joules"]) == pytest.approx(30.0)
    assert headers["x-energy-method"] == "counter"
    assert headers["x-request-id"].startswith("req_")
    assert "server" not in headers
    with completions.with_streaming_response.create(
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
        asked = {"model": "small", "prompt": "It is", "logprobs": logprobs}
        text: Any = client.completions.create(**asked)  # type: ignore[call-overload]
        streamed = client.completions.create(**asked, stream=True)  # type: ignore[call-overload]
        begun = [*QUESTION, {"role": "assistant", "content": "It is"}]
        message = chat(server, messages=begun, logprobs=logprobs is not None).choices[0].message
        response = client.responses.create(model="small", input="It is")
        assert "".join(chunk.choices[0].text for chunk in streamed) == " Paris.\n"
    assert text.choices[0].text == message.content == response.output_text == " Paris.\n"
    if logprobs is not None:
        assert text.choices[0].logprobs.text_offset == [0, 6]


def test_a_completion_whole_and_streamed(server: Running, pool: FakePool) -> None:
    client = connect(server)
    answer: Any = client.completions.create(model="small", prompt="The red planet is")
    assert (answer.choices[0].text, answer.object) == ("Mars is red.", "text_completion")
    check_energy(answer.usage.energy)
    chunks = list(client.completions.create(model="small", prompt=[1, 2, 3], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Mars is red."
    assert chunks[-1].choices[0].finish_reason == "stop"
    first, second = (turn.request.query for turn in pool.turns)
    assert (first.options.raw, first.text) == (True, "The red planet is")
    assert second.options.prompt_tokens == (1, 2, 3)


@pytest.mark.parametrize(("said", "whole"), [("Mars", "Mars."), ("\n\nMa", "\n\nMars.")])
def test_text_that_was_held_back_is_sent_before_the_end(said: str, whole: str) -> None:
    def held(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        yield Answer(12 * S, said, 1)
        yield finished("Mars.")

    with serving(FakePool(held)) as server:
        assert text_of(chat(server, stream=True)) == whole


def test_a_length_limit_is_the_finish_reason_and_the_status_is_in_the_route() -> None:
    with serving(FakePool(say("Mars", status="budget"))) as server:
        answer = chat(server)
    assert answer.choices[0].finish_reason == "length"
    assert answer.route["status"] == "budget"


FUNCTION = r"""{"name":"look","arguments":"{\"at\":\"Mars\"}"}"""
CALLS = f'[{{"id":"call_1","type":"function","function":{FUNCTION}}}]'


def test_tool_calls_are_streamed_as_they_are_decoded() -> None:
    parts = (("look", ""), ("", '{"at":'), ("", '"Mars"}'))
    more = tuple(ToolCall(12 * S, 0, "call_1", *part) for part in parts)
    with (
        serving(FakePool(say(more=more, tool_calls=CALLS))) as server,
        connect(server).chat.completions.stream(model="small", messages=QUESTION) as stream,
    ):
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls or ()
    assert (call.id, call.function.name) == ("call_1", "look")
    assert call.function.arguments == '{"at":"Mars"}'


def test_several_answers_are_choices_with_their_logprobs_and_calls() -> None:
    tokens = [TokenLogprob(12 * S, tuple(word.encode()), -0.5) for word in ("Mars", "Ven")]
    votes = [
        Vote(12 * S, 1, "Ven", "", 1, 1.0, status="truncated"),
        Vote(12 * S, 0, "Mars", "", 1, 1.0, tool_calls=CALLS),
    ]
    pool = FakePool(say(more=(tokens[1], votes[0], tokens[0], votes[1]), answer="Mars"))
    asked = {"n": 2, "logprobs": True, "top_logprobs": 0}
    with serving(pool) as server:
        whole, streamed = chat(server, **asked), list(chat(server, **asked, stream=True))
    assert pool.turns[0].request.query.options.count == 2
    for choice, word in zip(whole.choices, ("Mars", "Ven"), strict=True):
        assert choice.message.content == word
        assert [token.token for token in choice.logprobs.content] == [word]
    assert [(c.index, c.finish_reason) for c in whole.choices] == [(0, "tool_calls"), (1, "length")]
    assert whole.choices[0].message.tool_calls[0].function.name == "look"
    parts = [chunk.choices[0] for chunk in streamed]
    texts = [(c.index, c.delta.content) for c in parts if c.delta.content]
    assert texts == [(1, "Ven"), (0, "Mars")]
    shown = [(c.index, c.logprobs.content[0].token) for c in parts if c.logprobs]
    assert shown == [(1, "Ven"), (0, "Mars")]
    assert [c.index for c in parts if c.delta.tool_calls] == [0]
    ends = [(c.index, c.finish_reason) for c in parts if c.finish_reason]
    assert ends == [(1, "length"), (0, "tool_calls")]


# failures


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
def test_an_error_before_the_first_token_has_its_status(
    error: EtuiError, kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    pool = FakePool(fail(error, PREFILLED))
    with serving(pool) as server:
        completions = connect(server, max_retries=2).chat.completions
        with pytest.raises(kind) as raised:
            completions.create(model="small", messages=QUESTION, stream=stream)
    assert raised.value.code == code
    assert "/home/me" not in raised.value.message
    assert len(pool.turns) == 1, "a retry would spend again"


def test_an_error_after_the_first_byte_ends_the_stream() -> None:
    read = threading.Event()

    def breaks(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        yield Answer(12 * S, "Ma", 1)
        wait(read)
        raise EngineFailed("died")

    with serving(FakePool(breaks)) as server:
        stream = chat(server, stream=True)
        next(stream)
        read.set()
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)


def test_a_full_queue_says_when_to_try_again(server: Running, pool: FakePool) -> None:
    pool.full = QueueFull("32 requests wait", retry_seconds=7.2)
    with pytest.raises(openai.RateLimitError) as raised:
        chat(server)
    assert raised.value.response.headers["retry-after"] == "8"
    assert raised.value.code == "queue_full"


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (ModelUnavailable("no file /home/me/models/a.gguf here"), 503, "no file …/a.gguf here"),
        (
            ModelUnavailable("desk is off", "start the server at http://desk:8080/v1, and ask"),
            503,
            "desk is off; start the server at …, and ask",
        ),
        (UsageError("a/b is no arm", "see ~/p/x.yaml"), 400, "a/b is no arm; see …/x.yaml"),
        (RemoteFailed("http://desk:8080/v1 timed out"), 502, "http://desk:8080/v1 timed out"),
        (InvalidRequest("no", param="tools[0]"), 400, "no"),
        (InvalidRequest("none", "see GET /v1/models", "model"), 404, "none; see GET /v1/models"),
        (EtuiError("secret"), 500, "the request failed; see the server's log"),
        (ValueError("secret"), 500, "internal error"),
    ],
)
def test_errors_say_what_is_wrong_without_folders(
    error: Exception, status: int, shown: str
) -> None:
    api = to_api_error(error)
    assert (api.status, api.message) == (status, shown)


@pytest.mark.parametrize("kind", [EngineFailed, EtuiError])
def test_the_log_sends_no_escape_sequences_to_the_terminal(
    kind: type[EtuiError], caplog: pytest.LogCaptureFixture
) -> None:
    to_api_error(kind("end of its log: \x1b]0;owned\x07\x1b[2J r1 ::=\nmore"))
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert "r1 ::=" in record.getMessage()


# the turn that a request becomes


@pytest.fixture
def context(config: Config) -> Iterator[ServerContext]:
    """A server with the real look-up of names; nothing of it is opened."""
    with open_process_runtime(config) as runtime:
        yield ServerContext(FakePool(), runtime, ServerSettings())  # type: ignore[arg-type]


def build(context: ServerContext, messages: Any = QUESTION, **fields: Any) -> TurnRequest:
    body, _ = parse(ChatBody, {"model": "etui", "messages": messages, **fields})
    return build_chat_turn(body, context, ClientRecord("/x", "laptop", "r"))


def test_the_turn_is_what_the_request_asks_for(server: Running, pool: FakePool) -> None:
    chat(
        server,
        model="balanced/think",
        messages=[
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "+2?"}],
            },
            {"role": "assistant", "content": "4"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": "And 3+3?"},
        ],
        temperature=0.5,
        top_p=0.9,
        presence_penalty=-1.5,
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
    assert (query.system, query.text) == ("Be short.\n\nBe kind.", "And 3+3?")
    assert [(m.role, m.content) for m in query.history] == [("user", "2+2?"), ("assistant", "4")]
    assert query.last is None
    assert query.options.stop == ("\n",)
    assert query.options.top_logprobs == 3
    assert (overrides.policy, overrides.arm) == ("balanced", "think")
    assert (overrides.temperature, overrides.top_p, overrides.seed) == (0.5, 0.9, 2**31 - 1)
    assert overrides.presence_penalty == -1.5
    assert overrides.max_tokens == 7
    assert request.effort == "high"
    assert query.metadata == (("team", "a"),)
    assert request.client is not None
    assert request.client.endpoint == "/v1/chat/completions"
    assert request.client.request_id.startswith("req_")


def test_tools_and_their_results_reach_the_model(server: Running, pool: FakePool) -> None:
    function = {"name": "look", "arguments": "{}"}
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    chat(
        server,
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "red"},
        ],
        tools=[{"type": "function", "function": {"name": "look", "parameters": parameters}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
    )
    query = pool.turns[0].request.query
    assert query.text == "Which planet is red?"
    assert query.last is not None
    last = query.last
    assert (last.role, last.content, last.tool_call_id) == ("tool", "red", "call_1")
    assert [message.role for message in query.messages()] == ["user", "assistant", "tool"]
    assert '"name":"look"' in query.history[1].tool_calls
    assert query.options.tool_choice == "function:look"
    assert not query.options.parallel_tool_calls
    assert '"parameters":{"type":"object","properties":{}}' in query.options.tools


def test_names_of_policies_arms_and_models(context: ServerContext) -> None:
    assert parse_model("balanced", context).policy == "balanced"
    arm = parse_model("balanced/quick", context)
    assert (arm.policy, arm.arm) == ("balanced", "quick")
    assert parse_model("smollm2-135m", context).model == "smollm2-135m"
    with pytest.raises(ApiError, match="smollm2-135m"):
        parse_model("smollm2-135", context)
    started = replace(context, settings=ServerSettings(model="smollm2-135m"))
    for name in ("", "default", "etui"):  # what the server was started with
        assert parse_model(name, started).model == "smollm2-135m"


@pytest.mark.parametrize(
    "name",
    [
        *("../balanced", "balanced.yaml", "/etc/passwd", "policies/balanced", "balanced/../quick"),
        *("balanced/quick/quick", "balanced\x00", "balanced/", "/", "~", ".", "x" * 256),
        "smollm2-135m.gguf",
    ],
)
def test_a_name_is_looked_up_and_is_never_a_path(context: ServerContext, name: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse_model(name, context)
    assert (raised.value.status, raised.value.code) == (404, "model_not_found")
    assert str(context.runtime.config.home) not in raised.value.message


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"reasoning_effort": "low"}, "low"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "none"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "medium"),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "max"}, "max"),
        ({"chat_template_kwargs": {}}, None),
    ],
)
def test_thinking_is_an_effort(context: ServerContext, fields: Any, effort: str | None) -> None:
    turn = build(context, **fields)
    assert turn.effort == effort
    assert (turn.key, turn.query.owner) == ("laptop", "serve:laptop")


def test_a_huge_limit_is_cut_and_minus_one_is_the_most(context: ServerContext) -> None:
    assert build(context, max_tokens=2**31 - 1).overrides.max_tokens == 2**20
    assert build(context, max_tokens=-1).overrides.max_tokens == 2**20
    assert build(context, n_predict=9).overrides.max_tokens == 9


def test_sampling_of_llama_server_is_kept(context: ServerContext) -> None:
    turn = build(
        context, top_k=-1, min_p=0.1, repetition_penalty=1.1, repeat_last_n=256,
        frequency_penalty=0.5, logit_bias={"7": -100, "Mars": 2.5}, stop=["", "x"] * 12,
    )  # fmt: skip
    own = turn.overrides
    assert (own.top_k, own.min_p, own.repeat_penalty, own.repeat_last_n) == (0, 0.1, 1.1, 256)
    assert own.frequency_penalty == 0.5
    assert turn.query.options.logit_bias == ((7, -100.0), ("Mars", 2.5))
    assert len(turn.query.options.stop) == 12
    listed = build(context, logit_bias=[[7, 1], ["Mars", False]]).query.options.logit_bias
    assert listed == ((7, 1.0), ("Mars", -math.inf))


def test_fields_within_others_are_ignored_and_named() -> None:
    body, ignored = parse(
        ChatBody, {
            "messages": QUESTION, "typical_p": 0.9, "metadata": {"team": "a", "tags": [1]},
            "stream_options": {"include_usage": True, "include_obfuscation": False},
            "chat_template_kwargs": {"tokenize": True}, "store": None,
            "tools": [{"type": "function", "function": {"name": "look", "cache_control": {}}}],
        }
    )  # fmt: skip
    assert set(ignored) == {
        "typical_p", "metadata.tags", "stream_options.include_obfuscation",
        "chat_template_kwargs.tokenize", "tools.function.cache_control",
    }  # fmt: skip
    assert body.stream_options is not None
    assert body.stream_options.include_usage


@pytest.mark.parametrize(
    ("field", "fix"),
    [
        ({"functions": [{"name": "a"}]}, "send `tools`"),
        ({"grammar": "root ::= root"}, "JSON schema"),
        ({"guided_json": {}}, "response_format"),
        ({"ignore_eos": True}, "logit_bias"),
    ],
)
def test_what_would_change_the_answer_says_what_to_do(field: dict[str, Any], fix: str) -> None:
    with pytest.raises(ApiError, match=fix) as found:
        parse(ChatBody, {"messages": QUESTION, **field})
    assert (found.value.param, found.value.code) == (*field, "unsupported_parameter")


def test_the_begin_of_an_answer_is_the_last_message(context: ServerContext) -> None:
    query = build(context, [*QUESTION, {"role": "assistant", "content": "It is"}]).query
    assert query.text == "Which planet is red?"
    assert query.last is not None
    assert (query.last.role, query.last.content) == ("assistant", "It is")
    assert [message.role for message in query.messages()] == ["user", "assistant"]


def test_what_clients_send_back_or_always_send_is_accepted(context: ServerContext) -> None:
    answer = {
        "role": "assistant", "content": "Mars", "refusal": None, "reasoning_content": "the fourth",
        "annotations": [], "audio": None, "function_call": None, "tool_calls": None,
    }  # fmt: skip
    turn = build(
        context,
        [{**QUESTION[0], "name": "me"}, answer, *QUESTION],
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, modalities=["text"], n=1,
        store=False, user="u", service_tier="auto", stop=None, tools=None, seed=None,
        prediction={"type": "content", "content": "x"}, response_format={"type": "text"},
        stream=False, top_k=None, never_heard_of=None,
    )  # fmt: skip
    assert [message.content for message in turn.query.history][1:] == ["Mars"]


@pytest.mark.parametrize(("given", "kept"), [("I look.", "I look."), (None, ""), ([1], "")])
def test_the_thought_before_a_call_is_kept(
    context: ServerContext, given: object, kept: str
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": given}
    result = {"role": "tool", "content": "sunny", "tool_call_id": "c1"}
    query = build(context, [*QUESTION, said, result]).query
    assert [message.thinking for message in query.messages()] == ["", kept, ""]


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_ignored_is_named_in_the_header_and_in_the_log(
    server: Running, pool: FakePool, stream: bool
) -> None:
    body = {"chat_id": "c1", "store": True, "a\r\nb": 1, "session_id": None, "stream": stream}
    response = httpx2.post(
        f"{server.url}/v1/chat/completions", json={"messages": QUESTION, **body}, timeout=60
    )
    assert response.status_code == 200
    assert response.headers["x-etui-ignored"] == "chat_id, store, a  b"
    assert pool.turns[0].request.settings["ignored"] == "chat_id, store, a  b"
    plain = httpx2.post(f"{server.url}/v1/completions", json={"prompt": "a"}, timeout=60)
    assert "x-etui-ignored" not in plain.headers


@pytest.mark.parametrize("stream", [False, True])
def test_messages_that_were_left_out_are_in_the_header_and_in_the_log(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def trims(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield replace(PREFILLED, dropped_messages=3)
        yield Answer(12 * S, "Mars", 1)
        yield finished("Mars")

    with serving(FakePool(trims)) as server:
        response = httpx2.post(
            f"{server.url}/v1/chat/completions",
            json={"messages": QUESTION, "stream": stream},
            timeout=60,
        )
    assert response.headers["x-etui-dropped-messages"] == "3"
    assert "the oldest messages (3) did not fit the context of small" in caplog.text


def test_very_many_ignored_fields_are_named_in_part() -> None:
    headers = ignored_headers(f"field{number}" for number in range(5_000))
    assert len(headers["x-etui-ignored"]) <= 1_000


def test_a_format_is_a_schema_in_the_forms_of_two_apis(context: ServerContext) -> None:
    form = {"type": "json_object"}
    assert build(context, response_format=form).query.options.json_schema == '{"type":"object"}'
    schema = {"type": "object", "properties": {"planet": {"type": "string"}}}
    named = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    found = build(context, response_format=named).query.options.json_schema
    assert found == '{"type":"object","properties":{"planet":{"type":"string"}}}'
    for other in (
        {"type": "json_schema", "schema": schema},
        {"type": "json_object", "schema": schema},
    ):
        assert build(context, response_format=other).query.options.json_schema == found
    assert build(context, json_schema=schema).query.options.json_schema == found


def test_a_format_goes_with_tools_that_may_be_called(context: ServerContext) -> None:
    form = {"type": "json_object"}
    tools = [{"type": "function", "function": {"name": "look"}}]
    for choice in ("auto", "none"):
        options = build(context, tools=tools, response_format=form, tool_choice=choice)
        assert options.query.options.json_schema == '{"type":"object"}'
        assert options.query.options.tool_choice == choice
    required = build(context, tools=tools, response_format=form, tool_choice="required")
    assert required.query.options.json_schema == ""  # the answer is calls alone


# the parts of a response that follow from a record: nothing unmeasured becomes 0


def test_energy_has_the_keys_of_ask_and_those_of_neuralwatt(make_turn: Any) -> None:
    turn = make_turn()
    document = energy_document_of(turn)
    asked = turn.to_json()["energy"]
    assert {name: document[name] for name in asked} == asked
    assert document["energy_joules"] == turn.energy.joules
    assert document["energy_kwh"] == pytest.approx(turn.energy.joules / 3.6e6)
    document = energy_document_of(make_turn(joules=None))
    for name in ("joules", "energy_joules", "energy_kwh", "avg_power_watts"):
        assert document[name] is None
    assert headers_of(None, make_turn(joules=None))["x-energy-joules"] == "null"


def test_a_turn_without_time_has_no_rates(make_turn: Any) -> None:
    turn = make_turn(tokens=Tokens(0, 0, 0, 0, 0), seconds=Seconds(0.0, 0.0, 0.0, 0.0, None))
    timings = timings_document(turn)
    assert timings["prompt_per_second"] is timings["predicted_per_token_ms"] is None
    assert energy_document_of(turn)["avg_power_watts"] is None
    assert route_document(turn)["seconds"]["queue"] is None


@pytest.mark.parametrize(
    ("status", "calls", "reason"),
    [
        ("complete", "", "stop"),
        ("complete", "[{}]", "tool_calls"),
        ("truncated", "", "length"),
        ("truncated", "[{}]", "length"),
        ("budget", "", "length"),
        ("stopped", "", "length"),
    ],
)
def test_the_five_statuses_as_finish_reasons(status: str, calls: str, reason: str) -> None:
    assert finish_reason(status, calls) == reason


def test_log_probabilities_have_bytes_and_offsets_in_characters() -> None:
    document = logprob_document(TokenLogprob(0, (0xC3,), -0.5, (((0x41,), -1.0),)))
    assert document["bytes"] == [0xC3]
    assert document["token"] == "\N{REPLACEMENT CHARACTER}"
    assert document["top_logprobs"] == [{"token": "A", "logprob": -1.0, "bytes": [65]}]
    logprobs = [TokenLogprob(0, tuple(word.encode()), -1.0) for word in ("Mä", "rs")]
    assert completion_logprobs(logprobs, 3)["text_offset"] == [3, 5]


def test_what_is_sent_is_ascii_in_headers_and_utf8_in_bodies() -> None:
    decision = Decision(Arm("schnell\r\nx: y", "m"), "p", "Prüfung\n", "why")
    headers = headers_of(decision)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert json.loads(encode({"a": "\ud800"})) == {"a": "?"}


def test_the_replaced_hop_counts_for_the_energy_and_not_for_usage(make_turn: Any) -> None:
    def hop(arm: str, output: int, *, taken: bool) -> HopRecord:
        return HopRecord(
            arm=arm, model="m", model_sha256=None, reasoning="direct", answer="Mars.",
            status="complete", confidence=None, margin=None, probability=None, accepted=taken,
            taken=taken, tokens=Tokens(20, 0, 20, 0, output), joules=None, uncertainty=None,
            load_joules=0.0, seconds=1.0, why="",
        )  # fmt: skip

    hops = (hop("quick", 3, taken=False), hop("large", 5, taken=True))
    turn = make_turn(hops=hops, tokens=Tokens(40, 0, 40, 0, 8))
    assert usage_document(turn)["completion_tokens"] == 5
    assert usage_document(turn)["total_tokens"] == 25
    assert timings_document(turn)["predicted_n"] == 8
    shown = [(each["arm"], each["tokens"], each["taken"]) for each in route_document(turn)["hops"]]
    assert shown == [("quick", 3, False), ("large", 5, True)]
