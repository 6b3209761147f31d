"""Times as files and the log hold them, and as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from etui.text.tables import one_line

Precision = Literal["seconds", "milliseconds"]


def utc_now(precision: Precision = "milliseconds") -> str:
    """Return the present time as ISO 8601 in UTC."""
    return format_utc(datetime.now(UTC), precision)


def format_utc(moment: datetime, precision: Precision = "milliseconds") -> str:
    """Write a time as ISO 8601 in UTC, so that the order of texts is the order of times."""
    return moment.astimezone(UTC).isoformat(timespec=precision)


def local_time(created_at: str) -> str:
    """Write a time of the log in the zone of this machine, to the second.

    Returns:
        ``2026-01-31 12:00:00``; a text that is no time comes back on one line.
    """
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return one_line(created_at)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
