"""The real ``etui serve`` as a remote backend: what one etui sends is what the other one takes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from etui.arm import Arm, Sampling, VoteStop
from etui.backends.remote._client import RemoteClient
from etui.backends.remote.backend import RemoteBackend
from etui.chat import Message, OutputOptions
from etui.config.backend_spec import BackendSpec
from etui.errors import (
    ContextOverflow,
    EngineFailed,
    EtuiError,
    InvalidRequest,
    ModelUnavailable,
    QueueFull,
    RemoteFailed,
)
from etui.events import Answer, Event, Prefilled, Thought, TokenLogprob, ToolCall, Vote
from tests.backends.asker import Asker
from tests.backends.remote.conftest import ask, finished
from tests.backends.remote.stub import LIMIT_SECONDS

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from tests.server.fakes import (
    FakePool,
    Running,
    S,
    fail,
    say,
    serving,
    until_cancelled,
    wait,
)

SMALL = {"think_open": "<think>", "think_close": "</think>"}


@pytest.fixture
def pool() -> FakePool:
    return FakePool(say("Mars", " is red."))


@pytest.fixture
def server(pool: FakePool) -> Iterator[Running]:
    with serving(pool) as running:
        yield running


@pytest.fixture
def backend(server: Running) -> Iterator[RemoteBackend]:
    async def sleep(seconds: float) -> None:
        """Wait for nothing."""

    def build(spec: BackendSpec, key: str | None) -> RemoteClient:
        return RemoteClient(spec, key, sleep=sleep)

    spec = BackendSpec("den", f"{server.url}/v1", "etui", retries=1)
    opened = RemoteBackend(spec, environ={}, build_client=build)
    yield opened
    opened.close()


def small(arm: Arm | None = None, **changes):
    request = ask("Which planet is red?", arm)
    model = replace(request.model, remote_name="small", **changes.pop("spec", {}))
    return replace(request, model=model, **changes)


def test_an_answer_with_its_tokens_and_its_joules(backend, pool):
    answerer = Asker(backend)
    events = list(answerer.answer(small(Arm("d", "m", max_tokens=40, sampling=Sampling(seed=7)))))
    end = finished(events)
    assert (end.answer, end.status) == ("Mars is red.", "complete")
    assert (end.prompt_tokens, end.cached_tokens, end.output_tokens) == (20, 5, 8)
    assert "".join(e.text for e in events if isinstance(e, Answer)) == "Mars is red."
    assert answerer.backend.last_energy["joules"] == pytest.approx(30.0)
    assert answerer.backend.last_energy["kind"] == "counter"
    assert backend.server.startswith("etui ")
    request = pool.turns[0].request
    assert request.query.text == "Which planet is red?"
    assert request.overrides.model == "small"
    assert request.overrides.seed == 7
    assert request.overrides.max_tokens == 40


def test_thinking_and_its_effort(backend, pool):
    pool.scripts = [say("Mars.", thinking="The fourth one.")]
    arm = Arm("t", "m", "cot", think_tokens=300, max_tokens=40)
    events = list(backend.answer(small(arm, spec=SMALL)))
    end = finished(events)
    assert (end.thinking, end.answer) == ("The fourth one.", "Mars.")
    assert any(isinstance(event, Thought) for event in events)
    assert pool.turns[0].request.effort == "medium"
    list(backend.answer(small(spec=SMALL)))
    assert pool.turns[1].request.effort == "none"


def test_tools_go_there_and_calls_come_back(backend, pool):
    call = ToolCall(12 * S, 0, "c1", "look", '{"at": "Mars"}')
    calls = json.dumps([{"id": "c1", "type": "function",
                         "function": {"name": "look", "arguments": '{"at": "Mars"}'}}])  # fmt: skip
    pool.scripts = [say(more=(call,), tool_calls=calls)]
    tools = json.dumps([{"type": "function", "function": {"name": "look", "parameters": {}}}])
    options = OutputOptions(tools=tools, tool_choice="required")
    events = list(backend.answer(small(options=options)))
    assert json.loads(finished(events).tool_calls) == json.loads(calls)
    sent = pool.turns[0].request.query.options
    assert (json.loads(sent.tools)[0]["function"]["name"], sent.tool_choice) == ("look", "required")


def test_a_schema_and_stops_go_there(backend, pool):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    options = OutputOptions(json_schema=json.dumps(schema), stop=("END",))
    finished(list(backend.answer(small(options=options))))
    sent = pool.turns[0].request.query.options
    assert json.loads(sent.json_schema) == schema
    assert sent.stop == ("END",)


def test_votes_are_one_request(backend, pool):
    votes = tuple(
        Vote(12 * S, index, answer, "", 2, 1.0)
        for index, answer in enumerate(("Mars.", "Mars.", "Venus."))
    )
    pool.scripts = [say(more=votes)]
    arm = Arm("v", "m", "vote", think_tokens=0, votes=3, batch=3, stop=VoteStop("all"))
    events = list(backend.answer(small(arm)))
    end = finished(events)
    assert end.answer == "Mars."
    assert end.confidence == pytest.approx(2 / 3)
    assert len(pool.turns) == 1
    assert pool.turns[0].request.query.options.count == 3


def test_the_conversation_goes_there(backend, pool):
    talk = (
        Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"),
        Message("user", "Which planet is red?"),
    )  # fmt: skip
    finished(list(backend.answer(replace(small(), messages=talk))))
    assert pool.turns[0].request.query.messages() == talk


def test_a_cancel_ends_the_turn_there(backend, pool):
    word = (Answer(12 * S, "Mars", 1), TokenLogprob(12 * S, tuple(b"Mars"), -0.1))
    pool.scripts = [until_cancelled(Prefilled(10 * S, 11 * S, 20, 5, 15), *word)]
    answerer = Asker(backend)
    limit = threading.Timer(LIMIT_SECONDS, answerer.cancel)  # a fault fails instead of hanging
    limit.start()
    events: list[Event] = []
    for event in answerer.answer(small()):
        events.append(event)
        if isinstance(event, Answer):
            answerer.cancel()
    limit.cancel()
    assert any(isinstance(event, Answer) for event in events)
    assert finished(events).status == "stopped"
    wait(pool.turns[0].cancelled)


def test_a_cancel_before_the_first_token_ends_the_turn_there(backend, pool):
    began = threading.Event()
    pool.scripts = [until_cancelled(began=began)]
    answerer = Asker(backend)

    def cancel() -> None:
        wait(began)
        answerer.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert finished(list(answerer.answer(small()))).status == "stopped"
    thread.join()
    wait(pool.turns[0].cancelled)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ContextOverflow(5000, 4096, 16), InvalidRequest),
        (InvalidRequest("no tools here", param="tools"), InvalidRequest),
        (EngineFailed("out of memory"), RemoteFailed),
        (ModelUnavailable("small is damaged"), ModelUnavailable),
    ],
    ids=["context", "request", "engine", "model"],
)
def test_an_error_there_is_the_right_error_here(backend, pool, error, found):
    pool.scripts = [fail(error)]
    with pytest.raises(EtuiError) as caught:
        list(backend.answer(small()))
    assert type(caught.value) is found
    assert "den" in caught.value.what


def test_a_full_queue_there_is_waited_for(backend, pool):
    pool.full = QueueFull("32 requests wait already", retry_seconds=1.0)
    with pytest.raises(ModelUnavailable, match="2 tries"):
        list(backend.answer(small()))
    pool.full = None
    assert finished(list(backend.answer(small()))).answer == "Mars is red."
