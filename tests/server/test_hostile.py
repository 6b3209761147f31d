"""Requests that must be refused with 4xx and leave the server answering: a table.

Most rows are what other servers got wrong: DNS rebinding and any Origin (Ollama, llama-server,
koboldcpp), gzip bombs and unbounded allocation (Ollama), negative sizes (llama-server), huge ``n``
and headers, free template variables, tool schemas, media by URL, keys compared byte by byte (vLLM).
"""

from __future__ import annotations

import gzip
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.server.fakes import DEADLINE_SECONDS, FakePool, Running, serving
from tests.server.raw import QUESTION, Reply, ask, build, exchange, read_reply

KEY = "a-key-of-the-laptop"

Build = Callable[[Running], bytes]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(FakePool(), header_seconds=60.0) as running:
        yield running


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []


def check(server: Running, reply: Reply, status: int, param: str | None = None) -> None:
    """Check a refusal, and that the next good request is answered."""
    assert reply.status == status, reply
    assert b"Traceback" not in reply.body
    assert b"etui/" not in reply.body
    if reply.headers["content-type"].startswith("application/json"):
        error = reply.error
        if isinstance(error, str):  # as Ollama's clients read it
            error = {"message": error, "type": "", "param": None, "code": None}
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        if param is not None:
            assert error["param"] == param
    assert exchange(server, ask(server)).status == 200


def raw(body: bytes) -> Build:
    return lambda server: build(server, body)


def changed(**changes: Any) -> Build:
    return lambda server: ask(server, **changes)


def text(fields: str) -> Build:
    """A request with fields that a JSON encoder would not write."""
    question = json.dumps(QUESTION)[1:]
    return raw(f"{{{fields},{question}".encode())


def with_headers(**headers: str | None) -> Build:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda server: build(server, json.dumps(QUESTION).encode(), headers=named)


def host(value: str | None) -> Build:
    def make(server: Running) -> bytes:
        given = None if value is None else value.replace("PORT", str(server.port))
        return build(server, json.dumps(QUESTION).encode(), headers={"Host": given})

    return make


def message(content: Any, **more: Any) -> Build:
    return changed(messages=[{"role": "user", "content": content, **more}])


def nested(depth: int) -> Any:
    value: Any = "leaf"
    for _ in range(depth):
        value = {"items": value}
    return value


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", **function}}


def form(**inner: Any) -> Build:
    return changed(response_format={"type": "json_schema", "json_schema": inner})


def kwargs(**given: Any) -> Build:
    return changed(chat_template_kwargs=given)


def tools(*given: Any) -> Build:
    return changed(tools=given)


def part(kind: str, **more: Any) -> Build:
    return message([{"type": kind, **more}])


DATA = "data:image/png;base64,AA=="
LOCAL = "http://169.254.169.254/latest"
SCHEMA = "response_format.json_schema.schema"
PART = "messages[0].content[0]"
NAME = "tools[0].function.name"
THINKS = "chat_template_kwargs.enable_thinking"

HOSTS = {
    "another name that resolves to this machine": "rebound.example:PORT",
    "our address as the begin of a name": "127.0.0.1.evil.com:PORT",
    "a trailing dot": "localhost.:PORT",
    "another port": "127.0.0.1:1",
    "no port": "127.0.0.1",
    "a local name": "box.local:PORT",
    "a private address": "192.168.0.1:PORT",
    "the address of all": "0.0.0.0:PORT",
    "a user before it": "user@127.0.0.1:PORT",
    "an unclosed address": "[::1:PORT",
    "empty": "",
}


@pytest.mark.parametrize("value", HOSTS.values(), ids=HOSTS.keys())
def test_another_host_is_refused(server: Running, value: str) -> None:
    check(server, exchange(server, host(value)(server)), 403)


