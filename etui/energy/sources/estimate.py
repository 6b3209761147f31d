"""The labelled estimate: a stated power range times utilisation, where nothing can be read.

    P = P_idle + (P_limit - P_idle) x utilisation

It carries a band of 40 %: estimates of this class err by up to that against external meters
(Fischer 2025, arXiv:2509.22092).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from etui.energy.types import Channel, ChannelProbe, Kind, Reading

CHANNEL_ID = "estimate:cpu"
BAND = 0.4


def default_range_watts(cores: int) -> tuple[float, float]:
    """Idle and limit watts that are assumed for a CPU with its memory when nobody states them.

    4 W and 0.5 W a logical core at idle, 10 W and 4 W a logical core at the limit: 12 and 74 W for
    16 logical cores. A stated default, not a measurement.
    """
    return 4 + 0.5 * cores, 10 + 4.0 * cores


class EstimateSource:
    """Utilisation of all cores, turned into watts.

    Args:
        idle_watts, limit_watts: Range of the machine; None takes the default for its cores.
        band: Half width of the estimate, relative.
        clock: Monotonic clock in nanoseconds.
        utilisation: Busy and total CPU seconds since boot; None asks psutil.
    """

    name = "estimate"

    def __init__(
        self,
        idle_watts: float | None = None,
        limit_watts: float | None = None,
        *,
        band: float = BAND,
        clock: Callable[[], int] = time.monotonic_ns,
        utilisation: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        idle, limit = default_range_watts(_cores())
        self._idle = idle if idle_watts is None else idle_watts
        self._limit = max(limit if limit_watts is None else limit_watts, self._idle)
        stated = idle_watts is not None and limit_watts is not None
        self._stated = stated
        self._clock = clock
        self._times = utilisation or _cpu_seconds
        self._last: tuple[int, float, float] | None = None
        self._joules = 0.0
        self._channel = Channel(
            id=CHANNEL_ID,
            scope=CHANNEL_ID,
            kind=Kind.ESTIMATE,
            limit_watts=self._limit,
            label=f"CPU, {self._idle:g}-{self._limit:g} W x utilisation",
            period_s=0.001,
            relative_error=band,
        )

    @property
    def channels(self) -> Sequence[Channel]:
        """The one estimated channel."""
        return [self._channel]

    def probe(self) -> Sequence[ChannelProbe]:
        """That it is there, and how to make it better."""
        fix = "" if self._stated else "set cpu_idle_watts and cpu_limit_watts in config.yaml"
        why = "" if self._stated else "the power range is a default for the number of cores"
        return [ChannelProbe(CHANNEL_ID, True, True, why, fix)]

    def read(self) -> Mapping[str, Reading]:
        """Joules since the first read; utilisation is exact over the time between two reads."""
        now_ns = self._clock()
        try:
            busy, total = self._times()
        except (OSError, RuntimeError):
            return {CHANNEL_ID: Reading(now_ns, None)}
        if self._last is None:
            self._last = (now_ns, busy, total)
            return {CHANNEL_ID: Reading(now_ns, self._joules)}
        then_ns, was_busy, was_total = self._last
        seconds = (now_ns - then_ns) / 1e9
        if total <= was_total or seconds <= 0:
            return {CHANNEL_ID: Reading(now_ns, self._joules)}  # the kernel's tick has not come
        share = min(max((busy - was_busy) / (total - was_total), 0.0), 1.0)
        watts = self._idle + (self._limit - self._idle) * share
        self._last = (now_ns, busy, total)
        self._joules += watts * seconds
        return {CHANNEL_ID: Reading(now_ns, self._joules, watts)}

    def close(self) -> None:
        """Nothing is held open."""


def _cores() -> int:
    import psutil

    return psutil.cpu_count(logical=True) or 1


def _cpu_seconds() -> tuple[float, float]:
    """Busy and total CPU seconds of all cores since boot."""
    import psutil

    times = psutil.cpu_times()
    fields = times._asdict()
    # Guest time is inside user time already (proc(5)); waiting for a disk is idle.
    total = sum(v for k, v in fields.items() if k not in ("guest", "guest_nice"))
    idle = fields.get("idle", 0.0) + fields.get("iowait", 0.0)
    return total - idle, total
