"""Values of power limits, and the interface of a device that has one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Setter = Literal["etui", "zeusd", "user"]
"""Who may set a limit now: etui itself (root, or a writable file), a running zeusd, or the user."""


@dataclass(frozen=True, slots=True)
class LimitPart:
    """One of several limits of a device: the ``long_term`` or ``short_term`` limit of RAPL."""

    name: str
    watts: float | None  # The limit now; None if it cannot be read
    max_watts: float | None = None  # Highest power that the driver states; None if it states none
    window_s: float | None = None  # Seconds over which power is averaged; None if unknown


@dataclass(frozen=True, slots=True)
class PowerLimit:
    """The power limit of one device; a value that the driver does not state is None."""

    scope: str  # Scope as in the meter's channels: `gpu:GPU-…`, `package:0`
    label: str  # Name for people: `GPU 0`, `CPU package 0`
    watts: float | None
    enforced_watts: float | None  # What is enforced now: the lowest of all limits
    min_watts: float | None
    max_watts: float | None
    default_watts: float | None  # The limit after a reboot
    setter: Setter  # Who may set it now
    command: str  # The command with which a user sets the limit of now
    parts: tuple[LimitPart, ...] = ()  # The single limits, where the device has several
    note: str = ""  # What a reader should know: a limit that is switched off; empty if nothing


@dataclass(frozen=True, slots=True)
class AppliedLimit:
    """The result of setting a limit, read back from the driver."""

    scope: str
    requested: float  # The limit that was to be set, watts
    applied: float | None  # The limit read back; None if it cannot be read
    enforced: float | None  # What is enforced, read back; None if the driver does not say
    note: str = ""
    """Why it differs from the request: rounded, refused, a lower second limit, heat; empty if it
    does not."""
    is_refused: bool = False  # Whether the request was not carried out


@dataclass(frozen=True, slots=True)
class LimitReasons:
    """What holds a device back at one moment."""

    scope: str
    t_ns: int
    enforced_watts: float | None  # Limit in force; None if the driver does not say
    is_power_capped: bool | None
    """Whether the power limit lowers the clocks; None if the driver does not say."""
    is_hot: bool | None  # Whether heat lowers the clocks; None if the driver does not say
    reasons: tuple[str, ...] = ()  # All reasons for lower clocks that the driver states


@dataclass(frozen=True, slots=True)
class CapRequest:
    """A request to the user to set a limit by hand."""

    scope: str
    label: str
    watts: float  # The limit to set
    current_watts: float | None  # The limit now; None if it cannot be read
    command: str
    problem: str = ""  # Why the user is asked again; empty the first time


class WriteRefused(Exception):
    """A limit that could not be written.

    Args:
        why: The reason, in a few words.
        denied: Whether a permission is missing.
        may_follow: Whether the limit may still be set later (no answer came in time).
    """

    def __init__(self, why: str, *, denied: bool = False, may_follow: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.denied = denied
        self.may_follow = may_follow


class LimitDevice(Protocol):
    """A device with a power limit, which may consist of several values (knobs)."""

    @property
    def scope(self) -> str:
        """Scope as in the meter's channels."""

    @property
    def label(self) -> str:
        """Name for people."""

    @property
    def unit_watts(self) -> float:
        """Resolution of the driver: a limit may be rounded by this much."""

    def read(self) -> PowerLimit:
        """Read everything; no error, a value that cannot be read is None."""

    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the values that :meth:`write` sets, the main one first, in watts."""

    def plan(self, watts: float) -> Mapping[str, float]:
        """Return knob -> watts for a limit."""

    def write(self, knob: str, watts: float) -> None:
        """Set one knob.

        Raises:
            WriteRefused: The driver, the kernel or zeusd refused.
        """

    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command with which a user sets knobs (knob -> watts)."""

    def explain_lower(self) -> str:
        """Name what enforces less than the limit; empty if that is unknown."""

    def read_reasons(self, t_ns: int) -> LimitReasons:
        """Read what holds the device back now."""
