"""Servers that truncate, stall, lie or redirect: each fault is said, and nothing is paid twice."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etui.arm import Arm
from etui.backends.remote._client import (
    LONGEST_WAIT_SECONDS,
    Failure,
    build_error,
    find_wait,
    parse_retry_after,
)
from etui.backends.remote.backend import Circuit
from etui.config.backend_spec import BackendSpec
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed
from tests.backends.remote.conftest import ask, finished
from tests.backends.remote.stub import STALL, Script, delta, document, lines, sse, usage

KINDS = ("unreachable", "status", "silent", "broken", "format", "redirect", "error event")


@pytest.mark.parametrize(
    ("failure", "again", "spent_nothing", "counts"),
    [
        (Failure("unreachable", "refused"), True, True, True),
        (Failure("status", "busy", status=429), True, True, False),
        (Failure("status", "loading", status=503), True, True, True),
        (Failure("status", "", status=400), False, True, False),
        (Failure("status", "", status=401), False, True, False),
        (Failure("status", "", status=403), False, True, False),
        (Failure("status", "", status=404), False, True, False),
        (Failure("status", "", status=408), False, False, False),
        (Failure("status", "", status=409), False, False, False),
        (Failure("status", "", status=500), False, False, True),
        (Failure("status", "", status=502), False, False, True),
        (Failure("status", "", status=504), False, False, True),
        (Failure("redirect", "", status=307), False, True, True),
        (Failure("silent", "no byte"), False, False, True),
        (Failure("broken", "reset"), False, False, True),
        (Failure("broken", "reset", began=True), False, False, True),
        (Failure("format", "html", began=True), False, False, True),
        (Failure("error event", "out of memory", began=True), False, False, True),
        (Failure("status", "busy", began=True, status=503), False, False, True),
    ],
)
def test_what_is_sent_again(failure, again, spent_nothing, counts):
    assert (find_wait(failure, 1, 2) is not None) is again
    assert failure.untouched is spent_nothing
    assert failure.counts is counts
    error = build_error(BackendSpec("desk", "http://desk/v1"), failure, "big")
    assert isinstance(error, RemoteFailed) is not spent_nothing
    assert "desk" in error.what


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequest), (413, InvalidRequest), (422, InvalidRequest),
     (401, ModelUnavailable), (403, ModelUnavailable), (404, ModelUnavailable),
     (429, ModelUnavailable), (503, ModelUnavailable), (500, RemoteFailed)],
)  # fmt: skip
def test_each_status_is_an_error_of_its_own(status, error):
    spec = BackendSpec("desk", "http://desk/v1", key_env="DESK_KEY")
    found = build_error(spec, Failure("status", "no", status=status), "big")
    assert type(found) is error
    assert ("DESK_KEY" in found.fix) is (status in (401, 403))


def test_the_waits_grow_and_end():
    refused = Failure("unreachable", "")
    assert [find_wait(refused, tries, 3) for tries in (1, 2, 3, 4)] == [0.25, 0.5, 1.0, None]
    assert find_wait(refused, 1, 0) is None


@pytest.mark.parametrize(("asked", "wait"), [(3.0, 3.0), (0.0, 0.0), (3600.0, None)])
def test_the_server_says_how_long_to_wait(asked, wait):
    assert find_wait(Failure("status", "", status=429, retry_after=asked), 1, 2) == wait


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("5", 5.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        ("Wed, 25 Nov 2026 12:00:10 GMT", 10.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert parse_retry_after(value, now) == seconds


@given(st.text(max_size=40))
def test_any_header_is_read(value):
    found = parse_retry_after(value)
    assert found is None or found >= 0.0


@given(
    st.sampled_from(KINDS),
    st.booleans(),
    st.none() | st.integers(100, 599),
    st.integers(1, 20),
    st.integers(0, 10),
    st.none() | st.floats(0, 1e6),
)
def test_nothing_that_may_have_begun_is_ever_sent_again(kind, began, status, tries, retries, after):
    failure = Failure(kind, "", began, status, after)
    wait = find_wait(failure, tries, retries)
    if began or tries > retries or kind not in ("unreachable", "status"):
        assert wait is None
    if wait is not None:
        assert 0.0 <= wait <= LONGEST_WAIT_SECONDS
        assert kind == "unreachable" or status in (429, 503)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def build(clock: Clock) -> Circuit:
    return Circuit(clock, failures_to_open=3, open_seconds=30.0)


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        assert circuit.admit()
        circuit.fail()


def test_it_opens_after_failures_in_a_row_alone():
    circuit = build(Clock())
    fail(circuit, 2)
    circuit.succeed()
    fail(circuit, 2)
    assert circuit.lets_through
    fail(circuit, 1)
    assert not circuit.admit()
    assert not circuit.lets_through
    assert circuit.seconds_left == 30.0


def test_after_its_time_one_request_decides():
    clock = Clock()
    circuit = build(clock)
    fail(circuit, 3)
    clock.now += 30.0
    assert circuit.lets_through
    assert circuit.admit()
    assert not circuit.admit(), "only one at a time"
    circuit.fail()
    assert not circuit.lets_through
    assert circuit.seconds_left == 30.0
    clock.now += 30.0
    assert circuit.admit()
    circuit.succeed()
    assert circuit.admit()
    assert circuit.admit()


def test_a_cancelled_try_lets_the_next_one_through():
    clock = Clock()
    circuit = build(clock)
    fail(circuit, 3)
    clock.now += 31.0
    assert circuit.admit()
    circuit.release()
    assert circuit.admit()


@given(st.lists(st.sampled_from(["ask", "succeed", "fail", "release", "wait"]), max_size=40))
def test_it_never_lets_a_request_through_while_it_is_open(steps):
    clock = Clock()
    circuit = build(clock)
    running = failures = 0
    for step in steps:
        if step == "wait":
            clock.now += 11.0
        elif step == "ask":
            before = circuit.lets_through
            admitted = circuit.admit()
            assert admitted == before
            assert admitted or failures >= 3
            running += admitted
        elif running:
            running -= 1
            getattr(circuit, step)()
            failures = failures + 1 if step == "fail" else 0 if step == "succeed" else failures


CHAT = "/v1/chat/completions"
GOOD = Script(sse(delta("4", finish="stop"), usage(3, 1)))


@pytest.mark.parametrize(
    ("script", "error", "what"),
    [
        (Script(sse(delta("4"), done=False), truncated=True), RemoteFailed, "failed"),
        (Script(sse(delta("4"))), RemoteFailed, "ended in mid-answer"),
        (Script(sse(done=True)), RemoteFailed, "ended in mid-answer"),
        (Script([]), RemoteFailed, "ended in mid-answer"),
        (Script([STALL]), RemoteFailed, "silent for 0.5 s"),
        (Script([*sse(delta("4"), done=False), STALL]), RemoteFailed, "silent for 0.5 s"),
        (Script([b"<html>"], content_type="text/html"), RemoteFailed, "text/html"),
        (Script([b"{}"], content_type="application/json"), RemoteFailed, "application/json"),
        (Script([b"data: {nonsense}\n\n"]), RemoteFailed, "not JSON"),
        (Script([b"data: [1]\n\n"]), RemoteFailed, "not a JSON object"),
        (Script([b"data: \xff\n\n"]), RemoteFailed, "UTF-8"),
        (Script([b"data: " + b"x" * 200_000]), RemoteFailed, "longer than 100,000 bytes"),
        (
            Script(sse(delta("4"), {"error": {"message": "out of memory"}})),
            RemoteFailed,
            "out of memory",
        ),
        (
            Script(GOOD.parts, headers={"content-encoding": "gzip"}),
            RemoteFailed,
            "compressed",
        ),
        (document({"error": {"message": "boom"}}, 500), RemoteFailed, r"boom \(500\)"),
        (document({"error": "boom"}, 502), RemoteFailed, r"boom \(502\)"),
        (document({"error": {"message": "too long"}}, 400), InvalidRequest, "too long"),
        (document({"detail": "no"}, 401), ModelUnavailable, "refused the key"),
        (document({"error": {"message": "no"}}, 404), ModelUnavailable, "does not serve big"),
        (
            Script([], 307, headers={"location": "http://127.0.0.1:9/v1/chat/completions"}),
            ModelUnavailable,
            "redirects elsewhere",
        ),
        (Script([b"x" * 500_000], 400, "text/plain"), InvalidRequest, "Bad Request"),
    ],
)
def test_each_fault_is_said_and_nothing_is_sent_twice(stub, open_backend, script, error, what):
    stub.scripts[CHAT] = [script]
    backend = open_backend(silent_seconds=0.5 if STALL in script.parts else 60.0)
    with pytest.raises(EtuiError, match=what) as caught:
        list(backend.answer(ask()))
    assert type(caught.value) is error
    assert "desk" in caught.value.what
    assert len(stub.bodies(CHAT)) == 1


def test_the_next_answer_comes_after_every_fault(stub, open_backend):
    backend = open_backend(silent_seconds=1.0)
    for bad in (Script([b"data: {"]), Script([STALL])):
        stub.scripts[CHAT] = [bad, GOOD]
        with pytest.raises(RemoteFailed):
            list(backend.answer(ask()))
        assert finished(list(backend.answer(ask()))).answer == "4"


def test_a_missing_end_after_the_answer_is_forgiven(stub, open_backend):
    stub.scripts[CHAT] = [
        Script(sse(delta("4", finish="stop"), done=False), truncated=True),
        Script([*sse(delta("5", finish="stop"), done=False), STALL]),
        Script(sse(delta("6", finish="stop"), done=False)),
        Script([b'data: {"choices": [{"delta": {"content": "7"}, "finish_reason": "stop"}]}']),
    ]
    backend = open_backend(silent_seconds=1.0)
    assert [finished(list(backend.answer(ask()))).answer for _ in range(4)] == list("4567")


@pytest.mark.parametrize("counts", [(-3, -7), (True, 1.5), ("12", None), (10**15, 10**15)])
def test_impossible_usage_is_not_believed(stub, open_backend, counts):
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop"), usage(*counts)))]
    end = finished(list(open_backend().answer(ask())))
    assert end.output_tokens == 1
    assert "counted by pieces" in end.why
    assert "estimate" in end.why


def test_more_cached_than_prompt_is_cut(stub, open_backend):
    bad = usage(3, 1, prompt_tokens_details={"cached_tokens": 9})
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop"), bad))]
    assert finished(list(open_backend().answer(ask()))).cached_tokens == 3


def test_ollama_breaks_alike(stub, open_backend):
    backend = open_backend("ollama")
    for parts, what in (
        (lines({"message": {"content": "4"}, "done": False}), "mid-answer"),
        ([b"nonsense\n"], "not JSON"),
        (lines({"error": "model runner has crashed"}), "crashed"),
    ):
        stub.scripts["/api/chat"] = [Script(parts, content_type="application/x-ndjson")]
        with pytest.raises(RemoteFailed, match=what):
            list(backend.answer(ask()))


# -- retries ------------------------------------------------------------------


def busy(status: int, **headers: str) -> Script:
    return document({"error": {"message": "busy"}}, status, **headers)


def test_a_busy_server_is_asked_again_and_it_is_said(stub, open_backend, waits):
    stub.scripts[CHAT] = [busy(503, **{"retry-after": "3"}), busy(429), GOOD]
    end = finished(list(open_backend().answer(ask())))
    assert end.answer == "4"
    assert end.why == "3 tries: busy (429)"
    assert waits == [3.0, 0.5]
    assert len(stub.bodies(CHAT)) == 3


def test_a_busy_server_is_not_asked_for_ever(stub, open_backend, waits):
    stub.scripts[CHAT] = [busy(429)]
    with pytest.raises(ModelUnavailable, match=r"3 tries.*busy \(429\)"):
        list(open_backend(retries=2).answer(ask()))
    assert len(stub.bodies(CHAT)) == 3
    assert len(waits) == 2


def test_a_long_wait_is_not_waited_for(stub, open_backend, waits):
    stub.scripts[CHAT] = [busy(503, **{"retry-after": "3600"})]
    with pytest.raises(ModelUnavailable):
        list(open_backend().answer(ask()))
    assert waits == []


def test_a_machine_that_is_off_is_tried_again(open_backend, waits):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        backend = open_backend(url=url, retries=1)
        with pytest.raises(ModelUnavailable, match="2 tries") as caught:
            list(backend.answer(ask()))
    assert waits == [0.25]
    assert url in caught.value.fix


def test_a_backend_that_fails_again_and_again_is_left_alone(stub, open_backend):
    stub.scripts[CHAT] = [busy(500)]
    backend = open_backend()
    for _ in range(3):
        assert backend.is_available
        with pytest.raises(RemoteFailed):
            list(backend.answer(ask()))
    assert not backend.is_available
    with pytest.raises(ModelUnavailable, match="several times in a row"):
        list(backend.answer(ask()))
    assert len(stub.bodies(CHAT)) == 3


def test_a_refusal_is_no_failure_of_the_backend(stub, open_backend):
    stub.scripts[CHAT] = [busy(400)]
    backend = open_backend()
    for _ in range(5):
        with pytest.raises(InvalidRequest):
            list(backend.answer(ask()))
    assert backend.is_available


def test_no_text_of_a_server_is_trusted_with_its_length(stub, open_backend):
    stub.scripts[CHAT] = [Script([json.dumps({"error": "x" * 5_000}).encode()], 400)]
    with pytest.raises(InvalidRequest) as caught:
        list(open_backend().answer(ask()))
    assert len(caught.value.what) < 700


# -- what a server says, and what it must not learn ---------------------------


def test_an_answer_far_over_its_limit_is_cut_off(stub, open_backend):
    endless = [*sse(*[delta("x") for _ in range(200)], done=False), STALL]
    stub.scripts[CHAT] = [Script(endless)]
    backend = open_backend()
    end = finished(list(backend.answer(ask(arm=Arm("direct", "big@desk", max_tokens=10)))))
    assert end.status == "truncated"
    assert 10 <= end.output_tokens < 100
    voting = Arm("vote", "big@desk", "vote", think_tokens=0, votes=1, max_tokens=10)
    end = finished(list(backend.answer(ask(arm=voting))))
    assert 10 <= end.output_tokens < 100


def test_half_a_character_of_a_server_is_replaced(stub, open_backend):
    half = {"content": "a\ud83d b", "reasoning_content": "\udc00"}
    stub.scripts[CHAT] = [Script(sse({"choices": [{"delta": half, "finish_reason": "stop"}]}))]
    end = finished(list(open_backend().answer(ask())))
    assert end.answer == "a\ufffd b"
    assert end.thinking == "\ufffd"


def test_an_error_shows_neither_the_key_nor_control_characters(stub, open_backend):
    said = "\x1b[2J Incorrect API key: sk-desk-1234567890\x07"
    scripts = [document({"error": {"message": said}}, status) for status in (401, 400, 500)]
    lost = Script([f"data: {said}\n\n".encode()])
    stub.scripts[CHAT] = [*scripts, lost, Script(sse({"error": said}))]
    backend = open_backend(key_env="DESK", environ={"DESK": "sk-desk-1234567890"})
    for _ in range(5):
        backend.circuit.succeed()
        with pytest.raises(EtuiError, match="Incorrect API key: …") as caught:
            list(backend.answer(ask()))
        assert "sk-desk" not in str(caught.value)
        assert caught.value.what.isprintable()


@pytest.mark.parametrize("key", ["sk-desk\r\nX-Other: 1", "sk desk", "schlüssel-des-servers"])
def test_a_key_that_no_header_can_have_is_never_sent_nor_shown(stub, open_backend, key):
    backend = open_backend(key_env="DESK", environ={"DESK": key})
    with pytest.raises(ModelUnavailable, match="DESK has characters") as caught:
        list(backend.answer(ask()))
    assert key not in str(caught.value)
    assert "DESK" in backend.describe().problem
    assert stub.seen == []


def test_the_line_break_of_a_file_is_no_part_of_the_key(stub, open_backend):
    stub.scripts[CHAT] = [GOOD]
    list(open_backend(key_env="DESK", environ={"DESK": "sk-desk\n"}).answer(ask()))
    assert stub.seen[-1].headers["authorization"] == "Bearer sk-desk"


def test_endless_nesting_of_the_state_is_no_fault(stub, open_backend):
    stub.scripts["/slots"] = [Script([b"[" * 200_000], content_type="application/json")]
    assert open_backend("llama-server").running_requests() is None