@pytest.mark.parametrize("value", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_our_own_host_is_answered(server: Running, value: str) -> None:
    assert exchange(server, host(f"{value}:PORT")(server)).status == 200


def test_no_host_is_refused(server: Running) -> None:
    check(server, exchange(server, host(None)(server)), 400)
    old = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n\r\n"
    check(server, exchange(server, old), 403)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://127.0.0.1:PORT",
        "http://127.0.0.1:1",
        "http://127.0.0.1",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:PORT.evil.example",
        "",
    ],
)
def test_another_page_is_refused(server: Running, origin: str) -> None:
    request = with_headers(Origin=origin.replace("PORT", str(server.port)))(server)
    reply = exchange(server, request)
    check(server, reply, 403)
    assert json.loads(reply.body)["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in reply.headers


def test_no_page_may_ask_by_a_preflight(server: Running) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    reply = exchange(server, build(server, method="OPTIONS", headers=headers))
    check(server, reply, 403)
    assert "access-control-allow-origin" not in reply.headers


HEADERS: dict[str, tuple[Build, int]] = {
    "a form": (with_headers(Content_Type="application/x-www-form-urlencoded"), 415),
    "plain text, as a page may send": (with_headers(Content_Type="text/plain"), 415),
    "no type": (with_headers(Content_Type=None), 415),
    "several parts": (with_headers(Content_Type="multipart/form-data; boundary=a"), 415),
    "another encoding": (with_headers(Content_Type="application/json; charset=utf-16"), 415),
    "json in the type of a form": (with_headers(Content_Type="text/plain; application/json"), 415),
    "an unknown encoding": (with_headers(Content_Encoding="br"), 415),
    "two hosts": (
        lambda server: build(server, method="GET", path="/v1/models").replace(
            b"Connection", b"Host: evil.example\r\nConnection"
        ),
        400,
    ),
    "two keys": (
        lambda server: ask(server).replace(
            b"Connection", b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\nConnection", 1
        ),
        400,
    ),
    "two lengths": (
        lambda server: ask(server).replace(b"Connection", b"Content-Length: 1\r\nConnection", 1),
        400,
    ),
    "a negative length": (with_headers(Content_Length="-1"), 400),
    "a length in words": (with_headers(Content_Length="many"), 400),
    "a length of 30 digits": (with_headers(Content_Length="9" * 19), 413),
    "a line break in a header": (with_headers(X_A="a\r\n b\x00"), 400),
    "a header without a name": (
        lambda server: ask(server).replace(b"Connection", b": empty\r\nConnection", 1),
        400,
    ),
    "a space before the colon": (
        lambda server: ask(server).replace(b"Connection:", b"X-A : 1\r\nConnection:", 1),
        400,
    ),
    "300 headers": (
        lambda server: ask(server).replace(
            b"Connection", b"".join(b"X-%d: 1\r\n" % i for i in range(300)) + b"Connection", 1
        ),
        431,
    ),
    "a header of 40 KiB": (with_headers(X_A="a" * 40 * 1024), 431),
    "a header of 1 MiB": (with_headers(X_A="a" * 2**20), 400),
    "a path of 1 MiB": (
        lambda server: build(server, method="GET", path="/" + "a" * 2**20),
        400,
    ),
    "a body of a GET": (
        lambda server: build(server, b"{}", method="GET", headers={"Content-Length": "2"}),
        400,
    ),
    "an unknown method": (lambda server: build(server, b"{}", method="BREW"), 415),
    "another method": (lambda server: build(server, method="GET"), 405),
    "no HTTP": (lambda server: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600, 400),
    "HTTP/2 without asking": (lambda server: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a version of HTTP": (lambda server: ask(server).replace(b"HTTP/1.1", b"HTTP/9.9", 1), 400),
    "a websocket": (
        lambda server: build(
            server, method="GET", headers={"Connection": "Upgrade", "Upgrade": "websocket"}
        ),
        405,
    ),
}


@pytest.mark.parametrize(("make", "status"), HEADERS.values(), ids=HEADERS.keys())
def test_bad_headers_are_refused(server: Running, make: Build, status: int) -> None:
    check(server, exchange(server, make(server)), status)


def test_a_gzip_bomb_is_never_unpacked(server: Running) -> None:
    bomb = gzip.compress(b"0" * 10 * 2**20)
    check(server, exchange(server, build(server, bomb, headers={"Content-Encoding": "gzip"})), 415)


def test_a_body_over_the_limit_is_refused_before_and_while_it_is_read() -> None:
    with serving(body_limit_bytes=1000) as server:
        check(server, exchange(server, build(server, b" " * 2000)), 413)
        huge = b"7d0\r\n" + b" " * 2000 + b"\r\n0\r\n\r\n"
        chunked = {"Transfer-Encoding": "chunked", "Content-Length": None}
        check(server, exchange(server, build(server, huge, headers=chunked)), 413)
        endless = {"Content-Length": str(2**40)}
        check(server, exchange(server, build(server, b" ", headers=endless)), 413)


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-5\r\n{}\r\n0\r\n\r\n",
        b"ffffffffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}too long\r\n0\r\n\r\n",
    ],
    ids=["no number", "negative", "24 digits", "a wrong length"],
)
def test_chunks_that_lie_are_refused(server: Running, chunks: bytes) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None}
    with server.connect() as client:
        client.sendall(build(server, chunks, headers=headers))
        reply = read_reply(client)
    assert reply.status in (0, 400)
    assert exchange(server, ask(server)).status == 200


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize("length", ["5", "0", "whole"])
def test_a_length_and_chunks_together_are_refused(server: Running, length: str) -> None:
    body = chunked(json.dumps(QUESTION).encode())
    given = str(len(body)) if length == "whole" else length
    headers = {"Transfer-Encoding": "chunked", "Content-Length": given}
    check(server, exchange(server, build(server, body, headers=headers)), 400)


