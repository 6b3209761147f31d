"""Durations and ages as text."""

from __future__ import annotations

from etui.units.differences import UNKNOWN
from etui.units.rounding import is_known, significant


def seconds_text(seconds: float | None) -> str:
    """Format a duration: ``4 ms``, ``0.21 s``, ``12.3 s``, ``3 min 05 s``, ``2 h 05 min``."""
    if not is_known(seconds):
        return UNKNOWN
    sign, size = ("-", -seconds) if seconds < 0 else ("", seconds)
    if size == 0:
        return "0 s"
    if size < 0.0095:
        return f"{sign}{significant(size * 1e3, 2)} ms"
    if size < 59.95:
        return f"{sign}{significant(size, 2 if size < 0.995 else 3)} s"
    whole = round(size)
    if whole < 3600:
        return f"{sign}{whole // 60} min {whole % 60:02d} s"
    minutes = round(size / 60)
    if minutes < 48 * 60:
        return f"{sign}{minutes // 60} h {minutes % 60:02d} min"
    hours = round(size / 3600)
    return f"{sign}{hours // 24} d {hours % 24} h"


def offset_text(offset_ns: int, error_ns: int) -> str:
    """Format the offset of another clock and its bound: ``7 h 00 min ± 0.21 ms``."""
    return f"{seconds_text(offset_ns / 1e9)} ± {seconds_text(error_ns / 1e9)}"


def age_text(seconds: float) -> str:
    """Format the age of a mark on an axis of time: ``30s``, ``120s``, ``10min``, ``2h``."""
    if seconds < 180:
        return f"{seconds:.0f}s"
    if seconds < 7200 or seconds % 1800:
        return f"{seconds / 60:.5g}min"
    return f"{seconds / 3600:.3g}h"


def span_text(seconds: float) -> str:
    """Format the time that a graph shows: ``30 s``, ``2 min``, ``1 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.0f} h"
