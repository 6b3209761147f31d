"""The labelled estimate: a stated power range times utilisation, when no channel can be read.

    P = P_idle + (P_limit - P_idle) x utilisation

Its uncertainty is 40 %: estimates of this kind differ from external meters by up to that (Fischer
2025, arXiv:2509.22092).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from etui.energy.sharing import read_cpu_seconds
from etui.energy.types import BaseSource, Channel, Kind, Reading

CHANNEL_ID = "estimate:cpu"
BAND = 0.4
_LEAST_SPAN = 0.5
_LEAST_POINTS = 8


def default_range_watts(cores: int) -> tuple[float, float]:
    """Return the idle and limit watts of a CPU with its memory where the config states none.

    Idle is 4 W plus 0.5 W per logical core, the limit 10 W plus 4 W per logical core: 12 and 74 W
    for 16 logical cores. This is a default, not a measurement.
    """
    return 4 + 0.5 * cores, 10 + 4.0 * cores


class EstimateSource(BaseSource):
    """Utilisation of all cores, turned into watts of a stated range, else of the default one.

    ``band`` is the relative half width of the estimate.
    """

    def __init__(
        self,
        idle_watts: float | None = None,
        limit_watts: float | None = None,
        *,
        band: float = BAND,
        clock: Callable[[], int] = time.monotonic_ns,
        utilisation: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        idle, limit = default_range_watts(_count_cores())
        self._idle = idle if idle_watts is None else idle_watts
        self._limit = max(limit if limit_watts is None else limit_watts, self._idle)
        super().__init__(clock)
        self._times = utilisation or read_cpu_seconds
        self._last: tuple[int, float, float] | None = None
        self._joules = 0.0
        channel = Channel(
            id=CHANNEL_ID,
            scope=CHANNEL_ID,
            kind=Kind.ESTIMATE,
            limit_watts=self._limit,
            label=f"CPU, estimated {self._idle:g}-{self._limit:g} W",
            period_s=0.001,
            relative_error=band,
            idle_watts=self._idle,
        )
        why, fix = "", ""
        if idle_watts is None or limit_watts is None:
            why = "the power range is the default for this number of cores"
            fix = "set cpu_idle_watts and cpu_limit_watts in config.yaml"
        self.add(channel, why, fix)

    def read_channel(self, channel: Channel) -> Reading:
        """Read the joules since the first read, from the utilisation between two reads."""
        now_ns = self.clock()
        try:
            busy, total = self._times()
        except (OSError, RuntimeError):
            return Reading(now_ns, None)
        if self._last is None:
            self._last = (now_ns, busy, total)
            return Reading(now_ns, self._joules)
        then_ns, was_busy, was_total = self._last
        seconds = (now_ns - then_ns) / 1e9
        if total <= was_total or seconds <= 0:
            return Reading(now_ns, self._joules)  # no kernel tick since the last read
        self._last = (now_ns, busy, total)
        share = min(max((busy - was_busy) / (total - was_total), 0.0), 1.0)
        watts = self._idle + (self._limit - self._idle) * share
        self._joules += watts * seconds
        return Reading(now_ns, self._joules, watts)


def _count_cores() -> int:
    import psutil

    return psutil.cpu_count(logical=True) or 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted range."""

    idle_watts: float  # Power at no utilisation
    limit_watts: float  # Power at full utilisation
    band: float
    """Twice the standard deviation of the readings around the fit, relative to their mean."""
    span: float  # Utilisation between the lowest and the highest reading, 0..1
    points: int  # Readings fitted

    @property
    def trustworthy(self) -> bool:
        """Whether the readings span enough of the range to determine its ends."""
        return self.span >= _LEAST_SPAN and self.points >= _LEAST_POINTS


def fit_range(readings: Sequence[tuple[float, float]]) -> Calibration | None:
    """Fit the power range to (utilisation 0..1, watts) pairs.

    None when there are fewer than two different utilisations, or when power does not rise with
    utilisation.
    """
    count = len(readings)
    if count < 2:
        return None
    mean_x = sum(x for x, _ in readings) / count
    mean_y = sum(y for _, y in readings) / count
    spread = sum((x - mean_x) ** 2 for x, _ in readings)
    if spread <= 0 or mean_y <= 0:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in readings) / spread
    if slope <= 0:
        return None
    idle = max(mean_y - slope * mean_x, 0.0)
    limit = mean_y + slope * (1 - mean_x)
    squares = sum((y - idle - (limit - idle) * x) ** 2 for x, y in readings)
    band = 2 * (squares / max(count - 2, 1)) ** 0.5 / mean_y
    uses = [x for x, _ in readings]
    return Calibration(idle, limit, band, max(uses) - min(uses), count)
