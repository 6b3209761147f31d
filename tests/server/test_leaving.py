"""A client that leaves ends its turn; one that does not read is not waited for."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from etui.arm import Arm
from etui.events import Answer, Loaded, Prefilled, Prefilling
from etui.routing.decision import Cascade
from tests.server.fakes import (
    DECISION,
    FakePool,
    Running,
    S,
    finished,
    say,
    serving,
    until_cancelled,
    wait,
)
from tests.server.raw import ask, exchange, read_until

LOADED = Loaded("small", 7 * S, 10 * S, 0, 1000)
PREFILLED = Prefilled(10 * S, 11 * S, 20, 5, 15)
WORD = Answer(12 * S, "Mars", 1)
CASCADE = replace(
    DECISION, cascade=Cascade((Arm("quick", "small"), Arm("large", "big")), 0.75, max_hops=2)
)


def is_answered(server: Running) -> bool:
    return exchange(server, ask(server)).status == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "before", [(), (LOADED,), (LOADED, PREFILLED)], ids=["queue", "load", "prefill"]
)
def test_leaving_while_nothing_is_sent_ends_the_turn(before: tuple, stream: bool) -> None:
    began = threading.Event()
    pool = FakePool(until_cancelled(*before, began=began), say("Mars."))
    with serving(pool) as server:
        with server.connect() as client:
            client.sendall(ask(server, stream=stream))
            wait(began)
            assert not pool.turns[0].cancelled.is_set()
        wait(pool.turns[0].over)
        assert pool.turns[0].cancelled.is_set()
        assert [turn.status for turn in pool.saved.turns] == ["stopped"]
        assert is_answered(server)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_leaving_in_the_middle_of_the_answer_ends_the_turn(stream: bool) -> None:
    began = threading.Event()
    pool = FakePool(until_cancelled(PREFILLED, WORD, began=began), say("Mars."))
    with serving(pool) as server:
        with server.connect() as client:
            client.sendall(ask(server, stream=stream))
            wait(began)
            if stream:
                read_until(client, b'"content":"Mars"')
        wait(pool.turns[0].over)
        assert [turn.status for turn in pool.saved.turns] == ["stopped"]
        assert is_answered(server)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_leaving_between_two_arms_of_a_cascade_ends_the_turn(stream: bool) -> None:
    began = threading.Event()

    def answer(request, turn):
        if request.model.name == "big":
            yield from until_cancelled(began=began)(request, turn)
        else:
            yield from say("Venus.", confidence=0.1)(request, turn)

    pool = FakePool(answer, say("Mars.", confidence=0.9), decision=CASCADE)
    with serving(pool) as server:
        with server.connect() as client:
            client.sendall(ask(server, stream=stream))
            wait(began)
        wait(pool.turns[0].over)
        assert [turn.status for turn in pool.saved.turns] == ["stopped"]
        assert is_answered(server)


def test_text_of_an_answer_that_is_replaced_is_never_sent() -> None:
    def answer(request, turn):
        first = request.model.name == "small"
        text, confidence = ("Venus.", 0.1) if first else ("Mars.", 0.9)
        yield from say(text, confidence=confidence)(request, turn)

    with serving(FakePool(answer, decision=CASCADE)) as server:
        reply = exchange(server, ask(server, stream=True))
        whole = exchange(server, ask(server))
    assert b"Venus" not in reply.body
    assert reply.body.count(b'"content":"Mars."') == 1
    assert reply.body.count(b'"finish_reason":"stop"') == 1
    assert b'"model":"big"' in reply.body
    assert b'"content":"Mars."' in whole.body
    assert b'"accepted":true,"taken":true' in whole.body


def test_an_earlier_answer_that_is_better_is_sent_at_the_end() -> None:
    def answer(request, turn):
        small = request.model.name == "small"
        text, confidence = ("Mars.", 0.6) if small else ("", 0.1)
        yield from say(text, confidence=confidence)(request, turn)

    with serving(FakePool(answer, decision=CASCADE)) as server:
        reply = exchange(server, ask(server, stream=True))
    assert reply.body.count(b'"content":"Mars."') == 1
    assert b'"model":"small"' in reply.body
    assert reply.body.rstrip().endswith(b"data: [DONE]")


def endless(request, turn):
    """Answer with long texts until the turn is cancelled."""
    yield PREFILLED
    while not turn.cancelled.is_set():
        yield Answer(12 * S, "x" * 1_000, 1)
    yield finished("", status="stopped")


@pytest.mark.parametrize(
    "limits",
    [{"stall_seconds": 0.05, "event_limit": 100_000}, {"stall_seconds": 60.0, "event_limit": 64}],
    ids=["time", "events"],
)
def test_a_client_that_does_not_read_is_cut_off(limits: dict) -> None:
    pool = FakePool(endless, say("Mars."))
    with serving(pool, **limits) as server:
        with server.connect() as client:
            client.sendall(ask(server, stream=True))
            assert pool.submitted.acquire(timeout=60)
            wait(pool.turns[0].cancelled)
            wait(pool.turns[0].over)
        assert is_answered(server)


def test_a_silent_stream_sends_comments() -> None:
    proceed = threading.Event()

    def slow(request, turn):
        yield PREFILLED
        wait(proceed)
        yield WORD
        yield finished("Mars")

    pool = FakePool(slow)
    with serving(pool, keep_alive_seconds=0.01) as server, server.connect() as client:
        client.sendall(ask(server, stream=True))
        first = read_until(client, b": keep-alive\n\n")
        assert first.startswith(b"HTTP/1.1 200")
        proceed.set()
        rest = read_until(client, b"[DONE]")
    assert b"Mars" in rest
    assert rest.index(b": energy {") < rest.index(b"data: [DONE]")
    assert rest.index(b'"finish_reason":"stop"') < rest.index(b": energy {")


def test_a_long_prompt_is_never_silent_and_says_how_far_it_is() -> None:
    """Events that write nothing must not put off the next comment."""
    proceed = threading.Event()

    def reads(request, turn):
        while not proceed.wait(0.002):
            yield Prefilling(10 * S, 512, 2048)
        yield PREFILLED
        yield WORD
        yield finished("Mars")

    with serving(FakePool(reads), keep_alive_seconds=0.05) as server, server.connect() as client:
        client.sendall(ask(server, stream=True))
        head = read_until(client, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        read_until(client, b": keep-alive prompt 512/2048 tokens\n\n")
        read_until(client, b": keep-alive prompt 512/2048 tokens\n\n")
        proceed.set()
        assert b"Mars" in read_until(client, b"[DONE]")


def test_stopping_ends_running_answers_and_saves_them() -> None:
    began = threading.Event()
    pool = FakePool(until_cancelled(PREFILLED, WORD, began=began))
    with serving(pool) as server, server.connect() as client:
        client.sendall(ask(server, stream=True))
        wait(began)
        read_until(client, b'"content":"Mars"')
        server.stop()
        assert pool.closed == [0.0]
        assert [turn.status for turn in pool.saved.turns] == ["stopped"]
        read_until(client, b"shutting_down")


def test_an_answer_within_the_grace_time_is_sent_whole() -> None:
    began, proceed = threading.Event(), threading.Event()

    def slow(request, turn):
        yield PREFILLED
        began.set()
        wait(proceed)
        yield WORD
        yield finished("Mars")

    pool = FakePool(slow)
    with serving(pool, grace_seconds=60.0) as server, server.connect() as client:
        client.sendall(ask(server))
        wait(began)
        server.server.should_exit = True
        wait(pool.closing)
        proceed.set()
        assert b'"content":"Mars"' in read_until(client, b"finish_reason")
        server.stop()
    assert [turn.status for turn in pool.saved.turns] == ["complete"]


def test_asking_twice_to_stop_ends_running_answers_at_once() -> None:
    began = threading.Event()
    pool = FakePool(until_cancelled(PREFILLED, WORD, began=began))
    with serving(pool, grace_seconds=3600.0) as server, server.connect() as client:
        client.sendall(ask(server))
        wait(began)
        server.server.should_exit = True
        wait(pool.closing)
        assert not pool.turns[0].cancelled.is_set()
        server.server.force_exit = True
        server.stop()
        assert [turn.status for turn in pool.saved.turns] == ["stopped"]
