"""The types of the meter: channels, readings, and the energy of an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from etui.energy.uncertainty import HalfWidths


class Kind(StrEnum):
    """How the energy of a channel is determined, best first."""

    COUNTER = "counter"
    """A cumulative hardware counter."""
    INTEGRATED = "integrated"
    """Hardware power readings, integrated over time."""
    MODEL = "model"
    """The vendor's own model, not a sensor."""
    BATTERY = "battery"
    """The battery's discharge, which covers the whole machine."""
    ESTIMATE = "estimate"
    """No hardware reading at all: utilisation times a stated power range."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One part of the machine whose energy can be read or estimated.

    Attributes:
        id: Unique; begins with the scope (``gpu:GPU-1a2b``, ``package:0``, ``estimate:cpu``).
        scope: The hardware that it covers (``gpu:GPU-1a2b``, ``package:0``, ``dram:0``, ``psys``,
            ``battery``).
        kind: How the energy is determined.
        parent: Scope that covers this one, None at the top.
        limit_watts: Power limit, the top of the fixed scale; None if unknown.
        label: A name for people (``NVIDIA L40S``).
        range_joules: Value at which a cumulative counter wraps to 0; None if it never does.
        average_s: Seconds over which a power reading is averaged; 0 if it is instant.
        period_s: Expected seconds between two refreshes of the reading; None if it is learned.
        relative_error: Relative half width of the reading itself (0.4 for an estimate).
        idle_watts: Idle power of an estimate, which its formula states; None for a channel whose
            idle power has to be measured.
    """

    id: str
    scope: str
    kind: Kind
    parent: str | None = None
    limit_watts: float | None = None
    label: str = ""
    range_joules: float | None = None
    average_s: float = 0.0
    period_s: float | None = None
    relative_error: float = 0.0
    idle_watts: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of one channel; a failed read has neither joules nor watts.

    Attributes:
        t_ns: Time of the read on the monotonic clock.
        joules: Cumulative counter, not yet unwrapped; None if the channel has none.
        watts: Power at that time; None if unknown.
        driver_us: The driver's own timestamp, microseconds; None where it gives none.
        updated_ns: That timestamp on the monotonic clock. The meter detects whether it is the time
            of the refresh, which is useful, or of the call, which is not.
    """

    t_ns: int
    joules: float | None
    watts: float | None = None
    driver_us: int | None = None
    updated_ns: int | None = None


@dataclass(frozen=True, slots=True)
class ChannelProbe:
    """The report of ``etui doctor`` on one channel that exists or could exist.

    Attributes:
        id: Channel id, or the name of the source when nothing was found.
        found: Whether the hardware or its interface exists.
        readable: Whether it returned a reading.
        why_not: Why it does not exist or cannot be read; for a readable one, a remark or empty.
        fix: The exact command or line that fixes it; empty when there is none.
    """

    id: str
    found: bool
    readable: bool
    why_not: str = ""
    fix: str = ""


class PowerSource(Protocol):
    """A family of channels that are read together (one driver, one sysfs tree)."""

    @property
    def channels(self) -> Sequence[Channel]:
        """Channels that can be read."""

    def probe(self) -> Sequence[ChannelProbe]:
        """Report the channels of the source, and why some cannot be read."""

    def read(self) -> Mapping[str, Reading]:
        """Read every channel now; never raises.

        Returns:
            Channel id -> reading; a channel that fails gives an empty reading.
        """

    def close(self) -> None:
        """Release the driver."""


@runtime_checkable
class DividedSource(Protocol):
    """A source whose parts can be read apart, so that a part that stalls delays no other."""

    @property
    def parts(self) -> Sequence[PowerSource]:
        """Parts that can be read at the same time; closing the whole closes them."""


@dataclass(frozen=True, slots=True)
class ChannelEnergy:
    """Energy of one channel over an interval.

    ``uncertainty`` is a half width in joules at 95 %; ``coverage`` the share of the interval that
    was recorded (0..1); ``flags`` qualify the result (``coarse``, ``lag``, ``gap``);
    ``half_widths`` are the parts of ``uncertainty``.
    """

    id: str
    kind: Kind
    joules: float
    uncertainty: float
    coverage: float
    mean_watts: float
    peak_watts: float | None = None
    flags: tuple[str, ...] = ()
    half_widths: HalfWidths = field(default_factory=HalfWidths)


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of an interval: the sum over disjoint scopes, with its uncertainty.

    Attributes:
        start_ns, end_ns: The interval, monotonic clock.
        joules: Gross energy, joules; None, and never 0, when nothing was measured.
        uncertainty: Half width in joules at 95 %; None when ``joules`` is None.
        idle_watts: Idle power of the summed channels, None without a baseline.
        kind: The weakest kind in the sum; None when nothing was measured.
        coverage: Share of the interval that was recorded, the smallest of the channels (0..1).
        mean_watts, peak_watts: Watts of the sum; None when unknown.
        channels: The summed channels.
        cross_checks: Covering channels that are not in the sum (psys, battery).
        unmeasured: Scopes of this machine without a reading.
        flags: Qualifications of the result (``coarse``, ``lag``, ``gap``, ``extrapolated``,
            ``disagrees``, ``no-counter``, ``shared``, ``unmeasured``).
        own_joules: Joules of etui's own processes, where others used a GPU or the CPUs of an
            estimate: energy above idle times etui's share of SM or CPU time; None if nothing was
            shared, or if the driver does not report the use of a shared GPU by process.
    """

    start_ns: int
    end_ns: int
    joules: float | None
    uncertainty: float | None
    kind: Kind | None
    coverage: float
    idle_watts: float | None = None
    mean_watts: float | None = None
    peak_watts: float | None = None
    channels: tuple[ChannelEnergy, ...] = ()
    cross_checks: tuple[ChannelEnergy, ...] = ()
    unmeasured: tuple[str, ...] = ()
    flags: tuple[str, ...] = field(default=())
    own_joules: float | None = None

    @property
    def seconds(self) -> float:
        """Length of the interval in seconds."""
        return (self.end_ns - self.start_ns) / 1e9

    @property
    def shared(self) -> bool:
        """Whether other processes used a GPU of the sum, or the CPUs of an estimate."""
        return "shared" in self.flags

    @property
    def net_joules(self) -> float | None:
        """Gross joules minus idle watts times seconds; None without a baseline."""
        if self.joules is None or self.idle_watts is None:
            return None
        return self.joules - self.idle_watts * self.seconds


EnergyOf = Callable[[int, int], Energy]
"""Function that returns the energy of an interval: start and end on the monotonic clock, in ns."""


@dataclass(frozen=True, slots=True)
class ChannelPower:
    """The latest power of one channel, for a live panel; ``watts`` is None when not known now."""

    channel: Channel
    t_ns: int
    watts: float | None
    joules_since_start: float | None
    in_total: bool
