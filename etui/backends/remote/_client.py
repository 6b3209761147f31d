"""HTTP to one remote backend: no redirects, no proxies of the environment, bounds on everything.

The URL comes from config.yaml and from nowhere else. The only key that is sent is the backend's
own, from its environment variable; a client's key for ``etui serve`` never gets here.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

from etui import __version__
from etui.backends.remote._stream_parts import HttpRequest, read_error
from etui.config.backend_spec import BackendSpec
from etui.errors import EtuiError, InvalidRequest, ModelUnavailable, RemoteFailed

if TYPE_CHECKING:
    import httpx2


class RequestFailed(Exception):
    """A request to a remote backend failed, and will not be sent again."""

    def __init__(self, failure: Failure, tries: int = 1) -> None:
        super().__init__(failure.what)
        self.failure = failure
        self.tries = tries


def build_error(spec: BackendSpec, failure: Failure, model: str, tries: int = 1) -> EtuiError:
    name = f"the backend {spec.name}"
    again = f" ({tries} tries)" if tries > 1 else ""
    match failure.status if failure.kind == "status" else None:
        case 401 | 403:
            fix = (
                f"check the key in the environment variable {spec.key_env}"
                if spec.key_env
                else f"add `key_env: VARIABLE` to {spec.name} in config.yaml"
            )
            return ModelUnavailable(f"{name} refused the key: {failure.what}", fix)
        case 404:
            fix = "compare `remote_name` with: etui models list; and `url`, which ends with /v1"
            return ModelUnavailable(f"{name} does not serve {model}: {failure.what}", fix)
        case 400 | 405 | 413 | 415 | 422:
            return InvalidRequest(f"{name} refused the request: {failure.what}")
    if failure.untouched:
        fix = f"start the server at {spec.url}, or fix `url` of {spec.name} in config.yaml"
        return ModelUnavailable(f"{name} cannot answer{again}: {failure.what}", fix)
    return RemoteFailed(
        f"{name} failed: {failure.what}",
        "ask again; it is not sent again by itself, because the server may have begun it",
    )


FailureKind = Literal[
    "unreachable", "status", "silent", "broken", "format", "redirect", "error event"
]
"""What happened.

