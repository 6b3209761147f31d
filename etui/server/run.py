"""Run the server until it is asked to stop: sockets, signals, and the end of running answers."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from etui.config.backend_spec import is_loopback
from etui.errors import EtuiError, UsageError
from etui.server.app import build_app, build_power_app
from etui.server.guard import Guard
from etui.server.protocol import build_protocol

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from etui.energy.recorder import Recorder
    from etui.server.context import ServerContext, ServerSettings


_M_ARENA_MAX = -8  # of glibc's `malloc.h`

_IDLE_CONNECTION_SECONDS = 75
"""Longer than clients keep one, so that none is closed while a request is on its way."""

_MARGIN_SECONDS = 5.0
"""Turns that were cancelled at the end of the grace time are saved within this time."""

_BACKLOG = 512
_OPEN_FILES = 4096


def share_heap() -> None:
    """Let all threads of this process allocate from one heap; call it before they start.

    By default glibc gives the threads up to eight heaps a core. Each request has a thread of its
    own for a while, so that every heap grows to the size of the busiest moment and keeps it. Python
    runs one thread at a time anyway. Other C libraries have no such setting.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def open_sockets(settings: ServerSettings) -> tuple[list[socket.socket], ServerSettings]:
    """Open the sockets to listen on; return them, and the settings with the port that was chosen.

    On the loopback address the server listens at ``::1`` too: clients that connect to ``localhost``
    may try it first, and a program of another user could listen there.

    UsageError if other machines can reach the address and there is no key, EtuiError if it cannot
    be listened on.
    """
    if settings.unix is not None:
        return [_open_unix(settings.unix)], settings
    local = is_loopback(settings.host)
    if not local and not settings.keys:
        raise UsageError(
            f"other machines can reach {settings.host}, and there is no key",
            "give keys with --keys FILE or ETUI_API_KEY, or listen on 127.0.0.1",
        )
    first = _open_address(settings.host, settings.port)
    port = int(first.getsockname()[1])
    sockets = [first]
    if settings.host in ("127.0.0.1", "localhost") and settings.port:
        try:
            sockets.append(_open_address("::1", port))
        except EtuiError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.EADDRINUSE, errno.EACCES):
                first.close()
                raise
    return sockets, replace(settings, port=port)


def format_address(settings: ServerSettings) -> str:
    """Format the address of the API, as clients are given it."""
    unix = settings.unix
    return f"{format_root(settings)}/v1" if unix is None else f"unix:{unix}"


def format_root(settings: ServerSettings) -> str:
    """Format the URL of all routes: ``http://127.0.0.1:8420``."""
    return f"http://{_format_host(settings.host)}:{settings.port}"


class GuardedServer(uvicorn.Server):
    """uvicorn's server behind the guard, which a signal ends as after success.

    The port of ``settings`` is the one that is bound.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            Guard(app, settings),
            http=build_protocol(settings.header_seconds, settings.max_connections),
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=2 * settings.header_limit_bytes,
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=int(settings.grace_seconds + _MARGIN_SECONDS),
        )
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at Ctrl-C, SIGTERM and a closed terminal, and end as after success.

        uvicorn raises the signals again at the end, so that a stopped server would look killed.
        A closed terminal does not stop what ``nohup`` started.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            numbers.remove(signal.SIGHUP)
        before = {number: signal.signal(number, self._stop_at) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_at(self, number: int, frame: FrameType | None) -> None:
        """Stop; the second signal ends running answers at once."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True


class GracefulServer(GuardedServer):
    """A server of turns, which ends running answers within a time and then closes the pool."""

    def __init__(
        self, context: ServerContext, on_started: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(build_app(context), context.settings, on_started)
        self._context = context

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, end running answers within the grace time, and save every turn."""
        grace = self._context.settings.grace_seconds
        closing = asyncio.create_task(asyncio.to_thread(self._context.pool.close, grace))
        try:
            await super().shutdown(sockets)
        finally:
            if self.force_exit:
                for task in list(self.server_state.tasks):
                    task.cancel()
            await closing
            await asyncio.to_thread(self._context.tokens.close)


def run_server(
    context: ServerContext, sockets: Sequence[socket.socket], on_started: Callable[[], None]
) -> None:
    """Run the server on sockets of :func:`open_sockets` until a signal stops it; close them."""
    _run(GracefulServer(context, on_started), sockets, context.settings)


def serve_meter(
    recorder: Recorder,
    settings: ServerSettings,
    sockets: Sequence[socket.socket],
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Serve a meter alone until a signal stops it, and close the sockets."""
    _run(GuardedServer(build_power_app(recorder), settings, on_started), sockets, settings)


def _run(server: GuardedServer, sockets: Sequence[socket.socket], settings: ServerSettings) -> None:
    raise_file_limit()
    try:
        asyncio.run(server.serve(list(sockets)))
    finally:
        for opened in sockets:
            opened.close()
        if settings.unix is not None:
            with suppress(OSError):
                os.unlink(settings.unix)


def raise_file_limit(wanted: int = _OPEN_FILES) -> None:
    """Let this process have more open files, as far as the system allows.

    Hundreds of connections that come at once are accepted before the excess ones can be closed;
    beyond the limit, which is 256 on some systems, none would be accepted for a second.
    """
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _open_address(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        opened = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # Accepted sockets inherit it. asyncio sets it only on sockets that name their protocol, and
        # without it the end of a response waits for the client's delayed ACK, some 40 ms.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened
    except (OSError, UnicodeError) as error:
        # Python adds the address; `os.strerror` does not know the numbers of sockets on Windows.
        why = str(getattr(error, "strerror", None) or error).partition(" (while attempting")[0]
        what = f"cannot listen on {_format_host(host)}:{port}: {why}"
        raise EtuiError(what, "choose another port with --port") from error


def _format_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _open_unix(path: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("this system has no unix sockets", "use --host and --port")
    _remove_stale(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(stat.S_IRWXG | stat.S_IRWXO)
    try:
        opened.bind(path)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        why = error.strerror or str(error)
        raise EtuiError(f"cannot listen on {path}: {why}", "choose another --unix path") from error
    finally:
        os.umask(mask)
    return opened


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # nothing there; other faults are reported by the attempt to listen
    if not stat.S_ISSOCK(mode):
        raise EtuiError(f"{path} exists and is no socket", "choose another --unix path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            return
    raise EtuiError(f"a server listens on {path} already", "stop it, or choose another --unix path")
