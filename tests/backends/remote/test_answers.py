"""Answers over HTTP: direct, letters, thinking within a budget; cancel and hurry."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from typing import Any

import pytest

from etui.arm import Arm, Sampling
from etui.backends.remote._answer import ASK_AGAIN
from etui.chat import OutputOptions
from etui.errors import InvalidRequest, ModelUnavailable, RemoteFailed
from etui.events import Answer, Event, Prefilled, Prefilling, Probe, Thought, TokenLogprob, ToolCall
from etui.reasoning.decoding import BUDGET
from tests.backends.asker import Asker
from tests.backends.remote.conftest import ask, finished
from tests.backends.remote.stub import (
    LIMIT_SECONDS,
    STALL,
    Script,
    Seen,
    Stub,
    delta,
    document,
    lines,
    logprob,
    sse,
    usage,
)

CHAT = "/v1/chat/completions"
THINKS = {"think_open": "<think>", "think_close": "</think>", "thinking_switch": "enable_thinking"}
COT = Arm("think", "big@desk", "cot", think_tokens=4, max_tokens=8)


def script(stub: Stub, *scripts: Script, path: str = CHAT) -> None:
    stub.scripts[path] = list(scripts)


def stream(*chunks: Any) -> Script:
    return Script(sse(*chunks))


def test_a_direct_answer_with_its_tokens(stub, open_backend):
    script(
        stub,
        stream(
            delta(role="assistant"), delta("It is "), delta("4."), delta(finish="stop"),
            usage(12, 3, prompt_tokens_details={"cached_tokens": 5}),
        ),
    )  # fmt: skip
    events = list(open_backend().answer(ask()))
    end = finished(events)
    assert (end.answer, end.status, end.why) == ("It is 4.", "complete", "")
    assert (end.prompt_tokens, end.cached_tokens, end.output_tokens) == (12, 5, 3)
    assert end.confidence is None
    assert [type(event) for event in events[:2]] == [Prefilled, Answer]
    assert events[0].end_ns == end.first_token_ns == end.prefill_end_ns
    (body,) = stub.bodies(CHAT)
    assert body["model"] == "big"
    assert body["messages"] == [{"role": "user", "content": "What is 2+2?"}]


def test_llama_server_gives_progress_phases_and_confidence(stub, open_backend):
    def timings(decoded: int, ms: float) -> dict[str, Any]:
        return {"timings": {"prompt_n": 6, "cache_n": 4, "prompt_ms": 5, "predicted_n": decoded,
                            "predicted_ms": ms}}  # fmt: skip

    half = [logprob("x", math.log(0.5))]
    progress = {"prompt_progress": {"total": 10, "cache": 4, "processed": 4, "time_ms": 1}}
    script(
        stub,
        stream(
            {**delta(), **progress},
            {**delta("4", logprobs=half), **timings(1, 0)},
            {**delta(".", logprobs=half), **timings(2, 1e6)},
            {**delta(finish="stop"), **timings(2, 1e6)},
        ),
    )
    events = list(open_backend("llama-server").answer(ask()))
    end = finished(events)
    assert events[0].__class__ is Prefilling
    assert (events[0].done_tokens, events[0].total_tokens) == (4, 10)
    assert (events[1].prompt_tokens, events[1].cached_tokens) == (10, 4)
    assert end.output_tokens == 2
    assert end.confidence == pytest.approx(0.5)
    assert end.prefill_end_ns == end.start_ns, "a decode longer than the answer is cut at its start"
    assert end.why == ""


def test_ollama_speaks_lines_and_reports_its_load(stub, open_backend):
    script(
        stub,
        Script(
            lines(
                {"message": {"role": "assistant", "content": "4"}, "done": False},
                {
                    "message": {"content": ""}, "done": True, "done_reason": "stop",
                    "load_duration": 3e9, "prompt_eval_count": 11, "prompt_eval_duration": 1,
                    "eval_count": 1, "eval_duration": 1,
                },
            ),
            content_type="application/x-ndjson",
        ),
        path="/api/chat",
    )  # fmt: skip
    end = finished(list(open_backend("ollama").answer(ask())))
    assert (end.answer, end.prompt_tokens, end.output_tokens) == ("4", 11, 1)
    assert "loaded the model for 3.00 s" in end.why


def test_another_etui_gives_its_joules(stub, open_backend):
    energy = {"joules": 5.25, "uncertainty": 0.5, "kind": "counter"}
    script(stub, stream(delta("4", finish="stop"), usage(3, 1, energy=energy)))
    answerer = Asker(open_backend("etui"))
    finished(list(answerer.answer(ask())))
    assert answerer.backend.last_energy == energy
    assert answerer.numbers == (), "a remote answer is in no batch of this machine"
    script(stub, stream(delta("4", finish="stop"), usage(3, 1)))
    finished(list(answerer.answer(ask())))
    assert answerer.backend.last_energy is None
    assert answerer.numbers == ()


@pytest.mark.parametrize(
    ("kind", "fingerprint", "server"),
    [
        ("etui", "etui-0.1.0", "etui 0.1.0"),
        ("llama-server", "b6999-abc", "llama-server b6999-abc"),
        ("openai", None, None),
    ],
)
def test_an_answer_says_which_version_gave_it(stub, open_backend, kind, fingerprint, server):
    script(stub, stream({**delta("4", finish="stop"), "system_fingerprint": fingerprint}))
    backend = open_backend(kind)
    finished(list(backend.answer(ask())))
    assert backend.server == server


def test_the_owner_of_a_prompt_is_not_sent(stub, open_backend):
    script(stub, stream(delta("4", finish="stop")))
    list(open_backend().answer(replace(ask(), owner="laptop", chat_id="chat-77")))
    sent = json.dumps([stub.seen[0].body, dict(stub.seen[0].headers)])
    assert "laptop" not in sent
    assert "chat-77" not in sent


def test_a_server_that_counts_nothing_is_counted_by_pieces(stub, open_backend):
    script(stub, stream(delta("a"), delta("b"), delta(finish="length")))
    end = finished(list(open_backend().answer(ask(arm=Arm("d", "big@desk", max_tokens=2)))))
    assert (end.status, end.output_tokens) == ("truncated", 2)
    assert "counted by pieces" in end.why
    assert "prompt tokens are an estimate" in end.why
    assert end.prompt_tokens > 0


def test_the_options_of_the_output_reach_the_server(stub, open_backend):
    call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": "{}"}}
    script(stub, stream(delta(tool_calls=[call]), delta(finish="tool_calls"), usage(1, 5)))
    tools = '[{"type": "function", "function": {"name": "add"}}]'
    options = OutputOptions(stop=("END",), tools=tools, tool_choice="required")
    arm = Arm("d", "big@desk", sampling=Sampling(0.5, seed=9), max_tokens=33)
    events = list(open_backend().answer(ask(arm=arm, options=options, stop=("<eot>",))))
    assert [e.name for e in events if isinstance(e, ToolCall)] == ["add"]
    assert json.loads(finished(events).tool_calls)[0]["function"]["name"] == "add"
    (body,) = stub.bodies(CHAT)
    assert body["stop"] == ["<eot>", "END"]
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 9, 33)
    assert body["tool_choice"] == "required"


def test_probabilities_that_a_client_asks_for(stub, open_backend):
    entry = logprob("4", -0.25, ("4", -0.25), ("5", -2.0))
    script(stub, stream(delta("4", logprobs=[entry], finish="stop"), usage(1, 1)))
    events = list(open_backend().answer(ask(options=OutputOptions(top_logprobs=2))))
    (token,) = [event for event in events if isinstance(event, TokenLogprob)]
    assert (token.piece, token.logprob, len(token.top)) == ((52,), -0.25, 2)
    assert stub.bodies(CHAT)[0]["top_logprobs"] == 2


CHOICES = "Which is red? A) Mars B) Venus"


def test_letters_are_read_from_the_first_token(stub, open_backend):
    entry = logprob("A", math.log(0.6), ("A", math.log(0.6)), (" B", math.log(0.2)))
    script(stub, stream(delta("A", logprobs=[entry], finish="length"), usage(9, 1)))
    arm = Arm("c", "big@desk", readout="choices")
    events = list(open_backend("vllm").answer(ask(CHOICES, arm)))
    end = finished(events)
    assert (end.answer, end.status) == ("A) Mars", "complete")
    assert end.confidence == pytest.approx(0.75)
    assert end.margin == pytest.approx(0.5)
    assert [type(event) for event in events] == [Prefilled, Probe, Answer, type(end)]
    (body,) = stub.bodies(CHAT)
    assert (body["max_tokens"], body["top_logprobs"]) == (1, 20)
    assert "letter" in body["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("question", "requests", "why"),
    [("What is 2+2?", 1, "no options"), (CHOICES, 2, "no probabilities of the letters")],
)
def test_without_letters_the_answer_is_decoded(stub, open_backend, question, requests, why):
    script(stub, stream(delta("A) Mars", finish="stop"), usage(9, 4)))
    end = finished(list(open_backend().answer(ask(question, Arm("c", "m", readout="choices")))))
    assert end.answer == "A) Mars"
    assert why in end.why
    assert len(stub.bodies(CHAT)) == requests


# -- thinking -----------------------------------------------------------------


def test_native_thinking_within_its_budget(stub, open_backend):
    script(
        stub,
        stream(delta(reasoning_content="hm "), delta(reasoning_content="so"), delta("4"),
               delta(finish="stop"), usage(8, 3)),
    )  # fmt: skip
    events = list(open_backend("llama-server").answer(ask(arm=COT, **THINKS)))
    end = finished(events)
    assert (end.thinking, end.answer, end.status, end.why) == ("hm so", "4", "complete", "")
    assert (end.thinking_tokens, end.output_tokens) == (2, 3)
    assert end.prefill_end_ns <= end.thinking_end_ns <= end.end_ns
    (body,) = stub.bodies(CHAT)
    assert body["thinking_budget_tokens"] == 4
    assert body["max_tokens"] == 12


def test_tags_in_the_text_are_thinking_too(stub, open_backend):
    script(stub, stream(delta("<thi"), delta("nk>hm</think>"), delta("4"), delta(finish="stop")))
    end = finished(list(open_backend().answer(ask(arm=COT, **THINKS))))
    assert (end.thinking, end.answer) == ("hm", "4")


def test_over_the_budget_the_answer_is_asked_for_again(stub, open_backend):
    script(
        stub,
        Script([*sse(*(delta(reasoning="x") for _ in range(4)), done=False), STALL]),
        stream(delta("42"), delta(finish="stop"), usage(30, 1)),
    )
    events = list(open_backend("openai").answer(ask(arm=COT, **THINKS)))
    end = finished(events)
    assert (end.answer, end.thinking, end.status) == ("42", "xxxx", "complete")
    assert "the thinking budget ended the thinking after 4 tokens" in end.why
    assert "asked again for the answer" in end.why
    assert (end.thinking_tokens, end.output_tokens) == (4, 5)
    assert stub.left.wait(LIMIT_SECONDS), "the first request was closed"
    second = stub.bodies(CHAT)[1]
    assert second["messages"][1:] == [
        {"role": "assistant", "content": "xxxx"},
        {"role": "user", "content": ASK_AGAIN},
    ]
    assert second["reasoning_effort"] == "none"
    assert second["max_tokens"] == 8


def test_plain_thinking_ends_with_its_marker(stub, open_backend):
    script(stub, stream(delta("2 and 2. Ans"), delta("wer: 4"), delta(finish="stop"), usage(9, 2)))
    events = list(open_backend().answer(ask(arm=COT)))
    end = finished(events)
    assert (end.thinking, end.answer) == ("2 and 2.", "4")
    assert "".join(e.text for e in events if isinstance(e, Thought)).strip() == "2 and 2."
    (body,) = stub.bodies(CHAT)
    assert "step by step" in body["messages"][0]["content"]
    assert "reasoning_effort" not in body


def test_plain_thinking_without_a_marker_is_followed_by_a_question(stub, open_backend):
    script(stub, stream(delta("2 and 2", finish="stop")), stream(delta("4", finish="stop")))
    end = finished(list(open_backend().answer(ask(arm=COT))))
    assert (end.thinking, end.answer) == ("2 and 2", "4")
    assert "asked again for the answer" in end.why


def test_an_answer_after_the_thinking_has_its_own_limit(stub, open_backend):
    arm = Arm("t", "m", "cot", think_tokens=100, max_tokens=3)
    parts = sse(delta("Answer:"), *(delta(" w") for _ in range(5)), done=False)
    script(stub, Script([*parts, STALL]))
    end = finished(list(open_backend().answer(ask(arm=arm))))
    assert end.status == "truncated"
    assert end.answer == "w w w"
    assert stub.left.wait(LIMIT_SECONDS)


def hurry_at(answerer: Any, events: Any, kind: type[Event], texts: list[Event]) -> None:
    """Read an answer, and hurry it at the first event of a kind."""
    hurried = False
    for event in events:
        texts.append(event)
        if isinstance(event, kind) and not hurried:
            hurried = True
            answerer.hurry()


def test_a_hurry_ends_the_thinking_by_the_control_call(stub, open_backend):
    control = threading.Event()
    stub.scripts[CHAT + "/control"] = lambda seen: (control.set(), document({"ok": True}))[1]

    first, rest = sse(delta(reasoning="x"), delta("4", finish="stop"), done=False)

    def answer(seen: Seen) -> Script:
        def parts() -> Any:
            yield first
            assert control.wait(LIMIT_SECONDS)
            yield rest
            yield b"data: [DONE]\n\n"

        return Script(parts())  # type: ignore[arg-type]

    stub.scripts[CHAT] = answer
    answerer = Asker(open_backend("llama-server"))
    events: list[Event] = []
    arm = Arm("t", "m", "cot", think_tokens=100)
    hurry_at(answerer, answerer.answer(ask(arm=arm, **THINKS)), Thought, events)
    end = finished(events)
    assert (end.answer, end.status) == ("4", "budget")
    assert f"{BUDGET} ended the thinking after 1 tokens" in end.why
    assert stub.bodies(CHAT + "/control") == [{"id": "chat-1", "action": "reasoning_end"}]
    assert len(stub.bodies(CHAT)) == 1


def test_a_hurry_without_a_control_call_asks_again(stub, open_backend):
    script(
        stub,
        Script([*sse(delta(reasoning="x"), done=False), STALL]),
        stream(delta("4", finish="stop"), usage(1, 1)),
    )
    answerer = Asker(open_backend("llama-server"))  # an old one: the control call is 404
    events: list[Event] = []
    arm = Arm("t", "m", "cot", think_tokens=100)
    hurry_at(answerer, answerer.answer(ask(arm=arm, **THINKS)), Thought, events)
    end = finished(events)
    assert (end.answer, end.status) == ("4", "budget")
    assert "asked again" in end.why
    assert stub.left.wait(LIMIT_SECONDS)


def test_a_hurry_ends_a_direct_answer(stub, open_backend):
    script(stub, Script([*sse(delta("a"), delta("b"), done=False), STALL]))
    answerer = Asker(open_backend())
    events: list[Event] = []
    hurry_at(answerer, answerer.answer(ask()), Answer, events)
    end = finished(events)
    assert end.status == "budget"
    assert end.answer in ("a", "ab")
    assert end.why.startswith(BUDGET)
    assert stub.left.wait(LIMIT_SECONDS)


# -- cancel -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "arm", "text", "why"),
    [
        ([STALL], None, "", "stopped while computing the prompt"),
        ([*sse(delta("4"), done=False), STALL], None, "4", "stopped while answering"),
        ([*sse(delta(reasoning="x"), done=False), STALL], COT, "", "stopped while thinking"),
    ],
)
def test_a_cancel_ends_the_answer_wherever_it_is(stub, open_backend, parts, arm, text, why):
    script(stub, Script(parts))
    backend = open_backend()
    answerer = Asker(backend)

    def cancel() -> None:
        assert stub.began.wait(LIMIT_SECONDS)
        answerer.cancel()

    canceller = threading.Thread(target=cancel)
    events: list[Event] = []
    if text or arm is not None:  # only when its text is here
        for event in answerer.answer(ask(arm=arm, **THINKS) if arm is COT else ask(arm=arm)):
            events.append(event)
            if isinstance(event, Answer | Thought):
                answerer.cancel()
    else:
        canceller.start()
        events = list(answerer.answer(ask(arm=arm)))
        canceller.join(LIMIT_SECONDS)
    end = finished(events)
    assert (end.status, end.answer) == ("stopped", text)
    assert end.why.startswith(why)
    assert stub.left.wait(LIMIT_SECONDS), "the server sees that the client has left"
    assert backend.circuit.lets_through
    script(stub, stream(delta("5", finish="stop")))
    assert finished(list(answerer.answer(ask()))).answer == "5"


def test_a_closed_iterator_closes_the_request(stub, open_backend):
    script(stub, Script([*sse(delta("4"), done=False), STALL]))
    events = open_backend().answer(ask())
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert stub.left.wait(LIMIT_SECONDS)


def test_a_closed_backend_ends_its_answers_and_opens_again(stub, open_backend):
    script(stub, Script([*sse(delta("4"), done=False), STALL]))
    backend = open_backend()
    closer = threading.Thread(target=lambda: (stub.began.wait(LIMIT_SECONDS), backend.close()))
    closer.start()
    with pytest.raises(RemoteFailed, match="was closed"):
        list(backend.answer(ask()))
    closer.join(LIMIT_SECONDS)
    script(stub, stream(delta("5", finish="stop")))
    assert finished(list(backend.answer(ask()))).answer == "5"


def test_two_answers_at_a_time(stub, open_backend):
    both = threading.Barrier(2, timeout=LIMIT_SECONDS)

    def answer(seen: Seen) -> Script:
        both.wait()  # each is only answered while the other one runs
        text = seen.body["messages"][0]["content"]
        return stream(delta(text.upper(), finish="stop"), usage(1, 1))

    stub.scripts[CHAT] = answer
    backend = open_backend()
    found: dict[str, str] = {}

    def run(text: str) -> None:
        found[text] = finished(list(Asker(backend).answer(ask(text)))).answer

    threads = [threading.Thread(target=run, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert found == {"one": "ONE", "two": "TWO"}


def test_what_the_kind_cannot_sample_is_refused_before_it_is_sent(stub, open_backend):
    arm = Arm("d", "m", sampling=Sampling(0.9, top_k=3))
    with pytest.raises(InvalidRequest, match="top_k"):
        list(open_backend().answer(ask(arm=arm)))
    assert stub.seen == []


def test_without_its_key_nothing_is_sent(stub, open_backend):
    backend = open_backend(key_env="DESK_KEY")
    assert not backend.is_available
    with pytest.raises(ModelUnavailable, match="DESK_KEY"):
        list(backend.answer(ask()))
    assert stub.seen == []


def test_only_its_own_key_is_sent(stub, open_backend, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    script(stub, stream(delta("4", finish="stop")))
    environ = {"DESK_KEY": "secret", "OPENAI_API_KEY": "another"}
    list(open_backend(key_env="DESK_KEY", environ=environ).answer(ask()))
    headers = {name.lower(): value for name, value in stub.seen[0].headers.items()}
    assert headers["authorization"] == "Bearer secret"
    assert "another" not in str(headers)
    list(open_backend(environ=environ).answer(ask()))
    assert "authorization" not in {name.lower() for name in stub.seen[1].headers}
