"""Describe in words what is known of keeping models warm."""

from __future__ import annotations

import math

from etui.energy.cool_down import describe_cool_down
from etui.energy.keep_warm import Measured
from etui.runtime.keep_warm import ModelIdle, build_cool_down
from etui.text.timestamps import local_time
from etui.turn.residence_record import UnloadRecord
from etui.units import UNKNOWN, energy_text, seconds_text, significant, watts_text

UNTIL_NEEDED = "until memory is needed"


def load_text(idle: ModelIdle) -> str:
    """Describe a load: ``300 ± 12 J, 2.1 s``; ``unknown`` without one in the log."""
    load = idle.load
    if load is None:
        return UNKNOWN
    joules = energy_text(load.joules.value, load.joules.uncertainty, load.kind)
    return f"{joules}, {seconds_text(load.seconds)}"


def power_text(watts: Measured | None, kind: str | None = None) -> str:
    """Describe a power: ``45.0 ± 0.3 W``; ``unknown`` if it was not measured.

    Args:
        kind: Its kind; an estimate is marked as such.
    """
    if watts is None:
        return UNKNOWN
    return watts_text(watts.value, kind, watts.uncertainty)


def break_even_text(idle: ModelIdle) -> str:
    """Describe T* with its interval: ``8.6 s (8.1-9.2 s)``, ``5 min 00 s (at least 2 min)``."""
    even = idle.choice.break_even
    if even is None:
        return UNKNOWN
    if math.isinf(even.seconds):
        return "never"
    if math.isinf(even.high):
        return f"{seconds_text(even.seconds)} (at least {seconds_text(even.low)})"
    ends = (even.low, even.high)
    if even.high < 60:
        low, high = (significant(end, 3) for end in ends)
        return f"{seconds_text(even.seconds)} ({low}-{high} s)"
    return f"{seconds_text(even.seconds)} ({' to '.join(seconds_text(end) for end in ends)})"


def keep_text(idle: ModelIdle) -> str:
    """Describe the time in effect: ``auto: 42 s``, ``always``, ``600 s``."""
    if idle.setting == "always":
        return "always"
    if idle.setting != "auto":
        return seconds_text(idle.setting)
    seconds = idle.choice.seconds
    return f"auto: {UNTIL_NEEDED if seconds is None else seconds_text(seconds)}"


def unload_text(unload: UnloadRecord) -> str:
    """Describe the power around an unload: ``45.0 W before, 10.1 W after: back to cold``."""
    found = build_cool_down(unload)
    parts = [
        f"{watts_text(watts.value)} {when}"
        for watts, when in ((found.before, "before"), (found.after, "after"))
        if watts is not None
    ]
    state = describe_cool_down(found)
    if found.state == "unknown":
        state = f"back to cold: {state}"
    return f"{', '.join(parts)}: {state}" if parts else state


def dated_unload_text(unload: UnloadRecord | None) -> str:
    """Describe a model's last unload with its time; ``none`` without one."""
    if unload is None:
        return "none"
    return f"{local_time(unload.created_at)[5:16]}, {unload_text(unload)}"