def test_chunks_of_an_old_version_are_refused(server: Running) -> None:
    headers = {"Transfer-Encoding": "chunked", "Content-Length": None}
    request = build(server, chunked(json.dumps(QUESTION).encode()), headers=headers)
    assert exchange(server, request).status == 200
    check(server, exchange(server, request.replace(b"HTTP/1.1", b"HTTP/1.0", 1)), 400)


def flood(client: socket.socket, request: bytes) -> None:
    while True:
        client.sendall(request)


def test_a_client_that_reads_no_answer_is_cut_off() -> None:
    with serving(stall_seconds=0.05) as server:
        path = "/" + 8000 * "a"  # the answer quotes it
        request = build(server, method="GET", path=path, headers={"Connection": None})
        with socket.socket() as deaf:
            # Before it connects: a window that shrinks later can stop both directions for good.
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(DEADLINE_SECONDS)
            deaf.connect(("127.0.0.1", server.port))
            with pytest.raises(ConnectionError):
                flood(deaf, request)
        assert exchange(server, ask(server)).status == 200


def test_headers_that_never_end_are_cut_off() -> None:
    with serving(header_seconds=0.3) as server:
        with server.connect() as slow, server.connect() as silent:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
            assert read_reply(slow).status == 400
            assert read_reply(silent).status == 400
        assert exchange(server, ask(server)).status == 200


def test_headers_that_begin_behind_a_request_are_cut_off_too() -> None:
    with serving(header_seconds=0.3) as server:
        first = build(server, method="GET", path="/health", headers={"Connection": None})
        with server.connect() as slow:
            slow.sendall(first + b"GET /health HTTP/1.1\r\nHost: a")
            answers = b"".join(iter(lambda: slow.recv(65536), b""))
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert answers.count(b"HTTP/1.1 400 ") == 1
        assert exchange(server, ask(server)).status == 200


def test_a_body_that_never_ends_is_cut_off() -> None:
    with serving(body_seconds=0.3) as server:
        with server.connect() as slow:
            slow.sendall(build(server, b"{", headers={"Content-Length": "100"}))
            assert read_reply(slow).status == 408
        assert exchange(server, ask(server)).status == 200


