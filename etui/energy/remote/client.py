"""Ask the meter of another machine over HTTP, with bounds on what it may cost and return."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from msgspec import Meta

from etui.codec import from_document
from etui.config.backend_spec import is_exposed
from etui.energy.json_client import JsonClient, NoAnswer
from etui.energy.remote.clock import PROBES, ClockReading, read_probe
from etui.energy.types import ChannelEnergy, Energy, Kind
from etui.errors import EtuiError

if TYPE_CHECKING:
    import httpx2

D = TypeVar("D")
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
_FLAG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_ID = re.compile(r"[\w][\w:.\-/ +]{0,95}")
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
    the meter cannot be asked, does not have the interval, or gives no valid answer. A key is sent
    over ``http://`` beyond this machine only if it is ``plain_key``.
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
        self._client: JsonClient | None = None
        self._lock = threading.RLock()

    def read_clock(self, count: int = PROBES) -> ClockReading:
        """Measure the offset of the other machine's clock by the best of some probes."""
        readings = []
        with self._lock:
            for _ in range(count):
                sent_ns, received_ns, document = self._get("/meter/clock", {})
                clock = _parse(ClockDocument, document)
                readings.append(read_probe(sent_ns, received_ns, clock.now_ns, clock.boot_id))
        if len({one.boot_id for one in readings}) > 1:
            raise MeterFailed("meter-rebooted", f"the machine of {self.url} was restarted")
        return min(readings, key=lambda one: one.error_ns)  # the shortest round trip

    def read_status(self) -> StatusDocument:
        """Read which channels the meter has, and how many requests run there."""
        return _parse(StatusDocument, self._get("/meter", {})[2])

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
        query: dict[str, str | int] = {"start_ns": start_ns, "end_ns": end_ns, "boot_id": boot_id}
        query["points"] = points
        return parse_power(self._get("/meter/energy", query)[2], points)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _get(self, path: str, query: Mapping[str, str | int]) -> tuple[int, int, Any]:
        """Send a request; return when it was sent and answered, and its document."""
        with self._lock:
            try:
                answer = self._open().get(self._base + path, query)
                if answer.status != 200:
                    raise _build_refusal(self.url, answer.status)
                return answer.sent_ns, answer.received_ns, answer.parse()
            except NoAnswer as error:
                if error.invalid:
                    what = f"the answer of {self.url}{path} {error}"
                    raise MeterFailed("meter-invalid", what) from error
                raise MeterFailed(
                    "meter-unreachable",
                    f"the meter at {self.url} cannot be reached: {error}",
                    "check that `etui power serve` runs there, and the `meter:` of the backend",
                ) from error

    def _open(self) -> JsonClient:
        if self._client is None:
            if self._key and not self._plain_key and is_exposed(self._base):
                raise MeterFailed(
                    "meter-refused",
                    f"the key of {self.url} would be sent without encryption",
                    "use https://, or set `plain_key: true` for the backend in config.yaml",
                )
            self._client = JsonClient(
                {"Authorization": f"Bearer {self._key}"} if self._key else {},
                read_seconds=_READ_SECONDS,
                whole_seconds=_WHOLE_SECONDS,
                transport=self._transport,
                clock_ns=self._clock_ns,
            )
        return self._client


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


Watts = Annotated[float, Meta(ge=0, le=MOST_WATTS)]
Joules = Annotated[float, Meta(ge=0)]
BootId = Annotated[str, Meta(pattern=rf"^{_ID.pattern}\Z")]
ShortList = Annotated[list[Any], Meta(max_length=_MOST_NAMES)]


