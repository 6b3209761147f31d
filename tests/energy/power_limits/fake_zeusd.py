"""A zeusd for tests: an HTTP server on a Unix socket, in a thread, that speaks its protocol.

Written after zeusd 0.5.0 (ml-energy/zeus, zeusd/src): routes/gpu.rs (``POST /gpu/set_power_limit``
takes ``gpu_ids``, ``power_limit_mw`` and ``block`` in the query and refuses other keys; 200 with an
empty body), routes/server.rs (``GET /discover`` and ``/auth/whoami``), auth.rs (bearer tokens; 401,
403, 404 with ``{"error": ...}``) and error.rs (``{"errors": {id: text}}`` of a command that failed,
400 with plain text for a GPU that does not exist).
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

Behaviour = Literal["good", "refuse", "stall", "die", "garbage"]


@dataclass(slots=True)
class FakeZeusd:
    """How the server behaves, and what it was asked.

    Attributes:
        addresses: PCI addresses of its GPUs.
        set_limit: Sets a limit (GPU number, milliwatts), as the driver does for the daemon.
        behaviour: ``refuse`` answers as for a driver without permission, ``stall`` does not answer
            until ``released``, ``die`` closes the connection, ``garbage`` is not JSON.
        groups: Enabled API groups.
        token: Token that is required; empty without authentication.
        scopes: Scopes of the token.
        is_old: Whether ``/discover`` answers as 0.4 does, without PCI addresses.
        requests: Every request line.
    """

    socket_path: Path
    addresses: Sequence[str]
    set_limit: Callable[[int, int], None]
    behaviour: Behaviour = "good"
    groups: tuple[str, ...] = ("gpu-control", "gpu-read")
    token: str = ""
    scopes: tuple[str, ...] = ("gpu-control", "gpu-read")
    is_old: bool = False
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing of a client that did not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serve(daemon: FakeZeusd) -> Iterator[FakeZeusd]:
    """Serve until the body ends."""

    class Handler(_Handler):
        fake = daemon

    server = _Server(str(daemon.socket_path), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeZeusd

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""

    def do_GET(self) -> None:
        self.fake.requests.append(f"GET {self.path}")
        if self.fake.behaviour == "garbage":
            self._text(200, "not json")
        elif self.path == "/discover":
            self._json(200, self._discovery())
        elif not self._is_allowed():
            return
        elif self.path == "/auth/whoami":
            self._json(200, {"sub": "test", "scopes": list(self.fake.scopes)})
        else:
            self._text(404, "")

    def do_POST(self) -> None:
        self.fake.requests.append(f"POST {self.path}")
        url = urlsplit(self.path)
        if url.path != "/gpu/set_power_limit":
            self._text(404, "")
        elif "gpu-control" not in self.fake.groups:
            text = "API group 'gpu-control' is not enabled on this server."
            self._json(404, {"error": text})
        elif self._is_allowed("gpu-control"):
            self._set_power_limit(parse_qs(url.query, strict_parsing=True))

    def _set_power_limit(self, query: dict[str, list[str]]) -> None:
        if set(query) != {"gpu_ids", "power_limit_mw", "block"}:
            self._text(400, "Query deserialize error: unknown or missing field")
            return
        assert query["block"] == ["true"]
        number, milliwatts = int(query["gpu_ids"][0]), int(query["power_limit_mw"][0])
        if number >= len(self.fake.addresses):
            self._text(400, f"GPU index {number} does not exist.")
            return
        if self.fake.behaviour == "die":
            self.close_connection = True
            return
        if self.fake.behaviour == "stall":
            self.fake.released.wait()
            return
        try:
            if self.fake.behaviour == "refuse":
                raise PermissionError
            self.fake.set_limit(number, milliwatts)
        except PermissionError:
            text = "NVML error: the current user does not have permission for this operation"
            self._json(403, {"errors": {str(number): text}})
        except Exception:  # noqa: BLE001 - the driver's errors are of the fake driver's own type
            self._json(400, {"errors": {str(number): "NVML error: an argument is invalid"}})
        else:
            self._text(200, "")

    def _discovery(self) -> dict[str, object]:
        shared = {
            "enabled_api_groups": list(self.fake.groups),
            "auth_required": bool(self.fake.token),
        }
        if self.fake.is_old:
            ids = list(range(len(self.fake.addresses)))
            return {"gpu_ids": ids, "cpu_ids": [], "dram_available": [], **shared}
        gpus = [
            {"id": i, "name": "Fake", "pci_address": a, "cumulative_energy_available": True}
            for i, a in enumerate(self.fake.addresses)
        ]
        return {"gpus": gpus, "cpus": [], **shared}

    def _is_allowed(self, scope: str = "") -> bool:
        if not self.fake.token:
            return True
        given = self.headers.get("Authorization", "")
        if not given.startswith("Bearer "):
            self._json(401, {"error": "Authentication required."})
            return False
        if given != f"Bearer {self.fake.token}":
            self._json(401, {"error": "Invalid token: InvalidSignature"})
            return False
        if scope and scope not in self.fake.scopes:
            self._json(403, {"error": f"Token for user 'test' lacks required scope '{scope}'."})
            return False
        return True

    def _json(self, status: int, document: object) -> None:
        self._send(status, "application/json", json.dumps(document))

    def _text(self, status: int, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", text)

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
