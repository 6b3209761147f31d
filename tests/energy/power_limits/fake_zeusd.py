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
from urllib.parse import parse_qs, urlsplit


@dataclass(slots=True)
class FakeZeusd:
    """How the server behaves, and what it was asked."""

    socket_path: Path
    addresses: Sequence[str]  # PCI addresses of its GPUs
    set_limit: Callable[[int, int], None]  # (GPU number, milliwatts), as the driver does
    behaviour: str = "good"
    """``refuse`` answers as for a driver without permission, ``stall`` does not answer until
    ``released``, ``die`` closes the connection, ``garbage`` is not JSON."""
    groups: tuple[str, ...] = ("gpu-control", "gpu-read")  # Enabled API groups
    token: str = ""  # Token that is required, with its scopes; empty without authentication
    scopes: tuple[str, ...] = ("gpu-control", "gpu-read")
    is_old: bool = False  # Whether `/discover` answers as 0.4 does, without PCI addresses
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, authorization: str) -> tuple[int, object] | None:
        """Return status and document (or text) of a request; None closes the connection."""
        self.requests.append(f"{method} {path}")
        url = urlsplit(path)
        if self.behaviour == "garbage" and method == "GET":
            return 200, "not json"
        if (method, path) == ("GET", "/discover"):
            return 200, self._discover()
        if "gpu-control" not in self.groups and method == "POST":
            return 404, {"error": "API group 'gpu-control' is not enabled on this server."}
        if self.token and not authorization.startswith("Bearer "):
            return 401, {"error": "Authentication required."}
        if self.token and authorization != f"Bearer {self.token}":
            return 401, {"error": "Invalid token: InvalidSignature"}
        if (method, path) == ("GET", "/auth/whoami"):
            return 200, {"sub": "test", "scopes": list(self.scopes)}
        if (method, url.path) != ("POST", "/gpu/set_power_limit"):
            return 404, ""
        if self.token and "gpu-control" not in self.scopes:
            return 403, {"error": "Token for user 'test' lacks required scope 'gpu-control'."}
        return self._set_power_limit(parse_qs(url.query, strict_parsing=True))

    def _discover(self) -> object:
        shared = {"enabled_api_groups": list(self.groups), "auth_required": bool(self.token)}
        if self.is_old:
            return {"gpu_ids": list(range(len(self.addresses))), "cpu_ids": [], **shared}
        gpus = [{"id": i, "name": "Fake", "pci_address": a} for i, a in enumerate(self.addresses)]
        return {"gpus": gpus, "cpus": [], **shared}

    def _set_power_limit(self, query: dict[str, list[str]]) -> tuple[int, object] | None:
        if set(query) != {"gpu_ids", "power_limit_mw", "block"}:
            return 400, "Query deserialize error: unknown or missing field"
        assert query["block"] == ["true"]
        number, milliwatts = int(query["gpu_ids"][0]), int(query["power_limit_mw"][0])
        if number >= len(self.addresses):
            return 400, f"GPU index {number} does not exist."
        if self.behaviour == "stall":
            self.released.wait()
        if self.behaviour in ("die", "stall"):
            return None
        if self.behaviour == "refuse":
            text = "NVML error: the current user does not have permission for this operation"
            return 403, {"errors": {str(number): text}}
        try:
            self.set_limit(number, milliwatts)
        except Exception:  # noqa: BLE001 - the driver's errors are of the fake driver's own type
            return 400, {"errors": {str(number): "NVML error: an argument is invalid"}}
        return 200, ""


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

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing."""

        def do_GET(self) -> None:
            found = daemon.answer(self.command, self.path, self.headers.get("Authorization", ""))
            if found is None:
                self.close_connection = True
                return
            status, document = found
            body = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

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
