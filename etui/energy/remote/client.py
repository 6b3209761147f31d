"""Ask the meter of another machine over HTTP, with bounds on what it may cost and return."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from etui.config.backend_spec import is_exposed
from etui.energy.remote.clock import PROBES, ClockReading, Probe, choose_reading
from etui.energy.types import ChannelEnergy, Energy, Kind
from etui.errors import EtuiError

if TYPE_CHECKING:
    import httpx2

    from etui.energy.types import Energy

FailureFlag = Literal[
    "meter-unreachable",
    "meter-refused",
    "meter-rebooted",
    "meter-history",
    "meter-clock",
    "meter-invalid",
]
"""Flag of an energy whose joules are therefore unknown.

``meter-unreachable``: no connection, no answer in time, or a server error. ``meter-refused``: no
key or a wrong one, a redirect, or another refusal. ``meter-rebooted``: the machine was started
again meanwhile. ``meter-history``: the interval is no longer, or was not yet, recorded.
``meter-clock``: the difference between the clocks could not be bounded. ``meter-invalid``: the
answer is not a document of a meter, or its numbers are impossible.
"""
MOST_WATTS = 1e6
"""Power above which a reading is not believed: a megawatt is more than a hall of machines."""
_MOST_NAMES = 256
_LARGEST_NS = 2**63 - 1
_FLAG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ID = re.compile(r"[\w][\w:.\-/ +]{0,95}")
BODY_LIMIT_BYTES = 256 * 1024
"""A longer answer is refused: a document of 64 GPUs has 20 KB."""
_CONNECT_SECONDS = 2.0
_READ_SECONDS = 5.0
"""Longest wait for a byte; ``/meter/energy`` waits about a second until the energy is final."""
_WHOLE_SECONDS = 10.0
"""Longest time of a whole answer, however slowly its bytes arrive."""


class MeterFailed(EtuiError):
    """The meter of another machine cannot say what an interval took; ``flag`` says why."""

    def __init__(self, flag: FailureFlag, what: str, fix: str = "") -> None:
        super().__init__(what, fix)
        self.flag = flag


class MeterClient:
    """The meter of another machine over one kept connection; safe to use from several threads.

    It follows no redirect, sends its key to no other server, and reads no proxy or password from
    the environment. ``url`` is the one to show, without a password. All reads raise MeterFailed if
    the meter cannot be asked, does not have the interval, or gives no valid answer.

    Args:
        plain_key: Whether the key may be sent over ``http://`` beyond this machine.
        transport: How requests are sent; None for the network.
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
        """Measure the offset of the other machine's clock by the best of some probes."""
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
        """Read which channels the meter has, and how many requests run there."""
        return parse_status(self._get("/meter", {})[2])

    def read_energy(self, start_ns: int, end_ns: int, boot_id: str) -> tuple[Energy, str]:
        """Read the energy of an interval, once it is final there, and the boot it reports.

        All times are the other machine's.
        """
        query: dict[str, str | int] = {"start_ns": start_ns, "end_ns": end_ns, "boot_id": boot_id}
        return parse_energy(self._get("/meter/energy", query)[2], start_ns, end_ns)

    def read_power(
        self, start_ns: int, end_ns: int, boot_id: str, points: int
    ) -> tuple[float | None, ...] | None:
        """Read the mean watts of equal slices of an interval; None if the meter gives none."""
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


@dataclass(frozen=True, slots=True)
class ClockDocument:
    """The answer of ``/meter/clock``: the other machine's monotonic clock, and its boot."""

    now_ns: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """The answer of ``/meter``, as far as it is needed."""

    kinds: tuple[str, ...]
    """Kinds of its channels, best first; empty if it has none, or does not say."""
    running: int | None  # Requests at work there; None if the meter does not know
    loading: bool = False  # Whether a model is being loaded there; False if the meter does not say
    watts: float | None = None  # Watts now; None if unknown


def parse_clock(document: object) -> ClockDocument:
    """Parse the answer of ``/meter/clock``; MeterFailed if it is not valid."""
    values = _mapping(document)
    return ClockDocument(_nanoseconds(values.get("now_ns"), "now_ns"), _boot_id(values))


def parse_status(document: object) -> StatusDocument:
    """Parse the answer of ``/meter``; MeterFailed if it is not valid."""
    values = _mapping(document)
    running = values.get("running")
    if running is not None and (
        not isinstance(running, int) or isinstance(running, bool) or not 0 <= running < 10**6
    ):
        raise _invalid("running is not a number of requests")
    channels = values.get("channels")
    found: list[object] = []
    if isinstance(channels, Mapping):
        channels = list(channels.values())
    if isinstance(channels, Sequence) and not isinstance(channels, str):
        found = [c.get("kind") for c in channels[:_MOST_NAMES] if isinstance(c, Mapping)]
    kinds = tuple(kind.value for kind in Kind if kind.value in [*found, values.get("kind")])
    watts = values.get("watts")
    watts = _number(watts, "watts", MOST_WATTS) if isinstance(watts, int | float) else None
    return StatusDocument(kinds, running, bool(values.get("loading")), watts)


