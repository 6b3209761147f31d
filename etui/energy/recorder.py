"""The meter: record every power channel, and compute the energy of any interval afterwards."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from etui.energy._recordings.channel import ChannelRecording, CrossCheck
from etui.energy._recordings.wall import WallLag, WallRecording
from etui.energy.sampler import PowerSampler
from etui.energy.scopes import WALL, Selection, select_disjoint, weakest
from etui.energy.sharing import CpuWatch, GpuShare, GpuWatch, divide
from etui.energy.types import (
    Channel,
    ChannelEnergy,
    ChannelPower,
    Energy,
    Kind,
    Phase,
    PowerSource,
    Reading,
    combine,
    slice_interval,
    sum_known,
)
from etui.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from etui.energy.wall_model import WallCalibration

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

_QUICK_PERIOD_S = 0.005
"""A counter refreshed this often is read once more at each mark."""
SETTLE_S = 0.4
SETTLE_OF_AVERAGE = 0.6
"""Longest wait for an interval to settle, seconds; a running average of A s adds 0.6 A to it."""
_LONGEST_SETTLE_S = 2.5  # Where a model's counter is refreshed once a second or so
DISAGREES = "disagrees"
_COMPARED = 0.99
"""A wall meter with a gap is not compared."""
_PEAK_BINS = 600
_PEAK_SLICE_NS = 250_000_000


class Recorder:
    """Samples sources on the monotonic clock into ring buffers, and closes them.

    ``energy(a, b)`` is a pure function of what was recorded, and additive: the energies of adjacent
    intervals sum exactly to that of the whole. Sources that record who uses the GPUs and the CPUs
    (:mod:`etui.energy.sharing`) divide shared joules. ``unmeasured`` are the scopes of this machine
    that no source can read; ``estimate`` is that of the Config.
    """

    def __init__(
        self,
        sources: Sequence[PowerSource],
        *,
        hz: float = 20.0,
        clock: Callable[[], int] = time.monotonic_ns,
        unmeasured: Sequence[str] = (),
        keep_seconds: float = 3600.0,
        estimate: str = "auto",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(hz) and 0 < hz <= 200):
            raise UsageError(
                f"the meter cannot sample at {hz} Hz", "set sample_hz to a number from 1 to 200"
            )
        self.hz = hz
        self.sources = tuple(sources)
        self.unmeasured = tuple(unmeasured)
        self.watch = next((s for s in self.sources if isinstance(s, GpuWatch)), None)
        self.cpu_watch = next((s for s in self.sources if isinstance(s, CpuWatch)), None)
        self._clock = clock
        self._sleep = sleep
        self.channels = tuple(channel for source in self.sources for channel in source.channels)
        self.selection: Selection = select_disjoint(self.channels, estimate)
        crowd = max(1.0, len(self.channels) / 8)  # bounds the memory on a machine with 64 GPUs
        keep = int(max(keep_seconds / crowd, min(keep_seconds, 600.0)) * hz)
        self.wall_channels = tuple(c for c in self.channels if c.scope == WALL)
        self._walls = {
            c.id: WallRecording(c, keep=max(keep // 5, 3600)) for c in self.wall_channels
        }
        self._traces: dict[str, ChannelRecording | WallRecording] = {
            c.id: self._walls.get(c.id) or ChannelRecording(c, keep=keep, interval_s=1 / hz)
            for c in self.channels
        }
        self._lock = threading.Condition()
        self._sampler = PowerSampler(
            self.sources, int(1e9 / hz), clock, self._ingest,
            suspended=read_suspended_ns, interrupt=self._interrupt,
        )  # fmt: skip
        self._quick = tuple(source for source in self.sources if _is_quick(source))
        self._idle: dict[str, float] = {}
        self.set_idle(None)
        self.wall_model: WallCalibration | None = None  # Predicts joules at the wall
        self.taps: list[Callable[[Mapping[str, Reading]], None]] = []
        """Functions that are called with all readings, such as the writer of a trace."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start recording; do nothing when it is running already."""
        if not self._sampler.running:
            for trace in self._traces.values():
                trace.began_ns = self._clock()
        self._sampler.start()

    def stop(self) -> None:
        """Stop recording, and keep what was recorded."""
        self._sampler.stop()

    def close(self) -> None:
        """Stop recording and close the sources."""
        self._sampler.close()

    def sample_now(self) -> None:
        """Read every source once, on the calling thread."""
        self._sampler.read_once()

    def mark(self, t_ns: int, phase: Phase = "") -> None:
        """Note that the power steps at a time: where an answer, its decode or its pause begins.

        The energy at a mark is fitted to the readings around it, and to those of earlier turns,
        which show the power of the phases. Counters that are refreshed every few milliseconds are
        read now as well, since a call comes soon after its mark.
        """
        with self._lock:
            for trace in self._traces.values():
                trace.mark(t_ns, phase)
        if phase == "shared":
            return
        for source in self._quick:
            try:
                readings = source.read()
            except Exception:  # noqa: BLE001  the sampler's next read reports the failure
                continue
            with self._lock:
                for channel_id, reading in readings.items():
                    if reading.joules is not None:
                        self._traces[channel_id].observe(reading, added=True)
                self._lock.notify_all()

    def settle(self, end_ns: int, timeout_s: float | None = None) -> bool:
        """Wait until readings past ``end_ns`` exist, so that its energy no longer changes.

        Without ``timeout_s`` the longest wait is 0.4 s, and more where power readings are running
        averages, which lag by half their length, or a model's counter is refreshed more rarely.
        Returns whether every channel has settled.
        """
        if not self._sampler.running:
            self._sampler.read_once()
            with self._lock:
                return self._settled(end_ns)
        if timeout_s is None:
            late = [c.average_s for c in self.selection.summed if c.kind is not Kind.COUNTER]
            timeout_s = SETTLE_S + SETTLE_OF_AVERAGE * max(late, default=0.0)
            # Between refreshes of a vendor's model may be seconds.
            models = [c.id for c in self.selection.summed if c.kind is Kind.MODEL]
            batch_s = max((self.period_s(id_) or 0.0 for id_ in models), default=0.0)
            timeout_s = max(timeout_s, min(2 * batch_s, _LONGEST_SETTLE_S))
        limit_ns = self._clock() + int(timeout_s * 1e9)
        self._sampler.hurry(limit_ns)
        with self._lock:
            while not self._settled(end_ns):
                left_s = (limit_ns - self._clock()) / 1e9
                if left_s <= 0:
                    return False
                self._lock.wait(min(left_s, 0.1))
        return True

    def energy(self, start_ns: int, end_ns: int) -> Energy:
        """Compute the energy of an interval of the monotonic clock.

        UsageError if it ends before it starts.
        """
        if end_ns < start_ns:
            raise UsageError("an interval cannot end before it starts", "swap start_ns and end_ns")
        with self._lock:
            summed, missing = self._measured(self.selection.summed, start_ns, end_ns)
            checks, _ = self._measured(self.selection.cross_checks, start_ns, end_ns)
            peak = self._find_peak(summed, start_ns, end_ns)
            baseline = self._idle
        unmeasured = tuple(dict.fromkeys((*self.unmeasured, *missing)))
        checks = _compare_walls(checks, [] if missing else summed)
        if not summed:
            return Energy(
                start_ns, end_ns,
                cross_checks=checks, unmeasured=unmeasured, flags=("unmeasured",),
            )  # fmt: skip
        joules = math.fsum(part.joules for part in summed)
        seconds = (end_ns - start_ns) / 1e9
        shared, own_joules = divide(
            summed, lambda part: self._find_share(part, start_ns, end_ns), baseline, seconds
        )
        flags = [flag for part in summed for flag in part.flags] + ["shared"] * shared
        flags += [
            DISAGREES for part in checks if part.id in self._walls and DISAGREES in part.flags
        ]
        energy = Energy(
            start_ns=start_ns,
            end_ns=end_ns,
            joules=joules,
            uncertainty=combine([part.half_widths for part in summed]),
            kind=weakest(part.kind for part in summed),
            coverage=0.0 if missing else min(part.coverage for part in summed),
            idle_watts=sum_known(baseline.get(part.id) for part in summed),
            mean_watts=joules / seconds if seconds else None,
            peak_watts=peak,
            channels=summed,
            cross_checks=checks,
            unmeasured=unmeasured,
            flags=tuple(dict.fromkeys(flags)),
            own_joules=own_joules,
        )
        wall = None if missing or self.wall_model is None else self.wall_model.predict(energy)
        return energy if wall is None else replace(energy, wall=wall)

    def joules_of(self, spans: Sequence[tuple[int, int]]) -> list[float | None]:
        """Compute the joules of many intervals (ns), as :meth:`energy` does, in little time.

        None where nothing was measured.
        """
        with self._lock:
            return self._sum_joules(spans)

    def joules_of_channel(
        self, channel_id: str, starts: Whole, ends: Whole, *, by_power: bool = False
    ) -> Floats:
        """Compute the joules of a channel in many intervals (ns); NaN where it was not recorded.

        ``by_power`` takes its power readings, where it has a counter too.
        """
        with self._lock:
            trace = self._traces[channel_id]
            if isinstance(trace, WallRecording):
                return trace.joules_of(starts, ends)
            return trace.joules_of(starts, ends, by_power=by_power)

    def list_doubled(self) -> list[str]:
        """List the channels with a counter and power readings, which can be compared."""
        with self._lock:
            traces = self._traces.items()
            return [id_ for id_, t in traces if isinstance(t, ChannelRecording) and t.has_both]

    def latest(self) -> tuple[ChannelPower, ...]:
        """Return the newest power of every channel, those of the total first."""
        now_ns = self._clock()
        with self._lock:
            return tuple(
                ChannelPower(
                    channel=channel,
                    t_ns=self._traces[channel.id].last_read_ns,
                    watts=self._traces[channel.id].watts_now(now_ns),
                    joules_since_start=self._traces[channel.id].joules_since_first(now_ns),
                    in_total=channel in self.selection.summed,
                    problem=self._explain_wall(channel.id, now_ns),
                )
                for channel in (*self.selection.summed, *self.selection.cross_checks)
            )

    @property
    def joules_since_start(self) -> float | None:
        """Energy of the total since the recorder started; None when nothing was measured."""
        now_ns = self._clock()
        with self._lock:
            parts = [self._traces[c.id].joules_since_first(now_ns) for c in self.selection.summed]
        known = [joules for joules in parts if joules is not None]
        return math.fsum(known) if known else None

    @property
    def recorded_since_ns(self) -> int | None:
        """Time from which the record of all channels of the total is kept; None without one."""
        with self._lock:
            kept = [self._traces[c.id].recorded_since_ns for c in self.selection.summed]
        return max((t_ns for t_ns in kept if t_ns is not None), default=None)

    def power_curve(
        self, start_ns: int, end_ns: int, points: int = 120
    ) -> list[tuple[int, float | None]]:
        """Compute (middle in ns, mean watts) of equal slices; None for a slice without a record.

        The products of watts and slice length sum to the energy.
        """
        spans = slice_interval(start_ns, end_ns, points)
        return [
            (
                (start + end) // 2,
                None if joules is None or end == start else joules / (end - start) * 1e9,
            )
            for (start, end), joules in zip(spans, self.joules_of(spans), strict=True)
        ]

    def measure_idle(self, seconds: float = 5.0) -> Energy:
        """Measure the idle power of the next seconds, and use its mean watts as the baseline."""
        start_ns = self._clock()
        self._sleep(seconds)
        end_ns = self._clock()
        self.settle(end_ns)
        idle = self.energy(start_ns, end_ns)
        self.set_idle({part.id: part.mean_watts for part in idle.channels})
        return idle

    def set_idle(self, watts_by_channel: Mapping[str, float] | None) -> None:
        """Set the baseline to idle watts by channel id; None removes it.

        The idle watts of an estimate are always those of its formula.
        """
        stated = {c.id: c.idle_watts for c in self.channels if c.idle_watts is not None}
        with self._lock:
            self._idle = {**(watts_by_channel or {}), **stated}

    @property
    def idle_by_channel(self) -> Mapping[str, float]:
        """The baseline in watts by channel id; empty without one."""
        return dict(self._idle)

    @property
    def idle_watts(self) -> float | None:
        """The baseline of the total in watts; None without one."""
        return sum_known(self._idle.get(channel.id) for channel in self.selection.summed)

    def cross_check(self, channel_id: str, start_ns: int, end_ns: int) -> CrossCheck | None:
        """Compare counter and integrated power of a channel; None unless both cover it all."""
        with self._lock:
            return self._traces[channel_id].cross_check(start_ns, end_ns)

    def period_s(self, channel_id: str) -> float | None:
        """Return the learned time between refreshes of a channel, seconds; None while unknown."""
        with self._lock:
            return self._traces[channel_id].period_s

    def wall_lag(self, channel_id: str) -> WallLag:
        """Return how late a wall meter is; its energies are those of intervals shifted by that."""
        return self._walls[channel_id].lag

    def wall_wait_s(self, channel_id: str) -> float:
        """Return the time after which a wall meter's energy of a past interval is final."""
        with self._lock:
            return self._walls[channel_id].wait_s

    def wall_state(self, channel_id: str) -> WallState | None:
        """Return what is known of a wall meter; None for any other channel."""
        wall, now_ns = self._walls.get(channel_id), self._clock()
        if wall is None:
            return None
        with self._lock:
            lag = wall.lag
            return WallState(
                self._explain_wall(channel_id, now_ns) or None, wall.age_s(now_ns),
                *wall.resolution, lag.seconds if lag.learned else None, lag.half_seconds,
            )  # fmt: skip

    def _explain_wall(self, channel_id: str, now_ns: int) -> str:
        """Say why a wall meter gives no watts now; empty if it does, or is no wall meter."""
        wall = self._walls.get(channel_id)
        if wall is None or wall.watts_now(now_ns) is not None:
            return ""
        owner = next(source for source in self.sources if wall.channel in source.channels)
        problem, age_s = getattr(owner, "problem", ""), wall.age_s(now_ns)
        if problem or age_s is None:
            return str(problem)
        return f"its reading has not changed for {age_s:.0f} s"

    def _ingest(self, source: PowerSource, readings: Mapping[str, Reading]) -> None:
        now_ns = self._clock()
        with self._lock:
            for channel in source.channels:
                wall = self._walls.get(channel.id)
                if wall is not None and channel.id not in readings:
                    continue  # a trace has few readings of it between those of other channels
                reading = readings.get(channel.id) or Reading(now_ns, None)
                self._traces[channel.id].observe(reading)
                if wall is not None and channel not in self.selection.summed:
                    wall.learn_lag(now_ns, self._sum_joules)
            self._lock.notify_all()
        for tap in self.taps:
            tap(readings)

    def _sum_joules(self, spans: Sequence[tuple[int, int]]) -> list[float | None]:
        import numpy as np

        if not spans or not self.selection.summed:
            return [None] * len(spans)
        starts, ends = np.array(spans, dtype=np.int64).T
        rows = np.array([self._traces[c.id].joules_of(starts, ends) for c in self.selection.summed])
        nothing = np.isnan(rows).all(axis=0)
        return [
            None if none else joules
            for joules, none in zip(np.nansum(rows, axis=0).tolist(), nothing.tolist(), strict=True)
        ]

    def _interrupt(self, source: PowerSource) -> None:
        """Note that the machine was suspended since the last readings of a source."""
        now_ns = self._clock()
        with self._lock:
            for channel in source.channels:
                self._traces[channel.id].interrupt(now_ns)

    def _settled(self, end_ns: int) -> bool:
        now_ns = self._clock()
        return all(self._traces[c.id].settled(end_ns, now_ns) for c in self.selection.summed)

    def _measured(
        self, channels: Sequence[Channel], start_ns: int, end_ns: int
    ) -> tuple[tuple[ChannelEnergy, ...], list[str]]:
        found: list[ChannelEnergy] = []
        missing: list[str] = []
        for channel in channels:
            part = self._traces[channel.id].energy(start_ns, end_ns)
            if part is None:
                missing.append(channel.scope)
            else:
                found.append(part)
        return tuple(found), missing

    def _find_peak(
        self, summed: Sequence[ChannelEnergy], start_ns: int, end_ns: int
    ) -> float | None:
        """Return the largest watts of the sum; of several channels, in slices from 0.25 s."""
        if len(summed) == 1:
            return summed[0].peak_watts
        if not summed or end_ns <= start_ns:
            return None
        slice_ns = max(_PEAK_SLICE_NS, (end_ns - start_ns) // _PEAK_BINS)
        if end_ns - start_ns <= slice_ns:
            return math.fsum(part.mean_watts for part in summed)
        rows = [self._traces[part.id].slice_watts(start_ns, end_ns, slice_ns) for part in summed]
        return float(max(sum(rows)))  # type: ignore[arg-type]

    def _find_share(self, part: ChannelEnergy, start_ns: int, end_ns: int) -> GpuShare | None:
        watch = self.cpu_watch if part.kind is Kind.ESTIMATE else self.watch
        scope = self._traces[part.id].channel.scope
        return watch.share(scope, start_ns, end_ns) if watch is not None else None


@dataclass(frozen=True, slots=True)
class WallState:
    """What is known of a wall meter now; None where it is not known yet."""

    problem: str | None  # Why it gives no reading; None if it gives one
    age_seconds: float | None  # Since its reading last changed
    step_watts: float | None  # The smallest steps of its readings: their resolution
    step_joules: float | None
    lag_seconds: float | None
    lag_half_seconds: float


def _compare_walls(
    checks: tuple[ChannelEnergy, ...], inner: Sequence[ChannelEnergy]
) -> tuple[ChannelEnergy, ...]:
    """Flag the wall meters that give less than the channels inside, by more than both half widths.

    What covers a part of the machine cannot take more than all of it.
    """
    joules = math.fsum(part.joules for part in inner)
    half = combine([part.half_widths for part in inner])
    return tuple(
        replace(part, flags=(*part.flags, DISAGREES))
        if part.id.startswith(f"{WALL}:")
        and part.coverage > _COMPARED
        and joules - half > part.joules + part.uncertainty
        and DISAGREES not in part.flags
        else part
        for part in checks
    )


def _is_quick(source: PowerSource) -> bool:
    """Return whether all channels of a source are counters that are refreshed all the time."""
    return bool(source.channels) and all(
        c.kind is Kind.COUNTER and c.period_s is not None and c.period_s <= _QUICK_PERIOD_S
        for c in source.channels
    )


def read_suspended_ns() -> int:
    """Return the time that the machine has been suspended; only differences are meaningful.

    Linux has a clock that continues during a suspend. Elsewhere the wall clock has to do, which
    also jumps when it is set.
    """
    if sys.platform == "linux" and hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return time.time_ns() - time.monotonic_ns()