@dataclass(frozen=True, slots=True)
class ClockDocument:
    """The answer of ``/meter/clock``: the other machine's monotonic clock, and its boot."""

    now_ns: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    boot_id: BootId


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """The answer of ``/meter``, as far as it is needed."""

    kind: Any = None
    channels: Any = None  # A list, or an object by id
    running: Annotated[int, Meta(ge=0, lt=10**6)] | None = None
    """Requests at work there; None if the meter does not know."""
    loading: Any = False  # True if a model is being loaded there

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its channels, best first; empty if it has none, or does not say."""
        listed = self.channels
        listed = list(listed.values()) if isinstance(listed, dict) else listed
        listed = listed[:_MOST_NAMES] if isinstance(listed, list) else []
        found = [self.kind, *(c.get("kind") for c in listed if isinstance(c, dict))]
        return tuple(kind.value for kind in Kind if kind.value in found)


@dataclass(frozen=True, slots=True)
class EnergyDocument:
    """The answer of ``/meter/energy``, as far as it is needed."""

    start_ns: int
    end_ns: int
    boot_id: BootId
    joules: Joules | None = None
    uncertainty: Joules | None = None
    kind: Kind | None = None
    coverage: Annotated[float, Meta(ge=0, le=1)] | None = None
    idle_watts: Watts | None = None
    mean_watts: Watts | None = None
    peak_watts: Watts | None = None
    own_joules: Joules | None = None
    channels: Annotated[dict[str, Joules], Meta(max_length=_MOST_NAMES)] | None = None
    unmeasured: ShortList | None = None
    flags: ShortList | None = None
    power_watts: list[Watts | None] | None = None  # Mean watts of equal slices

    def __post_init__(self) -> None:
        """Refuse what cannot be true."""
        most = MOST_WATTS * (self.end_ns - self.start_ns) / 1e9
        found = (self.joules, self.uncertainty, self.own_joules, *(self.channels or {}).values())
        if any(joules is not None and joules > most for joules in found):
            raise ValueError("its joules are not possible")
        missing = self.uncertainty is None or self.kind is None or self.coverage is None
        if self.joules is not None and missing:
            raise ValueError("joules without an uncertainty, a kind or a coverage")


def parse_energy(document: object, start_ns: int, end_ns: int) -> tuple[Energy, str]:
    """Parse the answer of ``/meter/energy``: the energy, and the id of the boot.

    MeterFailed if it is not valid, or of another interval than was asked for.
    """
    found = _parse(EnergyDocument, document)
    if (found.start_ns, found.end_ns) != (start_ns, end_ns):
        raise _build_invalid("the energy is that of another interval")
    flags = _select_names(found.flags, _FLAG)
    unmeasured = _select_names(found.unmeasured, _ID)
    if found.joules is None or found.uncertainty is None or found.kind is None:
        flags = tuple(dict.fromkeys((*flags, "unmeasured")))
        return Energy(start_ns, end_ns, unmeasured=unmeasured, flags=flags), found.boot_id
    # The uncertainty of a channel is at most that of the total.
    channels = tuple(
        ChannelEnergy(name, found.kind, joules, found.uncertainty, 1.0, 0.0)
        for name, joules in (found.channels or {}).items()
        if _ID.fullmatch(name)
    )
    return Energy(
        start_ns=start_ns,
        end_ns=end_ns,
        joules=found.joules + 0.0,  # no negative zero
        uncertainty=found.uncertainty,
        kind=found.kind,
        coverage=found.coverage or 0.0,
        idle_watts=found.idle_watts,
        mean_watts=found.mean_watts,
        peak_watts=found.peak_watts,
        channels=channels,
        unmeasured=unmeasured,
        flags=flags,
        own_joules=found.own_joules,
    ), found.boot_id


def parse_power(document: object, points: int) -> tuple[float | None, ...] | None:
    """Parse ``power_watts`` of ``/meter/energy``: mean watts of equal slices; None if absent."""
    watts = _parse(EnergyDocument, document).power_watts
    if watts is not None and len(watts) != points:
        raise _build_invalid(f"power_watts is not a list of {points} values")
    return None if watts is None else tuple(watts)


def _parse(kind: type[D], document: object) -> D:
    try:
        return from_document(kind, document, extra="ignore")
    except (ValueError, OverflowError) as error:
        raise _build_invalid(str(error)) from error


def _select_names(names: list[Any] | None, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Return the names of a list that can be shown; others are dropped."""
    return tuple(one for one in names or () if isinstance(one, str) and pattern.fullmatch(one))


def _build_invalid(why: str) -> MeterFailed:
    return MeterFailed("meter-invalid", f"the remote meter gave an invalid document: {why}")
