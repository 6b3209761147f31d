"""Ollama's protocol with its official client: answers, streams, tools, vectors, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import ollama
import pytest

from etui.errors import ContextOverflow, EngineFailed
from etui.events import Answer, Prefilled, TokenLogprob, ToolCall
from tests.server.fakes import DEADLINE_SECONDS, FakePool, Running, S, fail, say, serving
from tests.server.test_embeddings import RUNTIME, give

ASK = [{"role": "user", "content": "Which planet is red?"}]
CALL = json.dumps(
    [{"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Bonn"}'}}]
)


@contextmanager
def answering(
    *scripts: Any, known: bool = True
) -> Iterator[tuple[ollama.Client, FakePool, Running]]:
    pool = FakePool(*scripts, joules_known=known)
    with serving(pool, runtime=RUNTIME) as server:
        yield ollama.Client(server.url, timeout=DEADLINE_SECONDS), pool, server


def get_weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: Its name.
    """
    return f"rain in {city}"


def test_a_whole_answer_has_durations_in_nanoseconds_and_joules() -> None:
    with answering(say("Mars.")) as (client, _, server):
        found = client.chat(model="small:latest", messages=ASK)
        body = {"model": "small", "messages": ASK, "stream": False, "keep_alive": "5m"}
        raw = httpx2.post(f"{server.url}/api/chat", json=body, timeout=DEADLINE_SECONDS)
    assert found.message.content == "Mars."
    assert (found.done, found.done_reason, found.model) == (True, "stop", "small")
    assert found.prompt_eval_count == 20
    assert found.eval_count == 8
    assert found.prompt_eval_duration == S
    assert found.eval_duration == 2 * S
    assert found.total_duration == round(3.25 * S)  # with its time in the queue
    assert found.load_duration == 0
    assert raw.json()["energy"]["joules"] == pytest.approx(30.0)
    assert raw.headers["x-energy-joules"] == "30"
    assert raw.headers["x-etui-ignored"] == "keep_alive"


def test_unmeasured_joules_are_null() -> None:
    with answering(say("Mars."), known=False) as (_, _, server):
        body = {"model": "small", "messages": ASK, "stream": False}
        raw = httpx2.post(f"{server.url}/api/chat", json=body, timeout=DEADLINE_SECONDS)
    assert raw.json()["energy"]["joules"] is None
    assert raw.headers["x-energy-joules"] == "null"


def test_a_stream_is_lines_of_json_and_the_last_has_the_joules() -> None:
    with answering(say("Ma", "rs.", thinking="hm")) as (client, _, server):
        parts = list(client.chat(model="small", messages=ASK, stream=True))
        with httpx2.stream(
            "POST", f"{server.url}/api/chat", json={"model": "small", "messages": ASK},
            timeout=DEADLINE_SECONDS,
        ) as raw:  # fmt: skip
            lines = [json.loads(line) for line in raw.iter_lines()]
            assert raw.headers["content-type"] == "application/x-ndjson"
    assert "".join(part.message.content or "" for part in parts) == "Mars."
    assert "".join(part.message.thinking or "" for part in parts) == "hm"
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 8
    assert lines[-1]["energy"]["joules"] == pytest.approx(30.0)
    assert lines[-1]["route"]["arm"] == "quick"


def test_a_prompt_is_answered_with_its_system_text() -> None:
    with answering(say("Mars.", thinking="hm")) as (client, pool, _):
        found = client.generate(model="small", prompt="Which?", system="Be brief.", think=False)
        parts = list(client.generate(model="small", prompt="Which?", stream=True))
    assert (found.response, found.thinking) == ("Mars.", "hm")
    assert "".join(part.response or "" for part in parts) == "Mars."
    query = pool.turns[0].request.query
    assert (query.text, query.system) == ("Which?", "Be brief.")
    assert pool.turns[0].request.effort == "none"
    assert pool.turns[1].request.effort is None


def test_a_raw_prompt_has_no_template() -> None:
    with answering(say("red")) as (client, pool, server):
        assert client.generate(model="small", prompt="Mars is", raw=True).response == "red"
        body = {"model": "small", "prompt": "Mars is", "raw": True, "system": "Be brief."}
        with httpx2.stream("POST", f"{server.url}/api/generate", json=body) as named:
            assert named.headers["x-etui-ignored"] == "system"
    options = pool.turns[0].request.query.options
    assert options.raw
    assert pool.turns[0].request.query.text == "Mars is"


