"""Ask the meter of another machine over HTTP, with bounds on what it may cost and return."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from etui.config.base_url import is_exposed
from etui.energy.remote.clock_offset import PROBES, ClockReading, Probe, choose_reading
from etui.energy.remote.documents import (
    StatusDocument,
    parse_clock,
    parse_energy,
    parse_power,
    parse_status,
)
from etui.energy.remote.failure import FailureFlag, MeterFailed

if TYPE_CHECKING:
    import httpx2

    from etui.energy.types import Energy

BODY_LIMIT_BYTES = 256 * 1024
"""A longer answer is refused: a document of 64 GPUs has 20 KB."""

_CONNECT_SECONDS = 2.0
_READ_SECONDS = 5.0
"""Longest wait for a byte; ``/meter/energy`` waits about a second until the energy is final."""
_WHOLE_SECONDS = 10.0
"""Longest time of a whole answer, however slowly its bytes arrive."""


class MeterClient:
    """The meter of another machine over one kept connection; safe to use from several threads.

    It follows no redirect, sends its key to no other server, and reads no proxy or password from
    the environment. ``url`` is the one to show, without a password.

    Args:
        url: Base URL of the meter (``http://desk:9911``).
        key: Key of the meter; None for one without keys.
        plain_key: Whether the key may be sent over ``http://`` beyond this machine.
        transport: How requests are sent; None for the network.
        clock_ns: Monotonic clock of this machine, nanoseconds.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        plain_key: bool = False,
        transport: httpx2.BaseTransport | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._base = url.rstrip("/")
        self.url = _hide_password(self._base)
        self._key = key
        self._plain_key = plain_key
        self._transport = transport
        self._clock_ns = clock_ns
        self._client: httpx2.Client | None = None
        self._lock = threading.RLock()

    def read_clock(self, count: int = PROBES) -> ClockReading:
        """Measure the offset of the other machine's clock by the best of some probes.

        Raises:
            MeterFailed: The meter cannot be asked, or was restarted between two probes.
        """
        probes = []
        boots = set()
        with self._lock:
            for _ in range(count):
                sent_ns, received_ns, document = self._get("/meter/clock", {})
                clock = parse_clock(document)
                boots.add(clock.boot_id)
                probes.append(Probe(sent_ns, received_ns, clock.now_ns))
        if len(boots) > 1:
            raise MeterFailed("meter-rebooted", f"the machine of {self.url} was restarted")
        return choose_reading(probes, boots.pop())

    def read_status(self) -> StatusDocument:
        """Read which channels the meter has, and how many requests run there.

        Raises:
            MeterFailed: The meter cannot be asked.
        """
        return parse_status(self._get("/meter", {})[2])

    def read_energy(self, start_ns: int, end_ns: int, boot_id: str) -> tuple[Energy, str]:
        """Read the energy of an interval, once it is final there.

        Args:
            start_ns: Start of the interval, in the other machine's time.
            boot_id: The boot that this time belongs to.

        Returns:
            The energy, in the other machine's time, and the boot it reports.

        Raises:
            MeterFailed: The meter cannot be asked, or does not have the interval.
        """
        query: dict[str, str | int] = {"start_ns": start_ns, "end_ns": end_ns, "boot_id": boot_id}
        return parse_energy(self._get("/meter/energy", query)[2], start_ns, end_ns)

    def read_power(
        self, start_ns: int, end_ns: int, boot_id: str, points: int
    ) -> tuple[float | None, ...] | None:
        """Read the mean watts of equal slices of an interval; None if the meter gives none.

        Raises:
            MeterFailed: The meter cannot be asked, or does not have the interval.
        """
        query: dict[str, str | int] = {
            "start_ns": start_ns, "end_ns": end_ns, "boot_id": boot_id, "points": points,
        }  # fmt: skip
        return parse_power(self._get("/meter/energy", query)[2], points)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _get(self, path: str, query: Mapping[str, str | int]) -> tuple[int, int, Any]:
        """Send a request; return when it was sent and answered, and its document."""
        import httpx2

        with self._lock:
            try:
                client = self._open()
                sent_ns = self._clock_ns()
                with client.stream("GET", self._base + path, params=dict(query)) as response:
                    received_ns = self._clock_ns()
                    body = self._read(response)
                    status = response.status_code
            except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError, OSError) as error:
                raise MeterFailed(
                    "meter-unreachable",
                    f"the meter at {self.url} cannot be reached: {type(error).__name__}",
                    "check that `etui power serve` runs there, and the `meter:` of the backend",
                ) from error
        if status != 200:
            raise _build_refusal(self.url, status)
        try:
            return sent_ns, received_ns, json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise MeterFailed("meter-invalid", f"the answer of {self.url}{path} is no JSON") from (
                error
            )

    def _read(self, response: httpx2.Response) -> bytes:
        """Read a body up to the limit, as it was sent: nothing is decompressed."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise MeterFailed("meter-invalid", f"the answer of {self.url} is compressed")
        body = bytearray()
        end_ns = self._clock_ns() + int(_WHOLE_SECONDS * 1e9)
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                raise MeterFailed("meter-invalid", f"the answer of {self.url} is too long")
            if self._clock_ns() > end_ns:
                raise MeterFailed("meter-unreachable", f"the answer of {self.url} takes too long")
        return bytes(body)

    def _open(self) -> httpx2.Client:
        import httpx2

        if self._client is None:
            self._check_key()
            headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._client = httpx2.Client(
                headers=headers,
                timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=1, keepalive_expiry=60.0),
                follow_redirects=False,
                trust_env=False,
                transport=self._transport,
            )
        return self._client

    def _check_key(self) -> None:
        """Check that the key may be sent to this URL."""
        if self._key and not self._plain_key and is_exposed(self._base):
            raise MeterFailed(
                "meter-refused",
                f"the key of {self.url} would be sent without encryption",
                "use https://, or set `plain_key: true` for the backend in config.yaml",
            )


def _build_refusal(url: str, status: int) -> MeterFailed:
    flags: dict[int, tuple[FailureFlag, str]] = {
        401: ("meter-refused", "it needs a key, or the key is wrong"),
        403: ("meter-refused", "it does not allow this request"),
        409: ("meter-rebooted", "its machine was restarted"),
        410: ("meter-history", "the interval is not recorded there"),
    }
    flag, why = flags.get(status, ("meter-refused", "it refused the request"))
    if status >= 500 or status == 429:
        flag, why = "meter-unreachable", "it cannot answer now"
    elif 300 <= status < 400:
        why = "it redirects, and redirects are not followed"
    return MeterFailed(flag, f"the meter at {url}: {why} (HTTP {status})")


def _hide_password(url: str) -> str:
    """Return a URL without the part between ``//`` and ``@``."""
    scheme, mark, after = url.partition("://")
    host, slash, path = after.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