def test_more_connections_than_allowed_are_refused() -> None:
    with (
        serving(max_connections=2) as server,
        server.connect() as first,
        server.connect() as second,
    ):
        with server.connect() as third:
            reply = read_reply(third)
        assert (reply.status, reply.error["code"]) == (503, "too_many_connections")
        for client in (second, first):
            client.sendall(ask(server))
            assert read_reply(client).status == 200


def test_far_more_connections_than_allowed_are_closed_at_once() -> None:
    with serving(max_connections=1) as server, ExitStack() as opened, server.connect() as first:
        first.sendall(ask(server)[:10])  # it holds the one connection, whose headers are not whole
        for _ in range(64):
            refused = opened.enter_context(server.connect())
            assert read_reply(refused).status == 503
        with server.connect() as another, suppress(ConnectionError):
            assert another.recv(1) == b""
        first.sendall(ask(server)[10:])
        assert read_reply(first).status == 200


def test_a_client_that_leaves_within_its_body_is_no_fault(server: Running) -> None:
    with server.connect() as client:
        client.sendall(build(server, b"{", headers={"Content-Length": "100"}))
    assert exchange(server, ask(server)).status == 200


def test_a_body_behind_a_refusal_does_not_hold_the_connection() -> None:
    with serving(header_seconds=0.3) as server:
        with server.connect() as client:
            headers = {"Content-Length": "1000000", "Connection": None}
            client.sendall(build(server, b"{", path="/nowhere", headers=headers))
            assert read_reply(client).status == 404
            assert client.recv(1) == b""
        assert exchange(server, ask(server)).status == 200


