"""What Ctrl+C does: stop the answer first, leave at the second press."""

from __future__ import annotations

from typing import Literal

AGAIN_SECONDS = 4.0
"""How long after one Ctrl+C a second one leaves the app."""

Interrupt = Literal["stop", "ask", "quit"]


def choose_interrupt(now: float, armed_at: float | None, *, answering: bool) -> Interrupt:
    """Choose what a Ctrl+C does that has nothing to copy.

    Args:
        now: Seconds of a monotonic clock.
        armed_at: When the Ctrl+C before it was pressed; None without one.

    Returns:
        ``quit`` at the second press, else ``stop`` for a running answer, or ``ask`` without one.
    """
    if armed_at is not None and 0 <= now - armed_at <= AGAIN_SECONDS:
        return "quit"
    return "stop" if answering else "ask"
