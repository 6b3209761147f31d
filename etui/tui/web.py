"""The app in a browser on this machine: ``etui --web``, through the optional package textual-serve.

Each tab runs its own etui, which ends when the tab is closed. The server listens only on the
loopback addresses, which every user of the machine reaches. So a request needs the token of the
printed address, a request for another host (a name made to resolve to this address) or from
another page's script is refused, and the page itself may not request anything from outside.
"""

from __future__ import annotations

import errno
import logging
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence

from etui.errors import EtuiError, ExitCode
from etui.extras import require_extra

HOST = "127.0.0.1"
PORT = 8000
_HOST_6 = "::1"
_TOKEN_BYTES = 32
_LEAVE_SECONDS = 1.0  # How long Ctrl-C waits for requests in progress after the tabs have ended


def serve_app(*, policy: str | None, model: str | None, port: int, go_on: bool = False) -> int:
    """Serve the app until Ctrl-C; an EtuiError without textual-serve, or if the port is taken."""
    require_extra("web", "`etui --web`")
    from aiohttp import web

    from etui.tui.web_server import LocalServer

    sockets = _listen(port)
    token = secrets.token_urlsafe(_TOKEN_BYTES)

    def announce(*_message: object) -> None:
        sys.stderr.write(f"etui runs at http://{HOST}:{port}/{token}/ (Ctrl-C to stop)\n")
        sys.stderr.flush()

    server = LocalServer(build_command(policy, model, go_on=go_on), HOST, port, token)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        web.run_app(
            server.build_app(),
            sock=sockets,
            print=announce,
            shutdown_timeout=_LEAVE_SECONDS,
            access_log=None,  # its lines would contain the token
        )
    finally:
        server.kill_sessions()
    return ExitCode.DONE


def build_command(policy: str | None, model: str | None, *, go_on: bool = False) -> str:
    """Build the shell command that starts the app of one tab."""
    arguments = [sys.executable, "-m", "etui"]
    arguments += ["--policy", policy] if policy else []
    arguments += ["--model", model] if model else []
    arguments += ["--continue"] if go_on else []
    return _quote(arguments)


def _listen(port: int) -> list[socket.socket]:
    """Open the sockets of the server.

    A browser tries ::1 first for ``localhost``. If etui did not listen there, a program of another
    user could, and would be sent the token.
    """
    sockets = []
    for family, host in ((socket.AF_INET, HOST), (socket.AF_INET6, _HOST_6)):
        try:
            sockets.append(socket.create_server((host, port), family=family))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno not in (errno.EADDRINUSE, errno.EACCES):
                continue  # this machine has no IPv6
            for opened in sockets:
                opened.close()
            # Python adds the address; `os.strerror` does not know these numbers on Windows.
            why = (error.strerror or str(error)).partition(" (while attempting")[0]
            raise EtuiError(
                f"cannot listen on {host}:{port}: {why}", "choose another port with --web-port"
            ) from error
    return sockets


def _quote(arguments: Sequence[str]) -> str:
    if sys.platform == "win32":
        return subprocess.list2cmdline(arguments)
    return f"exec {shlex.join(arguments)}"
