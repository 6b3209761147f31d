"""The app in a browser on this machine: ``etui --web``, through the optional package textual-serve.

Each tab runs its own etui, which ends when the tab is closed. The server listens only on 127.0.0.1.
This keeps other machines out, but not other pages in the same browser. So requests for another host
(a name made to resolve to this address) and requests from another page's script are refused, and
the page itself may not request anything from outside.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from etui.errors import EtuiError, ExitCode

HOST = "127.0.0.1"
PORT = 8000

_LEAVE_SECONDS = 1.0
"""How long Ctrl-C waits for open tabs before it ends them."""

_NAMES = (HOST, "localhost")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' {sockets}; "
    "frame-ancestors 'none'"
)


def serve_app(*, policy: str | None, model: str | None, port: int) -> int:
    """Serve the app until Ctrl-C.

    Args:
        policy: Policy for each tab, as on the command line of the app.
        model: Model for each tab, as on the command line of the app.
        port: Port on 127.0.0.1.

    Returns:
        The exit code.

    Raises:
        EtuiError: textual-serve is not installed, or the port is taken.
    """
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise EtuiError(
            "etui --web needs textual-serve",
            f"install it: {sys.executable} -m pip install textual-serve",
        ) from error

    class LocalServer(Server):  # type: ignore[misc] # an optional import
        """Server that refuses other pages and does not write to stdout."""

        async def on_startup(self, app: Any) -> None:
            pass

        async def _make_app(self) -> Any:
            app = await super()._make_app()
            app.middlewares.append(_build_guard(port))
            return app

    def announce(*_message: object) -> None:
        sys.stderr.write(f"etui runs at http://{HOST}:{port} (Ctrl-C to stop)\n")
        sys.stderr.flush()

    server = LocalServer(build_command(policy, model), HOST, port, title="etui")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        web.run_app(
            server._make_app(),
            host=HOST,
            port=port,
            print=announce,
            shutdown_timeout=_LEAVE_SECONDS,
        )
    except OSError as error:
        raise EtuiError(
            f"cannot listen on {HOST}:{port}: {error.strerror or error}",
            "choose another port with --web-port",
        ) from error
    return ExitCode.DONE


def build_command(policy: str | None, model: str | None) -> str:
    """Build the shell command that starts the app of one tab."""
    arguments = [sys.executable, "-m", "etui"]
    arguments += ["--policy", policy] if policy else []
    arguments += ["--model", model] if model else []
    return _quote(arguments)


def is_allowed(host: str | None, origin: str | None, port: int) -> bool:
    """Return whether a request is for this server and comes from its own page.

    Args:
        host: ``Host`` header of the request.
        origin: ``Origin`` header; browsers send none when a page is opened by hand.
        port: Port of this server.
    """
    hosts = {f"{name}:{port}" for name in _NAMES} | (set(_NAMES) if port == 80 else set())
    if host not in hosts:
        return False
    return origin is None or (
        urlsplit(origin).scheme == "http" and origin.removeprefix("http://") == host
    )


def _build_guard(port: int) -> Any:
    from aiohttp import web

    sockets = " ".join(f"ws://{name}:{port}" for name in _NAMES)

    @web.middleware  # type: ignore[untyped-decorator, unused-ignore]
    async def guard(request: Any, handler: Any) -> Any:
        if not is_allowed(request.headers.get("Host"), request.headers.get("Origin"), port):
            return web.Response(status=403, text="etui accepts requests from its own page only\n")
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = _POLICY.format(sockets=sockets)
        return response

    return guard


def _quote(arguments: Sequence[str]) -> str:
    if sys.platform == "win32":
        return subprocess.list2cmdline(arguments)
    return f"exec {shlex.join(arguments)}"
