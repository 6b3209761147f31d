"""A server that speaks any dialect from a script, and can truncate, stall and lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT_SECONDS = 60.0


class Stall:
    """A part of a script: wait until the client leaves."""


STALL = Stall()


@dataclass(frozen=True)
class Script:
    """One response.

    ``parts`` are sent one by one; a truncated response drops the connection instead of ending it.
    """

    parts: Sequence[bytes | Stall] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Choose = Callable[[Seen], Script]


class Stub:
    """The server; ``scripts`` has the responses of each path in order, the last one repeats."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Script] | Choose] = {}
        self.seen: list[Seen] = []
        self.left = threading.Event()
        self.began = threading.Event()
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = LIMIT_SECONDS

            def do_GET(self) -> None:
                stub._respond(self, "GET")

            def do_POST(self) -> None:
                stub._respond(self, "POST")

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing: clients that leave are a part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def root(self) -> str:
        """Its URL, without ``/v1``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{self.root}/v1"

    def bodies(self, path: str) -> list[Any]:
        """Return the bodies of the requests to a path, in order."""
        return [seen.body for seen in self.seen if seen.path == path]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(LIMIT_SECONDS)

    def _respond(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        length = int(handler.headers.get("content-length") or 0)
        raw = handler.rfile.read(length)
        seen = Seen(method, handler.path, dict(handler.headers), json.loads(raw) if raw else None)
        with self._lock:
            self.seen.append(seen)
            found = self.scripts.get(handler.path)
            script: Script | None
            if found is None:
                script = Script([b"{}"], 404, "application/json")
            elif isinstance(found, list):
                script = found.pop(0) if len(found) > 1 else found[0]
            else:
                script = None
        if script is None:
            script = found(seen)  # type: ignore[operator,misc]  # without the lock: it may wait
        handler.send_response(script.status)
        for name, value in script.headers.items():
            handler.send_header(name, value)
        handler.send_header("content-type", script.content_type)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            for part in script.parts:
                if isinstance(part, Stall):
                    self.began.set()
                    with suppress(OSError):
                        handler.connection.recv(1)  # returns when the client leaves
                    self.left.set()
                    handler.close_connection = True
                    return
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                handler.wfile.flush()
            if script.truncated:
                handler.close_connection = True
                return
            handler.wfile.write(b"0\r\n\r\n")
            handler.wfile.flush()
        except OSError:
            self.left.set()


@contextmanager
def running_stub() -> Iterator[Stub]:
    """Run a stub."""
    stub = Stub()
    try:
        yield stub
    finally:
        stub.close()


def document(value: Any, status: int = 200, **headers: str) -> Script:
    """Build a response with one JSON document."""
    return Script([json.dumps(value).encode()], status, "application/json", headers)


def sse(*chunks: Any, done: bool = True) -> list[bytes]:
    """Build the events of a stream."""
    events = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks]
    return [*events, b"data: [DONE]\n\n"] if done else events


def lines(*documents: Any) -> list[bytes]:
    """Build a stream of one document a line."""
    return [json.dumps(one).encode() + b"\n" for one in documents]


def delta(
    text: str | None = None,
    *,
    index: int = 0,
    finish: str | None = None,
    logprobs: Any = None,
    **extra: Any,
) -> dict[str, Any]:
    """Build a chunk of a chat with one choice; ``extra`` are further keys of its delta."""
    found: dict[str, Any] = {} if text is None else {"content": text}
    choice = {"index": index, "delta": {**found, **extra}, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    return {"id": "chat-1", "choices": [choice]}


def usage(prompt: int, output: int, **more: Any) -> dict[str, Any]:
    """Build the chunk of the usage."""
    counted = {"prompt_tokens": prompt, "completion_tokens": output, **more}
    return {"id": "chat-1", "choices": [], "usage": counted}


def logprob(token: str, value: float, *top: tuple[str, float]) -> dict[str, Any]:
    """Build the entry of one token."""
    return {
        "token": token,
        "logprob": value,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in top],
    }