BODIES: dict[str, tuple[Build, str | None]] = {
    "nothing": (raw(b""), None),
    "no JSON": (raw(b"hello"), None),
    "a million empty values": (raw(b'{"messages":[' + b"[]," * 1_000_000 + b"[]]}"), None),
    "a million empty objects": (raw(b'{"messages":[' + b"{}," * 1_000_000 + b"{}]}"), None),
    "20,000 keys": (raw(json.dumps({f"k{n}": n for n in range(20_000)}).encode()), None),
    "an open text of escapes": (raw(b'{"' + b'\\"' * 1_000_000), None),
    "a name of a megabyte": (raw(b'{"' + b"\\u0001" * 200_000 + b'":1}'), None),
    "half of JSON": (raw(b'{"model":'), None),
    "something behind it": (raw(b"{}{}"), None),
    "a list": (raw(b"[]"), None),
    "null": (raw(b"null"), None),
    "bad UTF-8": (raw(b'{"model":"\xff\xfe"}'), None),
    "UTF-16": (raw(json.dumps(QUESTION).encode("utf-16")), None),
    "a byte order mark": (raw(b"\xef\xbb\xbf" + json.dumps(QUESTION).encode()), None),
    "half a surrogate pair": (message("\ud800"), None),
    "half a pair as a key": (text('"\\ud800":1'), None),
    "a control character": (raw(b'{"model":"\x00"}'), None),
    "NaN": (text('"temperature":NaN'), None),
    "infinity": (text('"temperature":-Infinity'), None),
    "a number beyond floats": (text('"temperature":1e999'), None),
    "an int of 5000 digits": (text(f'"seed":{"9" * 5000}'), None),
    "an int of 21 digits": (text(f'"seed":{"9" * 21}'), None),
    "a key twice": (text('"model":"small"'), "model"),
    "100,000 arrays": (text('"tools":' + "[" * 100_000), None),
    "100 levels": (changed(tools=[nested(100)]), None),
    "40 levels of a schema": (form(name="a", schema=nested(40)), SCHEMA),
    "40 levels of a tool": (changed(tools=[tool(parameters=nested(40))]), "tools"),
    "a schema elsewhere": (form(schema={"$ref": "https://evil.example/a.json"}), SCHEMA),
    "a schema of 1 MiB": (form(schema={"enum": ["a" * 2**20]}), SCHEMA),
    "no schema": (changed(response_format={"type": "json_schema"}), SCHEMA),
    "an unknown format": (changed(response_format={"type": "xml"}), "response_format.type"),
    "no messages": (changed(messages=[]), "messages"),
    "messages as a text": (changed(messages="hello"), "messages"),
    "only a system message": (changed(messages=[{"role": "system", "content": "a"}]), "messages"),
    "an unknown role": (changed(messages=[{"role": "god", "content": "a"}]), "messages[0].role"),
    "no role": (changed(messages=[{"content": "a"}]), "messages[0].role"),
    "no content": (message(None), "messages[0].content"),
    "a number as content": (message(5), "messages[0].content"),
    "3,000 messages": (changed(messages=[{"role": "user", "content": "a"}] * 3000), "messages"),
    "an image by URL": (part("image_url", image_url={"url": LOCAL}), PART),
    "an image in the message": (
        part("image_url", image_url={"url": "data:image/png;base64,AA=="}),
        PART,
    ),
    "sound": (part("input_audio", input_audio={"data": "", "format": "wav"}), PART),
    "a file": (part("file", file={"file_id": "../../etc/passwd"}), PART),
    "a part without a type": (message([{"text": "a"}]), PART),
    "a part that is no object": (message(["a"]), PART),
    "a text part without text": (message([{"type": "text"}]), "messages[0].content[0].text"),
    "calls of a user": (
        message("a", tool_calls=[{"id": "a", "function": {"name": "b", "arguments": "{}"}}]),
        "messages[0].tool_calls",
    ),
    "a result without a call": (
        changed(
            messages=[*QUESTION["messages"], {"role": "tool", "tool_call_id": "x", "content": "b"}]
        ),
        "messages[1].tool_call_id",
    ),
    "a temperature below 0": (changed(temperature=-0.1), "temperature"),
    "a temperature of 100": (changed(temperature=100), "temperature"),
    "a temperature as a text": (changed(temperature="hot"), "temperature"),
    "a temperature of true": (changed(temperature=True), "temperature"),
    "top_p above 1": (changed(top_p=1.5), "top_p"),
    "top_p below 0": (changed(top_p=-1), "top_p"),
    "a negative limit": (changed(max_tokens=-2), "max_tokens"),
    "a limit of 0": (changed(max_completion_tokens=0), "max_completion_tokens"),
    "a limit of 2**40": (changed(max_tokens=2**40), "max_tokens"),
    "half a token": (changed(max_tokens=1.5), "max_tokens"),
    "a seed beyond 64 bits": (changed(seed=2**63), "seed"),
    "a seed that is no integer": (changed(seed=0.5), "seed"),
    "n of 0": (changed(n=0), "n"),
    "n of -1": (changed(n=-1), "n"),
    "n of 9": (changed(n=9), "n"),
    "a huge n": (changed(n=2**31), "n"),
    "n of true": (changed(n=True), "n"),
    "33 stop strings": (changed(stop=["a"] * 33), "stop"),
    "100,000 stop strings": (changed(stop=["a"] * 100_000), "stop"),
    "a stop string of 1 MiB": (changed(stop=["a" * 2**20]), "stop[0]"),
    "a stop that is no text": (changed(stop=[5]), "stop[0]"),
    "21 alternatives": (changed(logprobs=True, top_logprobs=21), "top_logprobs"),
    "-1 alternatives": (changed(logprobs=True, top_logprobs=-1), "top_logprobs"),
    "alternatives without logprobs": (changed(top_logprobs=2), "top_logprobs"),
    "a frequency penalty above 2": (changed(frequency_penalty=2.5), "frequency_penalty"),
    "a repeat penalty of 0": (changed(repeat_penalty=0), "repeat_penalty"),
    "a presence penalty above 2": (changed(presence_penalty=2.5), "presence_penalty"),
    "a presence penalty below -2": (changed(presence_penalty=-2.1), "presence_penalty"),
    "a bias that is a text": (changed(logit_bias={"50256": "-100"}), "logit_bias"),
    "a bias of a negative token": (changed(logit_bias=[[-1, 1]]), "logit_bias"),
    "a bias of token 2**31": (changed(logit_bias={"2147483648": 1}), "logit_bias"),
    "a bias of 10,000 digits": (changed(logit_bias={"1" * 10_000: 1}), "logit_bias"),
    "biases that are a number": (changed(logit_bias=5), "logit_bias"),
    "biases without a bias": (changed(logit_bias=[[1]]), "logit_bias"),
    "2,000 biases": (changed(logit_bias=[[1, 1]] * 2_000), "logit_bias"),
    "audio": (changed(modalities=["text", "audio"]), "modalities"),
    "old functions": (changed(functions=[{"name": "a"}]), "functions"),
    "a grammar": (changed(grammar="root ::= root"), "grammar"),
    "a template": (changed(chat_template="{{ 7*7 }}"), "chat_template"),
    "thinking as a text": (kwargs(enable_thinking="yes"), THINKS),
    "thinking against the effort": (
        changed(chat_template_kwargs={"enable_thinking": True}, reasoning_effort="none"),
        THINKS,
    ),
    "an unknown effort": (changed(reasoning_effort="extreme"), "reasoning_effort"),
    "200 tools": (changed(tools=[tool()] * 200), "tools"),
    "the same tool twice": (changed(tools=[tool(), tool()]), "tools[1].function.name"),
    "a tool with a path as its name": (changed(tools=[tool(name="../../bin/sh")]), NAME),
    "a tool with a line break": (changed(tools=[tool(name="a\nb")]), NAME),
    "a line break behind a tool": (changed(tools=[tool(name="a\n")]), NAME),
    "a tool of another type": (changed(tools=[{"type": "web_search"}]), "tools[0].type"),
    "a tool's schema as a list": (tools(tool(parameters=[])), "tools[0].function.parameters"),
    "the choice of no tool": (
        changed(tools=[tool()], tool_choice={"type": "function", "function": {"name": "other"}}),
        "tool_choice.function.name",
    ),
    "a required tool without any": (changed(tool_choice="required"), "tool_choice"),
    "a choice that is a number": (changed(tool_choice=5), "tool_choice"),
    "a stream that is a text": (changed(stream="yes"), "stream"),
    "options that are a text": (changed(stream=True, stream_options="a"), "stream_options"),
    "a model that is a number": (changed(model=5), "model"),
    "a model of 1,000 characters": (changed(model="a" * 1000), "model"),
}


