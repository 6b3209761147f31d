"""Servers that truncate, stall, lie or redirect: each fault is said, and nothing is paid twice."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from etui.arm import Arm
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed
from tests.backends.remote.conftest import Open, ask, finished
from tests.backends.remote.stub import STALL, Script, Stub, delta, document, lines, sse, usage

CHAT = "/v1/chat/completions"
GOOD = Script(sse(delta("4", finish="stop"), usage(3, 1)))


@pytest.mark.parametrize(
    ("script", "error", "what"),
    [
        (Script(sse(delta("4"), done=False), truncated=True), RemoteFailed, "failed"),
        (Script(sse(delta("4"))), RemoteFailed, "ended in mid-answer"),
        (Script(sse(done=True)), RemoteFailed, "ended in mid-answer"),
        (Script([]), RemoteFailed, "ended in mid-answer"),
        (Script([STALL]), RemoteFailed, "silent for 0.2 s"),
        (Script([*sse(delta("4"), done=False), STALL]), RemoteFailed, "silent for 0.2 s"),
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
def test_each_fault_is_said_and_nothing_is_sent_twice(
    stub: Stub, open_backend: Open, script: Script, error: type[EtuiError], what: str
) -> None:
    stub.scripts[CHAT] = [script]
    with pytest.raises(EtuiError, match=what) as caught:
        list(open_backend(silent_seconds=0.2).answer(ask()))
    assert type(caught.value) is error
    assert "desk" in caught.value.what
    assert len(stub.bodies(CHAT)) == 1


def test_the_next_answer_comes_after_every_fault(stub: Stub, open_backend: Open) -> None:
    backend = open_backend(silent_seconds=0.2)
    for bad in (Script([b"data: {"]), Script([STALL])):
        stub.scripts[CHAT] = [bad, GOOD]
        with pytest.raises(RemoteFailed):
            list(backend.answer(ask()))
        assert finished(list(backend.answer(ask()))).answer == "4"


def test_a_missing_end_after_the_answer_is_forgiven(stub: Stub, open_backend: Open) -> None:
    stub.scripts[CHAT] = [
        Script(sse(delta("4", finish="stop"), done=False), truncated=True),
        Script([*sse(delta("5", finish="stop"), done=False), STALL]),
        Script(sse(delta("6", finish="stop"), done=False)),
        Script([b'data: {"choices": [{"delta": {"content": "7"}, "finish_reason": "stop"}]}']),
    ]
    backend = open_backend(silent_seconds=0.2)
    assert [finished(list(backend.answer(ask()))).answer for _ in range(4)] == list("4567")


@pytest.mark.parametrize("counts", [(-3, -7), (True, 1.5), ("12", None), (10**15, 10**15)])
def test_impossible_usage_is_not_believed(stub: Stub, open_backend: Open, counts: Any) -> None:
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop"), usage(*counts)))]
    end = finished(list(open_backend().answer(ask())))
    assert end.output_tokens == 1
    assert "counted by pieces" in end.why
    assert "estimate" in end.why


def test_more_cached_than_prompt_is_cut(stub: Stub, open_backend: Open) -> None:
    bad = usage(3, 1, prompt_tokens_details={"cached_tokens": 9})
    stub.scripts[CHAT] = [Script(sse(delta("4", finish="stop"), bad))]
    assert finished(list(open_backend().answer(ask()))).cached_tokens == 3


def test_ollama_breaks_alike(stub: Stub, open_backend: Open) -> None:
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


def test_a_busy_server_is_asked_again_and_it_is_said(
    stub: Stub, open_backend: Open, waits: list[float]
) -> None:
    stub.scripts[CHAT] = [busy(503, **{"retry-after": "3"}), busy(429), GOOD]
    end = finished(list(open_backend().answer(ask())))
    assert end.answer == "4"
    assert end.why == "3 tries: busy (429)"
    assert waits == [3.0, 0.5]
    assert len(stub.bodies(CHAT)) == 3


def test_a_busy_server_is_not_asked_for_ever(
    stub: Stub, open_backend: Open, waits: list[float]
) -> None:
    stub.scripts[CHAT] = [busy(429)]
    with pytest.raises(ModelUnavailable, match=r"3 tries.*busy \(429\)"):
        list(open_backend(retries=2).answer(ask()))
    assert len(stub.bodies(CHAT)) == 3
    assert len(waits) == 2


def test_a_long_wait_is_not_waited_for(stub: Stub, open_backend: Open, waits: list[float]) -> None:
    stub.scripts[CHAT] = [busy(503, **{"retry-after": "3600"})]
    with pytest.raises(ModelUnavailable):
        list(open_backend().answer(ask()))
    assert waits == []


def test_a_machine_that_is_off_is_tried_again(open_backend: Open, waits: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        backend = open_backend(url=url, retries=1)
        with pytest.raises(ModelUnavailable, match="2 tries") as caught:
            list(backend.answer(ask()))
    assert waits == [0.25]
    assert url in caught.value.fix


def test_a_backend_that_fails_again_and_again_is_left_alone(stub: Stub, open_backend: Open) -> None:
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


def test_a_refusal_is_no_failure_of_the_backend(stub: Stub, open_backend: Open) -> None:
    stub.scripts[CHAT] = [busy(400)]
    backend = open_backend()
    for _ in range(5):
        with pytest.raises(InvalidRequest):
            list(backend.answer(ask()))
    assert backend.is_available


def test_no_text_of_a_server_is_trusted_with_its_length(stub: Stub, open_backend: Open) -> None:
    stub.scripts[CHAT] = [Script([json.dumps({"error": "x" * 5_000}).encode()], 400)]
    with pytest.raises(InvalidRequest) as caught:
        list(open_backend().answer(ask()))
    assert len(caught.value.what) < 700


# -- what a server says, and what it must not learn ---------------------------


def test_an_answer_far_over_its_limit_is_cut_off(stub: Stub, open_backend: Open) -> None:
    endless = [*sse(*[delta("x") for _ in range(200)], done=False), STALL]
    stub.scripts[CHAT] = [Script(endless)]
    backend = open_backend()
    end = finished(list(backend.answer(ask(arm=Arm("direct", "big@desk", max_tokens=10)))))
    assert end.status == "truncated"
    assert 10 <= end.output_tokens < 100
    voting = Arm("vote", "big@desk", "vote", think_tokens=0, votes=1, max_tokens=10)
    end = finished(list(backend.answer(ask(arm=voting))))
    assert 10 <= end.output_tokens < 100


def test_half_a_character_of_a_server_is_replaced(stub: Stub, open_backend: Open) -> None:
    half = {"content": "a\ud83d b", "reasoning_content": "\udc00"}
    stub.scripts[CHAT] = [Script(sse({"choices": [{"delta": half, "finish_reason": "stop"}]}))]
    end = finished(list(open_backend().answer(ask())))
    assert end.answer == "a\ufffd b"
    assert end.thinking == "\ufffd"


def test_an_error_shows_neither_the_key_nor_control_characters(
    stub: Stub, open_backend: Open
) -> None:
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
def test_a_key_that_no_header_can_have_is_never_sent_nor_shown(
    stub: Stub, open_backend: Open, key: str
) -> None:
    backend = open_backend(key_env="DESK", environ={"DESK": key})
    with pytest.raises(ModelUnavailable, match="DESK has characters") as caught:
        list(backend.answer(ask()))
    assert key not in str(caught.value)
    assert "DESK" in backend.describe().problem
    assert stub.seen == []


def test_the_line_break_of_a_file_is_no_part_of_the_key(stub: Stub, open_backend: Open) -> None:
    stub.scripts[CHAT] = [GOOD]
    list(open_backend(key_env="DESK", environ={"DESK": "sk-desk\n"}).answer(ask()))
    assert stub.seen[-1].headers["authorization"] == "Bearer sk-desk"


def test_endless_nesting_of_the_state_is_no_fault(stub: Stub, open_backend: Open) -> None:
    stub.scripts["/slots"] = [Script([b"[" * 200_000], content_type="application/json")]
    assert open_backend("llama-server").running_requests() is None
