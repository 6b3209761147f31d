"""The server of ``etui --web``: which requests it answers, and the websocket of a tab."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp_jinja2
from aiohttp import WSCloseCode, WSMsgType, web
from textual_serve.server import Server

from etui.tui.web_session import Limits, Session, bound, bound_size
from etui.web_origin import build_hosts, is_allowed, is_secret

_NAMES = ("127.0.0.1", "localhost")
_HEARTBEAT_SECONDS = 15.0
_CLOSE_SECONDS = 1.0
_PATIENCE_SECONDS = 1.0
_FONT_SIZE = 16
_FONT_SIZES = (4, 64)
_PING_CHARACTERS = 64

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'{socket}; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address contains the token
    "X-Content-Type-Options": "nosniff",
}


class LocalServer(Server):  # type: ignore[misc] # an optional import
    """Server of the app for one user of this machine; the token is the first part of every path."""

    def __init__(
        self, command: str, host: str, port: int, token: str, limits: Limits | None = None
    ) -> None:
        super().__init__(command, host, port, title="etui")
        self._token = token
        self._hosts = build_hosts(_NAMES, port)
        self._limits = limits or Limits()
        self._sessions: set[Session] = set()

    async def build_app(self) -> web.Application:
        """Build the web application: textual-serve's below the token, behind the guard."""
        app = web.Application(middlewares=[self._guard])
        app.on_response_prepare.append(self._add_headers)
        # textual.js asks for a download at the root, with the token as `instance`.
        app.router.add_get("/download/{key}", self.handle_download)
        app.add_subapp(f"/{self._token}", await self._make_app())
        return app

    def kill_sessions(self) -> None:
        for session in self._sessions:
            session.kill()

    async def on_startup(self, app: web.Application) -> None:
        """End at the end of the terminal as with Ctrl-C; write nothing, stdout is for data."""
        if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.request_exit)

    async def on_shutdown(self, app: web.Application) -> None:
        """End every session; a second Ctrl-C ends the wait for them."""
        for session in self._sessions:
            session.finish()
        stops = [asyncio.create_task(session.stop()) for session in self._sessions]
        if not stops:
            return
        _stopped, waiting = await asyncio.wait(stops, timeout=_PATIENCE_SECONDS)
        if waiting:
            sys.stderr.write("etui: waiting for open tabs to leave (Ctrl-C again kills them)\n")
            sys.stderr.flush()
            await asyncio.wait(waiting)

    async def handle_index(self, request: web.Request) -> web.Response:
        """Answer with the page, whose addresses are those of the host it was opened with."""
        path = request.app.router["websocket"].url_for()
        context = {
            "font_size": bound(request.query.get("fontsize"), _FONT_SIZE, *_FONT_SIZES),
            "app_websocket_url": f"ws://{request.host}{path}",
            "config": {"static": {"url": "static/"}},
            "application": {"name": self.title},
        }
        return aiohttp_jinja2.render_template("app_index.html", request, context)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """Run the app of a tab until the tab is closed or the app has ended."""
        limits = self._limits
        websocket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT_SECONDS, max_msg_size=limits.message_bytes
        )
        await websocket.prepare(request)
        session = Session(
            self.command,
            limits,
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            download_manager=self.download_manager,
        )
        self._sessions.add(session)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await websocket.send_json(["instance_id", self._token])
            query = request.query
            await session.start(*bound_size(query.get("width"), query.get("height"), limits))
            tasks.append(asyncio.create_task(self._read_messages(websocket, session)))
            tasks.append(asyncio.create_task(session.done.wait()))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except ConnectionError:
            pass  # the tab was closed while the app started
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            try:
                await _close(websocket, request, session.why)
            finally:
                await session.stop()
                self._sessions.discard(session)
                if session.why is not None:
                    sys.stderr.write(f"etui: a tab was ended: {session.why}\n")
        return websocket

    async def _read_messages(self, websocket: web.WebSocketResponse, session: Session) -> None:
        """Pass the messages of the page to the app, until the page is closed."""
        with contextlib.suppress(ConnectionError):
            async for message in websocket:
                if message.type != WSMsgType.TEXT or not await self._pass_on(
                    message.data, websocket, session
                ):
                    session.finish("its page sent a message that etui does not know")
                    return

    async def _pass_on(self, text: str, websocket: web.WebSocketResponse, session: Session) -> bool:
        """Pass one message on; return False if it is none of the page's."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return False
        match message:
            case ["stdin", str(keys)]:
                await session.send_bytes(keys.encode("utf-8", "replace"))
            case ["resize", {"width": width, "height": height}]:
                await session.set_terminal_size(*bound_size(width, height, self._limits))
            case ["ping", str(sent)] if len(sent) <= _PING_CHARACTERS:
                await websocket.send_json(["pong", sent])
            case ["blur"]:
                await session.blur()
            case ["focus"]:
                await session.focus()
            case _:
                return False
        return True

    @web.middleware  # type: ignore[untyped-decorator, unused-ignore]
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Refuse requests of other pages, for other hosts, and without the token."""
        if not is_allowed(request.headers.get("Host"), request.headers.get("Origin"), self._hosts):
            return web.Response(status=403, text="etui accepts requests from its own page only\n")
        first = request.path.removeprefix("/").partition("/")[0]
        given = request.query.get("instance", "") if first == "download" else first
        if not is_secret(given, self._token):
            return web.Response(
                status=403, text="open the whole address that etui --web printed, with its token\n"
            )
        return await handler(request)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        host = request.headers.get("Host")
        # Some browsers do not count a websocket of the same host as 'self'.
        socket = f" ws://{host}" if is_allowed(host, None, self._hosts) else ""
        response.headers["Content-Security-Policy"] = _POLICY.format(socket=socket)
        response.headers.update(_HEADERS)


async def _close(websocket: web.WebSocketResponse, request: web.Request, why: str | None) -> None:
    """Close the websocket; cut the connection if the page does not take it."""
    code = WSCloseCode.OK if why is None else WSCloseCode.POLICY_VIOLATION
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await websocket.close(code=code)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
