"""Working times of a turn's answers: intervals of the monotonic clock, and their energy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from etui.energy.scopes import weakest
from etui.energy.types import ChannelEnergy, Energy, EnergyOf
from etui.events import Event, Finished, Loaded, Prefilled, Unloaded


@dataclass(frozen=True, slots=True)
class TimeInterval:
    """An interval of the monotonic clock."""

    start_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Leg:
    """The part of one arm in a turn."""

    end: Finished  # Its final event
    load: TimeInterval | None = None  # The load it waited for; None if its model was in memory
    unloads: tuple[TimeInterval, ...] = ()  # Unloads of other models that made room for it
    energy_of: EnergyOf | None = None
    """Returns the energy of an interval of its work; None is that of the turn."""
    load_energy_of: EnergyOf | None = None
    """The same for its load and unloads, which are never shared; None as above."""

    @property
    def excluded(self) -> tuple[TimeInterval, ...]:
        """Intervals that do not count for the turn: unloads and the load."""
        return self.unloads if self.load is None else (*self.unloads, self.load)


@dataclass(frozen=True, slots=True)
class LegSpans:
    """Working times of a leg: intervals of its two phases, without loads and unloads."""

    prefill: tuple[TimeInterval, ...]
    decode: tuple[TimeInterval, ...]

    @property
    def seconds(self) -> float:
        """Length of both phases in seconds."""
        return sum_seconds((*self.prefill, *self.decode))


def compute_spans(legs: Sequence[Leg]) -> tuple[LegSpans, ...]:
    """Compute the working times of each leg.

    A leg begins where the previous one ended, so that the legs tile the turn: the time between two
    answers (choosing the next arm, looking up its model) belongs to the next prefill. Loads and
    unloads in between are excluded.
    """
    spans: list[LegSpans] = []
    begin_ns = legs[0].end.start_ns
    for leg in legs:
        end = leg.end
        prefill = TimeInterval(begin_ns, max(begin_ns, end.prefill_end_ns))
        decode = TimeInterval(prefill.end_ns, max(prefill.end_ns, end.end_ns))
        spans.append(LegSpans(subtract(prefill, leg.excluded), (decode,)))
        begin_ns = decode.end_ns
    return tuple(spans)


def find_marks(event: Event) -> tuple[int, ...]:
    """Return the times at which an event says that the power stepped, monotonic nanoseconds.

    A load and an unload begin and end, the work of an answer begins after them, decode begins with
    the first token, and after the last token the machine rests.
    """
    match event:
        case Loaded() | Unloaded():
            return event.start_ns, event.end_ns
        case Prefilled():
            return (event.end_ns,)
        case Finished():
            return (event.end_ns,)
        case _:
            return ()


def subtract(whole: TimeInterval, excluded: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """Subtract intervals from an interval; the result has at least one interval, maybe empty."""
    left: list[TimeInterval] = []
    begin_ns = whole.start_ns
    for cut in sorted(excluded, key=lambda interval: interval.start_ns):
        start_ns = min(max(cut.start_ns, begin_ns), whole.end_ns)
        if start_ns > begin_ns:
            left.append(TimeInterval(begin_ns, start_ns))
        begin_ns = max(begin_ns, min(cut.end_ns, whole.end_ns))
    if begin_ns < whole.end_ns or not left:
        left.append(TimeInterval(begin_ns, whole.end_ns))
    return tuple(left)


def merge_adjacent(intervals: Iterable[TimeInterval]) -> tuple[TimeInterval, ...]:
    """Merge adjacent intervals and drop empty ones, unless all of them are empty."""
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
    """Compute the energy of several intervals as one; unmeasured if any part is.

    Half widths are added, which bounds the error if all parts share its cause. ``start_ns`` and
    ``end_ns`` are the outer ends; watts are means over the parts only, so their difference is not
    the measured time.
    """
    return sum_energies([energy_of(i.start_ns, i.end_ns) for i in merge_adjacent(intervals)])


def energy_of_legs(legs: Sequence[Leg], spans: Sequence[LegSpans], energy_of: EnergyOf) -> Energy:
    """Compute the energy of the work of several legs as one, each by the meter of its machine.

    Args:
        legs: The legs, in order; at least one.
        energy_of: Returns the energy of an interval of the legs that have no meter of their own.
    """
    parts: list[Energy] = []
    pairs = zip(legs, spans, strict=True)
    for meter, members in groupby(pairs, key=lambda pair: pair[0].energy_of or energy_of):
        intervals = [i for _, each in members for i in (*each.prefill, *each.decode)]
        parts += [meter(i.start_ns, i.end_ns) for i in merge_adjacent(intervals)]
    return sum_energies([part for part in parts if part.end_ns > part.start_ns] or parts[:1])


def sum_energies(parts: Sequence[Energy]) -> Energy:
    """Sum the energies of several intervals as one, see :func:`energy_over`; at least one."""
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
        channels=_merge_channels(parts) if measured else (),
        unmeasured=_unique(part.unmeasured for part in parts),
        flags=_unique(part.flags for part in parts),
        own_joules=_sum_own_joules(parts),
    )


def sum_seconds(intervals: Iterable[TimeInterval]) -> float:
    """Sum the lengths of intervals, in seconds."""
    return math.fsum(interval.seconds for interval in intervals)


def sum_of_known(values: Sequence[float | None]) -> float | None:
    """Sum values; None if one of them is None, or there are none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def _sum_own_joules(parts: Sequence[Energy]) -> float | None:
    if not any(part.shared for part in parts):
        return None
    return sum_of_known([part.own_joules if part.shared else part.joules for part in parts])


def _unique(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in lists for name in names))


def _merge_channels(parts: Sequence[Energy]) -> tuple[ChannelEnergy, ...]:
    made: dict[str, ChannelEnergy] = {}
    for channel in (channel for part in parts for channel in part.channels):
        before = made.get(channel.id)
        made[channel.id] = (
            channel if before is None else replace(before, joules=before.joules + channel.joules)
        )
    return tuple(made.values())
