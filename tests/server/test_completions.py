"""Raw prompts: echo with log-probabilities, several prompts, the best of several, gaps to fill."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from etui.backends.base import AnswerRequest
from etui.chat import Infill
from etui.errors import InvalidRequest
from etui.events import Answer, Event, Prefilled, PromptTokens, TokenLogprob, Vote
from etui.server.completions import add_records
from tests.server.fakes import (
    FakePool,
    FakeTurn,
    Running,
    S,
    connect,
    fail,
    finished,
    say,
    serving,
    until_cancelled,
    wait,
)
from tests.server.raw import build

PREFILLED = Prefilled(10 * S, 11 * S, 20, 5, 15)


def token(text: str, logprob: float | None = -0.5) -> TokenLogprob:
    top = () if logprob is None else ((tuple(b"sea"), -0.25),)
    return TokenLogprob(12 * S, tuple(text.encode()), logprob, top)


def echoing(*prompt: str, answer: str = "") -> Any:
    """A script that reports the tokens of the prompt, then says an answer token by token."""

    def script(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        tokens = [token(text, -0.5 if place else None) for place, text in enumerate(prompt)]
        yield PromptTokens(11 * S, tuple(tokens[:2]))
        yield PromptTokens(11 * S, tuple(tokens[2:]))
        if answer:
            yield Answer(12 * S, answer, 1)
            yield token(answer)
        yield finished(answer.strip(), status="truncated")

    return script


def complete(server: Running, **body: Any) -> Any:
    with connect(server) as client:
        return client.completions.create(**{"model": "small", "prompt": "The red", **body})


def send(server: Running, path: str = "/v1/completions", **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", json={"model": "small", **body}, timeout=60)


@pytest.mark.parametrize("limit", [0, 1])
def test_a_prompt_is_echoed_with_its_log_probabilities(limit: int) -> None:
    answer = " planet" if limit else ""
    pool = FakePool(echoing("<s>", "The", " red", answer=answer))
    with serving(pool) as server:
        found = complete(server, echo=True, logprobs=1, max_tokens=limit)
    [choice] = found.choices
    assert choice.text == "The red" + answer
    assert choice.logprobs.tokens == ["The", " red", *([answer] if limit else [])]  # not the <s>
    assert choice.logprobs.token_logprobs[:2] == [-0.5, -0.5]
    assert choice.logprobs.text_offset == [0, 3, 7][: 2 + limit]
    assert choice.logprobs.top_logprobs[0] == {"sea": -0.25}
    request = pool.turns[0].request
    assert (request.query.options.echo, request.query.options.top_logprobs) == (True, 1)
    assert request.overrides.max_tokens == limit


def test_the_first_token_of_a_prompt_has_no_log_probability() -> None:
    with serving(FakePool(echoing("The", " red"))) as server:
        [choice] = send(server, prompt=[5, 6], echo=True, logprobs=1).json()["choices"]
    assert choice["text"] == "The red"
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5]
    assert choice["logprobs"]["top_logprobs"] == [None, {"sea": -0.25}]


def test_an_echo_is_streamed_before_the_answer() -> None:
    asked: Any = {"echo": True, "logprobs": 0, "max_tokens": 1, "stream": True}
    pool = FakePool(echoing("The", " red", answer=" planet"))
    with serving(pool) as server, connect(server) as client:
        chunks = list(client.completions.create(model="small", prompt="The red", **asked))
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(texts) == "The red planet"
    logged = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices]
    assert [each for part in logged if part for each in part.tokens] == ["The", " red", " planet"]
    assert [each for part in logged if part for each in part.text_offset] == [0, 3, 7]


def test_a_text_is_echoed_without_asking_the_engine() -> None:
    pool = FakePool(say(" planet"))
    with serving(pool) as server:
        [choice] = complete(server, echo=True, n=1).choices
    assert (choice.text, choice.logprobs) == ("The red planet", None)
    assert not pool.turns[0].request.query.options.echo


def test_token_ids_are_echoed_as_their_text() -> None:
    with serving(FakePool(echoing("The", " r\u00e9d", answer="!"))) as server:
        [choice] = send(server, prompt=[5, 6], echo=True).json()["choices"]
    assert (choice["text"], choice["logprobs"]) == ("The r\u00e9d!", None)


# several prompts


def test_each_prompt_of_a_list_is_a_turn_and_the_response_is_their_sum() -> None:
    pool = FakePool(say("one"), say("two"), say("three"))
    with serving(pool) as server:
        response = send(server, prompt=["a", "b", "c"], user="me")
    document = response.json()
    assert [(each["index"], each["text"]) for each in document["choices"]] == [
        (0, "one"), (1, "two"), (2, "three")
    ]  # fmt: skip
    assert document["usage"]["total_tokens"] == 3 * 28
    assert document["energy"]["joules"] == document["usage"]["energy"]["joules"] == 90.0
    assert response.headers["x-energy-joules"] == "90"
    assert document["turns"] == [turn.turn_id for turn in pool.turns]
    assert document["id"] == f"cmpl-{pool.turns[0].turn_id}"
    assert [turn.request.query.text for turn in pool.turns] == ["a", "b", "c"]
    assert {turn.request.settings["ignored"] for turn in pool.turns} == {"user"}


def test_the_answers_of_several_prompts_are_numbered_prompt_by_prompt() -> None:
    def two(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        yield PREFILLED
        for index in (1, 0):
            yield Vote(12 * S, index, f"{request.messages[-1].content}{index}", "", 4, 1.0)
        yield finished("x")

    with serving(FakePool(two)) as server:
        found = complete(server, prompt=["a", "b"], n=2)
    assert [(each.index, each.text) for each in found.choices] == [
        (0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")
    ]  # fmt: skip


def test_several_prompts_are_streamed_with_one_end() -> None:
    with serving(FakePool(say("one"), say("two"))) as server:
        response = send(
            server, prompt=[[1], [2]], stream=True, stream_options={"include_usage": True}
        )
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert {(each["index"], each["text"]) for chunk in chunks for each in chunk["choices"]} == {
        (0, "one"), (0, ""), (1, "two"), (1, "")
    }  # fmt: skip
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[-1]["usage"]["completion_tokens"] == 16
    assert response.text.count(": energy ") == 1


def test_a_prompt_that_fails_fails_all() -> None:
    refused = InvalidRequest("the prompt has a token that small does not have", "", "prompt")
    with serving(FakePool(say("one"), fail(refused), say("three"))) as server:
        response = send(server, prompt=["a", [9], "c"])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


def test_a_client_that_leaves_ends_the_prompts_that_are_left() -> None:
    began = threading.Event()
    pool = FakePool(until_cancelled(PREFILLED, began=began))
    with serving(pool) as server:
        with server.connect() as client:
            body = json.dumps({"model": "small", "prompt": ["a", "b", "c"]}).encode()
            client.sendall(build(server, body, path="/v1/completions"))
            wait(began)
        wait(pool.turns[0].over)
    assert len(pool.turns) == 1


def test_joules_that_one_turn_does_not_know_the_sum_does_not_know(make_turn: Any) -> None:
    known, unknown = make_turn(), make_turn(joules=None)
    total = add_records([known, known])
    assert total.energy.joules == pytest.approx(2 * known.energy.joules)
    assert total.tokens.output == 2 * known.tokens.output
    assert total.seconds.decode == pytest.approx(2 * known.seconds.decode)
    assert total.to_json()["energy"]["joules_per_token"] == pytest.approx(
        known.energy.joules / known.tokens.output
    )
    assert add_records([known, unknown]).energy.joules is None


def test_of_the_best_of_several_the_likeliest_are_returned() -> None:
    def three(request: AnswerRequest, turn: FakeTurn) -> Iterator[Event]:
        assert request.options.count == 3
        yield PREFILLED
        for index, logprob in enumerate((-2.0, -0.1, -1.0)):
            yield TokenLogprob(12 * S, (65,), logprob, index=index)
            yield Vote(12 * S, index, f"answer {index}", "", 4, 1.0)
        yield finished("answer 0")

    with serving(FakePool(three)) as server:
        found = complete(server, best_of=3, n=2)
    assert [(each.index, each.text, each.logprobs) for each in found.choices] == [
        (0, "answer 1", None), (1, "answer 2", None)
    ]  # fmt: skip


# gaps to fill


def test_a_suffix_makes_a_gap_to_fill() -> None:
    pool = FakePool(say("a + b"))
    with serving(pool) as server:
        found = complete(server, prompt="def add(a, b): return ", suffix="\n")
        complete(server, suffix="")
    assert found.choices[0].text == "a + b"
    options = pool.turns[0].request.query.options
    assert options.infill == Infill("def add(a, b): return ", "\n")
    assert (options.raw, pool.turns[0].request.overrides.reasoning) == (True, "direct")
    assert pool.turns[1].request.query.options.infill is None


INFILL: dict[str, Any] = {
    "id_slot": 0, "input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "prompt": "",
    "input_extra": [{"text": "x = 1", "filename": "b.py", "time": 1}, {"text": "y"}],
    "n_predict": 64, "n_indent": 0, "top_k": 40, "top_p": 0.9, "stop": ["\n\n"], "stream": False,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000, "response_fields": ["content"],
}  # fmt: skip
"""A request as llama.vim sends it."""


def test_the_infill_of_llama_server() -> None:
    pool = FakePool(say("a", " + b"))
    with serving(pool) as server:
        response = send(server, "/infill", **INFILL)
    document = response.json()
    assert (document["content"], document["stop"]) == ("a + b", True)
    assert document["tokens_predicted"] == 8
    assert document["timings"]["predicted_n"] == 8
    assert document["energy"]["joules"] == 30.0
    ignored = response.headers["x-etui-ignored"].split(", ")
    assert {"id_slot", "samplers", "t_max_prompt_ms", "response_fields"} <= set(ignored)
    request = pool.turns[0].request
    files = (("b.py", "x = 1"), ("", "y"))
    infill = Infill(INFILL["input_prefix"], "\n", "", files)
    assert request.query.options.infill == infill
    assert request.overrides.max_tokens == 64
    assert request.client is not None
    assert request.client.endpoint == "/infill"


def test_a_streamed_infill_ends_with_the_whole_of_it() -> None:
    with serving(FakePool(say("a", " + b", status="truncated"))) as server:
        response = send(server, "/infill", **INFILL | {"stream": True})
    events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    *parts, last = map(json.loads, events)
    assert "".join(part["content"] for part in parts) == "a + b"
    assert not any(part["stop"] for part in parts)
    assert (last["content"], last["stop"], last["stop_type"]) == ("", True, "limit")
    assert ": energy {" in response.text


def test_an_empty_file_is_a_gap_as_well() -> None:
    pool = FakePool(say("x"))
    with serving(pool) as server:
        assert send(server, "/infill").status_code == 200
        response = send(server, "/infill", n=2)
    assert response.json()["error"]["param"] == "n"
    assert pool.turns[0].request.query.options.infill == Infill("", "", "", ())
    assert pool.turns[0].request.query.text
