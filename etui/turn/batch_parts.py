"""The parts of one turn in batches that it shares: their times, their joules, its shares."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from etui.energy.types import ChannelEnergy, Energy
from etui.turn.batch_ledger import BatchGroup
from etui.turn.ports import Meter

Span = tuple[int, int]
"""Start and end on the monotonic clock, nanoseconds."""


@runtime_checkable
class BulkMeter(Protocol):
    """A meter that computes the joules of many intervals at once."""

    def joules_of(self, spans: Sequence[Span]) -> Sequence[float | None]:
        """Return the joules of each interval; None for one that is unmeasured."""


@dataclass(frozen=True, slots=True)
class BatchPart:
    """A group of batches and one turn's part in it."""

    group: BatchGroup
    share: float  # The turn's share of their joules, 0..1
    by_tokens: float  # Its share by tokens alone
    requests: int  # Number of requests in each batch; several answers of the turn count as one
    method: str  # How the share was found: `exclusive`, `shapley` or `tokens`

    @property
    def span(self) -> Span:
        """Start and end of the group."""
        return self.group.start_ns, self.group.end_ns

    def cut(self, start_ns: int, end_ns: int) -> Span:
        """Return the span inside an interval that overlaps it."""
        return max(self.group.start_ns, start_ns), min(self.group.end_ns, end_ns)


def find_range(parts: Sequence[BatchPart], start_ns: int, end_ns: int) -> tuple[int, int]:
    """Return the indices of the groups that overlap an interval: first, and behind the last."""
    if end_ns <= start_ns:
        return 0, 0
    low = bisect_right(parts, start_ns, key=lambda part: part.group.end_ns)
    high = bisect_left(parts, end_ns, key=lambda part: part.group.start_ns)
    return low, max(low, high)


def iter_runs(parts: Sequence[BatchPart], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the groups of a range that follow one another without a gap."""
    first = low
    for index in range(low + 1, high):
        if parts[index].group.start_ns != parts[index - 1].group.end_ns:
            yield first, index
            first = index
    yield first, high


def measure_spans(meter: Meter, spans: Sequence[Span]) -> list[float | None]:
    """Return the joules of each interval; None for one that is unmeasured."""
    if not spans:
        return []
    if isinstance(meter, BulkMeter):
        return list(meter.joules_of(spans))
    return [meter.energy(low, high).joules if high > low else 0.0 for low, high in spans]


def scale(joules: float | None, share: float) -> float | None:
    """Return a share of joules; None if they are unknown."""
    return None if joules is None else joules * share


def mean_share(parts: Sequence[BatchPart]) -> float:
    """Return the mean share of a turn over the batches of some groups."""
    batches = sum(part.group.batches for part in parts)
    return math.fsum(part.share * part.group.batches for part in parts) / batches


def take_share(machine: Energy, joules: float, share: float, of_time: float) -> Energy:
    """Return a turn's part of an energy.

    Args:
        share: Their share of those of the machine.
        of_time: Mean share over the time, by which idle power is divided.
    """
    seconds = machine.seconds
    return replace(
        machine,
        joules=joules,
        uncertainty=scale(machine.uncertainty, share),
        idle_watts=scale(machine.idle_watts, of_time),
        mean_watts=joules / seconds if seconds else None,
        peak_watts=None,
        channels=tuple(_scale_channel(channel, share) for channel in machine.channels),
        cross_checks=(),
        own_joules=scale(machine.own_joules, share),
    )


def _scale_channel(channel: ChannelEnergy, share: float) -> ChannelEnergy:
    widths = channel.half_widths
    return replace(
        channel,
        joules=channel.joules * share,
        uncertainty=channel.uncertainty * share,
        mean_watts=channel.mean_watts * share,
        peak_watts=None,
        half_widths=replace(
            widths,
            shared=widths.shared * share,
            own=widths.own * share,
            stated=widths.stated * share,
            unknown=widths.unknown * share,
        ),
    )