def test_a_suffix_makes_a_gap_to_fill() -> None:
    with answering(say("a + b")) as (client, pool, _):
        prompt, suffix = "def add(a, b): return ", "\n"
        found = client.generate(model="small", prompt=prompt, suffix=suffix)
    assert found.response == "a + b"
    gap = pool.turns[0].request.query.options.infill
    assert gap is not None
    assert (gap.prefix, gap.suffix) == (prompt, suffix)


@pytest.mark.parametrize(
    ("think", "effort"), [(True, "medium"), (False, "none"), ("low", "low"), ("max", "max")]
)
def test_thinking_is_an_effort(think: Any, effort: str) -> None:
    with answering(say("Mars.")) as (client, pool, _):
        client.chat(model="small", messages=ASK, think=think)
    assert pool.turns[0].request.effort == effort


def test_options_are_those_of_the_core_and_others_are_named() -> None:
    options = {
        "num_predict": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "top_k": 9,
        "num_ctx": 4096, "mirostat": 0,
    }  # fmt: skip
    with answering(say("Mars.")) as (client, pool, server):
        client.chat(model="small", messages=ASK, options={"num_predict": -1})
        body = {"model": "small", "messages": ASK, "stream": False, "options": options}
        raw = httpx2.post(f"{server.url}/api/chat", json=body, timeout=DEADLINE_SECONDS)
    unlimited, limited = (turn.request for turn in pool.turns)
    assert unlimited.overrides.max_tokens is None
    found = limited.overrides
    assert (found.max_tokens, found.temperature, found.top_p, found.seed) == (7, 0.5, 0.9, 3)
    assert found.top_k == 9
    assert limited.query.options.stop == ("x",)
    assert raw.headers["x-etui-ignored"] == "options.num_ctx, options.mirostat"


def test_a_format_is_a_schema() -> None:
    schema = {"type": "object", "properties": {"planet": {"type": "string"}}}
    with answering(say("{}")) as (client, pool, _):
        client.chat(model="small", messages=ASK, format="json")
        client.generate(model="small", prompt="Which?", format=schema)
    wanted = [json.loads(turn.request.query.options.json_schema) for turn in pool.turns]
    assert wanted == [{"type": "object"}, schema]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_goes_back(stream: bool) -> None:
    parts = (
        ToolCall(12 * S, 0, "c1", "get", '{"ci'),
        ToolCall(12 * S, 0, "c1", "", 'ty":"Bonn"}'),
    )
    calling = say("", more=parts, tool_calls=CALL)
    with answering(calling, say("It rains.")) as (client, pool, _):
        asked: list[Any] = list(ASK)
        answer = client.chat(model="small", messages=asked, tools=[get_weather], stream=stream)
        chunks = list(answer) if stream else [answer]
        calls = [call for chunk in chunks for call in chunk.message.tool_calls or ()]
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            ("get", {"city": "Bonn"})
        ]
        assert chunks[-1].done_reason == "stop"
        asked.append({"role": "assistant", "content": "", "tool_calls": calls})
        asked.append({"role": "tool", "tool_name": "get", "content": "rain"})
        assert client.chat(model="small", messages=asked).message.content == "It rains."
    first, second = (turn.request.query for turn in pool.turns)
    (tool,) = json.loads(first.options.tools)
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["parameters"]["required"] == ["city"]
    call, result = second.history[-1], second.last
    assert result is not None
    assert json.loads(call.tool_calls)[0]["id"] == result.tool_call_id
    assert (result.role, result.content) == ("tool", "rain")


def test_log_probabilities_have_the_text_of_their_tokens() -> None:
    more = (
        Prefilled(10 * S, 11 * S, 20, 5, 15),
        Answer(12 * S, "Mars", 1),
        TokenLogprob(12 * S, tuple(b"Mars"), -0.5, ((tuple(b"Mars"), -0.5),)),
    )
    with answering(say(more=more, answer="Mars")) as (client, _, _):
        found = client.chat(model="small", messages=ASK, logprobs=True, top_logprobs=1)
    assert found.logprobs is not None
    assert (found.logprobs[0].token, found.logprobs[0].logprob) == ("Mars", -0.5)
    assert found.logprobs[0].top_logprobs[0].token == "Mars"


