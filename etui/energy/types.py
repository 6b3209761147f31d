"""The types of the meter: channels, readings, and the energy of an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

Phase = Literal["idle", "prefill", "decode", "shared", ""]
"""What a machine does from a mark on; empty: something else, of unknown power. ``shared``: the work
of several turns, whose power follows none of them, so that no energy is fitted at its mark."""

_HELD_HALF_NS = 1_000_000
_FIRST_HALF_NS = 25_000_000
"""Halves of a call that was held up: at least, and while it is not known how long calls take."""


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
    """One part of the machine whose energy can be read or estimated."""

    id: str  # Unique; begins with the scope (`gpu:GPU-1a2b`, `package:0`, `estimate:cpu`)
    scope: str  # The hardware that it covers (`gpu:GPU-1a2b`, `package:0`, `psys`, `wall`)
    kind: Kind
    parent: str | None = None  # Scope that covers this one, None at the top
    limit_watts: float | None = None  # Power limit, the top of the fixed scale; None if unknown
    label: str = ""  # A name for people (`NVIDIA L40S`)
    range_joules: float | None = None  # Where a cumulative counter wraps to 0; None if never
    average_s: float = 0.0  # Seconds over which a power reading is averaged; 0 if it is instant
    period_s: float | None = None  # Expected seconds between two refreshes; None: it is learned
    relative_error: float = 0.0  # Relative half width of the reading itself (0.4 for an estimate)
    idle_watts: float | None = None  # Stated idle power of an estimate; None: measure it


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of one channel; a failed read has neither joules nor watts."""

    t_ns: int  # Time of the read on the monotonic clock
    joules: float | None  # Cumulative counter, not yet unwrapped; None if the channel has none
    watts: float | None = None  # Power at that time; None if unknown
    driver_us: int | None = None  # The driver's own timestamp, microseconds
    updated_ns: int | None = None
    """That timestamp on the monotonic clock. The meter detects whether it is the time of the
    refresh, which is useful, or of the call, which is not."""
    half_ns: int = 0  # The values were taken at most this long before or after `t_ns`
    restarted: bool = False  # Whether the counter may have missed energy since the last reading


@dataclass(frozen=True, slots=True)
class ChannelProbe:
    """The report of ``etui doctor`` on one channel that exists or could exist."""

    id: str  # Channel id, or the name of the source when nothing was found
    found: bool  # Whether the hardware or its interface exists
    readable: bool
    why_not: str = ""  # Why it does not exist or cannot be read; of a readable one, a remark
    fix: str = ""  # The exact command or line that fixes it; empty when there is none


class PowerSource(Protocol):
    """A family of channels that are read together (one driver, one sysfs tree)."""

    @property
    def channels(self) -> Sequence[Channel]:
        """Channels that can be read."""

    def probe(self) -> Sequence[ChannelProbe]:
        """Report the channels of the source, and why some cannot be read."""

    def read(self) -> Mapping[str, Reading]:
        """Read every channel now, by its id; never raises, a channel that fails is empty."""

    def close(self) -> None:
        """Release the driver."""


ReadValues = Callable[[], tuple[float | None, float | None]]
"""Reads the joules of a counter and the watts of a channel; None for what it does not give."""


class BaseSource:
    """A source that finds its channels when it is opened, and reads them one after the other."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock = clock
        self.channels: list[Channel] = []  # Channels that gave a reading
        self.probes: list[ChannelProbe] = []
        self._readers: dict[str, ReadValues] = {}
        self._usual_ns: dict[str, int] = {}

    @property
    def unreadable_scopes(self) -> list[str]:
        """Scopes that exist and cannot be read."""
        return [probe.id for probe in self.probes if probe.found and not probe.readable]

    def add(
        self, channel: Channel, remark: str = "", fix: str = "", *, read: ReadValues | None = None
    ) -> None:
        """Add a channel that can be read; without ``read`` the source overrides a method."""
        self.channels.append(channel)
        self.probes.append(ChannelProbe(channel.id, True, True, remark, fix))
        if read is not None:
            self._readers[channel.id] = read

    def refuse(self, name: str, why: str, fix: str = "", *, found: bool = True) -> None:
        """Report what cannot be read."""
        self.probes.append(ChannelProbe(name, found, False, why, fix))

    def probe(self) -> Sequence[ChannelProbe]:
        """Report what was found when the source was opened."""
        return self.probes

    def read(self) -> Mapping[str, Reading]:
        """Read every channel now, by its id; one that fails gives an empty reading."""
        return {channel.id: self._read_quickly(channel) for channel in self.channels}

    def read_channel(self, channel: Channel) -> Reading:
        """Read one channel."""
        begin_ns = self.clock()
        return self.date(begin_ns, *self._readers[channel.id]())

    def _read_quickly(self, channel: Channel) -> Reading:
        """Read a channel, and once more where the driver or a busy CPU held the call up.

        The values may be of any time of a call, so those of a quick call are dated better.
        """
        reading = self.read_channel(channel)
        usual_ns = self._usual_ns.get(channel.id, _FIRST_HALF_NS)
        if reading.half_ns > max(_HELD_HALF_NS, 2 * usual_ns):
            reading = min(reading, self.read_channel(channel), key=lambda each: each.half_ns)
        self._usual_ns[channel.id] = reading.half_ns
        return reading

    def date(self, begin_ns: int, joules: float | None, watts: float | None = None) -> Reading:
        """Build the reading of a call that ends now: it may have been held up on either side."""
        half_ns = (self.clock() - begin_ns) // 2
        return Reading(begin_ns + half_ns, joules, watts, half_ns=half_ns)

    def close(self) -> None:
        """Do nothing: no resource is open."""


@runtime_checkable
class DividedSource(Protocol):
    """A source whose parts can be read apart, so that a part that stalls delays no other."""

    @property
    def parts(self) -> Sequence[PowerSource]:
        """Parts that can be read at the same time; closing the whole closes them."""


@dataclass(frozen=True, slots=True)
class HalfWidths:
    """The parts of a half width at 95 %, joules, by what the channels of a total have in common."""

    shared: float = 0.0
    """The power did the same on all channels: what it did inside a tick at the two ends, when it
    stepped, how late a reading follows it."""
    own: float = 0.0  # Random for each channel: when its counter moved, what its samples missed
    stated: float = 0.0  # Relative error of the reading itself (that of an estimate)
    unknown: float = 0.0  # Bounds that are added as they are: time without a reading, digits

    @property
    def total(self) -> float:
        """Half width of the one channel."""
        return math.hypot(self.shared, self.own, self.stated) + self.unknown

    def widen(self, joules: float) -> HalfWidths:
        """Return the parts with a total of at least ``joules``."""
        return replace(self, unknown=self.unknown + max(joules - self.total, 0.0))


def sum_known(values: Iterable[float | None]) -> float | None:
    """Sum values; None if there is none, or if one is unknown."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) if known and len(known) == len(found) else None


