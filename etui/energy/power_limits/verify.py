"""Compare a power limit that was requested with what the driver reads back."""

from __future__ import annotations

import math

from etui.energy.power_limits.text import format_range
from etui.energy.power_limits.types import AppliedLimit, PowerLimit
from etui.errors import UsageError
from etui.units import limit_text

EXACT_WATTS = 0.01
"""Two readings of one limit are equal within this; drivers count in milliwatts or finer."""


def check_range(limit: PowerLimit, watts: float) -> None:
    """Check that a device can have a limit.

    Args:
        limit: The device, as read when it was opened.

    Raises:
        UsageError: It is not a power, or outside of the range that the driver states.
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

    Args:
        requested: The limit that was to be set, watts.
        unit_watts: Resolution of the driver; a difference up to it is no news.
        failure: Why the limit could not be written; empty if it was.
        lower_because: What enforces less than the limit, if the device knows.
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
