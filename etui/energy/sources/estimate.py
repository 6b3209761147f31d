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

    12 and 74 W for 16 logical cores. This is a default, not a measurement.
    """
    return 4 + 0.5 * cores, 10 + 4.0 * cores


class EstimateSource(BaseSource):
    """Utilisation of all cores, turned into watts of a stated range, else of the default one."""

    def __init__(
        self,
        idle_watts: float | None = None,
        limit_watts: float | None = None,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        utilisation: Callable[[], tuple[float, float]] | None = None,
    ) -> None:
        import psutil

        idle, limit = default_range_watts(psutil.cpu_count(logical=True) or 1)
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
            relative_error=BAND,
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
    from statistics import StatisticsError, fmean, linear_regression

    uses, watts = [x for x, _ in readings], [y for _, y in readings]
    try:
        slope, start = linear_regression(uses, watts)
    except StatisticsError:
        return None
    mean = fmean(watts)
    if mean <= 0 or slope <= 0:
        return None
    idle, limit = max(start, 0.0), start + slope
    squares = sum((y - idle - (limit - idle) * x) ** 2 for x, y in readings)
    band = 2 * (squares / max(len(uses) - 2, 1)) ** 0.5 / mean
    return Calibration(idle, limit, band, max(uses) - min(uses), len(uses))
