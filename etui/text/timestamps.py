"""Timestamps: ISO 8601 in UTC for files and the log, local time for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from etui.text.tables import one_line

Precision = Literal["seconds", "milliseconds"]


def utc_now(precision: Precision = "milliseconds") -> str:
    """Return the current time as ISO 8601 in UTC."""
    return format_utc(datetime.now(UTC), precision)


def format_utc(moment: datetime, precision: Precision = "milliseconds") -> str:
    """Format a time as ISO 8601 in UTC, so that sorting the texts sorts the times."""
    return moment.astimezone(UTC).isoformat(timespec=precision)


def local_time(created_at: str) -> str:
    """Format a timestamp of the log in this machine's time zone, to the second.

    Returns:
        ``2026-01-31 12:00:00``; a text that is not a time is returned on one line.
    """
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return one_line(created_at)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
