"""HTTP by hand over a socket, for requests that no client library would send."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.server.fakes import Running

CHAT = "/v1/chat/completions"
QUESTION: dict[str, Any] = {
    "model": "small",
    "messages": [{"role": "user", "content": "Which planet is red?"}],
}


@dataclass(frozen=True)
class Reply:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


def build(
    server: Running,
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = CHAT,
    headers: dict[str, str | None] | None = None,
) -> bytes:
    """Build a request; a header of None is left out."""
    usual: dict[str, str | None] = {
        "Host": f"127.0.0.1:{server.port}",
        "Connection": "close",
    }
    if method == "POST":
        usual |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in (usual | (headers or {})).items():
        if value is not None:
            lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def ask(server: Running, **changes: Any) -> bytes:
    """Build a chat request with some fields changed."""
    return build(server, json.dumps({**QUESTION, **changes}).encode())


def exchange(server: Running, request: bytes) -> Reply:
    """Send bytes and read the response to its end."""
    with server.connect() as opened:
        with suppress(OSError):  # refused before all of it was sent; there is a response
            opened.sendall(request)
        return read_reply(opened)


def read_reply(opened: socket.socket) -> Reply:
    """Read a response until the server closes the connection, or its length is reached."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = opened.recv(65536)
        if not part:
            return Reply(0, {}, data)
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "-1"))
    while length < 0 or len(body) < length:
        part = opened.recv(65536)
        if not part:
            break
        body += part
    if headers.get("transfer-encoding") == "chunked":
        body = _join_chunks(body)
    return Reply(int(status.split()[1]), headers, body)


def _join_chunks(data: bytes) -> bytes:
    joined = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        joined += rest[: int(size, 16)]
        data = rest[int(size, 16) + 2 :]
    return joined


def read_until(opened: socket.socket, wanted: bytes) -> bytes:
    """Read until some bytes have come."""
    data = b""
    while wanted not in data:
        part = opened.recv(65536)
        assert part, f"the server closed the connection after {data[-200:]!r}"
        data += part
    return data
