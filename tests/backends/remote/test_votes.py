"""Majority votes over HTTP: joined in one request, or one request each; counted as here."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest

from etui.arm import Arm, VoteStop
from etui.chat import OutputOptions
from etui.errors import RemoteFailed
from etui.events import Answer, Event, TokenLogprob, Vote
from tests.backends.asker import Asker
from tests.backends.remote.conftest import ask, finished
from tests.backends.remote.stub import (
    LIMIT_SECONDS,
    STALL,
    Script,
    Seen,
    delta,
    document,
    logprob,
    sse,
    usage,
)

CHAT = "/v1/chat/completions"
QUESTION = "How many are 2 and 2?"
ALL = Arm("v", "m", "vote", think_tokens=0, votes=3, batch=3, stop=VoteStop("all"))


def votes(events: list[Event]) -> list[tuple[int, str, str]]:
    return [(e.index, e.answer, e.status) for e in events if isinstance(e, Vote)]


def test_one_request_draws_all_votes_where_the_server_can(stub, open_backend):
    stub.scripts[CHAT] = [
        Script(
            sse(
                delta("4", index=1), delta("4"), delta("5", index=2),
                delta(finish="stop", index=2), delta(finish="stop"), delta(finish="stop", index=1),
                usage(10, 6),
            )
        )
    ]  # fmt: skip
    events = list(open_backend("vllm").answer(ask(QUESTION, ALL)))
    end = finished(events)
    assert votes(events) == [(0, "4", "answered"), (1, "4", "answered"), (2, "5", "answered")]
    assert end.answer == "4"
    assert end.confidence == pytest.approx(2 / 3)
    assert (end.prompt_tokens, end.output_tokens) == (10, 6)
    (body,) = stub.bodies(CHAT)
    assert body["n"] == 3


def test_else_each_vote_is_a_request_with_its_own_seed(stub, open_backend):
    def answer(seen: Seen) -> Script:
        text = {0: "4", 1: "5", 2: "4"}[seen.body["seed"]]
        return Script(sse(delta(text, finish="stop"), usage(10, 1)))

    stub.scripts[CHAT] = answer
    events = list(open_backend("openai").answer(ask(QUESTION, ALL)))
    end = finished(events)
    assert sorted(votes(events)) == [
        (0, "4", "answered"), (1, "5", "answered"), (2, "4", "answered")
    ]  # fmt: skip
    assert (end.answer, end.prompt_tokens, end.output_tokens) == ("4", 30, 3)
    assert end.status == "complete"
    assert sum(e.tokens for e in events if isinstance(e, Answer)) == 3


def test_no_more_votes_are_drawn_than_can_decide(stub, open_backend):
    arm = Arm("v", "m", "vote", think_tokens=0, votes=3, batch=3, stop=VoteStop("lead"))
    chunks = (delta("4", finish="stop"), delta("4", index=1, finish="stop"), usage(9, 2))
    stub.scripts[CHAT] = [Script(sse(*chunks))]
    events = list(open_backend("llama-server").answer(ask(QUESTION, arm)))
    end = finished(events)
    assert (end.answer, end.prompt_tokens, end.output_tokens) == ("4", 9, 2)
    assert "1 vote saved" in end.why
    assert [body["n_cmpl"] for body in stub.bodies(CHAT)] == [2]


def test_a_decided_vote_closes_the_running_ones(stub, open_backend):
    def answer(seen: Seen) -> Script:
        if seen.body["seed"] == 2:
            return Script([*sse(delta("5"), done=False), STALL])
        return Script(sse(delta("4", finish="stop"), usage(10, 1)))

    stub.scripts[CHAT] = answer
    arm = Arm("v", "m", "vote", think_tokens=0, votes=3, batch=3, stop=VoteStop("flip", eps=0.5))
    events = list(open_backend("openai").answer(ask(QUESTION, arm)))
    assert finished(events).answer == "4"


def test_votes_start_only_as_they_are_needed(stub, open_backend):
    arm = Arm("v", "m", "vote", think_tokens=0, votes=7, batch=1, stop=VoteStop("lead"))
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop"), usage(10, 1)))]
    end = finished(list(open_backend("openai").answer(ask(QUESTION, arm))))
    assert len(stub.bodies(CHAT)) == 4
    assert "3 votes saved" in end.why


def test_votes_weigh_by_their_probability(stub, open_backend):
    arm = Arm("v", "m", "vote", think_tokens=0, votes=2, batch=2, stop=VoteStop("all"),
              weight="probability")  # fmt: skip

    def answer(seen: Seen) -> Script:
        text, p = (("4", 0.9), ("5", 0.3))[seen.body["seed"]]
        entry = [logprob(text, math.log(p))]
        return Script(sse(delta(text, logprobs=entry, finish="stop")))

    stub.scripts[CHAT] = answer
    end = finished(list(open_backend("openai").answer(ask(QUESTION, arm))))
    assert end.answer == "4"
    assert end.confidence == pytest.approx(0.75)
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop")))]
    end = finished(list(open_backend("openai").answer(ask(QUESTION, arm))))
    assert "gave no probabilities" in end.why


def test_votes_that_think_are_split_at_the_marker(stub, open_backend):
    arm = Arm("v", "m", "vote", think_tokens=20, max_tokens=9, votes=1, stop=VoteStop("all"))
    stub.scripts[CHAT] = [Script(sse(delta("2+2. Answer: 4", finish="stop")))]
    events = list(open_backend("openai").answer(ask(QUESTION, arm)))
    (vote,) = [event for event in events if isinstance(event, Vote)]
    assert (vote.thinking, vote.answer) == ("2+2.", "4")
    assert stub.bodies(CHAT)[0]["max_tokens"] == 29


def test_a_vote_that_answers_at_once_has_an_answer(stub, open_backend):
    arm = Arm("v", "m", "vote", think_tokens=20, max_tokens=9, votes=1, stop=VoteStop("all"))
    stub.scripts[CHAT] = [Script(sse(delta("It is 4.", finish="stop")))]
    end = finished(list(open_backend("openai").answer(ask(QUESTION, arm))))
    assert (end.thinking, end.answer) == ("", "It is 4.")


def test_another_etui_draws_several_answers_or_their_probabilities(stub, open_backend):
    """`etui serve` refuses `logprobs` with `n`."""

    def answer(seen: Seen) -> Script:
        drawn = range(seen.body.get("n", 1))
        assert len(drawn) == 1 or "logprobs" not in seen.body
        return Script(sse(*(delta("4", index=i, finish="stop") for i in drawn), usage(9, 1)))

    stub.scripts[CHAT] = answer
    finished(list(open_backend("etui").answer(ask(QUESTION, ALL))))
    weighed = replace(ALL, weight="probability")
    finished(list(open_backend("etui").answer(ask(QUESTION, weighed))))
    assert [body.get("n", 1) for body in stub.bodies(CHAT)] == [3, 1, 1, 1]


def test_a_lost_vote_does_not_lose_the_others(stub, open_backend):
    def answer(seen: Seen) -> Script:
        if seen.body["seed"] == 0:
            return Script(sse(delta("9"), done=False), truncated=True)
        return Script(sse(delta("4", finish="stop"), usage(10, 1)))

    stub.scripts[CHAT] = answer
    events = list(open_backend("openai").answer(ask(QUESTION, ALL)))
    end = finished(events)
    assert end.answer == "4"
    assert (0, "9", "abandoned") in votes(events)
    assert "dropped unfinished" in end.why


def test_without_any_vote_the_failure_is_raised(stub, open_backend):
    stub.scripts[CHAT] = [document({"error": "boom"}, 500)]
    with pytest.raises(RemoteFailed, match="boom"):
        list(open_backend("vllm").answer(ask(QUESTION, ALL)))
    assert len(stub.bodies(CHAT)) == 1


def test_a_cancel_keeps_the_votes_so_far(stub, open_backend):
    stub.scripts[CHAT] = [Script([*sse(delta("4", finish="stop"), done=False), STALL])]
    answerer = Asker(open_backend("vllm"))
    events = []
    for event in answerer.answer(ask(QUESTION, ALL)):
        events.append(event)
        if isinstance(event, Vote) and event.status == "answered":
            answerer.cancel()
    end = finished(events)
    assert (end.status, end.answer) == ("stopped", "4")
    assert stub.left.wait(LIMIT_SECONDS)


def test_a_hurry_finishes_one_vote(stub, open_backend):
    go_on = threading.Event()

    def answer(seen: Seen) -> Script:
        def parts():
            first, second = sse(delta("4"), delta(finish="stop"), done=False)
            yield first
            assert go_on.wait(LIMIT_SECONDS)
            yield second
            yield STALL

        return Script(parts())  # type: ignore[arg-type]

    stub.scripts[CHAT] = answer
    answerer = Asker(open_backend("vllm"))
    events = []
    for event in answerer.answer(ask(QUESTION, ALL)):
        events.append(event)
        if isinstance(event, Answer) and not go_on.is_set():
            answerer.hurry()
            go_on.set()
    end = finished(events)
    assert (end.status, end.answer) == ("budget", "4")


def test_several_answers_for_a_client_are_all_drawn(stub, open_backend):
    half = [logprob("b", math.log(0.5))]
    chunks = (
        delta("b", index=1, logprobs=half, finish="length"), delta("a", finish="stop"), usage(5, 2)
    )  # fmt: skip
    stub.scripts[CHAT] = [Script(sse(*chunks))]
    options = OutputOptions(count=2, top_logprobs=0)
    events = list(open_backend("vllm").answer(ask("Say a letter.", options=options)))
    assert votes(events) == [(1, "b", "truncated"), (0, "a", "answered")]
    at = [type(event) for event in events].index(TokenLogprob)
    assert isinstance(events[at + 1], Vote), "the log-probabilities are before their answer"
    end = finished(events)
    assert (end.answer, end.status, end.output_tokens) == ("a", "complete", 2)
    assert stub.bodies(CHAT)[0]["n"] == 2


def test_several_answers_of_a_server_that_draws_one(stub, open_backend):
    call = {"index": 0, "id": "c", "function": {"name": "add", "arguments": "{}"}}

    def answer(seen: Seen) -> Script:
        if seen.body["seed"] == 0:
            return Script(sse(delta(tool_calls=[call]), delta(finish="tool_calls"), usage(5, 2)))
        return Script(sse(delta("b"), done=False), truncated=True)

    stub.scripts[CHAT] = answer
    options = OutputOptions(count=2)
    events = list(open_backend("openai").answer(ask("Say a letter.", options=options)))
    end = finished(events)
    assert '"name": "add"' in end.tool_calls
    assert "1 answer dropped unfinished" in end.why
    assert sorted(status for _, _, status in votes(events)) == ["abandoned", "answered"]
