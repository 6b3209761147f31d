"""The record of one channel: its counter, its power readings, and the energy of an interval."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etui.energy._recordings.columns import Point, Recording
from etui.energy._recordings.counter import CounterRecording
from etui.energy._recordings.power import PowerRecording
from etui.energy.scopes import family
from etui.energy.types import Channel, ChannelEnergy, HalfWidths, Kind, Phase, Reading

if TYPE_CHECKING:
    import numpy as np

GRID_JOULES = 2.0**-20
"""Energies are multiples of this (about a microjoule), so that sums of parts are exact in floating
point: multiples of a power of two add without rounding up to 2**33 J."""
_PLAUSIBLE_WATTS = {
    "gpu": 2000.0, "module": 4000.0, "package": 1500.0, "dram": 500.0, "wall": 4000.0,
}  # fmt: skip
_PLAUSIBLE_ANYWHERE_WATTS = 3000.0
"""Largest believed power of a channel without a stated limit, by family of scopes."""
_LEAST_LIMIT_WATTS = 1000.0
_UNLIMITED_WATTS = 4095.0
"""The largest limit that RAPL can state; mainboards set it where they limit nothing."""
_BREAKS = 256
_DISAGREE = 0.05
_COARSE_TICKS = 4
_LONG_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """Counter and integrated power over one interval, joules."""

    counter_joules: float
    integral_joules: float

    @property
    def difference(self) -> float:
        """Integral over counter, minus 1."""
        return self.integral_joules / self.counter_joules - 1 if self.counter_joules else math.nan


def find_plausible_watts(channel: Channel) -> float:
    """Return the largest power of a channel that is believed: well above what hardware draws."""
    if channel.limit_watts and channel.limit_watts < _UNLIMITED_WATTS:
        return max(3 * channel.limit_watts, _LEAST_LIMIT_WATTS)
    return _PLAUSIBLE_WATTS.get(family(channel.scope), _PLAUSIBLE_ANYWHERE_WATTS)


class ChannelRecording:
    """The record of one channel: ``keep`` readings, one each ``interval_s`` or so."""

    def __init__(self, channel: Channel, *, keep: int, interval_s: float) -> None:
        self.channel = channel
        gap_s = max(0.5, 5 * interval_s, 5 * (channel.period_s or 0.0))
        self._most_watts = find_plausible_watts(channel)
        self.power = PowerRecording(
            keep=keep, gap_s=gap_s, average_s=channel.average_s, period_s=channel.period_s
        )
        self.counter = CounterRecording(
            keep=keep,
            gap_s=gap_s,
            max_watts=self._most_watts,
            power=self.power,
            range_joules=channel.range_joules,
            period_s=channel.period_s,
        )
        self.began_ns = 0
        """When reading began, nanoseconds; a first reading is awaited for a second."""
        self.last_read_ns = 0  # Time of the newest good read; 0 without one
        self._has_counter = False
        self._first_ns: int | None = None
        self._first_joules = 0.0
        self._breaks: deque[tuple[int, int]] = deque(maxlen=_BREAKS)
        """Intervals in which the counter does not show the energy, nanoseconds."""

    def observe(self, reading: Reading, *, added: bool = False) -> None:
        """Add a reading, ``added`` at a mark or not; one without a value is a failed read."""
        counted = self._by_counter
        watts = reading.watts
        # A reading that was never above 0 comes from a sensor that measures nothing.
        is_dead = watts == 0 and not self.power.max_watts
        if watts is not None and (watts > self._most_watts or is_dead):
            watts = None
        self.power.observe(reading.t_ns, watts)
        edge_ns, resets = self.counter.last_ns, self.counter.resets
        self.counter.observe(
            reading.t_ns, reading.joules, reading.updated_ns, added=added, half_ns=reading.half_ns
        )
        if self.counter.resets > resets:
            self._breaks.append((edge_ns or 0, self.counter.last_ns or 0))
        if reading.joules is not None:
            self._has_counter = True
        if reading.joules is not None or watts is not None:
            self.last_read_ns = max(self.last_read_ns, reading.t_ns)
            if self._first_ns is None:
                self._first_ns = reading.t_ns
            if self._by_counter and not counted:
                self._first_joules = self.joules_at(self._first_ns)

    def interrupt(self, now_ns: int) -> None:
        """Note that the machine was suspended since the last reading."""
        self.power.observe(now_ns, None)
        self.counter.interrupt(now_ns)
        self._breaks.append((self.last_read_ns, now_ns))

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps at a time, where a phase begins."""
        if self.channel.kind is Kind.COUNTER:
            self.counter.mark(t_ns, phase)
        elif self.channel.kind in (Kind.INTEGRATED, Kind.MODEL):
            self.power.mark(t_ns, phase)

    @property
    def recorded_since_ns(self) -> int | None:
        """Time of the oldest reading that is kept; None without a reading."""
        if self._first_ns is None:
            return None
        return max(self._first_ns, self._track.dropped_until_ns or 0)

    @property
    def period_s(self) -> float | None:
        """Time between two refreshes in seconds, as learned; None while unknown."""
        if self._by_counter:
            return self.counter.period_s
        return self.power.refresh_s or None

    def settled(self, end_ns: int, now_ns: int) -> bool:
        """Return whether later readings can no longer change the energy up to ``end_ns``."""
        if now_ns - max(self.last_read_ns, self.began_ns) > 1_000_000_000 and now_ns >= end_ns:
            return True  # readings have stopped; waiting does not help
        if self._by_counter:
            edge = self.counter.last_ns or 0
            period_ns = int((self.counter.period_s or 0.1) * 1e9)
            if self.last_read_ns > max(edge, end_ns) + 3 * period_ns:
                return True
            return edge >= end_ns and not self.counter.is_pending(end_ns)
        newest = self.power.last_ns
        if (self.channel.period_s or 0.0) >= 1.0:
            return newest is not None  # a battery: waiting for its next reading takes too long
        if newest is None or self.channel.kind is Kind.ESTIMATE:
            return newest is not None and newest >= end_ns
        # A jump at the very end appears only in the refresh after it.
        late_ns = end_ns + self.power.longest_wait_ns
        return newest >= late_ns and not self.power.is_pending(end_ns)

    def joules_at(self, t_ns: int) -> float:
        """Return the energy up to a time, on the grid; only differences are meaningful."""
        return snap(self._track.at(t_ns).joules)

    def joules_of(
        self, starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any], *, by_power: bool = False
    ) -> np.ndarray[Any, Any]:
        """Compute the joules of many intervals, as :meth:`energy` does; times in ns, int64.

        NaN where no part of an interval was recorded. ``by_power`` takes the power readings of a
        channel that has a counter too.
        """
        import numpy as np

        track = self.power if by_power else self._track
        if not len(track):
            return np.full(len(starts), np.nan)
        joules, known = track.totals(np.concatenate((starts, ends)))
        joules = np.round(joules / GRID_JOULES) * GRID_JOULES
        count = len(starts)
        found: np.ndarray[Any, Any] = joules[count:] - joules[:count]
        found[(known[count:] <= known[:count]) & (ends > starts)] = np.nan
        return found

    def joules_since_first(self, now_ns: int) -> float | None:
        """Return the energy since the first reading, even if dropped; None without a record."""
        if not (self._by_counter or len(self.power)):
            return None
        return self.joules_at(now_ns) - self._first_joules

    def slice_watts(self, start_ns: int, end_ns: int, slice_ns: int) -> np.ndarray[Any, Any]:
        """Compute mean watts in slices of an interval, by linear interpolation of the record."""
        import numpy as np

        marks = np.arange(start_ns, end_ns, slice_ns)
        if len(marks) < 2:
            marks = np.array([start_ns, end_ns])
        times, joules = self._track.curve()
        totals = np.interp(marks - times[0], times - times[0], joules)
        watts: np.ndarray[Any, Any] = (totals[1:] - totals[:-1]) / (marks[1:] - marks[:-1]) * 1e9
        return watts

    def energy(self, start_ns: int, end_ns: int) -> ChannelEnergy | None:
        """Compute the energy of an interval; None when no part of it was recorded."""
        if not (len(self.counter) or len(self.power)):
            return None
        first, last = self._track.at(start_ns), self._track.at(end_ns)
        span = float(end_ns - start_ns)
        known = last.known_ns - first.known_ns
        if span == 0:  # whether the record covers the moment
            around = self._track.at(start_ns - 1_000_000), self._track.at(start_ns + 1_000_000)
            known = around[1].known_ns - around[0].known_ns
        if known <= 0:
            return None
        joules = snap(last.joules) - snap(first.joules)
        if span == 0:
            return ChannelEnergy(self.channel.id, self._choose_kind(start_ns), 0.0, 0.0, 1.0, 0.0)
        covered = min(max((last.covered_ns - first.covered_ns) / span, 0.0), 1.0)
        extremes = self.power.extremes(start_ns, end_ns)
        if extremes is None and self._by_counter:
            extremes = self.counter.slopes(start_ns, end_ns)
        half_widths = self._compute_half_widths(start_ns, end_ns, first, last)
        apart = self._find_disagreement(start_ns, end_ns, first, last, half_widths.total)
        half_widths = half_widths.widen(apart)
        beat = None if self._by_counter else self.power.find_beat(start_ns, end_ns)
        if beat is not None:
            half_widths = half_widths.widen(abs(joules - beat * span / 1e9) + half_widths.total)
        return ChannelEnergy(
            id=self.channel.id,
            kind=self._choose_kind(start_ns),
            joules=joules,
            uncertainty=half_widths.total,
            coverage=covered if covered < 0.999999 else 1.0,
            mean_watts=joules / (span / 1e9),
            peak_watts=extremes[1] if extremes else None,
            flags=self._collect_flags(
                start_ns, end_ns, covered, disagrees=apart > 0, aliased=beat is not None
            ),
            half_widths=half_widths,
        )

    def watts_now(self, now_ns: int) -> float | None:
        """Return the most recent power; None when it is not known now."""
        if now_ns - self.last_read_ns > 1_000_000_000:
            return None
        if self.power.latest_watts is not None:
            return self.power.latest_watts
        edge, period = self.counter.last_ns, self.counter.period_s
        if edge is None or len(self.counter) < 2:
            return None
        window = int(max(0.2, 2 * (period or 0.1)) * 1e9)
        span = min(window, edge - (self.counter.first_ns or edge))
        if span <= 0:
            return None
        return (self.joules_at(edge) - self.joules_at(edge - span)) / span * 1e9

    def cross_check(self, start_ns: int, end_ns: int) -> CrossCheck | None:
        """Compare counter and integrated power; None unless both cover the whole interval."""
        if not self._by_counter:
            return None
        return self._compare(start_ns, end_ns, self.counter.at(start_ns), self.counter.at(end_ns))

    def _compare(self, start_ns: int, end_ns: int, first: Point, last: Point) -> CrossCheck | None:
        if not len(self.power):
            return None
        joules, seen = self.power.between(start_ns, end_ns)
        if min(last.known_ns - first.known_ns, seen) < 0.99 * (end_ns - start_ns):
            return None
        return CrossCheck(last.joules - first.joules, joules)

    @property
    def has_both(self) -> bool:
        """Whether it has a counter, and power readings too."""
        return self._by_counter and len(self.power) > 1

    @property
    def _by_counter(self) -> bool:
        return len(self.counter) > 1

    @property
    def _track(self) -> Recording[Any]:
        return self.counter if self._by_counter else self.power

    def _choose_kind(self, start_ns: int) -> Kind:
        """Return the channel's kind; INTEGRATED from where its counter stopped moving."""
        if self.channel.kind is not Kind.COUNTER:
            return self.channel.kind
        edge = self.counter.last_ns
        return Kind.COUNTER if edge is not None and start_ns < edge else Kind.INTEGRATED

    def _compute_half_widths(
        self, start_ns: int, end_ns: int, first: Point, last: Point
    ) -> HalfWidths:
        span = float(end_ns - start_ns)
        shared = math.hypot(first.systematic, last.systematic)
        ends = math.hypot(first.systematic + first.noise, last.systematic + last.noise)
        own = math.sqrt(max(ends**2 - shared**2, 0.0))
        unknown_s = max(span - (last.known_ns - first.known_ns), 0.0) / 1e9
        unknown = GRID_JOULES
        if not self._by_counter:
            shared = math.hypot(
                shared,
                self.power.lag_half_width(start_ns, end_ns),
                *(self.power.unseen_half_width(t_ns) for t_ns in (start_ns, end_ns)),
            )
            sampling = self.power.sampling_half_width(start_ns, end_ns)
            if self.channel.average_s:
                shared = math.hypot(shared, sampling)  # averages hide the same load the same way
            else:
                own = math.hypot(own, sampling)
            unknown += self.power.resolution_watts() / 2 * span / 1e9
            uncovered_s = max(span - (last.covered_ns - first.covered_ns), 0.0) / 1e9
            unknown_s = max(unknown_s, uncovered_s)
        if unknown_s > 0:
            most = self.counter.most_watts if len(self.counter) else self.power.max_watts
            unknown += unknown_s * max(self.power.max_watts, most)
        if self._by_counter:  # where power readings replace it
            unknown += sum(
                self._power_half_width(max(first_ns, start_ns), min(last_ns, end_ns))
                for first_ns, last_ns in self._find_breaks(start_ns, end_ns)
            )
        stated = self.channel.relative_error * abs(last.joules - first.joules)
        return HalfWidths(shared, own, stated, unknown)

    def _power_half_width(self, start_ns: int, end_ns: int) -> float:
        """Return the half width of integrated power over an interval, joules."""
        ends = self.power.at(start_ns).systematic + self.power.at(end_ns).systematic
        return ends + math.hypot(
            self.power.sampling_half_width(start_ns, end_ns),
            self.power.lag_half_width(start_ns, end_ns),
        )

    def _find_breaks(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        return [(a, b) for a, b in self._breaks if a < end_ns and b > start_ns]

    def _collect_flags(
        self, start_ns: int, end_ns: int, covered: float, *, disagrees: bool, aliased: bool
    ) -> tuple[str, ...]:
        period, span_s = self.period_s, (end_ns - start_ns) / 1e9
        counted = self._by_counter
        flags = {
            "coarse": period is not None and span_s < _COARSE_TICKS * period,
            "lag": bool(self.channel.average_s) and not counted,
            "aliased": aliased,
            "gap": covered < 0.999 or bool(self._find_breaks(start_ns, end_ns)),
            "extrapolated": counted and end_ns > (self.counter.last_ns or 0),
            "disagrees": counted and disagrees,
            "no-counter": not counted and self._has_counter and self.channel.kind is Kind.COUNTER,
        }
        return tuple(flag for flag, holds in flags.items() if holds)

    def _find_disagreement(
        self, start_ns: int, end_ns: int, first: Point, last: Point, half: float
    ) -> float:
        """Return the ± at which counter and integral agree; 0 where they agree within theirs.

        They differ if their difference is over 5 % and over their uncertainty.
        """
        check = self._compare(start_ns, end_ns, first, last) if self._by_counter else None
        if check is None:
            return 0.0
        gap = abs(check.counter_joules - check.integral_joules)
        apart = self._power_half_width(start_ns, end_ns)
        least = apart if end_ns - start_ns >= _LONG_NS else apart + half
        if gap <= _DISAGREE * abs(check.counter_joules) or gap <= least:
            return 0.0
        return gap + apart


def snap(joules: float) -> float:
    """Round to the grid."""
    return round(joules / GRID_JOULES) * GRID_JOULES
