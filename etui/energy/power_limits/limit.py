"""A power limit: its values, the device that has it, its range, and what was set in the end."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etui.errors import UsageError
from etui.units import limit_text, seconds_text

Setter = Literal["etui", "zeusd", "user"]
"""Who may set a limit now: etui itself (root, or a writable file), a running zeusd, or the user."""
_DENIED = "permission denied"
EXACT_WATTS = 0.01
"""Two readings of one limit are equal within this; drivers count in milliwatts or finer."""


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
    """The result of setting a limit, read back from the driver, watts."""

    scope: str
    requested: float
    applied: float | None  # None if it cannot be read
    enforced: float | None  # None if the driver does not say
    note: str = ""  # Why it differs from the request: rounded, refused, a lower second limit, heat
    is_refused: bool = False  # Whether the request was not carried out


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
    """A limit that could not be written, and why in a few words.

    It is ``denied`` if a permission is missing, and ``may_follow`` if it may still be set later (no
    answer came in time).
    """

    def __init__(self, why: str, *, denied: bool = False, may_follow: bool = False) -> None:
        super().__init__(why)
        self.denied = denied
        self.may_follow = may_follow


Ask = Callable[[CapRequest], None]
"""Asks the user to set a limit and returns when the user says that it is set."""


class LimitDevice(ABC):
    """A device with a power limit, which may consist of several values (knobs)."""

    scope: str  # As in the meter's channels
    label: str  # Name for people
    unit_watts: float  # Resolution of the driver: a limit may be rounded by this much

    @abstractmethod
    def read(self) -> PowerLimit:
        """Read everything; no error, a value that cannot be read is None."""

    @abstractmethod
    def read_knobs(self) -> Mapping[str, float | None]:
        """Read the values that :meth:`write` sets, the main one first, in watts."""

    @abstractmethod
    def write(self, knob: str, watts: float) -> None:
        """Set one knob; WriteRefused if the driver, the kernel or zeusd refused."""

    @abstractmethod
    def format_command(self, changes: Mapping[str, float]) -> str:
        """Return the command with which a user sets knobs (knob -> watts)."""

    def explain_lower(self) -> str:
        """Name what enforces less than the limit; empty if that is unknown."""
        return ""


def describe_limit(limit: PowerLimit) -> str:
    """Describe a limit: ``GPU 0: 350 W (100 W to 450 W, default 450 W), etui may set it``."""
    facts = [format_range(limit)]
    if limit.default_watts is not None:
        facts.append(f"default {limit_text(limit.default_watts)}")
    enforced, watts = limit.enforced_watts, limit.watts
    if enforced is not None and watts is not None and limit_text(enforced) != limit_text(watts):
        facts.append(f"{limit_text(limit.enforced_watts)} enforced")
    facts += [
        f"{part.name} {limit_text(part.watts)}"
        + (f" over {seconds_text(part.window_s)}" if part.window_s is not None else "")
        for part in limit.parts
    ]
    if limit.note:
        facts.append(limit.note)
    who = {"etui": "etui may set it", "zeusd": "zeusd sets it", "user": "only root may set it"}
    return f"{limit.label}: {limit_text(limit.watts)} ({', '.join(facts)}), {who[limit.setter]}"


def format_range(limit: PowerLimit) -> str:
    """Format the range of a limit: ``100 W to 450 W``, ``at most 65 W``, ``above 0 W``."""
    low, high = limit.min_watts, limit.max_watts
    if low is not None and high is not None:
        return f"{limit_text(low)} to {limit_text(high)}"
    if high is not None:
        return f"at most {limit_text(high)}"
    return f"at least {limit_text(low)}" if low is not None else "above 0 W"


def check_range(limit: PowerLimit, watts: float) -> None:
    """Check that a device, as read when it was opened, can have a limit.

    UsageError if it is not a power, or outside of the range that the driver states.
    """
    low, high = limit.min_watts, limit.max_watts
    is_power = math.isfinite(watts) and watts > 0
    below = low is not None and watts < low - EXACT_WATTS
    above = high is not None and watts > high + EXACT_WATTS
    if is_power and not below and not above:
        return
    shown = limit_text(watts) if math.isfinite(watts) else str(watts)
    raise UsageError(
        f"a power limit of {shown} is outside of the range of {limit.label}: {format_range(limit)}",
        "choose a limit inside the range; `etui doctor` lists the power limits",
    )


def judge_applied(
    requested: float,
    before: PowerLimit,
    after: PowerLimit,
    unit_watts: float,
    *,
    failure: str = "",
    lower_because: str = "",
) -> AppliedLimit:
    """Judge the result of a request.

    A difference up to ``unit_watts``, the resolution of the driver, is no news. ``failure`` says
    why the limit could not be written, ``lower_because`` what enforces less, if that is known.
    """
    notes = [failure] if failure else []
    is_refused = bool(failure)
    applied, enforced = after.watts, after.enforced_watts
    if applied is None:
        notes.append("the limit cannot be read back")
        is_refused = True
    elif not failure and abs(applied - requested) > unit_watts + 1e-9:
        unchanged = before.watts is not None and abs(applied - before.watts) <= EXACT_WATTS
        if unchanged:
            notes.append(f"refused without an error: the limit is still {limit_text(applied)}")
            is_refused = True
        else:
            asked = limit_text(requested)
            notes.append(f"rounded: {asked} was requested, {limit_text(applied)} is set")
    if applied is not None and enforced is not None and enforced < applied - unit_watts - 1e-9:
        cause = lower_because or "another limit of the device"
        notes.append(f"only {limit_text(enforced)} is enforced: {cause}")
    if after.note and not is_refused:
        notes.append(after.note)
    return AppliedLimit(after.scope, requested, applied, enforced, "; ".join(notes), is_refused)


def is_root() -> bool:
    """Return whether etui runs as root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


class LimitFiles:
    """Reads and writes limits in sysfs; a test replaces it by one that rounds or refuses."""

    def can_write(self, path: Path) -> bool:
        """Return whether this process may write a file."""
        return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)

    def write(self, path: Path, microwatts: int) -> None:
        """Write a number in one call, as sysfs needs it; WriteRefused if the kernel refused."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(handle, f"{microwatts}\n".encode("ascii"))
            finally:
                os.close(handle)
        except PermissionError as error:
            raise WriteRefused(_DENIED, denied=True) from error
        except OSError as error:
            raise WriteRefused((error.strerror or str(error)).lower()) from error


def to_microwatts(watts: float) -> int:
    """Convert watts to whole microwatts."""
    return round(watts * 1e6)


def format_tee(microwatts: int, paths: list[Path]) -> str:
    """Return the command with which a user writes a number into files as root."""
    return f"echo {microwatts} | sudo tee {' '.join(str(path) for path in paths)}"