@pytest.mark.parametrize(("make", "param"), BODIES.values(), ids=BODIES.keys())
def test_bad_bodies_are_refused(server: Running, make: Build, param: str | None) -> None:
    turns = len(server.pool.turns)
    reply = exchange(server, make(server))
    assert len(server.pool.turns) == turns, "it has reached the pool"
    check(server, reply, 400, param)


PROMPTS: dict[str, Any] = {
    "empty": "",
    "a number": 5,
    "no tokens": [],
    "129 prompts": ["a"] * 129,
    "an empty one among several": ["a", ""],
    "an empty list among several": [[1], []],
    "a negative token": [1, -1],
    "a token of 2**31": [2**31],
    "a token that is no integer": [1.5],
    "a token of true": [True],
    "300,000 tokens": [1] * 300_000,
    "mixed": [1, "a"],
    "nested": [[[1]]],
    "an object": {"text": "a"},
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_bad_prompts_are_refused(server: Running, prompt: Any) -> None:
    body = json.dumps({"model": "small", "prompt": prompt}).encode()
    reply = exchange(server, build(server, body, path="/v1/completions"))
    check(server, reply, 400)
    assert reply.error["param"].startswith("prompt")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 9}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"echo": True, "suffix": "a"}, "echo"),
        ({"prompt": [1], "suffix": "a"}, "prompt"),
        ({"max_tokens": 0, "n": 2}, "n"),
        ({"max_tokens": -2}, "max_tokens"),
    ],
)
def test_what_completions_do_not_do_is_refused(
    server: Running, changes: dict[str, Any], param: str
) -> None:
    body = json.dumps({"model": "small", "prompt": "a", **changes}).encode()
    reply = exchange(server, build(server, body, path="/v1/completions"))
    check(server, reply, 400, param)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../../etc/passwd",
            "/etc/passwd",
            "..\\..\\windows",
            "small/../../x",
            "file:///etc/passwd",
        ),
        *(
            "http://evil.example/model.gguf",
            "small\x00.gguf",
            "~/x",
            "$(id)",
            "{{ 7*7 }}",
            "smal",
            "balanced/unknown",
        ),
    ],
)
def test_a_model_is_looked_up_and_never_a_path(server: Running, name: str) -> None:
    reply = exchange(server, ask(server, model=name))
    check(server, reply, 404, "model")
    assert reply.error["code"] == "model_not_found"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1",
            "/v1/chat/completions/",
            "/v1/chat/completions/../../../etc/passwd",
            "/v1/chat/%2e%2e/%2e%2e/etc/passwd",
        ),
        *(
            "//v1/chat/completions",
            "/api/pull",
            "/api/create",
            "/v1/files",
            "/v1/chat/completions%00",
            "http://evil.example/v1/chat/completions",
        ),
    ],
)
def test_other_paths_do_not_exist(server: Running, path: str) -> None:
    request = build(server, json.dumps(QUESTION).encode(), path=path)
    check(server, exchange(server, request), 404)


