"""Amounts drawn as bars of text, so that a table of totals can be compared at a glance."""

from __future__ import annotations

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def bar(value: float | None, highest: float, width: int) -> str:
    """A bar of at most ``width`` characters, full at ``highest``.

    A known value above 0 draws at least the thinnest line; None, and 0, draw nothing.
    """
    if value is None or value <= 0 or highest <= 0 or width <= 0:
        return ""
    share = min(1.0, value / highest)
    eighths = max(1, round(share * 8 * width))
    full, rest = divmod(eighths, 8)
    return _FULL * full + (_EIGHTHS[rest] if rest else "")