``unreachable``: no connection; ``status``: an error instead of an answer; ``silent``: no byte for
too long; ``broken``: the connection ended before the answer; ``format``: the answer is not in the
dialect; ``redirect``: sent elsewhere; ``error event``: the server reports an error in its stream.
"""

FIRST_WAIT_SECONDS = 0.25

LONGEST_WAIT_SECONDS = 20.0

_BUSY = (429, 503)

_NOT_BEGUN = (*_BUSY, 400, 401, 403, 404, 405, 413, 415, 422)


@dataclass(frozen=True, slots=True)
class Failure:
    kind: FailureKind
    what: str  # The same in words, without the name of the backend
    began: bool = False  # Whether a byte of the answer had arrived
    status: int | None = None  # Status of the HTTP response; None without one
    retry_after: float | None = None
    """Seconds that the server asks to wait; None if it does not say."""

    @property
    def untouched(self) -> bool:
        """Whether the server surely has not begun to compute the answer."""
        if self.began:
            return False
        if self.kind in ("unreachable", "redirect"):
            return True
        return self.kind == "status" and self.status in _NOT_BEGUN

    @property
    def counts(self) -> bool:
        """Whether it says that the backend does not work, which opens the circuit in the end.

        A refusal of this request alone, and a full queue, come from a backend that works.
        """
        return self.kind != "status" or (self.status or 0) >= 500


CUT_OFF = Failure("broken", "it ended in mid-answer", began=True)
"""Of a stream that ends without an error."""


def find_wait(failure: Failure, tries: int, retries: int) -> float | None:
    """Return the seconds to wait before a request is sent again; None if it must not be."""
    if tries > retries or not failure.untouched:
        return None
    if failure.kind != "unreachable" and failure.status not in _BUSY:
        return None
    if failure.status in _BUSY and failure.retry_after is not None:
        return failure.retry_after if failure.retry_after <= LONGEST_WAIT_SECONDS else None
    return min(FIRST_WAIT_SECONDS * 2.0 ** (tries - 1), LONGEST_WAIT_SECONDS)


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Parse a ``Retry-After`` header: seconds, or a date; None if it is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


MOST_LINE_BYTES = 4 << 20
"""Longest line of a stream; a whole answer of 100,000 tokens with probabilities is shorter."""

MOST_BODY_BYTES = 256 << 20
"""Most bytes of a stream, and a bound against a server that never ends."""

DONE = "[DONE]"


def _fault(what: str) -> RequestFailed:
    return RequestFailed(Failure("format", what, began=True))


class LineReader:
    """Splits bytes into lines, however they are cut into chunks."""

    def __init__(
        self, most_line_bytes: int = MOST_LINE_BYTES, most_body_bytes: int = MOST_BODY_BYTES
    ) -> None:
        self._most_line = most_line_bytes
        self._most_body = most_body_bytes
        self._held = bytearray()
        self._total = 0

    def push(self, chunk: bytes) -> list[str]:
        """Add bytes and return the lines that are whole now, without their ends.

        Raises:
            RequestFailed: A line or the whole is longer than its bound, or not UTF-8.
        """
        self._total += len(chunk)
        if self._total > self._most_body:
            raise _fault(f"the answer is longer than {self._most_body:,} bytes")
        whole: list[bytes] = []
        if b"\n" in chunk:
            *whole, rest = (bytes(self._held) + chunk).split(b"\n")
            self._held = bytearray(rest)
        else:
            self._held += chunk
        if max(map(len, (*whole, self._held))) > self._most_line:
            raise _fault(f"a line of the answer is longer than {self._most_line:,} bytes")
        return list(map(_decode, whole))

    def finish(self) -> list[str]:
        line, self._held = bytes(self._held), bytearray()
        return [_decode(line)] if line else []


class EventReader:
    """Reads the data of server-sent events from lines; comments and other fields are skipped."""

    def __init__(self) -> None:
        self._data: list[str] = []

    def push(self, line: str) -> str | None:
        """Add a line; return the data of the event that ends with it, None if none does."""
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        if line.startswith("data:"):
            self._data.append(line[5:].removeprefix(" "))
        return None


def parse_document(text: str) -> dict[str, Any]:
    """Parse one JSON object; RequestFailed if it is something else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _fault(f"the answer has a part that is not JSON: {text[:80]!r}") from None
    if not isinstance(document, dict):
        raise _fault(f"the answer has a part that is not a JSON object: {text[:80]!r}")
    return document