def combine(parts: Sequence[HalfWidths]) -> float:
    """Return the half width of a sum of channels.

    Shared parts add linearly: with eight GPUs under the same load, all eight miss the same edge in
    the same direction. Only what is each channel's own is added in quadrature.
    """
    return HalfWidths(
        math.fsum(part.shared for part in parts),
        math.hypot(*(part.own for part in parts)),
        math.fsum(part.stated for part in parts),
        math.fsum(part.unknown for part in parts),
    ).total


@dataclass(frozen=True, slots=True)
class ChannelEnergy:
    """Energy of one channel over an interval."""

    id: str
    kind: Kind
    joules: float
    uncertainty: float  # Half width in joules at 95 %
    coverage: float  # Share of the interval that was recorded, 0..1
    mean_watts: float
    peak_watts: float | None = None
    flags: tuple[str, ...] = ()  # Qualifications of the result (`coarse`, `lag`, `gap`)
    half_widths: HalfWidths = field(default_factory=HalfWidths)  # The parts of `uncertainty`


@dataclass(frozen=True, slots=True)
class WallEnergy:
    """Joules at the wall that a calibration predicts from inner joules; their kind is `model`."""

    joules: float
    uncertainty: float  # Half width in joules at 95 %: of the fit, its meter and the inner joules
    calibration: str  # Id of the calibration
    extrapolated: bool = False  # Whether the power was outside of the calibrated range


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of an interval: the sum over disjoint scopes, with its uncertainty."""

    start_ns: int
    end_ns: int
    joules: float | None = None  # Gross energy; None, and never 0, when nothing was measured
    uncertainty: float | None = None  # Half width in joules at 95 %; None when `joules` is None
    kind: Kind | None = None  # The weakest kind in the sum; None when nothing was measured
    coverage: float = 0.0  # Share of the interval that was recorded, least of the channels (0..1)
    idle_watts: float | None = None  # Idle power of the summed channels, None without a baseline
    mean_watts: float | None = None
    peak_watts: float | None = None
    channels: tuple[ChannelEnergy, ...] = ()
    cross_checks: tuple[ChannelEnergy, ...] = ()
    """Covering channels that are not in the sum (psys, battery, wall)."""
    unmeasured: tuple[str, ...] = ()  # Scopes of this machine without a reading
    flags: tuple[str, ...] = field(default=())
    """Qualifications of the result (``coarse``, ``lag``, ``aliased``, ``gap``, ``extrapolated``,
    ``disagrees``, ``no-counter``, ``shared``, ``unmeasured``)."""
    own_joules: float | None = None
    """Joules of etui's own processes, where others used a GPU or the CPUs of an estimate: energy
    above idle times etui's share of SM or CPU time; None if nothing was shared, or if the driver
    does not report the use of a shared GPU by process."""
    wall: WallEnergy | None = None
    """Predicted joules at the wall, beside the measured ones; None without a calibration."""

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


def slice_interval(start_ns: int, end_ns: int, points: int) -> list[tuple[int, int]]:
    """Cut an interval into equal parts; none of one without length."""
    if end_ns <= start_ns or points < 1:
        return []
    marks = [start_ns + (end_ns - start_ns) * i // points for i in range(points + 1)]
    return list(pairwise(marks))


@dataclass(frozen=True, slots=True)
class ChannelPower:
    """The latest power of one channel, for a live panel; ``watts`` is None when not known now."""

    channel: Channel
    t_ns: int
    watts: float | None
    joules_since_start: float | None
    in_total: bool
    problem: str = ""  # Why a wall meter gives no reading
