"""Servers that the benchmark of ``etui serve`` compares, and a client that takes the times.

The client reads raw lines from a socket: the parsing of a real client would take the same CPU from
both sides, and more of it than the servers need.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_SECONDS = 120.0
ANSWER_SECONDS = 600.0
POLL_SECONDS = 0.05
LONG_TOKENS = 1500


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer as it arrived.

    Attributes:
        first_seconds: From the request to the first text.
        last_seconds: From the request to the last text.
        end_seconds: From the request to the end of the stream.
        tokens: Output tokens by the server's usage; else the number of chunks with text.
        text: The answer.
        energy: The energy document; None from other servers.
    """

    first_seconds: float
    last_seconds: float
    end_seconds: float
    tokens: int
    text: str
    energy: dict[str, Any] | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first one in a second."""
        return (self.tokens - 1) / (self.last_seconds - self.first_seconds)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        port: Its port on loopback.
        model: The model id that requests name.
        pid: Its process.
        home: Its ETUI_HOME; None for other servers.
    """

    port: int
    model: str
    pid: int
    home: Path | None = None

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection, which several requests may use one after another."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        connection.connect()
        return connection

    def stream(
        self,
        messages: Sequence[dict[str, str]] | str,
        tokens: int,
        connection: http.client.HTTPConnection | None = None,
    ) -> Streamed:
        """Ask for a streamed answer, greedy, and take the times.

        Args:
            messages: The conversation; a text is continued without a chat template.
            tokens: Most tokens of the answer.
            connection: A connection that is open already, as clients keep one; None opens one.
        """
        body = {
            "model": self.model,
            **({"prompt": messages} if isinstance(messages, str) else {"messages": list(messages)}),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        path = "/v1/completions" if isinstance(messages, str) else "/v1/chat/completions"
        if connection is None:
            with closing(self.connect()) as own:
                return self.stream(messages, tokens, own)
        start = time.perf_counter()
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read(2000)!r}")
        return _read_stream(response, start)

    def leave(self, messages: Sequence[dict[str, str]], pieces: int) -> None:
        """Ask for a long streamed answer, and close the connection after some pieces of text."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": LONG_TOKENS,
            "temperature": 0,
            "stream": True,
        }
        with closing(self.connect()) as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            while pieces and (line := response.readline()):
                pieces -= b'"content"' in line
            response.close()


def _read_stream(response: http.client.HTTPResponse, start: float) -> Streamed:
    first = last = None
    parts: list[str] = []
    chunks, tokens, energy = 0, None, None
    while line := response.readline():
        now = time.perf_counter() - start
        if line.startswith(b": energy "):
            energy = json.loads(line[len(b": energy ") :])
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise RuntimeError(f"the server sent an error: {chunk['error']}")
        if usage := chunk.get("usage"):
            tokens = usage["completion_tokens"]
        for choice in chunk.get("choices") or ():
            if text := choice.get("text") or choice.get("delta", {}).get("content"):
                parts.append(text)
                chunks += 1
                first = now if first is None else first
                last = now
    if first is None or last is None:
        raise RuntimeError("the answer has no text")
    end = time.perf_counter() - start
    return Streamed(first, last, end, tokens or chunks, "".join(parts), energy)


def ask_together(
    server: Server, requests: Sequence[Sequence[dict[str, str]] | str], tokens: int
) -> Any:
    """Send requests at the same time, each from a thread of its own.

    Returns:
        The seconds from the first request to the end of the last answer, and the answers.
    """
    answers: list[Streamed | BaseException | None] = [None] * len(requests)
    barrier = threading.Barrier(len(requests) + 1)

    def ask(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = server.stream(requests[index], tokens)
        except BaseException as error:  # noqa: BLE001 - raised again below
            answers[index] = error

    threads = [threading.Thread(target=ask, args=[i]) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return seconds, answers


def ask_many(server: Server, requests: int, at_once: int, tokens: int) -> int:
    """Send many short requests on a few kept connections; return how many were answered.

    Args:
        server: The server.
        requests: Number of requests.
        at_once: Number of connections, each of which waits for its answer.
        tokens: Tokens of each answer.
    """
    left, answered = iter(range(requests)), []
    lock = threading.Lock()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_SECONDS)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                connection.close()
                return
            body = {
                "model": server.model,
                "messages": [{"role": "user", "content": f"Request {number}"}],
                "max_tokens": tokens,
            }
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            document = json.loads(response.read())
            if response.status == 200 and document["usage"]["completion_tokens"] == tokens:
                answered.append(number)

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answered)


def find_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, path: str, model: str, **env: str
) -> Iterator[Server]:
    """Run a server until the block ends; wait until it answers ``path``.

    Raises:
        RuntimeError: It ended, or did not answer in time.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(list(command), stdout=log, stderr=log, env={**os.environ, **env})
        try:
            _wait_until_ready(process, port, path, log)
            yield Server(port, model, process.pid)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, path: str, log: Any) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            finally:
                connection.close()
        time.sleep(POLL_SECONDS)
    log.seek(0)
    tail = log.read()[-3000:].decode("utf-8", "replace")
    raise RuntimeError(f"the server is not ready (exit code {process.poll()}):\n{tail}")


@contextmanager
def etui_server(home: Path, model: str, *options: str) -> Iterator[Server]:
    """Run ``etui serve`` with a folder of its own."""
    port = find_port()
    command = [sys.executable, "-m", "etui", "serve", "--quiet", "--port", str(port)]
    command += ["--model", model, *options]
    with running(command, port, "/health", model, ETUI_HOME=str(home)) as server:
        yield server


@contextmanager
def llama_cpp_server(path: Path, threads: int, context_tokens: int) -> Iterator[Server]:
    """Run the server of llama-cpp-python; a request does not interrupt the one before."""
    port = find_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", str(context_tokens)]
    command += ["--n_threads", str(threads), "--n_threads_batch", str(threads)]
    command += ["--interrupt_requests", "false"]
    with running(command, port, "/v1/models", path.stem) as server:
        yield server


@contextmanager
def llama_server(
    binary: Path, path: Path, threads: int, context_tokens: int, parallel: int
) -> Iterator[Server]:
    """Run llama.cpp's own server; its context is shared by all requests, as etui's is."""
    port = find_port()
    command = [str(binary), "-m", str(path), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-c", str(context_tokens), "-t", str(threads), "-tb", str(threads)]
    command += ["-np", str(parallel), "--kv-unified", "--no-webui"]
    with running(command, port, "/health", path.stem) as server:
        yield server