def _decode(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError:
        raise _fault("the answer is not UTF-8 text") from None


MOST_ERROR_BYTES = 64_000
MOST_DOCUMENT_BYTES = 4 << 20
_KEPT_SECONDS = 2.0
"""How long an idle connection is kept: less than servers keep them, who would close it while the
next request is on its way, and then it is unknown whether that one has begun."""


class RemoteClient:
    """Sends requests to one backend; all methods run on its event loop."""

    def __init__(
        self,
        spec: BackendSpec,
        key: str | None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        most_line_bytes: int = MOST_LINE_BYTES,
    ) -> None:
        import httpx2

        self._spec = spec
        self._key = key
        self._sleep = sleep
        self._most_line_bytes = most_line_bytes
        self._base = spec.url.rstrip("/")
        self._root = find_root(self._base)
        headers = {
            "user-agent": f"etui/{__version__}",
            "accept-encoding": "identity",  # a small answer cannot grow into a large one
        }
        if key:
            headers["authorization"] = f"Bearer {key}"
        seconds = spec.connect_seconds
        self._client = httpx2.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context() if self._base.startswith("https:") else False,
            timeout=httpx2.Timeout(spec.silent_seconds, connect=seconds, pool=None),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=8, keepalive_expiry=_KEPT_SECONDS
            ),
        )

    async def stream(
        self, request: HttpRequest, on_retry: Callable[[Failure], None] = lambda _failure: None
    ) -> AsyncIterator[dict[str, Any]]:
        """Send a request and yield the documents of its answer as they arrive.

        Raises:
            RequestFailed: It failed, and must not be sent again.
        """
        tries = 0
        while True:
            tries += 1
            try:
                async with self._send("POST", request.path, request.body) as response:
                    async for document in self._read(response, lines=request.lines):
                        yield document
                return
            except RequestFailed as error:
                wait = find_wait(error.failure, tries, self._spec.retries)
                if wait is None:
                    raise RequestFailed(error.failure, tries) from None
                on_retry(error.failure)
            await self._sleep(wait)

    async def fetch(self, path: str, *, seconds: float) -> dict[str, Any]:
        """Get one JSON document, once, within a short time; RequestFailed if it fails."""
        return parse_document(await self.fetch_text(path, seconds=seconds))

    async def fetch_text(
        self, path: str, *, seconds: float, body: Mapping[str, Any] | None = None
    ) -> str:
        """Get a text (or post a document for it, with ``body``); as :meth:`fetch`."""
        try:
            async with asyncio.timeout(seconds):
                method = "GET" if body is None else "POST"
                async with self._send(method, path, body) as response:
                    raw = await _read_start(response, MOST_DOCUMENT_BYTES)
                    if len(raw) > MOST_DOCUMENT_BYTES:
                        raise _fault(f"the answer is longer than {MOST_DOCUMENT_BYTES:,} bytes")
                    return raw.decode("utf-8", "replace")
        except TimeoutError:
            failure = Failure("silent", f"no answer within {seconds:g} s")
            raise RequestFailed(failure) from None

    def hide_key(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    async def close(self) -> None:
        await self._client.aclose()

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[httpx2.Response]:
        import httpx2

        url = f"{self._root}{path[1:]}" if path.startswith("//") else f"{self._base}/{path}"
        began = False
        try:
            async with self._client.stream(method, url, json=body) as response:
                if response.status_code != 200:
                    raise RequestFailed(await _describe_refusal(response))
                began = True
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _fault("the answer is compressed, which was not asked for")
                yield response
        except RequestFailed as error:
            what = self.hide_key(error.failure.what)
            raise RequestFailed(replace(error.failure, what=what)) from None
        except httpx2.ConnectTimeout:
            what = f"no connection within {self._spec.connect_seconds:g} s"
            raise RequestFailed(Failure("unreachable", what)) from None
        except httpx2.ConnectError as error:
            raise RequestFailed(Failure("unreachable", _describe(error))) from None
        except httpx2.TimeoutException:
            what = f"silent for {self._spec.silent_seconds:g} s"
            raise RequestFailed(Failure("silent", what, began=began)) from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise RequestFailed(Failure("broken", _describe(error), began=began)) from None

    async def _read(
        self, response: httpx2.Response, *, lines: bool
    ) -> AsyncIterator[dict[str, Any]]:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        wanted = ["application/x-ndjson", "application/json"] if lines else ["text/event-stream"]
        if kind not in wanted:
            raise _fault(f"the answer is {kind or 'of no type'}, not {wanted[0]}")
        reader, events, done = LineReader(self._most_line_bytes), EventReader(), False

        def parse(line: str) -> dict[str, Any] | None:
            nonlocal done
            data = (line or None) if lines else events.push(line)
            if data is None or done:
                return None
            if data == DONE:
                done = True
                return None
            return parse_document(data)

        async for chunk in response.aiter_raw():
            for line in reader.push(chunk):
                document = parse(line)
                if document is not None:
                    yield document
            if done:
                return
        for line in (*reader.finish(), ""):  # an event without the empty line behind it
            document = parse(line)
            if document is not None:
                yield document


def find_root(base: str) -> str:
    """Return the root of a server from its base URL, without ``/v1``."""
    return base.removesuffix("/").removesuffix("/v1")


async def _read_start(response: httpx2.Response, most_bytes: int) -> bytes:
    """Read a body, or as much of it as shows that it is longer."""
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk
        if len(found) > most_bytes:
            break
    return bytes(found)


async def _describe_refusal(response: httpx2.Response) -> Failure:
    status = response.status_code
    if 300 <= status < 400:
        what = f"it redirects elsewhere ({status}), which is not followed"
        return Failure("redirect", what, status=status)
    raw = await _read_start(response, MOST_ERROR_BYTES)
    try:
        document = parse_document(raw.decode("utf-8", "replace"))
        said = read_error(document.get("error", document.get("detail")))
    except RequestFailed:
        said = ""
    what = f"{said or response.reason_phrase or 'no reason given'} ({status})"
    wait = parse_retry_after(response.headers.get("retry-after"))
    return Failure("status", what, status=status, retry_after=wait)


def _describe(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:300]
