"""When the answers of a turn worked: intervals of the monotonic clock, and their energy as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from etui.energy.scopes import weakest
from etui.energy.types import ChannelEnergy, Energy, EnergyOf
from etui.events import Finished


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """Two moments of the monotonic clock."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Leg:
    """One arm's part of a turn.

    Attributes:
        end: Its last word.
        load: The load it waited for; None where its model was in memory.
        unloads: Models that gave way to it.
    """

    end: Finished
    load: TimeInterval | None = None
    unloads: tuple[TimeInterval, ...] = ()

    @property
    def away(self) -> tuple[TimeInterval, ...]:
        """What lies outside the joules of the turn."""
        return self.unloads if self.load is None else (*self.unloads, self.load)


@dataclass(frozen=True, slots=True)
class LegSpans:
    """When a leg worked: intervals of its two phases, without loads and unloads."""

    prefill: tuple[TimeInterval, ...]
    decode: tuple[TimeInterval, ...]

    @property
    def seconds(self) -> float:
        """Length of both phases."""
        return seconds_of((*self.prefill, *self.decode))


def spans_of(legs: Sequence[Leg]) -> tuple[LegSpans, ...]:
    """When each leg worked.

    A leg begins where the one before it ended, so that the legs tile the turn: what lies between
    two answers (the choice of the next arm, its model's lookup) belongs to the next prefill. Loads
    and unloads in between are left out.
    """
    spans: list[LegSpans] = []
    begin_ns = legs[0].end.start_ns
    for leg in legs:
        end = leg.end
        prefill = TimeInterval(begin_ns, max(begin_ns, end.prefill_end_ns))
        decode = TimeInterval(prefill.end_ns, max(prefill.end_ns, end.end_ns))
        spans.append(LegSpans(without(prefill, leg.away), (decode,)))
        begin_ns = decode.end_ns
    return tuple(spans)


def without(whole: TimeInterval, away: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """What is left of an interval when others are cut out of it; at least one, perhaps empty."""
    left: list[TimeInterval] = []
    begin_ns = whole.start_ns
    for gone in sorted(away, key=lambda interval: interval.start_ns):
        start_ns = min(max(gone.start_ns, begin_ns), whole.end_ns)
        if start_ns > begin_ns:
            left.append(TimeInterval(begin_ns, start_ns))
        begin_ns = max(begin_ns, min(gone.end_ns, whole.end_ns))
    if begin_ns < whole.end_ns or not left:
        left.append(TimeInterval(begin_ns, whole.end_ns))
    return tuple(left)


def joined(intervals: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """Intervals in their order, those that touch made one, empty ones left out unless all are."""
    made: list[TimeInterval] = []
    for interval in intervals:
        if made and made[-1].end_ns == interval.start_ns:
            made[-1] = TimeInterval(made[-1].start_ns, interval.end_ns)
        elif made and made[-1].start_ns == made[-1].end_ns:
            made[-1] = interval
        elif not made or interval.start_ns != interval.end_ns:
            made.append(interval)
    return tuple(made)


def energy_over(intervals: Iterable[TimeInterval], energy_of: EnergyOf) -> Energy:
    """Energy of several intervals as one; it is unmeasured when a part of it is.

    Half widths add up, which bounds the error when all parts share its cause. ``start_ns`` and
    ``end_ns`` are the outer ends, so the result knows no length: watts are over the parts alone.
    """
    parts = [energy_of(i.start_ns, i.end_ns) for i in joined(intervals)]
    if len(parts) == 1:
        return parts[0]
    seconds = math.fsum(part.seconds for part in parts)
    joules = sum_of_known([part.joules for part in parts])
    kinds = [part.kind for part in parts if part.kind is not None]
    peaks = [part.peak_watts for part in parts if part.peak_watts is not None]
    idle = sum_of_known(
        [p.idle_watts * p.seconds if p.idle_watts is not None else None for p in parts]
    )
    measured = joules is not None
    return Energy(
        start_ns=parts[0].start_ns,
        end_ns=parts[-1].end_ns,
        joules=joules,
        uncertainty=sum_of_known([part.uncertainty for part in parts]) if measured else None,
        kind=weakest(kinds) if measured else None,
        coverage=math.fsum(p.coverage * p.seconds for p in parts) / seconds if measured else 0.0,
        idle_watts=idle / seconds if idle is not None else None,
        mean_watts=joules / seconds if joules is not None else None,
        peak_watts=max(peaks, default=None),
        channels=_channels(parts) if measured else (),
        unmeasured=_each(part.unmeasured for part in parts),
        flags=_each(part.flags for part in parts),
        own_joules=_own_joules(parts),
    )


def seconds_of(intervals: Iterable[TimeInterval]) -> float:
    """Their lengths added up, in seconds."""
    return math.fsum(interval.seconds for interval in intervals)


def sum_of_known(values: Sequence[float | None]) -> float | None:
    """The sum; None when one of them is, or there is none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def _own_joules(parts: Sequence[Energy]) -> float | None:
    if not any(part.shared for part in parts):
        return None
    return sum_of_known([part.own_joules if part.shared else part.joules for part in parts])


def _each(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _channels(parts: Sequence[Energy]) -> tuple[ChannelEnergy, ...]:
    made: dict[str, ChannelEnergy] = {}
    for channel in (channel for part in parts for channel in part.channels):
        before = made.get(channel.id)
        made[channel.id] = (
            channel if before is None else replace(before, joules=before.joules + channel.joules)
        )
    return tuple(made.values())
