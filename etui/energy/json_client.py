"""Ask a meter for a JSON document over HTTP, with bounds on what it may cost and return."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

BODY_LIMIT_BYTES = 256 * 1024
"""A longer answer is refused: a document of 64 GPUs has 20 KB."""
_CONNECT_SECONDS = 2.0


class NoAnswer(Exception):
    """No usable answer; ``invalid`` if there was one, but not a document."""

    def __init__(self, why: str, *, invalid: bool = False) -> None:
        super().__init__(why)
        self.invalid = invalid


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and when its request was sent and its head arrived."""

    sent_ns: int
    received_ns: int
    status: int
    date: str  # Its ``Date`` header; empty without one
    body: bytes

    def parse(self) -> Any:
        """Return the document; NoAnswer if it is not JSON, nested too deeply, or has a NaN."""
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise NoAnswer("is no JSON", invalid=True) from error


class JsonClient:
    """Asks one server over one kept connection; not safe to use from several threads.

    It follows no redirect, and reads no proxy or password from the environment. Seconds are the
    longest wait for a byte, and the longest time of a whole answer, however slowly it arrives.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        read_seconds: float,
        whole_seconds: float,
        auth: httpx2.Auth | None = None,
        transport: httpx2.BaseTransport | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._read_seconds = read_seconds
        self._whole_ns = int(whole_seconds * 1e9)
        self._auth = auth
        self._transport = transport
        self._clock_ns = clock_ns
        self._client: httpx2.Client | None = None

    def get(self, url: str, query: Mapping[str, str | int] | None = None) -> Answer:
        """Send a request; NoAnswer if the server cannot be reached or its answer is unbounded."""
        import httpx2

        try:
            client = self._open()
            sent_ns = self._clock_ns()
            params = dict(query) if query else None
            with client.stream("GET", url, params=params, auth=self._auth) as response:
                received_ns = self._clock_ns()
                body = self._read(response)
                date = response.headers.get("date", "")
                return Answer(sent_ns, received_ns, response.status_code, date, body)
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError, OSError) as error:
            raise NoAnswer(type(error).__name__) from error

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _read(self, response: httpx2.Response) -> bytes:
        """Read a body up to the limit, as it was sent: nothing is decompressed."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise NoAnswer("is compressed", invalid=True)
        body = bytearray()
        end_ns = self._clock_ns() + self._whole_ns
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                raise NoAnswer("is too long", invalid=True)
            if self._clock_ns() > end_ns:
                raise NoAnswer("it takes too long")
        return bytes(body)

    def _open(self) -> httpx2.Client:
        import httpx2

        if self._client is None:
            self._client = httpx2.Client(
                headers=self._headers,
                timeout=httpx2.Timeout(self._read_seconds, connect=_CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=1, keepalive_expiry=60.0),
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
            )
        return self._client


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