KEYS: dict[str, str | None] = {
    "none": None,
    "empty": "Bearer ",
    "another": "Bearer another-key-of-nobody",
    "a part": f"Bearer {KEY[:-1]}",
    "more": f"Bearer {KEY}x",
    "another case": f"Bearer {KEY.upper()}",
    "another scheme": f"Basic {KEY}",
    "without a scheme": KEY,
    "the name": "Bearer laptop",
    "not ASCII": "Bearer ü",
    "several": f"Bearer {KEY}, {KEY}",
}


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with serving(FakePool(), keys={"laptop": KEY}) as running:
        yield running


@pytest.mark.parametrize("given", KEYS.values(), ids=KEYS.keys())
def test_a_wrong_key_is_refused(
    locked: Running, given: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    request = with_headers(Authorization=given)(locked)
    reply = exchange(locked, request)
    assert reply.status == 401
    assert reply.error["code"] == "invalid_api_key"
    assert KEY not in reply.body.decode() + caplog.text
    good = with_headers(Authorization=f"bearer {KEY}")(locked)
    assert exchange(locked, good).status == 200


def test_the_host_is_refused_before_the_key_is_looked_at(locked: Running) -> None:
    headers = {"Host": "rebound.example", "Authorization": f"Bearer {KEY}"}
    assert exchange(locked, build(locked, b"{}", headers=headers)).status == 403


def test_a_named_page_is_answered_and_may_ask_before() -> None:
    page = "https://chat.example"
    with serving(FakePool(), origins=(page,), keys={"laptop": KEY}) as server:
        asked = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        }
        preflight = exchange(server, build(server, method="OPTIONS", headers=asked))
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == page
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert (
            preflight.headers["access-control-allow-headers"]
            == asked["Access-Control-Request-Headers"]
        )
        good = with_headers(Origin=page, Authorization=f"Bearer {KEY}")(server)
        reply = exchange(server, good)
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == page
        assert reply.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in reply.headers
        other = with_headers(Origin="https://evil.example", Authorization=f"Bearer {KEY}")(server)
        assert exchange(server, other).status == 403
        without_key = with_headers(Origin=page)(server)
        refused = exchange(server, without_key)
        assert refused.status == 401
        assert refused.headers["access-control-allow-origin"] == page


def test_a_named_host_is_answered_as_a_proxy_passes_it_on() -> None:
    with serving(FakePool(), allow_hosts=("etui.example",)) as server:
        for name in ("etui.example", f"etui.example:{server.port}", "ETUI.example"):
            assert exchange(server, host(name)(server)).status == 200
        assert exchange(server, host("www.etui.example")(server)).status == 403


def test_forwarded_headers_change_nothing(server: Running) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": f"127.0.0.1:{server.port}"}
    check(server, exchange(server, build(server, b"{}", headers=headers)), 403)