def test_vectors_come_in_both_forms() -> None:
    with answering(give([0.6, 0.8], [1.0, 0.0])) as (client, pool, _):
        found = client.embed(model="small", input=["a", "b"], dimensions=1, keep_alive=5)
        assert [list(each) for each in found.embeddings] == [[1.0], [1.0]]
        assert found.prompt_eval_count == 8
        assert client.embeddings(model="small", prompt="a").embedding == pytest.approx([0.6, 0.8])
        client.embed(model="small", input="a", truncate=False)
    asked = [turn.request.query.options.embed for turn in pool.turns]
    assert [each.truncate for each in asked] == [True, True, False]
    assert asked[0].texts == ("a", "b")


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/chat", {"messages": ASK}, "model is required"),
        ("/api/chat", {"model": "nope", "messages": ASK}, "there is no model"),
        ("/api/chat", {"model": "small", "messages": "x"}, "messages"),
        ("/api/chat", {"model": "small", "messages": [3]}, "messages[0]"),
        ("/api/chat", {"model": "small", "messages": [{"tool_calls": 5}]}, "[0].tool_calls"),
        ("/api/chat", {"model": "small", "messages": ASK, "format": "xml"}, "format"),
        ("/api/chat", {"model": "small", "messages": ASK, "think": "hard"}, "think"),
        ("/api/chat", {"model": "small", "messages": ASK, "options": [1]}, "options"),
        (
            "/api/chat",
            {"model": "small", "messages": [{"role": "user", "content": "", "images": ["aGk="]}]},
            "no PNG or JPEG",
        ),
        ("/api/chat", {"model": "small", "messages": [{"role": "tool", "content": "x"}]}, "tool"),
        ("/api/generate", {"model": "small", "prompt": "x", "template": "{{x}}"}, "template"),
        ("/api/generate", {"model": "small", "prompt": "x", "context": [1, 2]}, "context"),
        ("/api/generate", {"model": "small", "prompt": 3}, "prompt"),
        (
            "/api/generate",
            {"model": "small", "prompt": "x", "raw": True, "format": "json"},
            "format needs the chat template",
        ),
        ("/api/embed", {"model": "small", "input": [1.5]}, "input"),
        ("/api/pull", {"model": "small"}, "does not load, delete or download models"),
        ("/api/delete", {"model": "small"}, "use `etui models pull`"),
        ("/api/create", {"model": "small"}, "use `etui models pull`"),
        ("/api/unknown", {}, "there is no route POST /api/unknown"),
    ],
)
def test_errors_have_the_form_of_ollama(path: str, body: Any, text: str) -> None:
    with answering(say("Mars.")) as (_, pool, server):
        raw = httpx2.post(f"{server.url}{path}", json=body, timeout=DEADLINE_SECONDS)
    assert raw.status_code >= 400
    assert text in raw.json()["error"]
    assert not pool.turns


def test_a_fault_has_its_status_before_the_first_text_and_a_line_after_it() -> None:
    broken = fail(
        EngineFailed("boom"), Prefilled(10 * S, 11 * S, 20, 5, 15), Answer(12 * S, "M", 1)
    )
    with answering(fail(ContextOverflow(900, 512, 64)), broken) as (client, _, _):
        with pytest.raises(ollama.ResponseError, match="maximum context length") as found:
            client.chat(model="small", messages=ASK)
        assert found.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="engine failed"):
            list(client.chat(model="small", messages=ASK, stream=True))


def test_a_request_without_a_question_loads_nothing() -> None:
    with answering(say("Mars.")) as (client, pool, _):
        assert client.generate(model="small", prompt="").done_reason == "load"
        assert client.chat(model="small", messages=[]).done_reason == "load"
    assert not pool.turns


def test_a_key_is_needed_where_there_are_keys() -> None:
    with serving(FakePool(say("Mars.")), runtime=RUNTIME, keys={"me": "k" * 24}) as server:
        with pytest.raises(ollama.ResponseError, match="key") as found:
            ollama.Client(server.url).chat(model="small", messages=ASK)
        assert found.value.status_code == 401
        headers = {"Authorization": f"Bearer {'k' * 24}"}
        client = ollama.Client(server.url, headers=headers)
        assert client.chat(model="small", messages=ASK).message.content == "Mars."
