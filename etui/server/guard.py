"""The guard in front of all routes: who may send requests, and how large they may be.

It is plain ASGI, so that streams pass through unbuffered. What it refuses never reaches a route,
and except for its size the body of a refused request is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from etui.server.bodies import BodyBudget, IncomingBody, too_large
from etui.server.errors import ApiError, error_response, invalid
from etui.server.protocol import abort_connection
from etui.text import one_line
from etui.web_origin import LOOPBACK_NAMES, build_hosts, is_allowed, is_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from etui.server.context import ServerSettings

_log = logging.getLogger("etui.server")

OPEN_PATHS = frozenset({"/", "/health"})
"""Paths that need no key, for supervisors and for clients that look whether a server is there."""

_ANY_ADDRESSES = frozenset({"0.0.0.0", "::", ""})
_VERSIONS = ("1.0", "1.1")
_PREFLIGHT_SECONDS = "600"
_EXPOSED = (
    "x-request-id, x-etui-route, x-etui-arm, x-energy-predicted-joules, x-energy-joules, "
    "x-energy-method, x-etui-ignored, x-etui-dropped-messages, retry-after"
)


class Guard:
    """Refuse requests that are not for this server, not welcome, or too large."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._hosts = allowed_hosts(settings)
        self._origins = frozenset(settings.origins)
        self._bodies = BodyBudget(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = f"req_{uuid.uuid4().hex}"
        added = self._response_headers(headers, request_id)
        response = _Response(scope, send, added, self._settings)
        length = headers.get("content-length", "0")
        length_bytes = int(length) if length.isdecimal() else 0
        body = IncomingBody(receive, self._settings, self._bodies, length_bytes)
        scope.setdefault("state", {}).update(request_id=request_id, body=body)
        try:
            if scope["http_version"] not in _VERSIONS:
                raise refuse(400, "the server speaks HTTP/1.1")
            self._check_origin(headers)
            self._check_framing(scope["http_version"], headers)
            self._check_body(scope["method"], headers, length_bytes)
            if scope["method"] == "OPTIONS":
                await self._answer_preflight(headers, response)
                return
            body.key = scope["state"]["key_name"] = self._check_key(scope["path"], headers)
            await self._app(scope, body.receive, response.send)
        except ApiError as error:
            await self._refuse(error, scope, body, response)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 - no fault may end in a traceback for a client
            what = one_line(str(error))  # it may quote the request
            _log.warning("a request failed: %s: %s", type(error).__name__, what)
            _log.debug("its traceback", exc_info=error)
            await self._refuse(error, scope, body, response)
        finally:
            body.release()

    def _check_origin(self, headers: Headers) -> None:
        self._check_headers(headers)
        origin, host = headers.get("origin"), headers.get("host")
        local = self._settings.unix is not None
        known = local or is_allowed(host, None, self._hosts, self._origins)
        if local:
            welcome = origin is None or origin in self._origins
        else:
            welcome = is_allowed(host, origin, self._hosts, self._origins)
        if not welcome:
            text = (
                "this server answers requests for its own address and from named pages only; "
                "see --allow-host and --origin of etui serve"
            )
            raise refuse(403, text, "origin_not_allowed" if known else "host_not_allowed")

    def _check_headers(self, headers: Headers) -> None:
        most, limit = self._settings.header_count, self._settings.header_limit_bytes
        if len(headers.raw) > most:
            raise refuse(431, f"more than {most} headers", "headers_too_large")
        if sum(len(name) + len(value) for name, value in headers.raw) > limit:
            raise refuse(431, f"headers of more than {limit} bytes", "headers_too_large")
        if any(len(headers.getlist(name)) > 1 for name in ("host", "authorization", "x-api-key")):
            raise refuse(400, "a header is repeated")

    def _check_key(self, path: str, headers: Headers) -> str:
        keys = self._settings.keys
        if not keys or path in OPEN_PATHS:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        name = find_key(given.strip(), keys) if scheme.lower() == "bearer" else None
        if name is None:  # Anthropic's clients send it so, some of them beside another one
            name = find_key(headers.get("x-api-key", "").strip(), keys)
        if name is None:
            text = "the API key is missing or wrong: send it as `Authorization: Bearer KEY`"
            error = refuse(401, text, "invalid_api_key")
            error.headers["WWW-Authenticate"] = "Bearer"
            raise error
        return name

    def _check_framing(self, version: str, headers: Headers) -> None:
        """Refuse a body whose length a proxy in front could read in another way."""
        if "transfer-encoding" in headers and ("content-length" in headers or version == "1.0"):
            text = "the length of the body is not clear: send Content-Length or, in HTTP/1.1, "
            raise refuse(400, text + "chunks")

    def _check_body(self, method: str, headers: Headers, length_bytes: int) -> None:
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            text = "a compressed body is not accepted: send it without Content-Encoding"
            raise refuse(415, text, "unsupported_content_encoding")
        if length_bytes > self._settings.body_limit_bytes:
            raise too_large(self._settings.body_limit_bytes)
        if method in ("GET", "HEAD", "OPTIONS"):
            if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
                raise refuse(400, f"a {method} request has no body")
            return
        kind, _, parameters = headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower().removeprefix("charset=").strip('"')
        if kind.strip().lower() != "application/json" or charset not in ("", "utf-8", "utf8"):
            text = "the body has to be JSON in UTF-8: send `Content-Type: application/json`"
            raise refuse(415, text, "unsupported_media_type")

    async def _refuse(
        self, error: Exception, scope: Scope, body: IncomingBody, response: _Response
    ) -> None:
        if response.started or body.disconnected:
            return
        if isinstance(error, ApiError):
            await body.leave(error)
        await error_response(error, scope)({"type": "http"}, body.receive, response.send)

    async def _answer_preflight(self, headers: Headers, response: _Response) -> None:
        if "origin" not in headers:
            raise refuse(405, "OPTIONS is for web pages only", "method_not_allowed")
        if headers.get("origin") not in self._origins:
            text = "no page of another origin may send requests; see --origin of etui serve"
            raise refuse(403, text, "origin_not_allowed")
        asked = headers.get("access-control-request-headers", "authorization, content-type")
        if not all(c.isalnum() or c in "-_, " for c in asked):
            raise invalid("Access-Control-Request-Headers is not a list of names")
        allowed = [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", asked.encode("ascii", "ignore")),
            (b"access-control-max-age", _PREFLIGHT_SECONDS.encode()),
        ]
        if headers.get("access-control-request-private-network") == "true":
            allowed.append((b"access-control-allow-private-network", b"true"))
        await response.send({"type": "http.response.start", "status": 204, "headers": allowed})
        await response.send({"type": "http.response.body", "body": b""})

    def _response_headers(self, headers: Headers, request_id: str) -> Mapping[str, str]:
        added = {"x-request-id": request_id, "x-content-type-options": "nosniff"}
        added["request-id"] = request_id  # so Anthropic's clients know it
        if self._origins:
            added["vary"] = "Origin"
            origin = headers.get("origin")
            if origin in self._origins:
                added["access-control-allow-origin"] = origin
                added["access-control-expose-headers"] = _EXPOSED
        return added


def refuse(status: int, message: str, code: str | None = None) -> ApiError:
    """Create the error of a request that is not looked at further; its connection is closed."""
    return ApiError(status, message, code, headers={"connection": "close"})


def allowed_hosts(settings: ServerSettings) -> frozenset[str]:
    """Build the values of ``Host`` that a server answers to."""
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    bound = () if settings.host in _ANY_ADDRESSES else (address,)
    hosts = build_hosts((*LOOPBACK_NAMES, *bound, *settings.allow_hosts), settings.port)
    # A reverse proxy passes on the name that it is known by, at the usual ports.
    return hosts | {name.lower() for name in settings.allow_hosts}


def find_key(given: str, keys: Mapping[str, str]) -> str | None:
    """Return the name of a key, else None; each is compared in a time that tells nothing of it."""
    found = None
    for name, key in keys.items():
        if is_secret(given, key):
            found = name
    return found


class _Response:
    """Sends a response with further headers, and knows whether it has begun.

    A client that does not read it is not waited for: its connection is closed.
    """

    def __init__(
        self, scope: Scope, send: Send, headers: Mapping[str, str], settings: ServerSettings
    ) -> None:
        self._scope = scope
        self._send = send
        self._headers = headers
        self._stall_seconds = settings.stall_seconds
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send(message)
        except TimeoutError:
            abort_connection(self._scope)
            raise ClientDisconnect from None