def parse_energy(document: object, start_ns: int, end_ns: int) -> tuple[Energy, str]:
    """Parse the answer of ``/meter/energy``: the energy, and the id of the boot.

    Raises:
        MeterFailed: It is not valid, or of another interval than was asked for.
    """
    values = _mapping(document)
    if (values.get("start_ns"), values.get("end_ns")) != (start_ns, end_ns):
        raise _invalid("the energy is that of another interval")
    seconds = (end_ns - start_ns) / 1e9
    most = MOST_WATTS * seconds
    boot_id = _boot_id(values)
    flags = _names(values.get("flags"), _FLAG, "flags")
    unmeasured = _names(values.get("unmeasured"), _ID, "unmeasured")
    joules = _optional(values, "joules", most)
    if joules is None:
        flags = tuple(dict.fromkeys((*flags, "unmeasured")))
        return Energy(
            start_ns, end_ns, None, None, None, 0.0, unmeasured=unmeasured, flags=flags
        ), boot_id
    uncertainty = _optional(values, "uncertainty", most)
    if uncertainty is None:
        raise _invalid("joules without an uncertainty")
    kind = _kind(values.get("kind"))
    energy = Energy(
        start_ns=start_ns,
        end_ns=end_ns,
        joules=joules,
        uncertainty=uncertainty,
        kind=kind,
        coverage=_number(values.get("coverage"), "coverage", 1.0),
        idle_watts=_optional(values, "idle_watts", MOST_WATTS),
        mean_watts=_optional(values, "mean_watts", MOST_WATTS),
        peak_watts=_optional(values, "peak_watts", MOST_WATTS),
        channels=_channels(values.get("channels"), kind, uncertainty, most),
        unmeasured=unmeasured,
        flags=flags,
        own_joules=_optional(values, "own_joules", most),
    )
    return energy, boot_id


def parse_power(document: object, points: int) -> tuple[float | None, ...] | None:
    """Parse ``power_watts`` of ``/meter/energy``: mean watts of equal slices; None if absent."""
    watts = _mapping(document).get("power_watts")
    if watts is None:
        return None
    if not isinstance(watts, list) or len(watts) != points:
        raise _invalid(f"power_watts is not a list of {points} values")
    return tuple(None if one is None else _number(one, "power_watts", MOST_WATTS) for one in watts)


def _mapping(document: object) -> Mapping[str, Any]:
    if not isinstance(document, Mapping):
        raise _invalid("it is not a JSON object")
    return document


def _optional(values: Mapping[str, Any], name: str, most: float) -> float | None:
    value = values.get(name)
    return None if value is None else _number(value, name, most)


def _number(value: object, name: str, most: float) -> float:
    """Return a finite number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"{name} is not a number")
    if not 0 <= value <= most:  # false for NaN
        raise _invalid(f"{name} is not possible")
    return float(value) + 0.0  # no negative zero


def _nanoseconds(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_NS:
        raise _invalid(f"{name} is not a time in nanoseconds")
    return value


def _boot_id(values: Mapping[str, Any]) -> str:
    boot_id = values.get("boot_id")
    if not isinstance(boot_id, str) or not _ID.fullmatch(boot_id):
        raise _invalid("there is no boot_id")
    return boot_id


def _kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        raise _invalid("the kind of its energy is unknown") from None


def _names(value: object, pattern: re.Pattern[str], name: str) -> tuple[str, ...]:
    """Return the names of a list that can be shown; others are dropped."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise _invalid(f"{name} is not a short list")
    return tuple(one for one in value if isinstance(one, str) and pattern.fullmatch(one))


def _channels(
    value: object, kind: Kind, uncertainty: float, most: float
) -> tuple[ChannelEnergy, ...]:
    """Parse joules by channel; the uncertainty of each is at most that of the total."""
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > _MOST_NAMES:
        raise _invalid("channels is not a short object")
    return tuple(
        ChannelEnergy(name, kind, _number(joules, "channels", most), uncertainty, 1.0, 0.0)
        for name, joules in value.items()
        if isinstance(name, str) and _ID.fullmatch(name)
    )


def _invalid(why: str) -> MeterFailed:
    return MeterFailed("meter-invalid", f"the remote meter gave an invalid document: {why}")
